"""docs/settings.md and stacks/schema.json are what `python -m settings` makes of the settings' classes."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.cli import main as check_jsonschema
from click.testing import CliRunner

from settings import NAMESPACE
from settings.__main__ import generated
from settings.base import Section
from tests.conftest import ROOT
from tests.unit.test_settings import put

STACKS = sorted((ROOT / "stacks").glob("*.yaml"))


def sections(parent: type[Section] = Section) -> Iterator[type[Section]]:
    for section in parent.__subclasses__():
        if section.__module__.startswith("settings"):
            yield section
        yield from sections(section)


def refusals(*files: Path) -> str:
    """What check-jsonschema says against stack files; empty if they are accepted."""
    arguments = ["--schemafile", str(ROOT / "stacks/schema.json"), *map(str, files)]
    # In this process: importing it takes ten times as long as one check.
    done = CliRunner().invoke(check_jsonschema, arguments)
    assert done.exit_code in {0, 1}, done.output
    return "" if done.exit_code == 0 else done.output


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_what_is_generated_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generated()[path], "run `python -m settings`"


def test_every_section_and_every_field_has_a_description() -> None:
    found = list(sections())
    assert len(found) > 30
    assert [section.__name__ for section in found if not section.__doc__] == []
    fields = [(section, name, field) for section in found for name, field in section.model_fields.items()]
    assert [f"{section.__name__}.{name}" for section, name, field in fields if not field.description] == []


def test_every_row_of_the_document_is_complete_and_every_link_leads_somewhere() -> None:
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 150
    for key, value, _, what in rows:
        assert key.strip() and value.strip() and what.strip(), (key, value, what)  # noqa: PT018
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\(#([^)]*)\)", text)) <= set(anchors)


def test_the_committed_stacks_are_accepted_as_they_are() -> None:
    assert len(STACKS) == 3
    assert refusals(*STACKS) == ""
    for path in STACKS:
        assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize(
    "secrets", [{"statistics": {"secure": "v1:AAAA:BBBB"}, "health": {"secure": "AAAA"}}, {"secure": "v1:AAAA:BBBB"}]
)
def test_encrypted_secrets_are_accepted(tmp_path: Path, secrets: dict[str, Any]) -> None:
    raw = yaml.safe_load(STACKS[0].read_text())
    raw["config"][f"{NAMESPACE}:secrets"] = secrets
    raw |= {"encryptionsalt": "v1:AAAA", "secretsprovider": "passphrase"}
    (tmp_path / "Pulumi.x.yaml").write_text(yaml.safe_dump(raw))
    assert refusals(tmp_path / "Pulumi.x.yaml") == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("config/mycat-ha:haproxy/colour", "red"), ["mycat-ha:haproxy", "'colour' was unexpected"]),
        (put("config/mycat-ha:htpp", {}), ["'mycat-ha:htpp'"]),
        (put("config/mycat-ha:machines/0/roles", ["lbb"]), ["config['mycat-ha:machines'][0].roles[0]", "'lbb'"]),
        (put("config/mycat-ha:vip/address", "here"), ["config['mycat-ha:vip'].address", "'here' is not a 'ipv4'"]),
        (put("config/mycat-ha:mycat/functions/0/count", "x"), ["functions[0].count: 'x' is not"]),
        (lambda raw: raw["config"].pop("mycat-ha:vip"), ["'mycat-ha:vip' is a required property"]),
    ],
)
def test_wrong_settings_are_marked(tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: list[str]) -> None:
    raw = yaml.safe_load((ROOT / "stacks/Pulumi.local.yaml").read_text())
    change(raw)
    (tmp_path / "Pulumi.x.yaml").write_text(json.dumps(raw))
    message = refusals(tmp_path / "Pulumi.x.yaml")
    for word in words:
        assert word in message
