"""Every order of stops, crashes, starts and cut links, up to a depth, of nodes that start by galera_start.py.

Galera's own rules are modelled here: a component is primary if it has more than half of the last primary view less
those who left in peace; without any primary, one forms again when all of the latest view meet; the last to leave is
flagged. A primary component is written to when it changes, but for some that a node leaves in peace. Times are left
out of the search: what may happen may happen next, and nodes do alike one after the other or all at once. That all
comes back is then tried with times, in steps of five seconds.
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


class State(NamedTuple):
    nodes: tuple[Node, ...]
    cuts: frozenset[tuple[int, int]]
    acknowledged: int


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
            primary = 2 * len(view.members & alive) > len(view.members)
        else:
            source = list(group)
            last = max((v for n in group if (v := nodes[n].last) is not None), default=None)
            primary = last is not None and (last.members == alive or (last.members < alive and not alone))
        if not primary:
            for n in group:
                nodes[n] = nodes[n]._replace(primary=False)
            continue
        position = max(nodes[n].position for n in source)
        if max(position, *(nodes[n].position for n in group)) > position or position < acknowledged:
            raise BrokenError("an acknowledged write is missing")
        new = View(next_view(nodes), frozenset(alive))
        acknowledged = position + writes
        for n in group:
            nodes[n] = nodes[n]._replace(
                position=acknowledged, primary=True, last=new, saved=new, flag=False, attempt=False
            )
    if len({node.last for node in nodes if node.primary}) > 1:
        raise BrokenError("two primary components")
    return State(tuple(nodes), state.cuts, acknowledged)


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
    empty = node.position < 0
    return hook.Facts("" if empty else "c", node.position, node.flag and alone, node.saved is not None, view, names, "")


def seen(state: State, n: int) -> dict[str, hook.Peer]:
    found: dict[str, hook.Peer] = {}
    for m, peer in enumerate(state.nodes):
        if m == n:
            continue
        if peer.mode == HOOK and linked(state, n, m):
            found[str(m)] = facts(state, m)
        elif peer.mode == UP and linked(state, n, m):
            found[str(m)] = hook.Primary() if peer.primary else hook.Running()
        else:
            found[str(m)] = hook.Unreachable()
    return found


def decided(state: State, n: int, *, hold: bool = False) -> State:
    node = state.nodes[n]
    decision = hook.decide(str(n), facts(state, n), seen(state, n), hold=hold)
    if isinstance(decision, hook.Form):
        return put(state, n, node._replace(mode=FORMING, flag=True, saved=None))
    return put(state, n, node._replace(mode=STARTING)) if isinstance(decision, hook.Start) else state


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
    return settle(put(state, n, node._replace(mode=UP, last=node.saved if known else None, attempt=True)), alone=alone)


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
    positions = sorted({n.position for n in state.nodes if n.position >= 0} | {state.acknowledged})
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

    nodes = tuple(
        node._replace(
            position=positions.index(node.position) + 1 if node.position >= 0 else -1,
            saved=renamed(node.saved),
            last=renamed(node.last),
            life=ranks[n, node.life],
        )
        for n, node in enumerate(state.nodes)
    )
    return State(nodes, state.cuts, positions.index(state.acknowledged) + 1)


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


@pytest.mark.parametrize(("many", "depth"), [(2, 9), (3, 5)])
def test_every_order(many: int, depth: int, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    born = View(0, frozenset((n, 0) for n in range(many)))
    whole = Node(mode=UP, primary=True, last=born, saved=born)
    edge = {normal(State((whole,) * many, frozenset(), 0))}
    known, steps, tried = set(edge), 0, set()
    for _ in range(depth):
        following: set[State] = set()
        for state in edge:
            after = list(events(state))
            steps += len(after)
            following.update(after)
        edge = {normal(state) for state in following} - known
        known |= edge
    for state in known:
        tried.add(normal(settle(state._replace(cuts=frozenset()))))
    for state in tried:
        for first, apart in ((0, 0), (many - 1, 5)):
            assert comes_back(state, first, apart), state
    took = time.monotonic() - begun
    with capsys.disabled():
        print(f"\n{many} nodes, {depth} events: {steps} steps to {len(known)} states, {len(tried)} tried, {took:.1f} s")
