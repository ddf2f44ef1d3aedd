"""The one kind of failure that reaches the engine, and its wording."""

import json


class CommandError(Exception):
    """An operation failed; the text is what the engine shows for the resource."""


def quote(text: str) -> str:
    """The text as Go's %q writes it, near enough: double quotes, with control characters escaped."""
    return json.dumps(text, ensure_ascii=False)


def failed_run(why: str, command: str, output: bytes) -> CommandError:
    """A command that ran and failed, with everything that it wrote."""
    return CommandError(f"{why}: running {quote(command)}:\n{output.decode(errors='replace')}")
