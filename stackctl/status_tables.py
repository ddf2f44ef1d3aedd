"""A stack's status for people: tables of at most 100 columns, in which what is wrong is marked and comes first."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from stackctl.diagnosis import Problem, Status
from stackctl.reports import Balancer, Database, Machine, Mycat, Server

WIDTH = 100
UNASKED = "cannot be asked"

#: A cell's text, and whether it is as it should be.
Cell = tuple[str, bool]


def show(status: Status, console: Console) -> None:
    for part in _parts(status):
        console.print(part, width=min(console.width, WIDTH), soft_wrap=False)
        console.print()
    console.print(last_line(status), soft_wrap=True)


def last_line(status: Status) -> Text:
    if status.whole:
        return Text(f"stack {status.stack} is whole", "green")
    first, *others = status.problems
    more = f" ({len(others)} more above)" if others else ""
    return Text(f"stack {status.stack} is NOT whole: {_sentence(first)}{more}", "bold red")


def _sentence(problem: Problem) -> str:
    at = f"{problem.machine}: " if problem.machine else ""
    return plain(f"{at}{problem.what}. {problem.do[:1].upper()}{problem.do[1:]} ({problem.see})")


def plain(text: str) -> str:
    """What a machine said, without anything that would do something to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _parts(status: Status) -> Iterator[RenderableType]:
    mark = "green" if status.vip.agreed else "bold red"
    sign = "" if status.vip.agreed else "! "
    yield Text(f"{sign}VIP {status.vip.address}: {plain(status.vip.verdict)}", mark)
    if unasked := [machine for machine in status.machines if machine.error]:
        rows = [[(machine.name, False), (machine.error or "", True)] for machine in unasked]
        yield _table(("machine", UNASKED), rows)
    balancers = _of_role(status.machines, "lb")
    if balancers:
        yield _table(("balancer", "VRRP", "VIP on device", "keepalived", "haproxy"), [_balancer(m) for m in balancers])
    if servers := list(_servers(balancers)):
        yield _table(("server", "HAProxy says", "on", "sessions", "last check"), servers)
    if nodes := _of_role(status.machines, "mysql"):
        rows = [_database(machine, len(nodes)) for machine in nodes]
        yield Group(
            _table(("database", "mariadb", "component", "state", "size", "ready", "position"), rows), *_clusters(nodes)
        )
    if mycats := _of_role(status.machines, "mycat"):
        yield _table(("Mycat", "mycat", "answers"), [_mycat(machine) for machine in mycats])
    if len(status.problems) > 1:  # a single one is the last line
        lines = [Text(f"{number}. {_sentence(problem)}") for number, problem in enumerate(status.problems, 1)]
        yield Group(Text("what is wrong, the worst first:", "bold"), *lines)


def _of_role(machines: Iterable[Machine], role: str) -> list[Machine]:
    return [machine for machine in machines if role in machine.roles]


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Rows with something wrong first, marked with `!`; within them the order stays."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in sorted(rows, key=lambda row: all(good for _, good in row)):
        whole = all(good for _, good in row)
        cells = [Text(plain(text), "" if good else "bold red") for text, good in row]
        table.add_row(Text("" if whole else "! ", "bold red") + cells[0], *cells[1:])
    return table


def _unasked(machine: Machine, columns: int) -> list[Cell]:
    return [(machine.name, False), (UNASKED, False), *[("", True)] * (columns - 2)]


def _balancer(machine: Machine) -> list[Cell]:
    one: Balancer | None = machine.balancer
    if one is None:
        return _unasked(machine, 5)
    haproxy = one.haproxy
    if haproxy == "active" and not one.servers:
        haproxy += ", does not answer" if one.error else ", names no server"
    return [
        (machine.name, True),
        (one.vrrp, one.vrrp in {"master", "backup"}),
        ("yes" if one.has_vip else "no", one.has_vip == (one.vrrp == "master")),
        (one.keepalived, one.keepalived == "active"),
        (haproxy, haproxy == "active"),
    ]


def _servers(balancers: Iterable[Machine]) -> Iterator[list[Cell]]:
    """Those that balancers see in the same way in one row, with the sessions of all of them."""
    seen: dict[tuple[str, str, str, str | None], list[tuple[str, Server]]] = defaultdict(list)
    for machine in balancers:
        for server in machine.balancer.servers if machine.balancer else ():
            seen[server.backend, server.name, server.status, server.reason].append((machine.name, server))
    order = list(dict.fromkeys(key[:2] for key in seen))
    for key in sorted(seen, key=lambda key: order.index(key[:2])):
        backend, name, status, reason = key
        yield [
            (f"{backend}/{name}", True),
            (status, seen[key][0][1].state in {"UP", "UNCHECKED"}),
            (", ".join(machine for machine, _ in seen[key]), True),
            (str(sum(server.sessions for _, server in seen[key])), True),
            (reason or "", True),
        ]


def _database(machine: Machine, nodes: int) -> list[Cell]:
    one: Database | None = machine.database
    if one is None:
        return _unasked(machine, 7)
    mariadb = (one.mariadb, one.mariadb == "active")
    if one.error or not one.running:
        nothing = ("no answer" if one.running else "does not run", False)
        return [(machine.name, True), mariadb, nothing, ("", True), ("", True), ("", True), (_position(one), True)]
    return [
        (machine.name, True),
        mariadb,
        (str(one.cluster_status), one.cluster_status == "Primary"),
        (
            str(one.local_state)
            + (", read-only" if one.read_only else "")
            + (", holds up writes" if one.holds_writes else ""),
            one.local_state == "Synced" and not one.read_only and not one.holds_writes,
        ),
        (str(one.cluster_size), one.cluster_size == nodes),
        ("yes" if one.ready else "no", bool(one.ready)),
        (_position(one), True),
    ]


def _position(one: Database) -> str:
    if one.running:
        return "" if one.position is None else str(one.position)
    if one.to_be_recovered:
        text = "not written down: has to be recovered"
    else:
        text = "none" if one.position is None else f"{one.position} (grastate.dat)"
    if one.safe_to_bootstrap:
        text += ", left last"
    return text + (f", last view of {one.view.members}" if one.view else "")


def _clusters(nodes: Iterable[Machine]) -> Iterator[Text]:
    members = defaultdict(list)
    for machine in nodes:
        if machine.database and machine.database.cluster:
            members[machine.database.cluster].append(machine.name)
    for cluster, names in members.items():
        yield Text(f"cluster {cluster}: {', '.join(names)}", "" if len(members) == 1 else "bold red")


def _mycat(machine: Machine) -> list[Cell]:
    one: Mycat | None = machine.mycat
    if one is None:
        return _unasked(machine, 3)
    return [
        (machine.name, True),
        (one.mycat, one.mycat == "active"),
        ("yes" if one.answers else one.reason or "no", one.answers),
    ]
