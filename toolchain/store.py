"""The cache: each entry is a folder named by what it was made from, and is there whole or not at all."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain.paths import cache
from toolchain.progress import say

#: Work trees share the cache, and each may be at another commit: what none of them has used for so long goes.
UNUSED_SECONDS = 14 * 24 * 3600.0


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Holds the cache's lock `name`; released by the kernel when a run is killed."""
    folder = cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(name, "being made already: waiting for that")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(name: str, key: str) -> Path:
    return cache() / "tools" / f"{name}-{key}"


def use(folder: Path) -> bool:
    """Notes that the entry is in use, by its time of modification; False when it is not there."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True


def remove_unused() -> list[str]:
    """Removes the entries that nothing has used for UNUSED_SECONDS; their names."""
    removed = []
    for folder in sorted((cache() / "tools").glob("[!.]*")):
        if not _unused(folder):
            continue
        with lock(folder.name.rpartition("-")[0]):
            if not _unused(folder):
                continue
            # Out of sight first: one that is used at this very moment is put back, and none is seen half removed.
            leaving = folder.with_name(f".{folder.name}.part")
            folder.rename(leaving)
            if _unused(leaving):
                shutil.rmtree(leaving, ignore_errors=True)
                removed.append(folder.name)
            else:
                leaving.rename(folder)
    return removed


def _unused(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > UNUSED_SECONDS
    except FileNotFoundError:
        return False


def obtain(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The cached folder for (name, key); `make` fills an empty one when there is none.

    An interrupted `make` leaves only a folder that nobody looks at and that the
    next one removes.
    """
    final = entry(name, key)
    if use(final):
        return final
    with lock(name):
        if use(final):
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob(f".{name}-*.part"):
            shutil.rmtree(left, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=".part", dir=final.parent))
        try:
            make(part)
            part.chmod(0o755)
            part.rename(final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return final
