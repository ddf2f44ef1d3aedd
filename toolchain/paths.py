"""Where things live: the work tree, its private state, and the cache that outlives both."""

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".local"
BIN = LOCAL / "bin"
LOCK = ROOT / "requirements.lock"
#: The virtual environment that Pulumi.yaml names.
VENV = ROOT / "venv"


def cache() -> Path:
    """The cache folder: $MYCAT_HA_CACHE, else mycat-ha in the user's cache (XDG Base Directory Specification)."""
    chosen = os.environ.get("MYCAT_HA_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mycat-ha"


def digest(*parts: str | bytes | Path) -> str:
    """A short content key of the parts; of a file its content counts, of a folder each file's name and content."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path) and part.is_dir():
            files = [file for file in sorted(part.rglob("*")) if file.is_file()]
            content = "\n".join(f"{file.relative_to(part)} {digest(file)}" for file in files).encode()
        elif isinstance(part, Path):
            content = part.read_bytes()
        else:
            content = part.encode() if isinstance(part, str) else part
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:16]
