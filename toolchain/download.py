"""Downloads over HTTPS, checked before anything else sees them."""

import functools
import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from toolchain.progress import ToolchainError

CONNECT_SECONDS = 4.0


class UnavailableError(ToolchainError):
    """Nothing can be had from the address; what it would be is not in question."""


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read(url: str) -> bytes:
    """The content of a small file; UnavailableError with the reason where it cannot be had."""
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer:
            content: bytes = answer.read()
            return content
    except (urllib.error.URLError, OSError) as error:
        raise UnavailableError(f"{url}: {getattr(error, 'reason', error)}") from error


def fetch(url: str, destination: Path, expected: str | None) -> None:
    """Writes the file at `url` to `destination`, only if its SHA-256 is the `expected` one (hexadecimal), if any is."""
    part = destination.with_name(f".{destination.name}.part")
    total = hashlib.sha256()
    try:
        # The time limit is for each read, so that a slow line is not cut off and a dead one is.
        with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer, part.open("wb") as output:
            while block := answer.read(1 << 20):
                total.update(block)
                output.write(block)
        if expected is not None and total.hexdigest() != expected:
            raise ToolchainError(f"{url}: its sha256 is {total.hexdigest()}, expected {expected}; not used")
        part.rename(destination)
    except (urllib.error.URLError, OSError) as error:
        raise UnavailableError(f"{url}: {getattr(error, 'reason', error)}") from error
    finally:
        part.unlink(missing_ok=True)


@functools.cache
def unreachable(url: str) -> str:
    """Why nothing answers at `url`, or "" when something does, whatever it says. Asked once in a run."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return ""
    except (urllib.error.URLError, OSError) as error:
        return f"{url}: {getattr(error, 'reason', error)}"
    return ""
