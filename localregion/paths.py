"""Where a region keeps what it needs while it runs; ``stop`` removes all of it."""

import re
from pathlib import Path


def check(region: str) -> str:
    """Region names become names of namespaces and tables. Raises ValueError."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", region):
        raise ValueError(f"region name {region!r}: one to sixteen lower-case letters and digits, a letter first")
    return region


def state(region: str) -> Path:
    return Path("/var/lib/mycat-ha") / check(region)


def control(region: str) -> Path:
    return Path("/run/mycat-ha") / check(region) / "control.sock"
