"""What each resource declares: properties, types, defaults and secrets, and the check of inputs against it.

Where it differs from the real provider on purpose:

- A message never holds a value: the engine prints the value of the property that a
  failure names, and that could be a private key. So failures name the property in
  their text only.
- It is stricter: the real one takes an unknown `logging` (and then logs nothing),
  and cuts the fraction off a `dialErrorLimit` or `perDialTimeout`.
"""

from dataclasses import dataclass, field
from typing import Any

from standins.command_provider.values import Asset, Secret, Unknown


@dataclass(frozen=True)
class Type:
    """A scalar, an asset, or (kind "any") whatever is given."""

    kind: str
    #: As the real provider's messages call it: by its Go type.
    go: str
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " or ".join(f"'{value}'" for value in self.allowed) or f"a '{self.go}'"

    def accepts(self, value: Any) -> bool:
        if self.kind == "any":
            return True
        if self.kind == "boolean":
            return isinstance(value, bool)
        if self.kind in ("number", "whole number"):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and (self.kind == "number" or float(value).is_integer())
        if self.kind == "string":
            return isinstance(value, str) and (not self.allowed or value in self.allowed)
        return isinstance(value, Asset)


STRING, NUMBER, BOOLEAN = Type("string", "string"), Type("number", "float64"), Type("boolean", "bool")
WHOLE = Type("whole number", "int")
ANY, SOURCE = Type("any", "interface {}"), Type("asset or archive", "types.AssetOrArchive")
LOGGING = Type("string", "string", ("stdout", "stderr", "stdoutAndStderr", "none"))


@dataclass(frozen=True)
class ListOf:
    item: Type

    def __str__(self) -> str:
        return f"a '[]{self.item.go}'"


@dataclass(frozen=True)
class MapOf:
    item: Type

    def __str__(self) -> str:
        return f"a 'map[string]{self.item.go}'"


@dataclass(frozen=True)
class Property:
    type: "Type | ListOf | MapOf | Structure"
    required: bool = False
    secret: bool = False
    default: Any = None


@dataclass(frozen=True)
class Structure:
    name: str
    properties: dict[str, Property] = field(hash=False)

    def __str__(self) -> str:
        return f"a '{self.name}'"


_ENDPOINT = {
    "user": Property(STRING, default="root"),
    "password": Property(STRING, secret=True),
    "host": Property(STRING, required=True),
    "port": Property(NUMBER, default=22),
    "privateKey": Property(STRING, secret=True),
    "privateKeyPassword": Property(STRING, secret=True),
    "agentSocketPath": Property(STRING),
    "dialErrorLimit": Property(WHOLE, default=10),
    "perDialTimeout": Property(WHOLE, default=15),
    "hostKey": Property(STRING),
}
_PROXY = Structure("remote.ProxyConnection", _ENDPOINT)
_CONNECTION = Structure("remote.Connection", {**_ENDPOINT, "proxy": Property(_PROXY)})

_LIFE = {
    "triggers": Property(ListOf(ANY)),
    "create": Property(STRING),
    "update": Property(STRING),
    "delete": Property(STRING),
}
_RUN = {
    "stdin": Property(STRING),
    "logging": Property(LOGGING),
    "environment": Property(MapOf(STRING)),
    "addPreviousOutputInEnv": Property(BOOLEAN),
}
RESOURCES = {
    "command:remote:Command": Structure(
        "remote.CommandInputs",
        {**_LIFE, **_RUN, "connection": Property(_CONNECTION, required=True, secret=True)},
    ),
    "command:remote:CopyToRemote": Structure(
        "remote.CopyToRemoteInputs",
        {
            "connection": Property(_CONNECTION, required=True, secret=True),
            "triggers": Property(ListOf(ANY)),
            "source": Property(SOURCE, required=True),
            "remotePath": Property(STRING, required=True),
        },
    ),
    "command:local:Command": Structure(
        "local.CommandInputs",
        {
            **_LIFE,
            **_RUN,
            "interpreter": Property(ListOf(STRING)),
            "dir": Property(STRING),
            "assetPaths": Property(ListOf(STRING)),
            "archivePaths": Property(ListOf(STRING)),
        },
    ),
}


def check(structure: Structure, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The inputs with defaults and marks of secrecy, and what is wrong with them."""
    problems: list[str] = []
    checked = _structure(structure, given, "", problems)
    source = checked.get("source")
    if isinstance(source, Secret):
        source = source.value
    if isinstance(source, Asset):
        if source.is_archive and source.path is None:
            problems.append("source: archive must be a path to a file or directory")
        elif not source.is_archive and source.path is None and source.text is None:
            problems.append("source: asset must be a path-based file asset or a text asset")
    return checked, problems


def _structure(structure: Structure, given: dict[str, Any], path: str, problems: list[str]) -> dict[str, Any]:
    checked = {}
    for name in given:
        if name not in structure.properties:
            problems.append(f"{path}{name}: Unrecognized field '{name}' on '{structure.name}'")
    for name, declared in structure.properties.items():
        value = given.get(name)
        if value is None:
            if declared.required:
                problems.append(f"{path}{name}: Missing required field '{name}' on '{structure.name}'")
            value = declared.default
            if value is None:
                continue
        value = _value(declared.type, value, f"{path}{name}", structure.name, problems)
        if declared.secret and not isinstance(value, Secret | Unknown):
            value = Secret(value)
        checked[name] = value
    return checked


def _value(declared: Type | ListOf | MapOf | Structure, value: Any, path: str, owner: str, problems: list[str]) -> Any:
    if isinstance(value, Secret):
        return Secret(_value(declared, value.value, path, owner, problems))
    if isinstance(value, Unknown):
        return value
    if isinstance(declared, Structure) and isinstance(value, dict):
        return _structure(declared, value, f"{path}.", problems)
    if isinstance(declared, ListOf) and isinstance(value, list):
        return [_value(declared.item, item, f"{path}[{index}]", owner, problems) for index, item in enumerate(value)]
    if isinstance(declared, MapOf) and isinstance(value, dict):
        return {key: _value(declared.item, item, f"{path}.{key}", owner, problems) for key, item in value.items()}
    if not (isinstance(declared, Type) and declared.accepts(value)):
        name = path.rpartition(".")[2]
        problems.append(f"{path}: Field '{name}' on '{owner}' must be {declared}; got {_go_type(value)} instead")
    return value


def _go_type(value: Any) -> str:
    """The type of a value as the real provider's messages call it; never the value itself."""
    names = {str: "string", bool: "bool", int: "float64", float: "float64", list: "[]interface {}"}
    return f"'{names.get(type(value), 'map[string]interface {}')}'"
