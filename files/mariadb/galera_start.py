#!/usr/bin/python3
"""Before mariadbd starts: may this node form a cluster, or does it find one, or must it wait?

Two clusters must never form, nothing that was acknowledged may be missing in the one that forms, and every full stop
must end by itself once all nodes are back. Run by systemd as root in ExecStartPre; status 0 lets mariadbd start, with
what ``start.env`` says.

While this program decides, mariadbd does not run here, so what this node knows does not change: its cluster, its
position in the history of writes, whether it left last, and the last view of the group that it belonged to. It tells
its peers so on Galera's port for incremental transfers, which mariadbd does not use before it runs, and asks them for
theirs. A cluster is formed by one of three:

- The node that left last, alone in its cluster (``safe_to_bootstrap``). No other can have formed one without it: the
  flag is lost as soon as another one joins.
- All nodes of a last view (``gvwstate.dat``, which a crash leaves behind and a clean stop removes). Galera does this
  itself when they meet. No other can have formed one without a majority of them, and that would have been a later view.
  A node that joins a cluster that there is forgets its last view before: all of it may be this node.
- With all configured nodes here, of which none left last and no view is complete: the one with the highest position.
  All positions are known, so nothing that was acknowledged is missing, and no other node can decide otherwise: each
  sees the same. "All here" must be true of one moment, so it is seen twice, from the same run of each peer's program;
  the moment lies between. Nodes that a person has given up (`order`, which `stackctl database recover` runs) do not
  count, if all others have the same order. What forms so is another cluster, with a UUID of its own: a node that was
  given up and returns has the old one, so Galera gives it a copy of everything, and never the missing writes only.

Whatever is seen less completely is a reason to wait, or to start without forming, which Galera makes safe: a peer that
cannot be reached may be alive. A living peer without a cluster, or one that tries what this node would try, is met by
starting as well, but first by those that have a last view: Galera forms one again only when its members are among
themselves. If that fails they must meet here instead, so a failed attempt keeps the node here for longer than its
peers' attempts can last. `galera_start.py watch`, a service of its own, ends attempts that find no cluster, and
restarts a node that has lived without one for a minute while a peer waits. It restarts a node that hangs or was voted
out as well, once, while the others can do without it.
"""

import fcntl
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

SETTINGS = Path(os.environ.get("MYCAT_HA_GALERA_ENV", "/etc/mycat-ha/galera.env"))
DATA = Path(os.environ.get("MYCAT_HA_DATA", "/var/lib/mysql"))
RUN = Path(os.environ.get("MYCAT_HA_GALERA_RUN", "/run/mycat-ha-galera"))
RECOVERY = "galera_recovery"
#: The order to form a cluster without some nodes, kept when it is carried out; not among the data, of which a state
#: transfer leaves nothing.
ORDER = Path(os.environ.get("MYCAT_HA_GALERA_ORDER", "/var/lib/mycat-ha-galera/order.json"))

GROUP_PORT = 4567  # mariadbd listens there as long as it runs
FACTS_PORT = 4568  # and here while it receives an incremental transfer
HEALTH_PORT = 48700
ASK = 1.0  # seconds between two rounds, and for one step of asking a peer
ATTEMPT = 30.0  # seconds that mariadbd has to find a cluster; without a last view this is Galera's own limit
#: Seconds that a failed attempt keeps the node here, for each peer: longer than an attempt, its end and the next start.
HOLD = 45.0
STRANGER = 30.0  # seconds that peers are left to themselves whose view is another one than this node's
PATIENCE_WITH_RECOVERY = 240.0  # seconds that a start may take to recover its position
#: Seconds of waiting after which the unit fails and begins anew, so that a boot does not wait for it for ever.
PATIENCE = 600.0
REMIND = 60.0  # seconds between two lines about the same reason
WITHOUT_CLUSTER = 60.0  # seconds that a living node has to find its cluster again while a peer waits
ONCE_IN = 3600.0  # seconds in which a node that hangs, or was left out, is restarted once
HANGS, VOTED_OUT = "no answer", "voted out of its cluster"
LINE = 65536  # bytes of a peer's answer

