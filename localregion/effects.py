"""The network follows the API, some time after a call was answered."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from localregion.model import Layout

log = logging.getLogger("localregion")
#: Between a call's answer and its effect on the network and on metadata. AWS names no figure.
EFFECT_DELAY_MS = 500
_KEPT = 1000  # moves


@dataclass
class Move:
    """An address that the API has put on another interface. Moments are of CLOCK_MONOTONIC, in seconds."""

    address: IPv4Address
    eni: str
    answered: float  # when the call had done its work
    in_force: float | None = None  # when packets began to go there; None: they do not yet


class Effects:
    """A queue of network layouts, applied one after the other by a thread of its own."""

    def __init__(self, apply: Callable[[Layout], None]) -> None:
        self._apply = apply
        self._queue: queue.Queue[tuple[float, Layout, list[Move]]] = queue.Queue()
        self._applied = threading.Condition()
        self._given = self._done = 0  # layouts so far
        self._last = Layout()
        self._moves: deque[Move] = deque(maxlen=_KEPT)

    def start(self) -> None:
        threading.Thread(target=self._follow, daemon=True).start()

    def put(self, layout: Layout, delay: float) -> None:
        """Apply ``layout`` in ``delay`` seconds, and after all that were put before it."""
        now = time.monotonic()
        moves = [Move(address, eni, now) for address, eni in _placed(self._last, layout)]
        self._last = layout
        self._given += 1
        self._moves.extend(moves)
        self._queue.put((now + delay, layout, moves))

    def moves(self, since: float) -> list[Move]:
        """Those that were answered from ``since`` (CLOCK_MONOTONIC) on."""
        return [move for move in list(self._moves) if move.answered >= since]

    def settle(self, put: Callable[[], None], timeout: float = 60) -> None:
        """Call ``put``, which puts a layout, and wait until that one is applied."""
        put()
        goal = self._given
        with self._applied:
            self._applied.wait_for(lambda: self._done >= goal, timeout)

    def _follow(self) -> None:
        while True:
            due, layout, moves = self._queue.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                self._apply(layout)
            except Exception:
                log.exception("the network did not follow")
            else:
                for move in moves:
                    move.in_force = time.monotonic()
                    late = move.in_force - move.answered
                    log.info("%s is at %s, %.3f s after the call", move.address, move.eni, late)
            with self._applied:
                self._done += 1
                self._applied.notify_all()


def _placed(before: Layout, after: Layout) -> Iterator[tuple[IPv4Address, str]]:
    """Addresses with the interface that they are on now and were not on before."""
    known = {(address, eni.id) for eni in before.enis for address in eni.addresses}
    return (
        (address, eni.id) for eni in after.enis for address in sorted(eni.addresses) if (address, eni.id) not in known
    )
