"""What is known of databases that have no cluster, and how it is formed again. Pure functions of what machines said.

The rule is files/mariadb/galera_start.py's, which decides on the machines; this says beforehand what it will decide,
and what a person has to decide for it (docs/decisions/0008-who-forms-the-cluster.md).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stackctl.reports import Database
from stackctl.switchover import RefusedError

#: What a node's peer sees of it that does not tell its facts: it has a cluster, or runs without one.
Seen = Literal["primary", "running"]
PRIMARY: Seen = "primary"
RUNNING: Seen = "running"


THROW_AWAY = "`systemctl stop mariadb`, and remove grastate.dat and gvwstate.dat from /var/lib/mysql"


@dataclass(frozen=True)
class Order:
    """That a cluster is formed from this position of this cluster, without the nodes of these addresses."""

    cluster: str
    position: int
    without: frozenset[str]

    def text(self) -> str:
        """As galera_start.py takes it."""
        return json.dumps({"cluster": self.cluster, "position": self.position, "without": sorted(self.without)})


@dataclass(frozen=True)
class View:
    """The last primary component that a node belonged to: its id, this node's and all members' UUIDs."""

    id: str
    me: str
    members: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """What a node knows while its mariadbd does not run."""

    #: None: it has no data of a cluster.
    cluster: str | None
    #: The last write that it has, recovered; None if unknown.
    position: int | None
    left_last: bool
    view: View | None
    #: Its start waits, and tells the others.
    waits: bool
    #: One that is still to be carried out.
    order: Order | None


@dataclass(frozen=True)
class Told:
    """By a node of itself and, by address, of the others."""

    facts: Facts | None
    #: Why there are none.
    problem: str
    peers: Mapping[str, Facts | Seen]


@dataclass(frozen=True)
class Node:
    name: str
    address: str
    #: Why it could not be asked; None if it was.
    error: str | None
    database: Database | None = None
    #: None if it was not asked for them: its mariadbd runs, or it could not be asked.
    told: Told | None = None


@dataclass(frozen=True)
class Plan:
    #: The node that forms the cluster; None if they find out by themselves.
    best: str | None
    #: Those that take part.
    rest: tuple[str, ...]
    order: Order | None
    #: Those whose mariadb has to be started.
    stopped: tuple[str, ...]
    #: Why it is so, what is lost, who gets a copy: a sentence each.
    words: tuple[str, ...]


@dataclass(frozen=True)
class _Known:
    nodes: Sequence[Node]
    #: By name: by the node itself, else as another one sees it.
    facts: dict[str, Facts] = field(default_factory=dict)
    primary: dict[str, str] = field(default_factory=dict)  # and who says so
    running: dict[str, str] = field(default_factory=dict)


def told(said: str) -> Told:
    """Of what `galera-start tell` has printed. Raises ValueError, KeyError or TypeError if it is something else."""
    read: dict[str, Any] = json.loads(said)
    peers: dict[str, Facts | Seen] = {}
    for peer, what in read["peers"].items():
        peers[peer] = what if what in (PRIMARY, RUNNING) else _facts(what, waits=True)
    own = read["facts"]
    return Told(_facts(own, waits=bool(read["waits"])) if own else None, str(read["problem"]), peers)


def _facts(read: Mapping[str, Any], *, waits: bool) -> Facts:
    view, order = read["view"], read["order"]
    cluster, position = read["cluster"] or None, int(read["position"])
    given = Order(order["cluster"], order["position"], frozenset(order["without"])) if order else None
    pending = given is not None and cluster in {None, given.cluster} and position <= given.position
    return Facts(
        cluster,
        position if cluster and position >= 0 else None,
        bool(read["left_last"]),
        View(view["id"], view["me"], frozenset(view["members"])) if view else None,
        waits,
        given if pending else None,
    )


def _known(nodes: Sequence[Node]) -> _Known:
    known = _Known(nodes)
    names = {node.address: node.name for node in nodes}
    for node in nodes:
        if node.database and node.database.running:
            found = known.primary if node.database.cluster_status == "Primary" else known.running
            found[node.name] = "it says so"
        if node.told and node.told.facts:
            known.facts[node.name] = node.told.facts
    for node in nodes:
        for address, what in (node.told.peers if node.told else {}).items():
            peer = names.get(address, address)
            if isinstance(what, Facts):
                known.facts.setdefault(peer, what)
            else:
                found = known.primary if what == PRIMARY else known.running
                found.setdefault(peer, f"{node.name} sees it")
    return known


def facts_of(nodes: Sequence[Node]) -> dict[str, Facts]:
    """By name: by the node itself, else as another one was told."""
    return _known(nodes).facts


def whole(nodes: Sequence[Node]) -> bool:
    """All are synced members of one cluster: there is nothing to do."""
    databases = [node.database for node in nodes]
    synced = all(d and d.cluster_status == "Primary" and d.local_state == "Synced" and d.ready for d in databases)
    return synced and len({d.cluster for d in databases if d}) == 1


def decide(nodes: Sequence[Node], given_up: Iterable[str]) -> Plan:
    """Raises RefusedError with what to do instead."""
    given_up = tuple(dict.fromkeys(given_up))
    names = [node.name for node in nodes]
    if unknown := [name for name in given_up if name not in names]:
        raise RefusedError(f"{_and(unknown)} is no database of the stack; those are {', '.join(names)}")
    known = _known(nodes)
    _nobody_lives(known)
    _given_up_are_away(known, given_up)
    rest = [name for name in names if name not in given_up]
    if by_itself := _by_itself({name: known.facts[name] for name in rest if name in known.facts}, rest):
        return _without_order(known, rest, by_itself)
    _all_known(known, rest, given_up)
    facts = {name: known.facts[name] for name in rest}
    _one_cluster(facts)
    if not given_up:
        return _without_order(known, rest, "all nodes are here, so the one with the highest position forms the cluster")
    return _with_order(known, facts, given_up)


def _nobody_lives(known: _Known) -> None:
    if known.primary:
        others = [node.name for node in known.nodes if node.name not in known.primary]
        has = "; ".join(f"{name} has a cluster ({by})" for name, by in known.primary.items())
        raise RefusedError(
            f"{has}, so nobody else may form one. The others ({_and(others) or 'none'}) join it by themselves once"
            " mariadb is started there (`systemctl --no-block start mariadb`), or say why not"
        )
    if known.running:
        runs = "; ".join(f"{name} runs mariadbd without a cluster ({by})" for name, by in known.running.items())
        raise RefusedError(
            f"{runs}. It may find its cluster again as long as it runs. If it does not: `systemctl stop mariadb` there,"
            " which loses nothing, and then this once more"
        )


def _given_up_are_away(known: _Known, given_up: Iterable[str]) -> None:
    """A node that answers is not given up from afar."""
    for node in known.nodes:
        if node.name not in given_up:
            continue
        facts = known.facts.get(node.name)
        if node.error is None or facts:
            has = f", with data at {position(facts)}" if facts else ""
            raise RefusedError(
                f"{node.name} is given up, but it answers{has}. Leave it out of --given-up; if its data are to be"
                f" thrown away, there before: {THROW_AWAY}"
            )


def _by_itself(facts: Mapping[str, Facts], rest: Sequence[str]) -> str | None:
    """Why the nodes that are here need nobody, also if others are missing."""
    for name in rest:
        one = facts.get(name)
        if one and one.left_last:
            return f"{name} was alone in the cluster when it left, so no other node has anything later: it forms it"
        if one and one.view:
            view = one.view
            found = {
                f.view.me for f in facts.values() if f.view and (f.view.id, f.view.members) == (view.id, view.members)
            }
            if view.members <= found:
                return "all nodes of the last cluster are here, and form it again: nobody can have anything later"
    return None


def _without_order(known: _Known, rest: Sequence[str], why: str) -> Plan:
    here = tuple(node.name for node in known.nodes if node.name in rest and node.told and node.told.facts)
    stopped = tuple(name for name in here if not known.facts[name].waits)
    does = f"mariadb is started on {_and(stopped)}" if stopped else "they are doing so now"
    return Plan(None, here, None, stopped, (f"{why}. Nothing is lost, and nobody has to be given up: {does}",))


def _all_known(known: _Known, rest: Sequence[str], given_up: Sequence[str]) -> None:
    missing = [node for node in known.nodes if node.name in rest and node.name not in known.facts]
    if not missing:
        return
    reasons = "; ".join(f"{node.name} ({node.error or (node.told.problem if node.told else '')})" for node in missing)
    here = {name: facts for name, facts in known.facts.items() if name in rest}
    options = " ".join(f"--given-up {name}" for name in (*given_up, *(node.name for node in missing)))
    best = highest(here)
    later = f", but may have writes after {here[best].position}, which the others do not have" if best else ""
    unreached = [node.name for node in missing if node.error]
    if len(unreached) < len(missing):
        answers = [node.name for node in missing if not node.error]
        raise RefusedError(
            f"the position of {reasons} is not known{later}. If the data on {_and(answers)} are to be thrown away:"
            f" {THROW_AWAY}, and then this once more"
        )
    raise RefusedError(
        f"nothing is known of {reasons}{later}. Once it is back, the cluster forms by itself. If its data are lost, or"
        f" will be thrown away before it starts again: {options}"
    )


def _one_cluster(facts: Mapping[str, Facts]) -> None:
    clusters: dict[str, list[str]] = {}
    for name, one in facts.items():
        if one.cluster:
            clusters.setdefault(one.cluster, []).append(f"{name} at {one.position}")
    if len(clusters) > 1:
        shown = "; ".join(f"{cluster}: {', '.join(names)}" for cluster, names in clusters.items())
        raise RefusedError(
            f"the nodes have data of {len(clusters)} different clusters ({shown}). Decide which are wanted; on the"
            f" others: {THROW_AWAY}, and then this once more: they get a copy of the wanted ones"
        )
    if highest(facts) is None:
        raise RefusedError(
            f"none of {', '.join(facts)} has data with a position. Without such a node there is nothing to recover from"
            " here but a backup"
        )


def _with_order(known: _Known, facts: Mapping[str, Facts], given_up: Sequence[str]) -> Plan:
    addresses = {node.name: node.address for node in known.nodes}
    best = highest(facts, addresses)
    assert best is not None
    cluster, at = facts[best].cluster, facts[best].position
    assert cluster is not None
    assert at is not None
    order = Order(cluster, at, frozenset(addresses[name] for name in given_up))
    for name, one in facts.items():
        if one.order and one.order != order:
            names = {address: name for name, address in addresses.items()}
            without = " ".join(f"--given-up {names.get(a, a)}" for a in sorted(one.order.without))
            raise RefusedError(
                f"{name} has the order already to form a cluster from position {one.order.position} with {without}:"
                " continue that one; or, if nothing has come of it anywhere, take it back on each node that has it:"
                " `/usr/local/lib/mycat-ha/galera-start withdraw`"
            )
    joins, lost = _and(name for name in facts if name != best), _and(given_up)
    words = [
        f"{best} has the highest position of those that are here, {at}, and forms a new cluster"
        + (f"; a copy of everything goes from there to {joins}" if joins else ""),
        f"kept is what was written up to position {at}; LOST is what only {lost} has from there on, which nobody knows",
        f"the data on {lost} are replaced by a copy of the cluster's when mariadb starts there again: save them before",
    ]
    return Plan(best, tuple(facts), order, tuple(name for name, one in facts.items() if not one.waits), tuple(words))


def highest(facts: Mapping[str, Facts], addresses: Mapping[str, str] | None = None) -> str | None:
    """As galera_start.py decides: of equal ones the lowest address."""

    def rank(name: str) -> tuple[int, list[int]]:
        at = facts[name].position
        assert at is not None
        return -at, [int(part) for part in addresses[name].split(".")] if addresses else []

    able = [name for name, one in facts.items() if one.cluster and one.position is not None]
    return min(able, key=rank) if able else None


def position(facts: Facts) -> str:
    return f"{facts.cluster or 'no cluster'}:{'unknown' if facts.position is None else facts.position}"


def _and(names: Iterable[str]) -> str:
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last
