"""The checks, and where their time went."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from toolchain.paths import ROOT
from toolchain.progress import say

#: The longest first: two at a time, each on one core, if there is nothing else.
QUICK = ("unit", "contract", "lint", "rendering")
#: Needs the AWS provider, which is built for minutes where it cannot be downloaded.
WITH_PROVIDER = ("provider",)
WITH_REGION = ("region", "stack")
#: Many unit tests wait for programs: two processes use the time. A file's tests stay together, for their fixtures.
IN_TWO = ("-n", "2", "--dist", "loadfile")


def _command(level: str) -> list[str]:
    if level == "lint":
        return [sys.executable, "-m", "toolchain", "lint"]
    return [sys.executable, "-m", "pytest", f"tests/{level}", *(IN_TWO if level == "unit" else ())]


def _beside_others(level: str) -> tuple[str, bool, float]:
    """Runs a level and shows its output in one piece when it has ended: level, whether it passed, seconds."""
    started = time.monotonic()
    done = subprocess.run(
        _command(level),
        cwd=ROOT,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.monotonic() - started
    say("check", f"{level}\n{done.stdout.rstrip()}")
    return level, done.returncode == 0, seconds


def _by_itself(level: str) -> tuple[str, bool, float]:
    """Runs a level of which only one can run at a time, with its output as it comes."""
    started = time.monotonic()
    say("check", level)
    status = subprocess.run(_command(level), cwd=ROOT, check=False, stdin=subprocess.DEVNULL).returncode
    return level, status == 0, time.monotonic() - started


def check(everything: bool) -> bool:
    """Runs lint and the quick tests, or all tests; says at the end what passed and how long it took."""
    started = time.monotonic()
    # The tests on a region wait more than they compute, so that the others do not hold them up; those one at a time.
    with ThreadPoolExecutor(1 if everything else 2) as pool:
        without_region = pool.map(_beside_others, (*QUICK, *WITH_PROVIDER) if everything else QUICK)
        with_region = [_by_itself(level) for level in WITH_REGION] if everything else []
        results = [*without_region, *with_region]
    for level, passed, seconds in results:
        say("check", f"{level:<10} {seconds:7.1f} s  {'passed' if passed else 'FAILED'}")
    say("check", f"{'all':<10} {time.monotonic() - started:7.1f} s")
    return all(passed for _, passed, _ in results)
