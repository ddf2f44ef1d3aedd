"""What every operation on a resource is given besides its properties."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

STDOUT_VARIABLE, STDERR_VARIABLE = "PULUMI_COMMAND_STDOUT", "PULUMI_COMMAND_STDERR"

# Properties of a resource, checked and without marks of secrecy.
Properties = dict[str, Any]


@dataclass(frozen=True)
class Teller:
    """Tells the engine about the resource: a line for its status, or a warning that stays."""

    status: Callable[[str], Awaitable[None]]
    warning: Callable[[str], Awaitable[None]]
    error: Callable[[str], Awaitable[None]]


def previous_output(properties: Properties, previous: Properties) -> dict[str, str]:
    """What the last run wrote, as variables for the next one, unless the resource does not want that."""
    if not properties.get("addPreviousOutputInEnv", True):
        return {}
    variables = {STDOUT_VARIABLE: previous.get("stdout"), STDERR_VARIABLE: previous.get("stderr")}
    return {name: value for name, value in variables.items() if value}