STOPPED = {"inactive", "failed"}  # systemd's words for a mariadb that nobody starts again

NO_CLUSTER = "00000000-0000-0000-0000-000000000000"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@dataclass(frozen=True)
class View:
    """A primary component, as one of its members remembers it."""

    id: str
    #: Of the member that remembers it.
    me: str
    members: frozenset[str]


@dataclass(frozen=True)
class Order:
    """A person's word: the data of some nodes are lost, or will be thrown away; the others form a cluster."""

    #: Whose data those of the others are, and the highest position among them.
    cluster: str
    position: int
    #: The addresses of those that are given up.
    without: frozenset[str]

    @property
    def becomes(self) -> str:
        """The UUID of the cluster that is formed: the same for all who order the same, and nobody else's."""
        return str(uuid.uuid5(uuid.UUID(self.cluster), f"{self.position} without {' '.join(sorted(self.without))}"))


@dataclass(frozen=True)
class Facts:
    """What a node knows while its mariadbd does not run."""

    #: The cluster's UUID; empty on a node that has no data of one, or cannot vouch for them.
    cluster: str
    #: The last write that this node has, -1 if unknown.
    position: int
    #: It was alone in its cluster when it left.
    left_last: bool
    #: It has not left in peace: there is a gvwstate.dat, readable or not.
    crashed: bool
    view: View | None
    #: The addresses of all configured nodes, its own among them.
    nodes: frozenset[str]
    #: Differs from one run of this program to the next.
    run: str
    #: The order that it has, carried out (its cluster is the one that was formed) or not.
    order: Order | None = None

    @property
    def ordered(self) -> Order | None:
        """The one that is still to be carried out. Who has been in a cluster since is further."""
        return (
            self.order
            if self.order and self.cluster in {"", self.order.cluster} and self.position <= self.order.position
            else None
        )

    @property
    def replaced(self) -> Order | None:
        """The one that its cluster has come from."""
        return self.order if self.order and self.cluster == self.order.becomes else None


@dataclass(frozen=True)
class Primary:
    """Its mariadbd runs and belongs to a cluster; or there is nobody to ask yet, while the stack is being made."""

    #: The cluster's UUID; empty if that is not known.
    cluster: str = ""


class Running:
    """Its mariadbd runs, and is not known to belong to a cluster."""


class Unreachable:
    """Nothing is known of it; it may be alive."""


Peer = Facts | Primary | Running | Unreachable


@dataclass(frozen=True)
class Form:
    reason: str
    #: The UUID of the new cluster, if it is another one than that of the data.
    becomes: str = ""


@dataclass(frozen=True)
class Start:
    reason: str
    #: There is a cluster: what this node remembers of an earlier one is past.
    joins: bool = False


@dataclass(frozen=True)
class Wait:
    reason: str


Decision = Form | Start | Wait


