"""The user's own files for Mycat (`mycat.files`): server.xml, schema.xml, rule.xml and whatever they need."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from settings import backends
from settings.mycat import HEALTH_USER

XML_FILES = ("server.xml", "schema.xml", "rule.xml")


def read(directory: Path) -> dict[str, str]:
    """The user's own files by name; hidden ones are left out. Raises ValueError or OSError."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_file() or path.name == "dnindex.properties":
            raise ValueError(f"{path.name}: not a file that can be deployed")
        found[path.name] = path.read_text(encoding="utf-8")
    return found


def health_passwords(directory: Path) -> list[str]:
    """The passwords of the health checks' user in server.xml; there should be one. Empty if it cannot be read."""
    try:
        return _passwords(ET.parse(directory / "server.xml").getroot())
    except (OSError, ET.ParseError):
        return []


def _passwords(server: ET.Element) -> list[str]:
    found = server.findall(f"./user[@name='{HEALTH_USER}']/property[@name='password']")
    return [(password.text or "").strip() for password in found]


def problems(directory: Path, health_password: str) -> Iterator[str]:
    """What is wrong with the files, as far as it can be seen without Mycat, as ``mycat.files: FILE: reason``."""
    key = "mycat.files"
    try:
        files = read(directory)
    except (OSError, ValueError) as error:
        yield f"{key}: {error}"
        return
    roots = {}
    for name in XML_FILES:
        if name not in files:
            yield f"{key}: {directory} has no {name}; without it Mycat would take the one that comes with it"
            continue
        try:
            roots[name] = ET.fromstring(files[name])
        except ET.ParseError as error:
            yield f"{key}: {name}: {error}"
    if "schema.xml" in roots:
        yield from (f"{key}: schema.xml: {problem}" for problem in backends.parse(files["schema.xml"])[1])
    if "server.xml" in roots and _passwords(roots["server.xml"]) != [health_password]:
        yield f"{key}: server.xml needs a user {HEALTH_USER} whose password is secrets.{HEALTH_USER}"
