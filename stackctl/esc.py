"""Pulumi ESC: what the environments that a stack's settings name give to it.

Pulumi itself hands that to the program and its providers only. Source: Pulumi ESC, "Integrate with Pulumi IaC".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stackctl.project import NAME, StackError
from stackctl.pulumi import Pulumi


@dataclass(frozen=True)
class Given:
    """``config`` is in the form of a stack file's, secrets in plain text; ``variables`` are environment variables."""

    config: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


def imports(settings: Mapping[str, Any]) -> list[str]:
    """The names of the environments that are merged, in their order.

    Raises StackError if the settings have values of an environment in them: no command of Pulumi opens such a one.
    """
    named = settings.get("environment") or []
    if isinstance(named, Mapping):
        if named.get("values"):
            raise StackError(
                "the stack's settings have the `values` of an environment in them, under `environment`: "
                "put them into an environment of Pulumi ESC, and its name under `environment`"
            )
        named = named.get("imports") or []
    entries = [next(iter(one.items())) if isinstance(one, Mapping) else (str(one), {}) for one in named]
    return [name for name, options in entries if (options or {}).get("merge", True)]


def opened(pulumi: Pulumi, names: Sequence[str]) -> Given:
    """What the environments give, of two that give the same the later one.

    Raises StackError if one of them cannot be opened.
    """
    values: dict[str, Any] = {}
    for name in names:
        values = merged(values, pulumi.open_environment(name))
    named = values.get("pulumiConfig") or {}
    config = {key if ":" in key else f"{NAME}:{key}": value for key, value in named.items()}
    variables = {key: str(value) for key, value in (values.get("environmentVariables") or {}).items()}
    return Given(config, variables)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, of two values for one key the one from ``above``; maps are merged likewise, as Pulumi does it."""
    result = dict(below)
    for key, value in above.items():
        lower = result.get(key)
        both = isinstance(value, Mapping) and isinstance(lower, Mapping)
        result[key] = merged(lower, value) if both else value  # type: ignore[arg-type]
    return result
