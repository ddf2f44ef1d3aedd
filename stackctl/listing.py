"""The project's stacks at a glance, and which of them a change concerns."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.table import Table

from stackctl import protection, teststack
from stackctl.project import Stack, StackError
from stackctl.pulumi import Pulumi, stack_names
from toolchain.paths import ROOT

#: What a preview depends on, besides the stack's own settings.
PROGRAM = frozenset(
    {
        *("__main__.py", "constants.py", "resource_types.py", "Pulumi.yaml", "requirements.txt"),
        *("components", "settings", "templates", "files"),
    }
)


@dataclass(frozen=True)
class Listed:
    """One stack. Times are as in its tags (ISO 8601); ``protected`` says why, None if it is not."""

    name: str
    owner: str | None
    created: str | None
    expires: str | None
    expired: bool
    protected: str | None


def describe(name: str) -> Listed:
    pulumi = Pulumi(Stack(name))
    tags = pulumi.tags()
    expiry = teststack.parse_timestamp(tags.get(teststack.EXPIRES))
    return Listed(
        name=name,
        owner=tags.get(teststack.OWNER),
        created=tags.get(teststack.CREATED),
        expires=tags.get(teststack.EXPIRES),
        expired=expiry is not None and expiry <= teststack.now(),
        protected=protection.reason(pulumi),
    )


def stacks(*, everything: bool = False) -> list[Listed]:
    """Of the test stacks, or of ``everything`` in the backend."""
    return [describe(name) for name in stack_names() if everything or name.startswith(teststack.PREFIX)]


def table(listed: Iterable[Listed]) -> Table:
    result = Table("stack", "owner", "age", "expires", "protected", box=None)
    for stack in listed:
        expiry, born = teststack.parse_timestamp(stack.expires), teststack.parse_timestamp(stack.created)
        if expiry is None:
            shown = ""
        else:
            shown = f"EXPIRED {_distance(expiry)} ago" if stack.expired else f"in {_distance(expiry)}"
        result.add_row(stack.name, stack.owner or "", _distance(born) if born else "", shown, stack.protected or "no")
    return result


def concerned(base: str) -> list[str]:
    """The AWS stacks that the commits since ``base`` may change. Raises StackError if git does not know ``base``."""
    changed = subprocess.run(
        ["git", "diff", "--name-only", "-z", f"{base}...HEAD"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if changed.returncode != 0:
        raise StackError(f"cannot compare with {base}: {changed.stderr.strip()}")
    return stacks_of(changed.stdout.split("\0"))


def stacks_of(files: Iterable[str]) -> list[str]:
    """The stacks, other than the local one, whose settings are among ``files``; all of them if the program is."""
    stacks = {f"stacks/Pulumi.{name}.yaml": name for name in sorted(protection.ALWAYS)}
    changed = [Path(file) for file in files if file]
    if any(file.parts[0] in PROGRAM for file in changed):
        return list(stacks.values())
    return [stacks[str(file)] for file in changed if str(file) in stacks]


def _distance(moment: datetime) -> str:
    """How far away, short enough for a table."""
    minutes = round(abs((moment - teststack.now()).total_seconds()) / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
