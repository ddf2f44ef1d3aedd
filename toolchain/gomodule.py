"""A Go module copied for a build that leaves parts of it out: what is not compiled takes no time."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from toolchain.progress import ToolchainError, run

#: One set for every large build, because Go reuses a compiled package only where the flags are the same. Optimised:
#: without, the build takes a third less, and Pulumi's engine several times as long for each `up`.
FLAGS = ("-trimpath",)


def download(name: str, module: str, go: str, cwd: Path, env: dict[str, str]) -> Path:
    """The folder of ``module``, which ``cwd``'s go.mod requires, in Go's cache. ``name`` is shown with the progress."""
    argv = [go, "mod", "download", "-json", module]
    return Path(json.loads(run(name, "fetching the module", argv, cwd=cwd, env=env))["Dir"])


def link_tree(module: Path, copy: Path, parts: Sequence[str]) -> None:
    """A copy of some parts by hard links, which are not to be written through: the originals are Go's cache.

    Folders are made anew, because those in Go's cache are read-only. Raises ToolchainError if a part is missing.
    """
    for part in parts:
        source = module / part
        if not source.exists():
            raise unexpected(part, "is not there")
        for file in source.rglob("*") if source.is_dir() else [source]:
            target = copy / file.relative_to(module)
            if file.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(file)
            except OSError:  # another file system, or another owner
                shutil.copyfile(file, target)


def rewrite(copy: Path, name: str | Path, change: Callable[[str], str]) -> None:
    """Changes a file of the copy, not the original that it may be a hard link to."""
    file = copy / name
    if not file.is_file():
        raise unexpected(name, "is not there")
    text = change(file.read_text())
    file.unlink()
    file.write_text(text)


def unexpected(name: str | Path, what: str) -> ToolchainError:
    return ToolchainError(f"the Go module is not as expected: {name} {what}. Compare it with the version in go.mod")
