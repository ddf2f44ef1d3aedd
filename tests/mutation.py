"""Break every line of the templates and the balancers' programs once, and see whether a test notices.

    nice python -m tests.mutation [--write docs/mutation.md] [FILE...]

A mutant is a copy of the work tree in which one line of one file is gone, or has one number changed. On each the tests
of that file run; a mutant that they all pass on survives. One on which they do not end in time has timed out: no test
has failed, so it is not caught; a program may hang on it, or the machine was busy, and only a run by hand tells.
Comments, empty lines and template statements without output are left alone. Takes seconds for each mutant: not for CI.
Exit status 1 if a mutant survives or times out that ACCEPTED does not give a reason for.

Units, and files such as logrotate's, are not broken: they are the same on every machine, where tests/stack judges them.
"""

import argparse
import ast
import datetime
import importlib
import io
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Compares whole texts: what only this one notices has no test that says why the line is there.
TEXTS = "tests/unit/test_rendered.py"
#: What is broken, and the tests that have to notice.
TESTS = {
    **dict.fromkeys(
        (
            "templates/haproxy/haproxy.cfg.j2",
            "templates/haproxy/http.cfg.j2",
            "templates/keepalived/keepalived.conf.j2",
        ),
        (
            "tests/unit/test_balancer.py",
            "tests/unit/test_extra.py",
            "tests/unit/test_http.py",
            "tests/unit/test_topologies.py",
            TEXTS,
        ),
    ),
    "files/haproxy/reload-haproxy": ("tests/rendering/test_reload.py",),
    "files/keepalived/check-haproxy": ("tests/unit/test_keepalived_scripts.py",),
    "files/keepalived/vrrp-notify": ("tests/unit/test_keepalived_scripts.py",),
}
SECONDS = 120
#: Not caught, and right: the file, what the line begins with, and why no test has to notice.
ACCEPTED: tuple[tuple[str, str, str], ...] = (
    ("files/haproxy/reload-haproxy", "PATIENCE", "how long it waits for a HAProxy that does not answer"),
    ("files/haproxy/reload-haproxy", "master.settimeout", "how long it waits for a HAProxy that does not answer"),
    ("files/haproxy/reload-haproxy", "master.sendall", "the test waits for an answer as long as the program does"),
    ("files/haproxy/reload-haproxy", "return b", "how much it reads at once"),
    (
        "files/keepalived/check-haproxy",
        "answers",
        "how long it waits: longer is slower, which 02_failover sees and no unit test",
    ),
    ("files/keepalived/check-haproxy", "note() { timeout", "how long it waits"),
    ("files/keepalived/check-haproxy", "return 1", "any other status fails as well"),
    ("files/keepalived/check-haproxy", "timeout 1", "how long it waits"),
    ("files/keepalived/check-haproxy", "for _ in", "the value is not used, only how many there are"),
    ("files/keepalived/check-haproxy", "timeout 3", "how long it waits"),
    ("files/keepalived/check-haproxy", "sleep", "how long it waits"),
)


@dataclass
class Mutant:
    file: str
    line: int
    text: str
    kind: str  # deleted, or changed to what
    failed: set[str] = field(default_factory=set)
    timed_out: bool = False

    @property
    def caught(self) -> bool:
        return bool(self.failed)

    @property
    def survived(self) -> bool:
        return not self.caught and not self.timed_out

    @property
    def by_text_only(self) -> bool:
        return bool(self.failed) and all(test.startswith(TEXTS) for test in self.failed)


class Collector:
    """A pytest plugin that remembers which tests failed, and runs only those that (do not) run the whole program."""

    def __init__(self, whole_program: bool) -> None:
        self.failed: set[str] = set()
        self._whole_program = whole_program

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if ("run_program" in item.fixturenames) is self._whole_program]  # type: ignore[attr-defined]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(re.sub(r"\[.*", "", report.nodeid))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.add(f"{report.nodeid} (collection)")


def docstrings(program: str) -> set[int]:
    """The lines of a Python program's docstrings."""
    kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
    owners = [node for node in ast.walk(ast.parse(program)) if isinstance(node, kinds) and ast.get_docstring(node)]
    return {line for node in owners for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}


