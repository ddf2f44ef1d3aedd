"""The cache: each entry is a folder named by what it was made from, and is there whole or not at all."""

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain.paths import cache
from toolchain.progress import say


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


def obtain(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The cached folder for (name, key); `make` fills an empty one when there is none.

    An interrupted `make` leaves only a folder that nobody looks at and that the
    next one removes.
    """
    final = entry(name, key)
    if final.is_dir():
        return final
    with lock(name):
        if final.is_dir():
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
