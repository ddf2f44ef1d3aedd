"""The checks that only read: style, types, shell scripts, YAML, workflows."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from toolchain import actionlint, golang
from toolchain.paths import ROOT
from toolchain.progress import say

SHELL_SHEBANGS = (b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash")


def _tracked() -> Iterator[Path]:
    """The files of the work tree that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    for name in sorted(set(listed.decode().split("\0"))):
        if name and (ROOT / name).is_file():
            yield Path(name)


def _is_shell(path: Path) -> bool:
    if path.suffix == ".sh":
        return True
    if path.suffix == ".j2":  # a template is checked after rendering, by the rendering tests
        return False
    with (ROOT / path).open("rb") as content:
        return content.readline().strip().startswith(SHELL_SHEBANGS)


def lint() -> bool:
    """Runs every check, even after one has failed, and says whether all passed."""
    files = list(_tracked())
    shell = [str(path) for path in files if _is_shell(path)]
    yaml = [str(path) for path in files if path.suffix in (".yaml", ".yml") or path.name == ".yamllint"]
    checks = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["shellcheck", *shell],
        ["yamllint", "--strict", *yaml],
        [actionlint.install(golang.install)],
        # Offline: what it could ask GitHub for would change from one run to the next.
        ["zizmor", "--offline", "--no-progress", "--quiet", ".github"],
    ]
    failed = [
        check
        for check in checks
        if subprocess.run(check, cwd=ROOT, check=False, stdin=subprocess.DEVNULL).returncode != 0
    ]
    for check in failed:
        say("lint", f"failed: {' '.join(check[:3])}")
    return not failed
