"""What changed between old and new inputs, in the engine's terms: a property path and a kind for each change."""

import re
from typing import Any

from pulumi.runtime.proto import provider_pb2

from standins.command_provider.values import Secret, plain

ADD, DELETE, UPDATE = "ADD", "DELETE", "UPDATE"
# `triggers` as a whole replaces. A change of one element is an update here: the SDKs ask the engine for the
# replacement (replaceOnChanges "triggers[*]"), as they do with the real provider.
REPLACING = {"triggers"}

_SIMPLE_KEY = re.compile(r"^[A-Za-z_$][A-Za-z0-9_$]*$")


def respond(old: dict[str, Any], new: dict[str, Any]) -> provider_pb2.DiffResponse:
    new = {key: value for key, value in new.items() if key != "version" and not key.startswith("__")}
    changes: dict[str, str] = {}
    _objects("", old, new, changes)
    detailed = {}
    for path, kind in changes.items():
        suffix = "_REPLACE" if path in REPLACING else ""
        detailed[path] = provider_pb2.PropertyDiff(kind=provider_pb2.PropertyDiff.Kind.Value(kind + suffix))
    different = provider_pb2.DiffResponse.DIFF_SOME if changes else provider_pb2.DiffResponse.DIFF_NONE
    return provider_pb2.DiffResponse(
        changes=different,
        diffs=sorted({re.split(r"[.\[]", path)[0] for path in changes}),
        replaces=sorted(REPLACING & set(changes)),
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


def _member(path: str, key: str) -> str:
    if not _SIMPLE_KEY.match(key):
        escaped = key.replace('"', '\\"')
        return f'{path}["{escaped}"]'
    return f"{path}.{key}" if path else key


def _objects(path: str, old: dict[str, Any], new: dict[str, Any], changes: dict[str, str]) -> None:
    for key in sorted(old.keys() | new.keys()):
        inner = _member(path, key)
        if key not in new:
            changes[inner] = DELETE
        elif key not in old:
            changes[inner] = ADD
        else:
            _values(inner, old[key], new[key], changes)


def _values(path: str, old: Any, new: Any, changes: dict[str, str]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        _objects(path, old, new, changes)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            inner = f"{path}[{index}]"
            if index >= len(new):
                changes[inner] = DELETE
            elif index >= len(old):
                changes[inner] = ADD
            else:
                _values(inner, old[index], new[index], changes)
    elif isinstance(old, Secret) and isinstance(new, Secret):
        # A secret has no inner path: nothing of it shows in a diff. The engine keeps no secrets inside a secret.
        if plain(old) != plain(new):
            changes[path] = UPDATE
    elif old != new:
        changes[path] = UPDATE
