"""Obtains the parts, independent ones at the same time: the Go builds take long, and nothing else waits for them."""

import functools
import shlex
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from toolchain import golang, jdbc, mycat, plugins, pulumi_cli, sources, store, system, venv
from toolchain.environment import environment as variables
from toolchain.progress import ToolchainError, run, say

PARTS = ("system", "venv", "go", "pulumi", "aws", "command", "sources", "mycat", "check", "tests")


def install(only: Sequence[str] = (), meanwhile: str | None = None) -> None:
    """Obtains every part but what only the tests need, or only the named ones with what they need.

    `meanwhile` is a command line that needs no more than the Python
    environment; it runs in it while the Go builds go on.
    """
    started = time.monotonic()
    find_go = functools.cache(golang.install)

    def environment() -> Path:
        folder = venv.install()
        venv.link(folder)
        say("venv", str(folder))
        return folder

    def pulumi() -> Path:
        folder = pulumi_cli.install(find_go)
        plugins.link_cli(folder)
        return folder

    def clients() -> None:
        system.install(system.NEEDED_BY_TESTS)
        jdbc.install()

    alone: dict[str, Callable[[], object]] = {
        "system": system.install,
        "venv": environment,
        "go": find_go,
        "pulumi": pulumi,
        "aws": lambda: plugins.install_aws(pulumi(), find_go),
        "command": lambda: plugins.install_command(pulumi(), environment()),
        "sources": sources.install,
        "mycat": mycat.install,
        "check": lambda: system.install(system.NEEDED_BY_CHECK),
        "tests": clients,
    }
    if only:
        for part in only:
            alone[part]()
        return

    system.install()  # first: Python's venv module may be one of the packages
    with ThreadPoolExecutor(thread_name_prefix="install") as pool:
        the_venv = pool.submit(environment)
        # One Go build after the other: each keeps every core busy by itself.
        the_cli = pool.submit(pulumi)
        steps: list[Future[Any]] = [
            pool.submit(lambda: plugins.install_aws(the_cli.result(), find_go)),
            pool.submit(lambda: plugins.install_command(the_cli.result(), the_venv.result())),
            pool.submit(sources.install),
            pool.submit(mycat.install),
        ]
        if meanwhile:
            steps.append(pool.submit(lambda: _run_beside(meanwhile, the_venv)))
        everything: list[Future[Any]] = [the_venv, the_cli, *steps]
        errors = [error for step in everything if (error := step.exception())]
    if errors:
        unexpected = next((error for error in errors if not isinstance(error, ToolchainError)), None)
        if unexpected:
            raise unexpected
        raise ToolchainError("\n".join(dict.fromkeys(str(error) for error in errors)))
    removed = store.remove_unused()
    if removed:
        say("cache", f"removed what nothing has used for two weeks: {', '.join(removed)}")
    say("toolchain", f"ready after {time.monotonic() - started:.0f} s")


def _run_beside(command: str, the_venv: Future[Path]) -> None:
    the_venv.result()
    for line in run("meanwhile", command, shlex.split(command), env=variables()).splitlines():
        say("meanwhile", line)
