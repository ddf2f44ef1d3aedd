"""Pulumi's property values as Python values, and back to the wire's protobuf structs.

Objects are dicts, arrays lists, numbers floats. Secrets, unknown values and assets
have classes of their own; on the wire they are objects with a signature or strings
that are told by their value (pulumi/pulumi: sdk/go/common/resource/plugin/rpc.go).
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import struct_pb2

SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 (the marker of a secret, not one)
ASSET = "c44067f5952c0a294b673a41bacd8c17"
ARCHIVE = "0def7320c3a5731c473e5ecbe6d01bc7"

UNKNOWN_STRING = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
# One for each type of a value that is not known yet; a provider may treat them alike.
UNKNOWNS = {
    UNKNOWN_STRING,
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
}


@dataclass(frozen=True)
class Unknown:
    """A value that is known only after other resources have been made."""


@dataclass(frozen=True)
class Secret:
    value: Any = field(repr=False)


@dataclass(frozen=True, eq=False)
class Asset:
    """An asset or archive as it came: path, text, uri or assets, and the hash that the engine has computed."""

    signature: str
    fields: dict[str, Any] = field(repr=False)

    @property
    def is_archive(self) -> bool:
        return self.signature == ARCHIVE

    @property
    def path(self) -> str | None:
        return self.fields.get("path") or None

    @property
    def text(self) -> str | None:
        return self.fields.get("text")

    @property
    def hash(self) -> str:
        return self.fields.get("hash") or ""

    def __eq__(self, other: object) -> bool:
        """Assets are equal when their contents are, wherever they come from."""
        if not isinstance(other, Asset) or self.signature != other.signature:
            return False
        if self.hash and other.hash:
            return self.hash == other.hash
        return self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.signature)


def file_asset(path: Path) -> Asset:
    with path.open("rb") as content:
        return Asset(ASSET, {"path": str(path), "hash": hashlib.file_digest(content, "sha256").hexdigest()})


def plain(value: Any) -> Any:
    """The value without any mark of secrecy."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def contains_unknown(value: Any) -> bool:
    if isinstance(value, Secret):
        return contains_unknown(value.value)
    if isinstance(value, dict):
        return any(map(contains_unknown, value.values()))
    if isinstance(value, list):
        return any(map(contains_unknown, value))
    return isinstance(value, Unknown)


def from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """The members of a struct; those that are null are left out, as they mean "not given"."""
    members = {key: _decode(value) for key, value in struct.fields.items()}
    return {key: value for key, value in members.items() if value is not None}


def _decode(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return Unknown() if value.string_value in UNKNOWNS else value.string_value
    if kind == "number_value":
        return value.number_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode(item) for item in value.list_value.values]
    if kind == "struct_value":
        members = from_struct(value.struct_value)
        signature = members.pop(SIGNATURE, None)
        if signature is None:
            return members
        if signature == SECRET:
            return Secret(members.get("value"))
        if signature in (ASSET, ARCHIVE):
            return Asset(signature, members)
        raise ValueError(f"a property value of a kind that was not asked for (signature {signature})")
    return None


def to_struct(members: dict[str, Any]) -> struct_pb2.Struct:
    return struct_pb2.Struct(fields={key: _encode(value) for key, value in members.items()})


def _encode(value: Any) -> struct_pb2.Value:
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, int | float):
        return struct_pb2.Value(number_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, list):
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[_encode(item) for item in value]))
    if isinstance(value, dict):
        return struct_pb2.Value(struct_value=to_struct(value))
    if isinstance(value, Unknown):
        return struct_pb2.Value(string_value=UNKNOWN_STRING)
    if isinstance(value, Secret):
        return struct_pb2.Value(struct_value=to_struct({SIGNATURE: SECRET, "value": value.value}))
    if isinstance(value, Asset):
        return struct_pb2.Value(struct_value=to_struct({SIGNATURE: value.signature, **value.fields}))
    raise TypeError(f"no property value can be made of {type(value).__name__}")