def decide(address: str, me: Facts, peers: Mapping[str, Peer], *, hold: bool = False) -> Decision:
    """What the node ``address`` does. ``hold``: it is too early to meet peers that run without a cluster."""
    for peer, seen in peers.items():
        if isinstance(seen, Primary) and me.replaced and seen.cluster == me.replaced.cluster:
            return Wait(
                f"{peer} has formed the cluster again that this one has replaced, from data that were given up: what"
                f" has been written since would be lost. There: `systemctl stop mariadb`, remove grastate.dat and"
                f" gvwstate.dat from {DATA}, `systemctl --no-block start mariadb`"
            )
    for peer, seen in peers.items():
        if isinstance(seen, Primary):
            return Start(f"{peer} has a cluster: joining it", joins=bool(seen.cluster))
    told = {address: me, **{peer: facts for peer, facts in peers.items() if isinstance(facts, Facts)}}
    carried_out = frozenset(facts.replaced for facts in told.values() if facts.replaced)
    told = {node: since(carried_out, facts) for node, facts in told.items()}
    me, order = told[address], told[address].ordered
    if by := sorted(node for node, facts in told.items() if facts.ordered and address in facts.ordered.without):
        return Wait(f"this node is given up, by an order on {', '.join(by)}: it joins the cluster that they form")
    # Whoever is given up here has no say, also if it returns after all.
    given_up = order.without if order else frozenset()
    here = {node: facts for node, facts in told.items() if node not in given_up}
    if me.left_last:
        return Form("this node left its cluster last")
    if me.view and complete(me.view, here):
        return Start("all nodes of the last view are here: Galera forms it again")
    running = sorted(peer for peer, seen in peers.items() if isinstance(seen, Running))
    if running and not hold:
        return Start(f"{', '.join(running)} runs: meeting it")
    if running:
        return Wait(f"{', '.join(running)} runs without a cluster, and it is too early to meet it")
    if missing := sorted(set(peers) - set(here) - given_up):
        without = f" (a cluster without {', '.join(sorted(given_up))} is ordered)" if order else ""
        return Wait(
            f"nothing is known of {', '.join(missing)}, which may have written since; {positions(here)}{without}"
        )
    return _all_here(address, me, here)


def _all_here(address: str, me: Facts, here: Mapping[str, Facts]) -> Decision:
    order = me.ordered
    for node, facts in here.items():
        if facts.nodes != me.nodes:
            return Wait(f"{node} has other nodes in {SETTINGS} than this one: run `up` so that all have the same")
        if facts.left_last:
            return Wait(f"{node} left last and forms the cluster")
        if facts.view and complete(facts.view, here):
            return Wait(f"{node} and all others of its last view are here and form it again")
        # A node has one order at a time, and keeps it: no two different ones can be on all that they need.
        if facts.ordered != order:
            return Wait(
                f"{node} does not have the same order as this node, of who is given up; `galera-start withdraw` takes"
                " an old one back"
            )
    if len({facts.cluster for facts in here.values() if facts.cluster}) > 1:
        return Wait(
            f"the nodes have data of DIFFERENT CLUSTERS, so nobody forms one: {positions(here)}. Move {DATA} aside on"
            " those whose data are not wanted, and let them join"
        )
    if len(me.nodes) == 1 and me.cluster and not me.crashed:
        return Wait("this node has left others that may go on without it, but has no peers in its settings")
    able = [node for node, facts in here.items() if facts.cluster and facts.position >= 0]
    if not able:
        return Wait(f"no node knows its position: {positions(here)}")
    best = min(able, key=lambda node: (-here[node].position, [int(part) for part in node.split(".")]))
    if order and (here[best].cluster, here[best].position) != (order.cluster, order.position):
        return Wait(f"ordered is a cluster from {order.cluster}:{order.position}, but {positions(here)}")
    if best != address:
        return Wait(f"{best} has the highest position and forms the cluster; {positions(here)}")
    if order:
        given_up = f"without {', '.join(sorted(order.without))}, which a person has given up"
        return Form(
            f"all others are here, {given_up}: from {positions(here)} a new cluster, {order.becomes}", order.becomes
        )
    return Form(f"all nodes are here, and none is further than this one; {positions(here)}")


def since(carried_out: Collection[Order], facts: Facts) -> Facts:
    """What is left of it since these orders were carried out: data of a cluster that was replaced are no longer any."""
    if facts.order and facts.order in carried_out and not facts.replaced:
        facts = replace(facts, order=None)
    if facts.cluster in {order.cluster for order in carried_out}:
        facts = replace(facts, cluster="", position=-1, left_last=False, crashed=False, view=None)
    return facts


def given_up_since(address: str, me: Facts, peers: Mapping[str, Peer]) -> Order | None:
    """The order by which a cluster was formed without this node, as one that belongs to it tells."""
    for facts in peers.values():
        past = facts.replaced if isinstance(facts, Facts) else None
        if past and past.cluster == me.cluster and address in past.without:
            return past
    return None


