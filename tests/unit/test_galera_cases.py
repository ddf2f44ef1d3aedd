"""Every order of stops, crashes, starts and cut links, up to a depth, of nodes that start by galera_start.py.

Galera's own rules are modelled here: a component is primary if it has more than half of the last primary view less
those who left in peace; without any primary, one forms again when all of the latest view meet; the last to leave is
flagged. A primary component is written to when it changes, but for some that a node leaves in peace. Times are left
out of the search: what may happen may happen next, and nodes do alike one after the other or all at once. That all
comes back is then tried with times, in steps of five seconds.

People who give up nodes (`stackctl database recover`) are a second search, from full stops with nodes that do not reach
each other. Each person has looked at the others when none was up, and gives the order to one after the other, whatever
has happened meanwhile. Two people may give up different nodes, but not all that the other one has looked at; and those
that are given up live, and return with their old data once a cluster is there.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import pytest

from tests.unit.galera_start import galera_start as hook

Member = tuple[int, int]  # a node, and which of its lives in the group

OFF, HOOK, FORMING, STARTING, UP = "off", "hook", "forming", "starting", "up"


CLUSTER = "c"


class Order(hook.Order):  # type: ignore[misc]
    @property
    def becomes(self) -> str:
        """Readable: the search has many."""
        return f"{self.cluster}-{''.join(sorted(self.without))}"


class View(NamedTuple):
    id: int
    members: frozenset[Member]


TORN = View(-1, frozenset())


class Node(NamedTuple):
    mode: str = OFF
    #: Of the last write that it has; -1: its data are those of no cluster.
    position: int = 0
    flag: bool = False
    #: What gvwstate.dat says.
    saved: View | None = None
    life: int = 0
    #: While it is up: in a primary component; the last one that it was in.
    primary: bool = False
    last: View | None = None
    #: It has not been in a primary component yet: mariadbd gives up after a while.
    attempt: bool = False
    cluster: str = CLUSTER
    order: Order | None = None


class State(NamedTuple):
    nodes: tuple[Node, ...]
    cuts: frozenset[tuple[int, int]]
    acknowledged: int
    #: What people are giving to the nodes, one after the other.
    orders: frozenset[Order] = frozenset()


class BrokenError(AssertionError):
    pass


def linked(state: State, a: int, b: int) -> bool:
    return (min(a, b), max(a, b)) not in state.cuts


def components(state: State) -> list[set[int]]:
    """Nodes that are up and reach each other, directly or by others: Galera passes messages on."""
    left = {n for n, node in enumerate(state.nodes) if node.mode == UP}
    found = []
    while left:
        group, edge = set(), {left.pop()}
        while edge:
            n = edge.pop()
            group.add(n)
            near = {m for m in left if linked(state, n, m)}
            left -= near
            edge |= near
        found.append(group)
    return found


def next_view(nodes: Iterable[Node]) -> int:
    return 1 + max(view.id for node in nodes for view in (node.saved, node.last, TORN) if view)


def settle(state: State, *, writes: bool = True, alone: bool = False) -> State:
    """What Galera does of itself. ``writes``: a component that becomes another one is written to. ``alone``: a view
    forms again only while its members are among themselves, as it has been seen to do; else also beside others.
    """
    nodes, acknowledged = list(state.nodes), state.acknowledged
    for group in components(state):
        alive = {(n, nodes[n].life) for n in group}
        views = {nodes[n].last for n in group if nodes[n].primary}
        if len(views) > 1:
            raise BrokenError("two primary components have met")
        if views:
            view = views.pop()
            assert view is not None
            if view.members == alive and all(nodes[n].saved == view for n in group):
                continue
            source = [n for n in group if nodes[n].primary]
            cluster = nodes[source[0]].cluster
            primary = 2 * len(view.members & alive) > len(view.members)
        else:
            last = max((v for n in group if (v := nodes[n].last) is not None), default=None)
            primary = last is not None and (last.members == alive or (last.members < alive and not alone))
            cluster = next((nodes[n].cluster for n in group if last and (n, nodes[n].life) in last.members), "")
            source = [n for n in group if nodes[n].cluster == cluster]
        if not primary:
            for n in group:
                nodes[n] = nodes[n]._replace(primary=False)
            continue
        position = max(nodes[n].position for n in source)
        if any(nodes[n].position > position for n in group if nodes[n].cluster == cluster) or position < acknowledged:
            raise BrokenError("an acknowledged write is missing")
        new = View(next_view(nodes), frozenset(alive))
        acknowledged = position + writes
        for n in group:
            nodes[n] = nodes[n]._replace(
                position=acknowledged, primary=True, last=new, saved=new, flag=False, attempt=False, cluster=cluster
            )
    if len({node.last for node in nodes if node.primary}) > 1:
        raise BrokenError("two primary components")
    return state._replace(nodes=tuple(nodes), acknowledged=acknowledged)


def put(state: State, n: int, node: Node) -> State:
    return state._replace(nodes=(*state.nodes[:n], node, *state.nodes[n + 1 :]))


def down(node: Node, mode: str = OFF, **changes: Any) -> Node:
    return node._replace(mode=mode, primary=False, last=None, attempt=False, **changes)


def stopped(state: State, n: int, mode: str = OFF, *, writes: bool = True) -> State:
    node = state.nodes[n]
    if node.mode != UP:
        return put(state, n, down(node, mode))
    view = node.last
    alone = node.primary and view is not None and len(view.members) == 1
    nodes = [
        other._replace(last=View(view.id, view.members - {(n, node.life)}))
        if view and node.primary and other.primary and other.last == view
        else other
        for other in state.nodes
    ]
    return settle(put(state._replace(nodes=tuple(nodes)), n, down(node, mode, flag=alone, saved=None)), writes=writes)


def crashed(state: State, nodes: Iterator[int] | range | list[int], origin: int | None = None) -> State:
    """At once. If all of a cluster crash, only the node ``origin`` has the last write on its disk."""
    for n in nodes:
        node = state.nodes[n]
        late = origin is not None and n != origin and node.mode == UP and node.primary
        state = put(state, n, down(node, position=node.position - late))
    return settle(state)


def facts(state: State, n: int) -> hook.Facts:
    return facts_of(state.nodes[n], n, len(state.nodes))


@cache  # asked for a million times, of some thousand nodes
def facts_of(node: Node, n: int, many: int) -> hook.Facts:
    names = frozenset(map(str, range(many)))
    view = None
    if node.saved and node.saved != TORN:
        members = frozenset(map(str, node.saved.members))
        view = hook.View(str(node.saved.id), str((n, node.life)), members)
    alone = node.saved is None or (view is not None and len(view.members) == 1)
    cluster = "" if node.position < 0 else node.cluster
    flag, crashed = node.flag and alone, node.saved is not None
    return hook.Facts(cluster, node.position, flag, crashed, view, names, "", node.order)


def seen(state: State, n: int) -> dict[str, hook.Peer]:
    found: dict[str, hook.Peer] = {}
    for m, peer in enumerate(state.nodes):
        if m == n:
            continue
        if peer.mode == HOOK and linked(state, n, m):
            found[str(m)] = facts(state, m)
        elif peer.mode == UP and linked(state, n, m):
            found[str(m)] = hook.Primary(peer.cluster) if peer.primary else hook.Running()
        else:
            found[str(m)] = hook.Unreachable()
    return found


def decided(state: State, n: int, *, hold: bool = False) -> State:
    node = state.nodes[n]
    around = seen(state, n)
    if hook.given_up_since(str(n), facts(state, n), around):
        node = node._replace(position=-1, flag=False, saved=None)
        state = put(state, n, node)
    decision = hook.decide(str(n), facts(state, n), around, hold=hold)
    if isinstance(decision, hook.Form):
        node = node._replace(mode=FORMING, flag=True, saved=None, cluster=decision.becomes or node.cluster)
        return put(state, n, node)
    if isinstance(decision, hook.Start):
        past: dict[str, Any] = {"saved": None, "flag": False} if decision.joins else {}
        return put(state, n, node._replace(mode=STARTING, **past))
    return state


def started(state: State, n: int, *, alone: bool = False) -> State:
    """mariadbd of a node that has decided; it lives on under its old name if it remembers it."""
    node = state.nodes[n]
    known = node.saved is not None and node.saved != TORN
    node = node._replace(life=node.life if known else node.life + 1)
    if node.mode == FORMING:
        # It looks for nobody.
        if node.position < state.acknowledged:
            raise BrokenError("an acknowledged write is missing")
        own = View(next_view(state.nodes), frozenset({(n, node.life)}))
        position = node.position + 1
        formed = node._replace(mode=UP, position=position, flag=False, primary=True, last=own, saved=own)
        return settle(put(state._replace(acknowledged=position), n, formed))
    if known and node.saved and node.saved.members == {(n, node.life)}:
        # All of its last view are here before it has heard of anybody.
        own = View(next_view(state.nodes), node.saved.members)
        return settle(put(state, n, node._replace(mode=UP, primary=True, last=own, saved=own, flag=False)))
    return settle(put(state, n, node._replace(mode=UP, last=node.saved if known else None, attempt=True)), alone=alone)


def given_up(state: State) -> Iterator[State]:
    """A person looks at some, of which none is up, and gives up all others."""
    everyone = range(len(state.nodes))
    for many in range(1, len(state.nodes)):
        for lost in itertools.combinations(everyone, many):
            rest = [n for n in everyone if n not in lost]
            best = max((state.nodes[n] for n in rest), key=lambda node: node.position)
            if any(state.nodes[n].mode not in {OFF, HOOK} for n in rest) or best.position < 0:
                continue
            if len({state.nodes[n].cluster for n in rest if state.nodes[n].position >= 0}) > 1:
                continue
            if any(order.without >= set(map(str, rest)) for order in state.orders):
                continue
            order = Order(best.cluster, best.position, frozenset(map(str, lost)))
            acknowledged = min(state.acknowledged, best.position)
            yield state._replace(orders=state.orders | {order}, acknowledged=acknowledged)


def ordered(state: State) -> Iterator[State]:
    """On one node: what galera_start.py checks itself is checked here."""
    for order in state.orders:
        for n, node in enumerate(state.nodes):
            mine, around = facts(state, n), seen(state, n)
            if str(n) in order.without or node.mode not in {OFF, HOOK} or mine.ordered or node.order == order:
                continue
            if mine.cluster and (mine.cluster != order.cluster or mine.position > order.position):
                continue
            if any(isinstance(peer, hook.Primary | hook.Running) for peer in around.values()):
                continue
            if any(isinstance(around[peer], hook.Facts) for peer in order.without):
                continue
            yield put(state, n, node._replace(order=order))


def waits_for(state: State, n: int) -> bool:
    return any(m != n and peer.mode == HOOK and linked(state, n, m) for m, peer in enumerate(state.nodes))


def events(state: State) -> Iterator[State]:
    everyone = range(len(state.nodes))
    for n in everyone:
        node = state.nodes[n]
        if node.mode == OFF:
            yield put(state, n, node._replace(mode=HOOK))
            continue
        yield stopped(state, n)
        yield stopped(state, n, writes=False)
        yield crashed(state, [n])
        if node.mode == HOOK:
            yield decided(state, n)
        elif node.mode in {FORMING, STARTING}:
            yield started(state, n)
        else:
            torn = crashed(state, [n])
            yield put(torn, n, torn.nodes[n]._replace(saved=TORN))
            if node.attempt:
                yield put(state, n, down(node, HOOK))  # it has failed
            elif not node.primary and waits_for(state, n):
                yield stopped(state, n, HOOK)  # the watch restarts it
            elif node.primary and node.last and len(node.last.members) > 1:
                broken = crashed(state, [n])  # in the midst of a state transfer
                yield put(broken, n, broken.nodes[n]._replace(position=-1, flag=False))
    together = [n for n in everyone if state.nodes[n].mode == UP and state.nodes[n].primary]
    if len(together) > 1:
        nodes = [down(o, saved=None, flag=False) if n in together else o for n, o in enumerate(state.nodes)]
        yield settle(state._replace(nodes=tuple(nodes)))
        for origin in together:
            yield crashed(state, together, origin)
    yield state._replace(nodes=tuple(n._replace(mode=HOOK) if n.mode == OFF else n for n in state.nodes))
    all_decided = [decided(state, n).nodes[n] if node.mode == HOOK else node for n, node in enumerate(state.nodes)]
    yield state._replace(nodes=tuple(all_decided))
    for order in (everyone, reversed(everyone)):
        all_started = state
        for n in order:
            if state.nodes[n].mode in {FORMING, STARTING}:
                all_started = started(all_started, n)
        yield all_started
    for link in itertools.combinations(everyone, 2):
        yield settle(state._replace(cuts=state.cuts ^ {link}))


def normal(state: State) -> State:
    """States that differ in names only are one; of numbers their order counts. Position 0 is left for a lost write."""
    orders = state.orders | {node.order for node in state.nodes if node.order}
    known = {n.position for n in state.nodes if n.position >= 0} | {order.position for order in orders}
    positions = sorted(known | {state.acknowledged})
    views = sorted({v.id for n in state.nodes for v in (n.saved, n.last) if v and v != TORN})
    lives: dict[int, set[int]] = {n: {node.life} for n, node in enumerate(state.nodes)}
    for node in state.nodes:
        for view in (node.saved, node.last):
            for n, life in view.members if view else ():
                lives[n].add(life)
    ranks = {(n, life): i for n, those in lives.items() for i, life in enumerate(sorted(those))}

    def renamed(view: View | None) -> View | None:
        if view is None or view == TORN:
            return view
        return View(views.index(view.id), frozenset((n, ranks[n, life]) for n, life in view.members))

    def moved(order: Order) -> Order:
        return replace(order, position=positions.index(order.position) + 1)

    nodes = tuple(
        node._replace(
            order=moved(node.order) if node.order else None,
            position=positions.index(node.position) + 1 if node.position >= 0 else -1,
            saved=renamed(node.saved),
            last=renamed(node.last),
            life=ranks[n, node.life],
        )
        for n, node in enumerate(state.nodes)
    )
    moved_orders = frozenset(map(moved, state.orders))
    return State(nodes, state.cuts, positions.index(state.acknowledged) + 1, moved_orders)


@dataclass(frozen=True)
class Clock:
    """How many steps a node has been up, or waited; and whom it has met meanwhile."""

    up: int = 0
    waited: int = 0
    failed: bool = False
    met: Mapping[str, Any] = field(default_factory=dict)
    here: Mapping[str, Any] | None = None


def comes_back(state: State, first: int, apart: int) -> bool:
    """All links whole, all nodes started one after the other, ``apart`` steps of five seconds between them."""
    state = settle(state._replace(cuts=frozenset()))
    many = len(state.nodes)
    clocks = [Clock() for _ in state.nodes]
    order = [(first + i) % many for i in range(many)]
    for step in range(200):
        if all(node.mode == UP and node.primary for node in state.nodes):
            return True
        for place, n in enumerate(order):
            node, clock = state.nodes[n], clocks[n]
            if node.mode == OFF and step >= place * apart:
                state = put(state, n, node._replace(mode=HOOK))
            elif node.mode == HOOK:
                around = seen(state, n)
                here = {peer: what for peer, what in around.items() if isinstance(what, hook.Facts)}
                running = [peer for peer, what in around.items() if isinstance(what, hook.Running)]
                up = (hook.Running, hook.Primary)
                sure = here == clock.here or any(isinstance(what, up) for what in around.values())
                met = {**clock.met, **here}
                clock = replace(clock, here=here, met=met, waited=clock.waited + 1, up=0)
                early = hook.too_early(facts(state, n), running, met, waited=5 * clock.waited, failed=clock.failed)
                state = decided(state, n, hold=early) if sure else state
            elif node.mode in {FORMING, STARTING}:
                state, clock = started(state, n, alone=True), Clock(failed=True)
            elif node.mode == UP:
                clock = Clock() if node.primary else replace(clock, up=clock.up + 1)
                if node.attempt and clock.up >= 6:
                    state = settle(put(state, n, down(node, HOOK)), alone=True)
                    clock = Clock(failed=True)
                elif (
                    not (node.attempt or node.primary) and clock.up >= hook.WITHOUT_CLUSTER / 5 and waits_for(state, n)
                ):
                    state, clock = stopped(state, n, HOOK), Clock()
            clocks[n] = clock
    return False


def formed(state: State) -> bool:
    """By an order."""
    return any(node.cluster != CLUSTER for node in state.nodes)


def running(state: State) -> bool:
    return any(node.mode in {FORMING, STARTING, UP} for node in state.nodes)


def search(edge: set[State], depth: int, *, people: int = 0) -> tuple[set[State], int]:
    """All states, and how many steps led to them. ``people`` may give up nodes, as long as those do not go on without
    them; links change when a cluster has been formed so.
    """
    known, steps = set(edge), 0
    for _ in range(depth):
        following: set[State] = set()
        for state in edge:
            after = list(events(state))
            if people and not formed(state):
                after = [one for one in after if one.cuts == state.cuts and (formed(one) or not running(one))]
                if len(state.orders) < people:
                    after += given_up(state)
            after += ordered(state)
            steps += len(after)
            following.update(after)
        edge = {normal(state) for state in following} - known
        known |= edge
    return known, steps


def all_come_back(known: Iterable[State]) -> int:
    """Of how many states."""
    tried = {normal(settle(state._replace(cuts=frozenset()))) for state in known}
    for state in tried:
        for first, apart in ((0, 0), (len(state.nodes) - 1, 5)):
            assert comes_back(state, first, apart), state
    return len(tried)


@pytest.mark.parametrize(("many", "depth"), [(2, 9), (3, 5)])
def test_every_order(many: int, depth: int, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    born = View(0, frozenset((n, 0) for n in range(many)))
    whole = Node(mode=UP, primary=True, last=born, saved=born)
    known, steps = search({normal(State((whole,) * many, frozenset(), 0))}, depth)
    tried = all_come_back(known)
    took = time.monotonic() - begun
    with capsys.disabled():
        print(f"\n{many} nodes, {depth} events: {steps} steps to {len(known)} states, {tried} tried, {took:.1f} s")


@pytest.mark.parametrize(("many", "depth"), [(2, 9), (3, 6)])
def test_every_order_with_nodes_that_are_given_up(many: int, depth: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The stops are those after which no node, and no part of them, could form a cluster without the others."""
    begun = time.monotonic()
    born = View(0, frozenset((n, 0) for n in range(many)))
    up, everyone = Node(mode=UP, primary=True, position=1, last=born, saved=born), range(many)
    links = list(itertools.combinations(everyone, 2))
    edge = set()
    for cuts in [frozenset(cut) for number in (1, 2) for cut in itertools.combinations(links, number)]:
        edge.add(normal(State((Node(position=1),) * many, cuts, 1)))
        for origin in everyone:
            edge.add(normal(crashed(State((up,) * many, frozenset(), 1), everyone, origin)._replace(cuts=cuts)))
    known, steps = search(edge, depth, people=2)
    done = [state for state in known if formed(state)]
    assert done
    tried = all_come_back(done)
    took = time.monotonic() - begun
    with capsys.disabled():
        print(f"\n{many} nodes, {depth} events: {steps} steps to {len(known)} states, {tried} tried, {took:.1f} s")
