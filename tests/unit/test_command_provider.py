"""The parts of the command provider's stand-in that need no engine; tests/contract has the rest."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standins.command_provider import diff
from standins.command_provider.errors import quote
from standins.command_provider.local_command import glob_expression
from standins.command_provider.schema import RESOURCES, check
from standins.command_provider.values import (
    ARCHIVE,
    ASSET,
    Asset,
    Secret,
    Unknown,
    contains_unknown,
    from_struct,
    plain,
    to_struct,
)

COMMAND = RESOURCES["command:remote:Command"]

plain_values = st.recursive(
    st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.just(Unknown()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner) | st.builds(Secret, inner),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), plain_values, max_size=3))
def test_values_survive_the_wire(members: dict[str, Any]) -> None:
    assert from_struct(to_struct(members)) == members


def test_assets_keep_their_hash_and_are_compared_by_it() -> None:
    asset = Asset(ASSET, {"path": "/a", "hash": "1"})
    assert from_struct(to_struct({"source": asset}))["source"].fields == {"path": "/a", "hash": "1"}
    assert asset == Asset(ASSET, {"path": "/b", "hash": "1"})
    assert asset != Asset(ASSET, {"path": "/a", "hash": "2"})
    assert asset != Asset(ARCHIVE, {"path": "/a", "hash": "1"})


def test_nothing_secret_is_shown() -> None:
    assert "hush" not in repr(Secret("hush"))
    assert "hush" not in repr(Asset(ASSET, {"text": "hush"}))


def test_unknown_values_are_found_everywhere() -> None:
    assert contains_unknown({"a": [Secret({"b": Unknown()})]})
    assert not contains_unknown({"a": [Secret({"b": "known"})]})


def test_defaults_and_secrets_of_a_connection() -> None:
    checked, problems = check(COMMAND, {"connection": {"host": "h", "password": "p"}, "create": "true"})
    assert problems == []
    assert isinstance(checked["connection"], Secret)
    assert isinstance(checked["connection"].value["password"], Secret)
    assert plain(checked) == {
        "create": "true",
        "connection": {
            "host": "h", "password": "p", "user": "root", "port": 22, "dialErrorLimit": 10, "perDialTimeout": 15,
        },
    }  # fmt: skip
    again, problems = check(COMMAND, checked)
    assert problems == []
    assert again == checked, "what was checked once stays as it is"


def test_unknown_inputs_pass_the_check() -> None:
    given_inputs = {"connection": Unknown(), "create": Unknown(), "triggers": Unknown()}
    assert check(COMMAND, given_inputs) == (given_inputs, [])


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({}, "connection: Missing required field 'connection' on 'remote.CommandInputs'"),
        ({"connection": {}}, "connection.host: Missing required field 'host' on 'remote.Connection'"),
        ({"connection": {"host": "h", "proxy": {}}}, "connection.proxy.host: Missing required field"),
        ({"connection": {"host": "h", "key": "k"}}, "connection.key: Unrecognized field 'key' on 'remote.Connection'"),
        ({"connection": {"host": "h", "proxy": {"host": "h", "proxy": {}}}}, "connection.proxy.proxy: Unrecognized"),
        (
            {"connection": "h"},
            "connection: Field 'connection' on 'remote.CommandInputs' must be a 'remote.Connection'",
        ),
        (
            {"connection": {"host": "h", "port": "22"}},
            "connection.port: Field 'port' on 'remote.Connection' must be a 'float64'; got 'string' instead",
        ),
        (
            {"connection": {"host": "h", "dialErrorLimit": 1.5}},
            "connection.dialErrorLimit: Field 'dialErrorLimit' on 'remote.Connection' must be a 'int'",
        ),
        (
            {"connection": {"host": "h"}, "logging": "all"},
            "logging: Field 'logging' on 'remote.CommandInputs' must be 'stdout' or 'stderr' or",
        ),
        (
            {"connection": {"host": "h"}, "environment": {"A": 1.0}},
            "environment.A: Field 'A' on 'remote.CommandInputs' must be a 'string'; got 'float64' instead",
        ),
        (
            {"connection": {"host": "h"}, "triggers": "t"},
            "triggers: Field 'triggers' on 'remote.CommandInputs' must be a '[]interface {}'",
        ),
        (
            {"connection": {"host": "h"}, "addPreviousOutputInEnv": "yes"},
            "addPreviousOutputInEnv: Field 'addPreviousOutputInEnv' on 'remote.CommandInputs' must be a 'bool'",
        ),
    ],
)
def test_wrong_inputs_are_refused_by_name(inputs: dict[str, Any], problem: str) -> None:
    _, problems = check(COMMAND, inputs)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_problems_hold_no_values() -> None:
    _, problems = check(COMMAND, {"connection": {"host": "h", "privateKey": ["hush"], "port": "hush"}, "stdin": 7.0})
    assert len(problems) == 3
    assert not any("hush" in problem or "7" in problem for problem in problems)


def changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    answer = diff.respond(old, new)
    kinds = type(next(iter(answer.detailedDiff.values()))).Kind if answer.detailedDiff else None
    return {path: kinds.Name(change.kind) for path, change in answer.detailedDiff.items()} if kinds else {}


def test_diff_names_paths() -> None:
    assert changed({"create": "a"}, {"create": "a"}) == {}
    assert changed({"create": "a"}, {"create": "b"}) == {"create": "UPDATE"}
    assert changed({"create": "a"}, {"create": "a", "update": "b"}) == {"update": "ADD"}
    assert changed({"environment": {"A": "1", "B.C": "2"}}, {"environment": {"A": "2"}}) == {
        "environment.A": "UPDATE",
        'environment["B.C"]': "DELETE",
    }


def test_triggers_replace_as_a_whole_and_by_element() -> None:
    assert changed({}, {"triggers": ["a"]}) == {"triggers": "ADD_REPLACE"}
    assert changed({"triggers": ["a"]}, {}) == {"triggers": "DELETE_REPLACE"}
    assert changed({"triggers": ["a"]}, {"triggers": ["b", "c"]}) == {"triggers[0]": "UPDATE", "triggers[1]": "ADD"}


def test_diff_of_secrets_shows_no_inner_path_and_ignores_secrets_inside_secrets() -> None:
    old = {"connection": Secret({"host": "h", "privateKey": "k"})}
    assert changed(old, {"connection": Secret({"host": "h", "privateKey": Secret("k")})}) == {}
    assert changed(old, {"connection": Secret({"host": "g", "privateKey": "k"})}) == {"connection": "UPDATE"}


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.js", ["a.js", ".js"], ["a/b.js", "a.jsx"]),
        ("**.js", ["a.js", "a/b.js"], ["a.ts"]),
        ("src/?.py", ["src/a.py"], ["src/ab.py", "src//.py"]),
        ("{a,b*}.txt", ["a.txt", "bcd.txt"], ["c.txt"]),
        ("[a-c]", ["b"], ["d", "-"]),
        ("[!a-c]", ["d"], ["b"]),
        (r"\*", ["*"], ["a"]),
    ],
)
def test_path_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    expression = re.compile(glob_expression(pattern))
    assert [name for name in matching + others if expression.fullmatch(name)] == matching


def test_quoting_as_in_go() -> None:
    assert quote('echo "ä"\n') == '"echo \\"ä\\"\\n"'