def complete(view: View, here: Mapping[str, Facts]) -> bool:
    """Whether all of its members are here with the same memory of it."""
    found = {f.view.me for f in here.values() if f.view and (f.view.id, f.view.members) == (view.id, view.members)}
    return view.members <= found


def too_early(me: Facts, running: Iterable[str], met: Mapping[str, Facts], *, waited: float, failed: bool) -> bool:
    """Whether to leave peers to themselves that run without a cluster.

    ``met``: what each peer said that was here in the ``waited`` seconds since this node is; ``failed``: the last
    attempt has found no cluster.
    """
    said = [met[peer] for peer in running if peer in met]
    if me.view and any(facts.view and facts.view.id == me.view.id for facts in said):
        return False  # it has gone to form the view that this node belongs to
    if failed:
        return waited < HOLD * (len(me.nodes) - 1)
    # A node without their view cannot help them, and its presence would keep them from forming it again.
    return (me.view is None or bool(said)) and waited < STRANGER


def positions(here: Mapping[str, Facts]) -> str:
    return ", ".join(f"{node} is at {f.cluster or 'no cluster'}:{f.position}" for node, f in sorted(here.items()))


# --- What this node knows ---


def settings() -> tuple[str, list[str]]:
    """This node's address, and those of its peers."""
    values = dict(word.split("=", 1) for word in shlex.split(SETTINGS.read_text(), comments=True))
    return values["ADDRESS"], values["PEERS"].split()


def saved_state() -> tuple[str, int, bool] | None:
    """Cluster, position and flag of grastate.dat; None if that is torn. A node without the file has no data."""
    try:
        text = (DATA / "grastate.dat").read_text(errors="replace")
    except FileNotFoundError:
        return NO_CLUSTER, -1, False
    found = [
        re.search(rf"^{key}:\s+({value})\s*$", text, re.MULTILINE)
        for key, value in (("uuid", _UUID), ("seqno", r"-?\d+"), ("safe_to_bootstrap", "[01]"))
    ]
    values = [match[1] for match in found if match]
    return (values[0], int(values[1]), values[2] == "1") if len(values) == len(found) else None


def save_state(cluster: str, position: int, left_last: bool) -> None:
    text = f"# GALERA saved state\nversion: 2.1\nuuid:    {cluster}\nseqno:   {position}\n"
    _write(DATA / "grastate.dat", f"{text}safe_to_bootstrap: {int(left_last)}\n", like=DATA)


def last_view() -> View | None:
    """The view of gvwstate.dat; None if there is none, or not all of it."""
    with suppress(FileNotFoundError):
        text = (DATA / "gvwstate.dat").read_text(errors="replace")
        me = re.search(rf"^my_uuid: ({_UUID})$", text, re.MULTILINE)
        view = re.search(r"^view_id: (.+)$", text, re.MULTILINE)
        members = frozenset(_lasting(member) for member in re.findall(rf"^member: ({_UUID})\b", text, re.MULTILINE))
        if me and view and _lasting(me[1]) in members and re.search("^#vwend$", text, re.MULTILINE):
            return View(view[1], _lasting(me[1]), members)
    return None


def _lasting(member: str) -> str:
    """Without the fourth group, which a member counts up in ``my_uuid`` with each start that remembers the view."""
    parts = member.split("-")
    return "-".join(parts[:3] + parts[4:])


def recovered() -> tuple[str, int] | None:
    """Cluster and position that InnoDB has, by the distribution's program; None if it cannot tell."""
    with alone("recovery"):
        done = subprocess.run([RECOVERY], stdout=subprocess.PIPE, text=True, check=False)
    found = re.search(rf"--wsrep_start_position=({_UUID}):(-?\d+)", done.stdout)
    return (found[1], int(found[2])) if done.returncode == 0 and found else None


