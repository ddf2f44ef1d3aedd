"""The checks, level by level from quick to slow, and where their time went."""

import subprocess
import sys
import time

from toolchain.paths import ROOT
from toolchain.progress import say

WITHOUT_REGION = ("unit", "rendering", "contract")
WITH_REGION = ("region", "stack")


def check(everything: bool) -> bool:
    """Runs lint and the tests that need no region, or all tests; says at the end what passed and how long it took."""
    commands = {"lint": [sys.executable, "-m", "toolchain", "lint"]}
    for level in (*WITHOUT_REGION, *(WITH_REGION if everything else ())):
        commands[level] = [sys.executable, "-m", "pytest", f"tests/{level}"]
    rows: list[tuple[str, str, float]] = []
    for level, command in commands.items():
        say("check", level)
        started = time.monotonic()
        status = subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL).returncode
        rows.append((level, "passed" if status == 0 else f"FAILED ({status})", time.monotonic() - started))
    total = sum(seconds for _, _, seconds in rows)
    for level, result, seconds in (*rows, ("all", "", total)):
        say("check", f"{level:<10} {seconds:7.1f} s  {result}".rstrip())
    return all(result == "passed" for _, result, _ in rows)
