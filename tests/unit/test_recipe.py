"""docs/recipe.md keeps its word: every row names the tests that prove it, and what it names is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"((?:\w+/)?\w+)::((?:\w+::)?\w+)")
NOTHING = "\N{EN DASH}"
#: What looks like a file rather than a setting or a word of code.
FILE = re.compile(r"[\w.-]+(/[\w.-]*)+|[\w.-]+\.(?:conf|j2|md|py|service|sh)")


def rows() -> list[list[str]]:
    """The cells of every row of every table, heads left out."""
    lines = (ROOT / "docs/recipe.md").read_text().splitlines()
    tables = [line for line in lines if line.startswith("|") and not line.startswith("|---")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in tables]
    return [row for row in cells if row[0] != "recipe"]


ROWS = [pytest.param(row, id=row[0] or row[1]) for row in rows()]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def expanded(name: str) -> list[str]:
    """As a shell expands ``a{b,c}d``."""
    found = re.fullmatch(r"(.*?)\{([^}]*)\}(.*)", name)
    return [found[1] + part + found[3] for part in found[2].split(",")] if found else [name]


@cache
def names_in(module: str) -> frozenset[str]:
    """The tests of ``01_service`` (on a stack) or ``unit/http``; those of a class as ``Class::test``."""
    kind, _, name = module.rpartition("/")
    path = ROOT / "tests" / (kind or "stack") / f"test_{name}.py"
    found = set()
    for item in ast.parse(path.read_text()).body if path.is_file() else ():
        if isinstance(item, ast.FunctionDef):
            found.add(item.name)
        if isinstance(item, ast.ClassDef):
            found |= {f"{item.name}::{method.name}" for method in item.body if isinstance(method, ast.FunctionDef)}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


@cache
def places(name: str) -> int:
    """How many files there are of a name without a folder."""
    return sum(1 for folder in ("templates", "components", "settings") for _ in (ROOT / folder).rglob(name))


def test_there_are_rows() -> None:
    assert len(ROWS) > 80
    assert {len(row) for row in rows()} == {5}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_proven_by_tests_that_exist(row: list[str]) -> None:
    proven = row[4]
    named = quoted(proven)
    assert proven == NOTHING or (named and proven == ", ".join(f"`{name}`" for name in named)), f"proven by what? {row}"
    for name in named:
        found = TEST.fullmatch(name)
        assert found, f"{name} is not written as in the head of the document: {row}"
        assert found[2] in names_in(found[1]), f"no test {name}: {row}"


@pytest.mark.parametrize("row", ROWS)
def test_every_file_that_a_row_names_exists(row: list[str]) -> None:
    for name in (one for word in quoted(row[2]) for one in expanded(word) if FILE.fullmatch(one)):
        if "/" in name:
            assert (ROOT / name).exists(), f"no {name}: {row}"
        else:
            assert places(name) == 1, f"{places(name)} files are called {name}: {row}"