def mutants(root: Path, file: str) -> Iterator[tuple[Mutant, str]]:
    """Each mutant of a file, with the file's text."""
    content = (root / file).read_text()
    lines = content.splitlines(keepends=True)
    comment = docstrings(content) if "python" in lines[0] else set()
    for number, line in enumerate(lines):
        text = line.strip()
        if number + 1 in comment or not text or text.startswith("#") or re.fullmatch(r"(\{%.*?%\}\s*)+", text):
            continue
        yield Mutant(file, number + 1, text, "deleted"), "".join(lines[:number] + lines[number + 1 :])
        literal = re.sub(r"\{[{%].*?[%}]\}", lambda found: "\0" * len(found[0]), line)
        if found := re.search(r"(?<![\w.])\d+", literal):
            changed = f"{line[: found.start()]}{int(found[0]) + 1}{line[found.end() :]}"
            yield (
                Mutant(file, number + 1, text, changed.strip()),
                "".join([*lines[:number], changed, *lines[number + 1 :]]),
            )


def run_tests(root: Path, tests: list[str], whole_program: bool) -> set[str] | None:
    """The names of the tests that fail, found by a child process; None if it has not ended in time."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()  # so that what the tests start can be ended with it
        os.chdir(root)
        collector = Collector(whole_program)
        words = io.StringIO()
        with redirect_stdout(words), redirect_stderr(words):
            options = ["-q", "--no-header", "--tb=no", "--assert=plain", "-p", "no:cacheprovider"]
            arguments = [*options, "-p", "no:hypothesispytest", "--rootdir", str(root), *tests]
            code = pytest.main(arguments, plugins=[collector])
        if code not in {0, 1} and not collector.failed:
            collector.failed.add(f"pytest ended with {int(code)}: {words.getvalue()[-500:]}")
        with os.fdopen(writing, "wb") as answer:
            pickle.dump(collector.failed, answer)
        os._exit(0)
    os.close(writing)

    def too_late(*_: object) -> None:
        os.killpg(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(SECONDS)
    with os.fdopen(reading, "rb") as end:
        found = end.read()
    os.waitpid(child, 0)
    signal.alarm(0)
    return pickle.loads(found) if found else None


def copy(target: Path) -> None:
    skipped = shutil.ignore_patterns(".git", ".local", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, target, ignore=skipped, dirs_exist_ok=True)


def row_tests() -> list[tuple[str, set[str], list[str]]]:
    """Of each row of the recipe's table: its first words, the files it names, and the unit tests that prove it."""
    from tests.unit.test_recipe import TEST, expanded, quoted, rows  # noqa: PLC0415

    found, above = [], ""
    for row in rows():
        # Only a file's name, or `same`: the file of the row above.
        names = {Path(one).name for word in quoted(row[2]) for one in expanded(word)}
        if row[2].startswith("same"):
            names.add(above)
        above = next((name for name in names if "." in name), above)
        tests = [match for name in quoted(row[4]) if (match := TEST.fullmatch(name)) and match[1].startswith("unit/")]
        found.append((row[0] or row[1], names, [f"tests/{m[1].replace('/', '/test_')}.py::{m[2]}" for m in tests]))
    return found


def reason(mutant: Mutant) -> str:
    fitting = (why for file, start, why in ACCEPTED if mutant.file == file and mutant.text.startswith(start))
    return next(fitting, "")


