"""The AWS_* environment of a local region, as its own command prints it."""

import shlex
import subprocess
import sys

from stackctl.project import StackError


class NotRunningError(StackError):
    """The local region is not running, so nothing that stood in it exists any more."""


def environment(name: str) -> dict[str, str]:
    """The variables of `python -m localregion --name NAME env`. Raises NotRunningError."""
    printed = subprocess.run(
        [sys.executable, "-m", "localregion", "--name", name, "env"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if printed.returncode != 0:
        raise NotRunningError(
            f"the local region '{name}' is not running: start it with `python -m localregion --name {name} start` "
            f"({printed.stderr.strip()})"
        )
    variables = {}
    for line in printed.stdout.splitlines():
        if line.startswith("export "):
            key, _, value = line.removeprefix("export ").partition("=")
            variables[key] = "".join(shlex.split(value))
    return variables
