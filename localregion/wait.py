"""Waiting for an outcome."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, seconds: float = 60, pause: float = 0.2) -> T:
    """Call ``condition`` every ``pause`` seconds until its result is true; returns that result.

    Raises TimeoutError, naming ``what``, after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)
    return value
