"""What is a secret to Pulumi: all that has a secret in it, and nothing else, because a preview shows no line of it."""

from collections.abc import Iterator
from typing import Any

import pytest

from standins.command_provider.values import SECRET, SIGNATURE
from tests import example
from tests.unit.conftest import Recorded, Run
from tests.unit.test_stacks import STACKS, committed


def with_vrrp_password(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    example.seed_mode(raw)


def stack_file(stack: str) -> dict[str, Any]:
    raw = committed(stack)
    raw["mycat"].setdefault("sha256", "0" * 64)
    return raw


CASES = {
    **{stack: stack_file(stack) for stack in STACKS},
    "recipe": example.settings(with_vrrp_password),
    "database.users": example.settings(example.database_users),
}


@pytest.fixture(params=CASES)
def registered(request: pytest.FixtureRequest, run_program: Run) -> tuple[dict[str, str], list[Recorded]]:
    """The secrets of a stack by name, each with a value that nothing else has; and what the program registers."""
    raw = CASES[request.param]
    secrets = {name: f"Hush{index:04}" for index, name in enumerate(raw["secrets"])}
    return secrets, run_program({**raw, "secrets": secrets}).resources


def leaves(value: Any, path: str, *, secret: bool = False) -> Iterator[tuple[str, str, bool]]:
    """Path and text of every plain value, and whether it is a secret. A secret is one value, whatever is in it."""
    if isinstance(value, dict) and value.get(SIGNATURE) == SECRET:
        yield path, str(value["value"]), True
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, str(value), False


def test_no_secret_is_in_plain_text_in_any_input(registered: tuple[dict[str, str], list[Recorded]]) -> None:
    secrets, resources = registered
    seen = 0
    for resource in resources:
        for path, text, secret in leaves(resource.inputs, resource.name):
            seen += secret
            if not secret:
                assert not [name for name, value in secrets.items() if value in text], path
    assert seen > len(resources) / 4


def test_every_secret_is_used(registered: tuple[dict[str, str], list[Recorded]]) -> None:
    """Else the test above could not find it."""
    secrets, resources = registered
    used = "".join(text for resource in resources for _, text, secret in leaves(resource.inputs, "") if secret)
    assert [name for name, value in secrets.items() if value not in used] == []


def test_nothing_without_a_secret_is_secret(registered: tuple[dict[str, str], list[Recorded]]) -> None:
    secrets, resources = registered
    for resource in resources:
        for path, text, secret in leaves(resource.inputs, resource.name):
            if secret and ".triggers" not in path:  # a digest of what Mycat runs with
                assert [name for name, value in secrets.items() if value in text], path


def test_units_hooks_and_programs_show_their_lines(registered: tuple[dict[str, str], list[Recorded]]) -> None:
    _, resources = registered
    given = {r.name: r.inputs["stdin"] for r in resources if r.inputs.get("stdin") is not None}
    lines = {name: stdin.splitlines() for name, stdin in given.items() if isinstance(stdin, str)}
    assert len(lines) > 3 * (len(given) - len(lines))
    for kind, line in {
        "tools": "==> install-file <==",
        "haproxy-unit-file": "[Service]",
        "mariadb-config-file": "[mysqld]",
        "vip-hook-file": "#!/bin/bash",
    }.items():
        found = [name for name in given if name.endswith(kind)]
        assert found, kind
        assert all(line in lines[name] for name in found)
