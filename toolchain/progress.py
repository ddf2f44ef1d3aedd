"""Says what happens, and runs commands so that a long one is heard from."""

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HEARTBEAT_SECONDS = 15.0
TAIL_LINES = 25

_lock = threading.Lock()


class ToolchainError(Exception):
    """A part could not be obtained; the text says what, where, and what to do."""


def say(part: str, text: str) -> None:
    """One line of progress; whole lines, because parts are installed concurrently."""
    with _lock:
        print(f"{part + ':':<10} {text}", file=sys.stderr, flush=True)


def run(
    part: str,
    doing: str,
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Runs a command without a terminal and returns its output.

    Says every 15 s how long it has been going. Raises ToolchainError with the
    last lines of the output when it fails or takes more than `timeout` seconds.
    """
    started = time.monotonic()
    with subprocess.Popen(
        argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            while True:
                try:
                    process.wait(HEARTBEAT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - started
                    say(part, f"{doing} ({elapsed:.0f} s)")
                    if timeout is not None and elapsed > timeout:
                        raise ToolchainError(
                            f"{part}: {doing}: no end after {timeout:.0f} s: {' '.join(argv)}"
                        ) from None
        except BaseException:
            process.kill()
            raise
        reader.join()
    output = "".join(lines)
    if process.returncode != 0:
        tail = "\n".join(output.splitlines()[-TAIL_LINES:])
        raise ToolchainError(f"{part}: {doing}: `{' '.join(argv)}` exited with {process.returncode}:\n{tail}")
    return output
