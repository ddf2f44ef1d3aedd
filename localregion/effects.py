"""The network follows the API, some time after a call was answered."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from localregion.model import Layout

log = logging.getLogger("localregion")


class Effects:
    """A queue of network layouts, applied one after the other by a thread of its own."""

    def __init__(self, apply: Callable[[Layout], None]) -> None:
        self._apply = apply
        self._queue: queue.Queue[tuple[float, Layout]] = queue.Queue()
        self._applied = threading.Condition()
        self._count = 0

    def start(self) -> None:
        threading.Thread(target=self._follow, daemon=True).start()

    def put(self, layout: Layout, delay: float) -> None:
        """Apply ``layout`` in ``delay`` seconds, and after all that were put before it."""
        self._queue.put((time.monotonic() + delay, layout))

    def settle(self, put: Callable[[], None], timeout: float = 60) -> None:
        """Call ``put``, which puts a layout, and wait until that one is applied."""
        with self._applied:
            goal = self._count + self._queue.qsize() + 1
        put()
        with self._applied:
            self._applied.wait_for(lambda: self._count >= goal, timeout)

    def _follow(self) -> None:
        while True:
            due, layout = self._queue.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                self._apply(layout)
            except Exception:
                log.exception("the network did not follow")
            with self._applied:
                self._count += 1
                self._applied.notify_all()