def standing_order() -> Order | None:
    try:
        read: dict[str, Any] = json.loads(ORDER.read_text())
    except FileNotFoundError:
        return None
    return _order(read)


def _order(read: dict[str, Any]) -> Order:
    return Order(read["cluster"], read["position"], frozenset(read["without"]))


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Not while another one does it on this machine."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    with (RUN / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def facts(nodes: frozenset[str]) -> Facts:
    """Repairs a torn grastate.dat: Galera would take the node's data for lost, and overwrite them."""
    state, innodb, order = saved_state(), recovered(), standing_order()
    if state is None:
        if innodb is None or innodb[0] == NO_CLUSTER:
            sys.exit(f"{DATA}/grastate.dat is unusable, and the data have no position: remove it to let the node join")
        say(f"grastate.dat was torn; the data are at {innodb[0]}:{innodb[1]}")
        state = (innodb[0], -1, False)
        save_state(*state)
    cluster, position, left_last = state
    if order and cluster == order.becomes and innodb == (order.cluster, order.position):
        innodb = (cluster, order.position)  # its cluster was formed, and mariadbd has not come to write it down
    if cluster == NO_CLUSTER:
        # Also in the midst of a state transfer, or voted out: whatever InnoDB says, the data cannot be trusted.
        cluster, position = "", -1
    elif innodb and innodb[0] == cluster:
        position = max(position, innodb[1])
    elif position < 0:
        sys.exit(f"the position of the data in {DATA} cannot be recovered; galera_recovery says why")
    view = last_view()
    crashed = (DATA / "gvwstate.dat").exists()
    # Both say something of the end; the view is younger if others are in it.
    alone = not crashed or (view is not None and view.members == {view.me})
    return Facts(cluster, position, left_last and alone, crashed, view, nodes, uuid.uuid4().hex, order)


# --- What the others know ---


def encode(mine: Facts) -> bytes:
    return json.dumps(asdict(mine), default=sorted).encode() + b"\n"


def decode(line: bytes) -> Facts:
    """Raises ValueError, KeyError or TypeError if it is none."""
    read: dict[str, Any] = json.loads(line)
    view, order = read.pop("view"), read.pop("order", None)
    if view:
        view = View(view["id"], view["me"], frozenset(view["members"]))
    return Facts(view=view, nodes=frozenset(read.pop("nodes")), order=_order(order) if order else None, **read)


class Server:
    """Tells peers this node's facts until it is closed."""

    def __init__(self, address: str, mine: Facts) -> None:
        self.mine = mine
        self._listener = socket.create_server((address, FACTS_PORT))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._tell, args=[caller], daemon=True).start()

    def _tell(self, caller: socket.socket) -> None:
        with caller, suppress(OSError):
            caller.settimeout(ASK)
            caller.sendall(encode(self.mine))
            caller.recv(1)  # the caller hangs up first, so that nothing of this connection keeps the port from mariadbd

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def look(peer: str) -> Peer:
    """The group's port first: a connection to the other one would spoil a transfer that mariadbd receives."""
    try:
        socket.create_connection((peer, GROUP_PORT), ASK).close()
    except ConnectionRefusedError:
        pass
    except OSError:
        return Unreachable()
    else:
        return _with_cluster(peer) or Running()
    try:
        with socket.create_connection((peer, FACTS_PORT), ASK) as connection, connection.makefile("rb") as answer:
            return decode(answer.readline(LINE))
    except (OSError, ValueError, KeyError, TypeError):
        return Unreachable()


def _with_cluster(peer: str) -> Primary | None:
    """By its health responder, which also tells a node that is in a cluster but busy with a transfer, or leaving it."""
    with closing(http.client.HTTPConnection(peer, HEALTH_PORT, timeout=ASK)) as connection:
        try:
            connection.request("GET", "/mysql")
            answer = connection.getresponse()
            has = answer.status == 200 or answer.read(LINE).startswith((b"the node is not synced", b"leaving service"))
            return Primary(answer.headers.get("X-Galera-Cluster", "")) if has else None
        except ConnectionRefusedError:
            return Primary()
        except (OSError, http.client.HTTPException):
            return None


