"""mycat-apply: a configuration gets into force by the mildest way, or not at all."""

import importlib.util
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pymysql
import pytest

from components import mycat_files
from settings import Settings
from tests import example

ROOT = Path(__file__).parents[2]
Change = Callable[[dict[str, Any]], Any]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mycat_apply", ROOT / "files/mycat/mycat_apply.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mycat_apply"] = module
    spec.loader.exec_module(module)
    return module


class Machine:
    """Where the tool works: its paths in a folder, and systemd played by this class."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tool = load()
        self.folder = folder
        self.home = folder / "home"
        self.live = folder / "mycat"
        self.restarts = 0
        self.steps: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = self._free(), self._free()
        (self.home).mkdir()
        (self.home / "conf").symlink_to(self.live)
        run = folder / "mycat-run"
        run.write_text(f'#!/bin/bash\nexec {sys.executable} -m tests.fakemycat "$@"\n')
        run.chmod(0o755)
        unit = folder / "mycat.service"
        unit.write_text("[Unit]\n")
        me = pwd.getpwuid(os.getuid())
        for name, value in {
            "LIVE": self.live,
            "PREVIOUS": folder / "mycat.previous",
            "CURRENT": folder / "current",
            "HOME": self.home,
            "TRIAL": folder / "trial",
            "IN_FORCE": folder / "in-force.json",
            "PROGRAM": (unit, run),
            "AS_MYCAT": ("setpriv", "--pdeathsig=KILL"),
            "GATE_SECONDS": 3,
            "TRIAL_SECONDS": 10,
            "systemctl": self._systemctl,
            "leave_service": lambda *words: self.steps.append(" ".join(words)),
            "journal": lambda: "the journal's words",
        }.items():
            monkeypatch.setattr(self.tool, name, value)
        monkeypatch.setattr(self.tool.pwd, "getpwnam", lambda _: me)
        monkeypatch.chdir(ROOT)

    @staticmethod
    def _free() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return int(listener.getsockname()[1])

    def _systemctl(self, *words: str) -> bool:
        if words[0] == "restart":
            self.stop()
            self.restarts += 1
            self.steps.append("restart")
            self._process = subprocess.Popen(
                [str(self.tool.PROGRAM[1]), str(self.tool.CURRENT.readlink()), str(self.home)],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return True

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def files(self, change: Change = lambda _: None) -> dict[str, str]:
        def both(raw: dict[str, Any]) -> None:
            example.with_mycat(raw)
            change(raw)

        settings = Settings.parse(example.settings(both))
        files = mycat_files.configuration(settings, settings.machines[0])
        files["server.xml"] = (
            files["server.xml"]
            .replace(">192.168.106.251<", ">127.0.0.1<")
            .replace(">8066<", f">{self._ports[0]}<")
            .replace(">9066<", f">{self._ports[1]}<")
        )
        return {"log4j2.xml": "<Configuration/>", **files}

    def apply(self, files: dict[str, str], prefix: str = "/opt/mycat/1") -> None:
        self.tool.Mycat(prefix, "127.0.0.1").apply(files)

    def client(self, password: str = "secret-health") -> "pymysql.Connection[Any]":
        return self.tool.Connection(  # type: ignore[no-any-return]
            host="127.0.0.1", port=self._ports[0], user="health", password=password, autocommit=None
        )

    def schemas(self) -> set[str]:
        with self.client() as connection, connection.cursor() as cursor:
            cursor.execute("SHOW DATABASES")
            return {row[0] for row in cursor.fetchall()}

    def state(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.live.iterdir() if not path.is_symlink()}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path, monkeypatch)
    yield machine
    machine.stop()
    assert not (tmp_path / "trial").exists()


def another_schema(raw: dict[str, Any]) -> None:
    raw["mycat"]["schemas"].append({"name": "more", "dataNode": "dn1"})


def another_node(raw: dict[str, Any]) -> None:
    raw["mycat"]["dataNodes"].append({"name": "dn4", "dataHost": "dh1", "database": "app4"})


def other_memory(raw: dict[str, Any]) -> None:
    raw["mycat"]["directMemoryMib"] = 256


def unknown_node(files: dict[str, str]) -> dict[str, str]:
    return {**files, "schema.xml": files["schema.xml"].replace('sqlMaxLimit="-1" dataNode="dn1"', 'dataNode="dn9"')}


def test_the_first_one_starts_mycat_and_the_same_again_does_nothing(machine: Machine) -> None:
    machine.apply(machine.files())
    assert machine.restarts == 1
    assert machine.schemas() == {"app"}
    before = machine.live.stat().st_ino
    machine.apply(machine.files())
    assert machine.restarts == 1
    assert machine.live.stat().st_ino == before


def test_what_mycat_writes_stays_over_changes(machine: Machine) -> None:
    machine.apply(machine.files())
    (machine.live / "dnindex.properties").write_text("dh1=2\n")
    machine.apply(machine.files(another_schema))
    assert (machine.live / "dnindex.properties").read_text() == "dh1=2\n"
    assert (machine.home / "dnindex.properties").read_text() == "dh1=2\n"


def test_nobody_else_reads_the_files(machine: Machine) -> None:
    machine.apply(machine.files())
    assert {path.stat().st_mode & 0o777 for path in machine.live.iterdir() if not path.is_symlink()} == {0o640}
    assert machine.live.stat().st_mode & 0o777 == 0o750
    assert (machine.folder / "in-force.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", [another_schema, another_node], ids=["reload", "reload of all"])
def test_a_change_that_reload_takes_keeps_clients(machine: Machine, change: Change) -> None:
    machine.apply(machine.files())
    with machine.client() as client, client.cursor() as cursor:
        machine.apply(machine.files(change))
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == ("1",)
    assert machine.restarts == 1
    assert machine.schemas() == ({"app", "more"} if change is another_schema else {"app"})


def test_a_changed_password_of_the_tools_own_user_is_reloaded(machine: Machine) -> None:
    machine.apply(machine.files())
    machine.apply(machine.files(lambda raw: raw["secrets"].update(health="another-health")))
    assert machine.restarts == 1
    machine.client("another-health").close()


@pytest.mark.parametrize("what", ["system property", "log4j2.xml", "program", "unit"])
def test_a_change_that_reload_cannot_take_restarts(machine: Machine, what: str) -> None:
    machine.apply(machine.files())
    files, prefix = machine.files(), "/opt/mycat/1"
    match what:
        case "system property":
            files = machine.files(other_memory)
        case "log4j2.xml":
            files["log4j2.xml"] = "<Configuration status='WARN'/>"
        case "program":
            prefix = "/opt/mycat/2"
        case _:
            machine.tool.PROGRAM[0].write_text("[Unit]\nDescription=other\n")
    machine.apply(files, prefix)
    assert machine.restarts == 2
    assert machine.steps[-3:] == ["mycat", "restart", "back mycat"], "out of rotation before it stops"
    assert str(machine.tool.CURRENT.readlink()) == prefix


def test_a_mycat_that_does_not_answer_is_restarted(machine: Machine) -> None:
    machine.apply(machine.files())
    machine.stop()
    machine.apply(machine.files())
    assert machine.restarts == 2


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (unknown_node, "dataNode 'dn9' is not found!"),
        (lambda files: {**files, "schema.xml": "<schema"}, "not XML"),
        (
            lambda files: {name: text for name, text in files.items() if name != "server.xml"},
            "there is no 'server.xml'",
        ),
        (lambda files: {**files, "server.xml": files["server.xml"].replace('"health"', '"h"')}, "no user health"),
        (lambda files: {**files, "../evil": "x"}, "'../evil' cannot be the name of a file"),
        (lambda files: {**files, "dnindex.properties": "x"}, "'dnindex.properties' cannot be the name of a file"),
    ],
)
def test_a_broken_one_is_refused_before_anything_is_touched(
    machine: Machine, breaks: Callable[[dict[str, str]], dict[str, str]], words: str
) -> None:
    machine.apply(machine.files())
    before, inode = machine.state(), machine.live.stat().st_ino
    with pytest.raises(machine.tool.RefusedError, match=words.replace("(", r"\(")):
        machine.apply(breaks(machine.files(another_schema)))
    assert (machine.state(), machine.live.stat().st_ino, machine.restarts) == (before, inode, 1)
    assert machine.schemas() == {"app"}


@pytest.mark.parametrize("how", ["failing", "forgetful"])
def test_one_that_passes_and_does_not_work_is_taken_back(machine: Machine, how: str) -> None:
    machine.apply(machine.files())
    before = machine.state()
    (machine.home / how).touch()
    with pytest.raises(machine.tool.RefusedError, match=r"Reload config failure|there is no schema app, more"):
        machine.apply(machine.files(another_schema))
    assert machine.state() == before
    # A reload that Mycat refuses leaves it as it was; where it has lost its schemas only a restart helps.
    assert machine.restarts == {"failing": 1, "forgetful": 2}[how]
    (machine.home / how).unlink()
    machine.apply(machine.files(another_schema))
    assert machine.schemas() == {"app", "more"}


def test_a_reload_of_all_waits_for_the_connections_of_the_last_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.apply(machine.files())
    busy = machine.home / "busy"
    busy.touch()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            busy.unlink()

    monkeypatch.setattr(machine.tool.time, "sleep", sleep)
    machine.apply(machine.files(another_node))
    assert len(waited) >= 3
    assert machine.restarts == 1


def test_it_gives_up_when_mycat_stays_busy_for_longer_than_it_can(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.apply(machine.files(lambda raw: raw["mycat"].update(sqlExecuteTimeout=1)))
    before = machine.state()
    (machine.home / "busy").touch()
    # The clock leaps, so the trial, which takes its own time, is left out.
    monkeypatch.setattr(machine.tool, "try_out", lambda *_: None)
    clock = iter(range(0, 10**6, 7))
    monkeypatch.setattr(machine.tool.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(machine.tool.time, "sleep", lambda _: None)

    def change(raw: dict[str, Any]) -> None:
        another_node(raw)
        raw["mycat"]["sqlExecuteTimeout"] = 1

    with pytest.raises(machine.tool.RefusedError, match="unfinished db transactions"):
        machine.apply(machine.files(change))
    assert machine.state() == before


def test_an_interrupted_change_is_finished_by_the_next_run(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.apply(machine.files())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machine.tool.Mycat, "_reload", interrupted)
        with pytest.raises(KeyboardInterrupt):
            machine.apply(machine.files(another_schema))
    assert machine.schemas() == {"app"}
    machine.apply(machine.files(another_schema))
    assert machine.schemas() == {"app", "more"}


def test_no_secret_is_in_its_words(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = [value for name, value in example.settings(example.with_mycat)["secrets"].items() if "ycat" in name]
    monkeypatch.setattr(machine.tool, "_telling", lambda _: " ".join(["a dump:", *secrets, "secret-health"]))
    monkeypatch.setattr("sys.argv", ["mycat-apply", "/opt/mycat/1", "127.0.0.1"])
    monkeypatch.setattr("sys.stdin", _Input(json.dumps(unknown_node(machine.files()))))
    assert machine.tool.main() == 1
    said = capsys.readouterr().err
    assert "a dump: ***" in said
    assert not [secret for secret in [*secrets, "secret-health"] if secret in said]


class _Input:
    def __init__(self, text: str) -> None:
        self.read = lambda: text


def test_a_trial_does_not_outlive_the_tool(machine: Machine) -> None:
    """The connection to the machine may be lost at any time."""
    script = (
        "import subprocess, sys, time; p = subprocess.Popen(['setpriv', '--pdeathsig=KILL', 'sleep', '60']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        trial = int(process.stdout.readline())
        deadline = time.monotonic() + 10
        while not Path(f"/proc/{trial}/cmdline").read_bytes().startswith(b"sleep"):  # setpriv has done its work
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{trial}/stat").exists() and " Z " not in Path(f"/proc/{trial}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert machine.tool.AS_MYCAT[-1] == "--pdeathsig=KILL"
