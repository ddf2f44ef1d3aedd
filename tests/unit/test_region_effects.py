"""The network follows the API in order, and one can wait for it."""

import threading
import time

from localregion.effects import Effects
from localregion.model import Layout, Vpc

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
