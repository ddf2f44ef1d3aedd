"""What Pulumi and AWS's SDK are told by environment variables. The variables of this process are never changed."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from stackctl.project import StackError


class NotRunningError(StackError):
    """The local region is not running, so nothing that stood in it exists any more."""


@dataclass(frozen=True)
class Environment:
    """The variables, and the name of the local region that they lead to; None if they lead to AWS."""

    variables: Mapping[str, str]
    local_region: str | None = None

    @property
    def backend(self) -> str:
        """The URL of Pulumi's state backend; empty if Pulumi's own login decides."""
        return self.variables.get("PULUMI_BACKEND_URL", "")


def environment(local_region: str | None = None) -> Environment:
    """This process's variables, with those of a local region in place of the user's own AWS_*.

    Raises NotRunningError if there is no such local region.
    """
    variables = dict(os.environ)
    if local_region:
        region = _of_region(local_region)
        # Nothing of the user's own account may win over the region or leak into it.
        variables = {name: value for name, value in variables.items() if not name.startswith("AWS_")} | region
    return Environment(variables, local_region)


def _of_region(name: str) -> dict[str, str]:
    """The variables of `python -m localregion --name NAME env`."""
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
