"""Control groups. A machine's systemd tells its services' processes apart by them, and kills by them (cgroups(7)).

Where the host runs systemd it gives each machine a scope of its own. Where it does not, this does the same by hand: in
a group that machines share, a service that is stopped on one machine is not gone as long as it runs on another.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ENTER = 'for group in {groups}; do mkdir -p "$group" && echo $$ >"$group/cgroup.procs"; done && exec "$@"'


def within(name: str) -> list[str]:
    """The beginning of a command line for a program that is to have the group ``name`` for itself."""
    if Path("/run/systemd/system").exists():
        return ["systemd-run", "--quiet", "--scope", "--property=Delegate=yes"]
    groups = " ".join(str(hierarchy / name) for hierarchy in _hierarchies())
    return ["sh", "-c", _ENTER.format(groups=groups), "sh"]


def remove(pattern: str, seconds: float = 5) -> None:
    """Remove the groups of these names, which have to be empty within ``seconds``."""
    deadline = time.monotonic() + seconds
    while groups := [group for hierarchy in _hierarchies() for group in hierarchy.glob(pattern)]:
        for group in groups:
            inner = [path for path in group.rglob("*") if path.is_dir()]
            with suppress(OSError):  # a process that is still there
                for path in (*sorted(inner, reverse=True), group):  # below comes after above in the alphabet
                    path.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _hierarchies() -> Iterator[Path]:
    """Those that systemd keeps its services in: the unified one, and the named one of version 1."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            yield Path(where)
