"""Obtains the parts, independent ones at the same time: the Go builds take long, and nothing else waits for them."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from toolchain import cli, golang, plugins, sources, system, venv
from toolchain.progress import ToolchainError, say

PARTS = ("system", "venv", "go", "pulumi", "aws", "command", "sources")


def install(only: str | None = None) -> None:
    """Obtains every part, or only the named one with what it needs."""
    started = time.monotonic()
    find_go = functools.cache(golang.install)

    def environment() -> Path:
        folder = venv.install()
        say("venv", str(folder))
        return folder

    def pulumi() -> Path:
        folder = cli.install(find_go)
        plugins.link_cli(folder)
        return folder

    alone: dict[str, Callable[[], object]] = {
        "system": system.install,
        "venv": environment,
        "go": find_go,
        "pulumi": pulumi,
        "aws": lambda: plugins.install_aws(pulumi(), find_go),
        "command": lambda: plugins.install_command(pulumi(), environment()),
        "sources": sources.install,
    }
    if only:
        alone[only]()
        return

    system.install()  # first: Python's venv module may be one of the packages
    with ThreadPoolExecutor(thread_name_prefix="install") as pool:
        the_venv = pool.submit(environment)
        # One Go build after the other: each keeps every core busy by itself.
        the_cli = pool.submit(pulumi)
        steps: list[Future[None]] = [
            pool.submit(lambda: plugins.install_aws(the_cli.result(), find_go)),
            pool.submit(lambda: plugins.install_command(the_cli.result(), the_venv.result())),
            pool.submit(sources.install),
        ]
        everything: list[Future[Any]] = [the_venv, the_cli, *steps]
        errors = [error for step in everything if (error := step.exception())]
    if errors:
        unexpected = next((error for error in errors if not isinstance(error, ToolchainError)), None)
        if unexpected:
            raise unexpected
        raise ToolchainError("\n".join(dict.fromkeys(str(error) for error in errors)))
    say("toolchain", f"ready after {time.monotonic() - started:.0f} s")