def look_at_all(peers: list[str]) -> dict[str, Peer]:
    seen: dict[str, Peer] = {}
    threads = [threading.Thread(target=lambda p=peer: seen.__setitem__(p, look(p)), daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * ASK)
    return {peer: seen.get(peer, Unreachable()) for peer in peers}


# --- Before a start ---


def before_start() -> None:
    RUN.mkdir(mode=0o755, exist_ok=True)
    (RUN / "start.env").unlink(missing_ok=True)
    address, peers = settings()
    mine = facts(frozenset([address, *peers]))
    server = Server(address, mine)
    decision = _decision(server, address, mine)
    mine = server.mine
    server.close()
    say(decision.reason)
    if isinstance(decision, Form):
        # The claim is written down: if the start fails, this node forms the cluster the next time.
        state = saved_state()
        assert state is not None
        if decision.becomes:
            mine = replace(mine, cluster=decision.becomes)
            state = mine.cluster, mine.position, True
        save_state(state[0], state[1], left_last=True)
        (DATA / "gvwstate.dat").unlink(missing_ok=True)
        (RUN / "attempt").unlink(missing_ok=True)
    else:
        if decision.joins:
            mine = forget_the_last_view(mine)
        _write(RUN / "attempt", mine.view.id if mine.view else "")
    new = "--wsrep-new-cluster" if isinstance(decision, Form) else ""
    position = f"--wsrep_start_position={mine.cluster}:{mine.position}" if mine.cluster else ""
    _write(RUN / "start.env", f"_WSREP_NEW_CLUSTER={new}\n_WSREP_START_POSITION={position}\n")


def forget_the_last_view(mine: Facts) -> Facts:
    """Galera forms it again as soon as all of it are there, such as this node alone, if it has not heard of the cluster
    that there is until then: that would be a second one.
    """
    if mine.left_last and (state := saved_state()):
        save_state(state[0], state[1], left_last=False)
    (DATA / "gvwstate.dat").unlink(missing_ok=True)
    return replace(mine, view=None, left_last=False)


def _decision(server: Server, address: str, mine: Facts) -> Form | Start:
    begun = time.monotonic()
    failed = (RUN / "attempt").exists()
    before: dict[str, Facts] | None = None
    met: dict[str, Facts] = {}
    said, said_at = "", begun
    while (now := time.monotonic()) < begun + PATIENCE:
        peers = settings()[1]
        server.mine = mine = replace(mine, nodes=frozenset([address, *peers]), order=standing_order())
        seen = look_at_all(peers)
        here = {peer: answer for peer, answer in seen.items() if isinstance(answer, Facts)}
        met.update(here)
        running = [peer for peer, answer in seen.items() if isinstance(answer, Running)]
        someone_runs = any(isinstance(answer, Running | Primary) for answer in seen.values())
        if past := given_up_since(address, mine, seen):
            say(
                f"this node was given up, and a cluster formed from position {past.position} without it. Its own data,"
                f" at {mine.cluster}:{mine.position}, are given up now: it gets a copy of that cluster's"
            )
            save_state(NO_CLUSTER, -1, left_last=False)
            (DATA / "gvwstate.dat").unlink(missing_ok=True)
            server.mine = mine = since([past], mine)
        hold = too_early(mine, running, met, waited=now - begun, failed=failed)
        decision = decide(address, mine, seen, hold=hold)
        # Who is here has to be seen twice: it is then true of one moment, and the others have seen this node here.
        if not isinstance(decision, Wait) and (someone_runs or here == before):
            return decision
        before = here
        if decision.reason != said or now > said_at + REMIND:
            say(f"waiting: {decision.reason}" if isinstance(decision, Wait) else decision.reason)
            said, said_at = decision.reason, now
        time.sleep(max(0.0, now + ASK - time.monotonic()))
    sys.exit(f"still waiting after {PATIENCE:g} s, beginning anew: {said}")


# --- What a person orders ---


def tell() -> None:
    """What this node and its peers know, as JSON: facts, or why there are none; what is seen of each peer.

    With mariadb stopped the position is recovered, which changes the data no more than a start does.
    """
    address, peers = settings()
    seen = {peer: answer for peer, answer in look_at_all(peers).items() if not isinstance(answer, Unreachable)}
    told = {peer: asdict(one) if isinstance(one, Facts) else type(one).__name__.lower() for peer, one in seen.items()}
    try:
        mine, problem = asdict(own_facts(address, peers)), ""
    except RefusedError as error:
        mine, problem = None, str(error)
    waits = _unit("ActiveState") not in STOPPED
    print(json.dumps({"facts": mine, "waits": waits, "problem": problem, "peers": told}, default=sorted))


def order(text: str) -> None:
    """Have this node form a cluster with all others that have the same order, given as JSON (cluster, position,
    without). Raises RefusedError if it may not be so any more.
    """
    wanted = _order(json.loads(text))
    address, peers = settings()
    with alone("order"):
        mine = own_facts(address, peers)
        if mine.ordered and mine.ordered != wanted:
            raise RefusedError(
                f"another order stands here, to form a cluster from position {mine.ordered.position} without"
                f" {', '.join(sorted(mine.ordered.without))}; `{sys.argv[0]} withdraw` takes it back, if nothing has"
                " come of it anywhere"
            )
        if mine.cluster and (mine.cluster != wanted.cluster or mine.position > wanted.position):
            raise RefusedError(f"this node is at {mine.cluster}:{mine.position}")
        for peer, seen in look_at_all(peers).items():
            if isinstance(seen, Primary | Running):
                raise RefusedError(f"mariadbd runs on {peer}")
            if isinstance(seen, Facts) and peer in wanted.without:
                raise RefusedError(f"{peer} is given up, but it is here, with data at {seen.cluster}:{seen.position}")
        ORDER.parent.mkdir(mode=0o755, exist_ok=True)
        _write(ORDER, json.dumps(asdict(wanted), default=sorted) + "\n")


def withdraw() -> None:
    address, peers = settings()
    with alone("order"):
        if own_facts(address, peers).ordered:
            ORDER.unlink()


class RefusedError(Exception):
    pass


def own_facts(address: str, peers: list[str]) -> Facts:
    """As the start that waits here tells them; with mariadb stopped, found now. Raises RefusedError if neither."""
    for _ in range(int(PATIENCE_WITH_RECOVERY / ASK)):
        state = _unit("ActiveState")
        if state in STOPPED:
            try:
                return facts(frozenset([address, *peers]))
            except SystemExit as error:
                raise RefusedError(str(error)) from None
        if _unit("MainPID") != "0":
            raise RefusedError("mariadbd runs here")
        with (
            suppress(OSError, ValueError, KeyError, TypeError),
            socket.create_connection((address, FACTS_PORT), ASK) as me,
            me.makefile("rb") as answer,
        ):
            return decode(answer.readline(LINE))
        time.sleep(ASK)
    raise RefusedError(f"mariadb is {state}, and does not say what it knows")


def _unit(name: str) -> str:
    asked = ["systemctl", "show", f"--property={name}", "--value", "mariadb"]
    return subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


# --- Beside a mariadbd that runs ---


def watch() -> None:
    """End what mariadbd does not end by itself: an attempt that is vain, life without its cluster, and a hang.

    A node that lives without a cluster is brought back to where it says what it knows and nothing is decided too early.
    One that was voted out has lost its say, and gets a copy of everything when it starts again.
    """
    since: float | None = None
    wrong = ""
    while True:
        time.sleep(5)
        now = time.monotonic()
        if attempt_is_vain():
            say(f"no cluster {ATTEMPT:g} s after the start: ending mariadbd")
            # It serves nobody yet, and may be deaf to a request. Its last view is kept.
            subprocess.run(["systemctl", "kill", "--signal=SIGKILL", "mariadb"], check=False)
            continue
        before, wrong = wrong, ailment()
        if not wrong:
            since = None
            continue
        since = now if since is None or wrong != before else since
        if now < since + WITHOUT_CLUSTER:
            continue
        since = None
        peers = look_at_all(settings()[1])
        serving = any(isinstance(seen, Primary) for seen in peers.values())
        waiting = sorted(peer for peer, seen in peers.items() if isinstance(seen, Facts))
        if wrong != HANGS and waiting:
            say(f"{wrong} for {WITHOUT_CLUSTER:.0f} s, and {', '.join(waiting)} waits: restarting mariadbd")
            subprocess.run(["systemctl", "--no-block", "restart", "mariadb"], check=False)
        elif wrong != "no cluster" and (serving or waiting):
            restart_once(wrong)


def ailment() -> str:
    """What is wrong with the mariadbd that runs here; empty if nothing is, or none runs, or it is only starting."""
    status = cluster_status()
    if status == "Disconnected" and _unit("SubState") == "running":
        return VOTED_OUT  # without a cluster it would be non-Primary, and look for the others
    return {"": "", "Primary": "", HANGS: HANGS}.get(status, "no cluster")


def restart_once(wrong: str) -> None:
    """A node that needs it again soon is left to a person: there is a reason that stays."""
    mark = RUN / "restarted"
    how_long = f"{wrong} for {WITHOUT_CLUSTER:.0f} s"
    try:
        last = float(mark.read_text())
    except (FileNotFoundError, ValueError):
        last = 0.0
    if time.time() < last + ONCE_IN:
        say(f"<3>{how_long}; mariadbd was restarted for that less than an hour ago, and is left alone now")
        return
    say(f"<4>{how_long}: restarting mariadbd, once in an hour")
    _write(mark, f"{time.time()}\n")
    # A process that hangs does not stop when it is asked to, and does not come back by itself.
    subprocess.run(["systemctl", "kill", "--signal=SIGKILL", "mariadb"], check=False)
    subprocess.run(["systemctl", "--no-block", "restart", "mariadb"], check=False)


def attempt_is_vain() -> bool:
    """With a last view mariadbd waits for its members for ever; as soon as it has a cluster it remembers another."""
    attempt = RUN / "attempt"
    try:
        begun, remembered = attempt.stat().st_mtime, attempt.read_text()
    except FileNotFoundError:
        return False
    view = last_view()
    # Without one it gives up by itself.
    if not remembered or view is None or view.id != remembered or time.time() < begun + ATTEMPT:
        return False
    return _unit("SubState") == "start"


def cluster_status() -> str:
    """Galera's own word for it; empty if mariadbd does not let anybody in, HANGS if it says nothing in five seconds."""
    # Whatever the settings make SHOW wait for.
    sql = "SET SESSION wsrep_sync_wait = 0; SHOW STATUS LIKE 'wsrep_cluster_status'"
    try:
        done = subprocess.run(
            ["mariadb", "--batch", "--skip-column-names", "--execute", sql],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=5,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return HANGS
    return done.stdout.strip().rpartition("\t")[2]


def say(text: str) -> None:
    print(text, flush=True)


def _write(path: Path, text: str, *, like: Path | None = None) -> None:
    """Whole or not at all, also if the power fails; owned as ``like`` is."""
    staged = path.with_name(f".{path.name}.new")
    with staged.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.chmod(0o600)
    if like is not None:
        owner = like.stat()
        shutil.chown(staged, owner.st_uid, owner.st_gid)
    staged.replace(path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            before_start()
        case ["watch"]:
            watch()
        case ["tell"]:
            tell()
        case ["order", text]:
            try:
                order(text)
            except RefusedError as error:
                sys.exit(str(error))
        case ["withdraw"]:
            withdraw()
        case words:
            sys.exit(f"unknown: {' '.join(words)}")