def report(done: list[Mutant]) -> str:
    lines = [
        "# Mutation run over the templates",
        "",
        "Written by `nice python -m tests.mutation --write docs/mutation.md`; tests/mutation.py says what a mutant is,",
        f"and which tests run on it. Run on {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}.",
        "",
        f"A mutant on which the tests do not end in {SECONDS} s has timed out: no test has failed, so it is not",
        "caught. A program may hang on it, or the machine was busy: look at it by hand.",
        "",
        f"| file | mutants | caught | of these by `{TEXTS}` only | timed out | survived | accepted |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in dict.fromkeys(mutant.file for mutant in done):
        mine = [mutant for mutant in done if mutant.file == file]
        counts = (
            len(mine),
            sum(mutant.caught for mutant in mine),
            sum(mutant.by_text_only for mutant in mine),
            sum(mutant.timed_out for mutant in mine),
            sum(mutant.survived for mutant in mine),
            sum(not mutant.caught and bool(reason(mutant)) for mutant in mine),
        )
        lines.append(f"| `{file}` | {' | '.join(map(str, counts))} |")
    lines += ["", "## Not caught", "", "| file | line | mutant | | why it is left |", "|---|---|---|---|---|"]
    for mutant in done:
        if not mutant.caught:
            what = f"`{mutant.text}` {'deleted' if mutant.kind == 'deleted' else f'→ `{mutant.kind}`'}"
            what, outcome = what.replace("|", chr(92) + "|"), "timed out" if mutant.timed_out else "survived"
            lines.append(f"| `{mutant.file}` | {mutant.line} | {what} | {outcome} | {reason(mutant)} |")
    lines += [
        "",
        "## Rows of the recipe's table",
        "",
        "For each row whose file was mutated and that names unit tests: how many of the file's mutants made its own",
        "tests fail. Tests that run the whole program are left out, unless --whole-program is given; then they run on",
        "mutants that no other test noticed.",
        "",
        "| row | tests | failed on |",
        "|---|---|---|",
    ]
    for row, names, own in row_tests():
        mine = [mutant for mutant in done if Path(mutant.file).name in names]
        run = {test for mutant in mine for test in TESTS[mutant.file]}
        known = [test for test in own if test.partition("::")[0] in run]
        if mine and known:
            count = sum(1 for mutant in mine if mutant.failed & set(known))
            short = ", ".join(f"`{test.rpartition('::')[2]}`" for test in known)
            lines.append(f"| {row} | {short} | {count} of {len(mine)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=list(TESTS), help=f"of {', '.join(TESTS)}")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--whole-program", action="store_true", help="also tests that run all of it: takes very long")
    parser.add_argument("--here", action="store_true", help="this is the copy")
    words = parser.parse_args()
    if unknown := set(words.files) - set(TESTS):
        parser.error(f"no tests are named for {', '.join(sorted(unknown))}")
    if not words.here:
        with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
            copy(Path(scratch))
            options = ["--here", *sys.argv[1:], *(["--write", str(words.write.absolute())] if words.write else [])]
            done = subprocess.run([sys.executable, "-m", "tests.mutation", *options], cwd=scratch, check=False)
            return done.returncode
    tests = list(dict.fromkeys(test for file in words.files for test in TESTS[file]))
    # Once for all children: what takes longest is importing it.
    modules = [test.removesuffix(".py").replace("/", ".") for test in tests]
    for name in ("components.cluster", "tests.conftest", "tests.unit.conftest", *modules):
        importlib.import_module(name)
    for whole_program in (False, True) if words.whole_program else (False,):
        if (broken := run_tests(ROOT, tests, whole_program)) != set():
            print(f"not one mutant was made, because these fail as it is: {broken}", file=sys.stderr)
            return 2
    tried = []
    for file in words.files:
        path = ROOT / file
        original = path.read_text()
        for mutant, text in mutants(ROOT, file):
            path.write_text(text)
            # Running the whole program takes long: only if the others have found nothing.
            for whole_program in (False, True) if words.whole_program else (False,):
                failed = run_tests(ROOT, list(TESTS[file]), whole_program)
                mutant.failed, mutant.timed_out = failed or set(), failed is None
                if not mutant.survived:
                    break
            path.write_text(original)
            tried.append(mutant)
            state = "caught" if mutant.caught else "TIMED OUT" if mutant.timed_out else "SURVIVED"
            print(f"{state:10}{file}:{mutant.line}: {mutant.text} [{mutant.kind}]", flush=True)
        if words.write:
            words.write.write_text(report(tried))
    return int(any(not mutant.caught and not reason(mutant) for mutant in tried))


if __name__ == "__main__":
    sys.exit(main())
