"""What a wrong setting is answered with: its full key as in a stack file, what is wrong, and what it is now."""

import difflib
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pulumi
from pydantic import Tag, ValidationError

from settings.base import NAMESPACE, Section


class SettingsError(pulumi.RunError):
    """The settings contradict themselves or AWS; the message names each key. Nothing has been created."""


def explain(error: ValidationError, raw: Mapping[str, Any], settings: type[Section]) -> Iterator[str]:
    """One line for each problem that pydantic found in ``raw``; ``settings`` is the class that refused it.

    Values are shown, but no secret's, and none of an unknown key: that may be a password in the wrong place.
    """
    for item in error.errors(include_url=False):
        path, value = _place(item["loc"], raw)
        message = item["msg"].removeprefix("Value error, ")
        if not path:  # the checks across sections name their keys themselves
            yield from (f"{NAMESPACE}:{line}" for line in message.splitlines())
        elif item["type"] == "extra_forbidden":
            yield f"{NAMESPACE}:{path}: {_unknown(item['loc'], settings)}"
        elif value is None or isinstance(value, dict | list) or path.startswith("secrets"):
            yield f"{NAMESPACE}:{path}: {message}"
        else:
            yield f"{NAMESPACE}:{path}: {message} (is {value!r})"


def _place(location: tuple[int | str, ...], raw: Any) -> tuple[str, Any]:
    """The key as it is written in a stack file, and what it has there, or None."""
    path, value = "", raw
    for depth, part in enumerate(location):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            if isinstance(value, dict) and depth < len(location) - 1:
                continue  # pydantic's name for one of several forms of a value: no key of the file
            value = None
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip("."), value


def _unknown(location: tuple[int | str, ...], settings: type[Section]) -> str:
    *parents, key = location
    place: Any = settings
    for part in parents:
        place = _below(place, part)
    known = {_plain(alias): alias for alias in _keys(place)}
    nearest = difflib.get_close_matches(_plain(str(key)), known, n=1)
    return (
        f"unknown key; did you mean {known[nearest[0]]}?"
        if nearest
        else f"unknown key; known: {', '.join(known.values())}"
    )


def _plain(key: str) -> str:
    """``key`` without what differs between camelCase, snake_case and kebab-case."""
    return key.replace("_", "").replace("-", "").lower()


def _keys(section: Any) -> dict[str, Any]:
    """The keys of a section, and the type of each."""
    if not (isinstance(section, type) and issubclass(section, Section)):
        return {}
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def _below(kind: Any, part: int | str) -> Any:
    """The type of the value at ``part`` (a key, an index, or pydantic's tag of a form) of a value of type ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _below(arguments[0], part)
    if origin is dict:
        return _section_in(arguments[1])
    if origin is tuple:
        return _section_in(arguments[0])
    if origin in (Union, UnionType):
        tagged = [form for form in arguments if any(isinstance(tag, Tag) and tag.tag == part for tag in get_args(form))]
        return _section_in(tagged[0]) if tagged else None
    return _section_in(_keys(kind).get(str(part)))


def _section_in(kind: Any) -> Any:
    """``kind`` without what surrounds it: annotations, and None as the other possibility."""
    if get_origin(kind) is Annotated:
        return _section_in(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        forms = [form for form in get_args(kind) if form is not type(None)]
        return _section_in(forms[0]) if len(forms) == 1 else kind
    return kind
