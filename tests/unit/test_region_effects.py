"""The network follows the API in order, and one can wait for it."""

import threading
import time
from ipaddress import IPv4Address

from localregion.api import ApiFaults
from localregion.effects import Effects
from localregion.model import Eni, Layout, Vpc

LAYOUTS = [Layout(groups=()), Layout(enis=()), Layout(subnets=())]


def test_settle_returns_when_its_own_layout_is_applied() -> None:
    applied: list[Layout] = []

    def apply(layout: Layout) -> None:
        time.sleep(0.05)
        applied.append(layout)

    effects = Effects(apply)
    effects.start()
    effects.put(LAYOUTS[0], 0)
    effects.put(LAYOUTS[1], 0.1)
    effects.settle(lambda: effects.put(LAYOUTS[2], 0))
    assert [id(layout) for layout in applied] == [id(layout) for layout in LAYOUTS]


def test_settle_does_not_take_the_layout_that_is_being_applied_for_its_own() -> None:
    began, go_on = threading.Event(), threading.Event()
    applied: list[Layout] = []

    def apply(layout: Layout) -> None:
        began.set()
        go_on.wait(5)
        applied.append(layout)

    effects = Effects(apply)
    effects.start()
    effects.put(LAYOUTS[0], 0)
    assert began.wait(5)

    def put() -> None:
        effects.put(LAYOUTS[1], 0)
        go_on.set()

    effects.settle(put)
    assert len(applied) == 2


def test_a_layout_is_applied_after_its_delay() -> None:
    moments: list[float] = []
    effects = Effects(lambda _: moments.append(time.monotonic()))
    effects.start()
    before = time.monotonic()
    effects.settle(lambda: effects.put(Layout(), 0.3))
    assert moments[0] - before >= 0.3


def test_a_layout_that_cannot_be_applied_does_not_keep_the_next_one_back() -> None:
    done = threading.Event()

    def apply(layout: Layout) -> None:
        if layout.vpcs:
            raise RuntimeError("no such range")
        done.set()

    effects = Effects(apply)
    effects.start()
    effects.settle(lambda: effects.put(Layout(vpcs=(Vpc("vpc-1", None),)), 0))  # type: ignore[arg-type]
    effects.settle(lambda: effects.put(Layout(), 0))
    assert done.is_set()


def on(*places: tuple[str, str]) -> Layout:
    """ENIs that each have a primary address of their own, and one more."""
    enis = (
        Eni(name, "02:00", "subnet-1", IPv4Address(f"10.0.0.{n}"), frozenset({IPv4Address(extra)}), ())
        for n, (name, extra) in enumerate(places)
    )
    return Layout(enis=tuple(enis))


def test_moves_tell_when_the_call_was_answered_and_when_it_came_in_force() -> None:
    effects = Effects(lambda _: None)
    effects.start()
    effects.settle(lambda: effects.put(on(("eni-1", "10.0.0.9"), ("eni-2", "10.0.0.8")), 0))
    before = time.monotonic()
    effects.put(on(("eni-1", "10.0.0.7"), ("eni-2", "10.0.0.9")), 0.3)
    assert [(str(m.address), m.eni, m.in_force) for m in effects.moves(before)] == [
        ("10.0.0.7", "eni-1", None),
        ("10.0.0.9", "eni-2", None),
    ]
    effects.settle(lambda: effects.put(on(("eni-1", "10.0.0.7"), ("eni-2", "10.0.0.9")), 0))
    moves = effects.moves(before)
    assert len(moves) == 2
    for move in moves:
        assert before <= move.answered < before + 0.3
        assert move.in_force is not None
        assert move.in_force - move.answered >= 0.3


def test_a_call_and_its_effect_are_half_a_second_apart_unless_it_is_set() -> None:
    assert ApiFaults().effect_delay_ms == 500
