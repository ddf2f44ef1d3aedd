"""Templates, the quoting that each kind of file needs, and files that go to machines as they stand."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

ROOT = Path(__file__).parent.parent
TEMPLATES, FILES = ROOT / "templates", ROOT / "files"


def haproxy_quote(text: str) -> str:
    """``text`` as one word of haproxy.cfg (HAProxy manual, 2.2 "Quoting and escaping")."""
    return "'" + text.replace("'", r"'\''") + "'"


def sql_string(text: str) -> str:
    """``text`` as a string literal in MariaDB's default SQL mode (MariaDB manual, "String Literals")."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def milliseconds(seconds: float) -> str:
    """A time with HAProxy's unit."""
    return f"{round(seconds * 1000)}ms"


def added(lines: Iterable[str] | None) -> str:
    """``lines`` that a user adds, right after the one that begins a section: of two options, MariaDB takes the last."""
    return "".join(f"\n    {line}" for line in lines or ())


_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701  no HTML here; XML is built by its own module
)
_environment.filters |= {
    "added": added,
    "haproxy_quote": haproxy_quote,
    "ms": milliseconds,
    "shell": lambda value: shlex.quote(str(value)),
    "sql_string": sql_string,
}


def render(template: str, **values: Any) -> str:
    """The text of ``templates/<template>``. Raises jinja2.UndefinedError when a value is missing."""
    return _environment.get_template(template).render(**values)


def verbatim(file: str) -> str:
    """The text of ``files/<file>``, which goes to machines as it stands."""
    return (FILES / file).read_text()


def programs(*files: str) -> str:
    """Programs of ``files/`` as one text, for templates/machine/tools.sh.j2: each after a line that has its name.

    As text, so that a preview shows which lines of a program change.
    """
    return "".join(f"==> {Path(file).name} <==\n{verbatim(file)}" for file in files)
