"""files/machine/install-file: what is in force after each way in which a change can go wrong."""

import getpass
import grp
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs import Stubs

PROGRAM = "machine/install-file"
OWNER = f"{getpass.getuser()}:{grp.getgrgid(os.getgid()).gr_name}"


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = folder / "etc" / "app.d" / "app.conf"
        self.stubs = Stubs(folder / "bin")
        self.stubs.add("flock", 'exec /usr/bin/flock "$@"')
        # Software that takes what its file says, and a check of what it has taken.
        running, target = folder / "running", self.target
        self.stubs.add("apply", f"cat {target} >>{running}; while [ -e {folder}/wait ]; do sleep 0.02; done")
        self.stubs.add("apply-refuses", f"cat {target} >>{running}; ! grep -q broken {target}")
        self.stubs.add("gate", f"! grep -q broken {target}")
        self.running = running
        self.running.touch()

    def variables(self) -> dict[str, str]:
        return {"MYCAT_HA_RUN": str(self.folder / "run")}

    def words(self, **options: str) -> list[str]:
        words = [str(self.target), options.pop("mode", "0640"), options.pop("owner", OWNER)]
        for name, command in options.items():
            words += [f"--{name}", command]
        return words

    def install(self, content: str, **options: str) -> "subprocess.CompletedProcess[str]":
        return self.stubs.run(PROGRAM, *self.words(**options), stdin=content, **self.variables())

    def start(self, content: str, **options: str) -> "subprocess.Popen[str]":
        return self.stubs.start(PROGRAM, *self.words(**options), stdin=content, **self.variables())

    def taken(self) -> list[str]:
        """The contents that the software has been told to take, oldest first."""
        return self.running.read_text().splitlines()

    def identity(self) -> tuple[int, int, str]:
        """What differs if the file was written, if only the same again."""
        found = self.target.stat()
        return found.st_ino, found.st_mtime_ns, self.target.read_text()

    def beside(self) -> list[str]:
        return sorted(path.name for path in self.target.parent.iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    (tmp_path / "wait").unlink(missing_ok=True)
    made.stubs.end()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def test_a_new_file_is_there_with_mode_and_owner_and_in_force(machine: Machine) -> None:
    done = machine.install("one\n", validate="true", apply="apply", gate="gate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.target.read_text() == "one\n"
    found = machine.target.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, os.getuid(), os.getgid())
    assert machine.taken() == ["one"]
    assert len(machine.stubs.calls("gate")) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_can_belong_to_somebody_else(machine: Machine) -> None:
    assert machine.install("one\n", owner="nobody:nogroup", mode="0600").returncode == 0
    assert (machine.target.owner(), machine.target.group()) == ("nobody", "nogroup")
    assert machine.install("one\n", owner="nobody:nogroup", mode="0600", apply="apply").returncode == 0
    assert machine.taken() == []


def test_the_same_file_again_does_nothing(machine: Machine) -> None:
    machine.install("one\n")
    before = machine.identity()
    assert machine.install("one\n", validate="false", apply="apply", gate="false").returncode == 0
    assert machine.identity() == before
    assert machine.taken() == []


def test_another_mode_is_a_change(machine: Machine) -> None:
    machine.install("one\n")
    assert machine.install("one\n", mode="0600", apply="apply").returncode == 0
    assert stat.S_IMODE(machine.target.stat().st_mode) == 0o600
    assert machine.taken() == ["one"]


def test_nothing_but_the_file_stays_in_its_folder(machine: Machine) -> None:
    """Some programs read every file of a folder: logrotate would find each log twice."""
    for content, status in (("one\n", 0), ("two\n", 0), ("broken\n", 1)):
        assert machine.install(content, apply="apply", gate="gate").returncode == status
        assert machine.beside() == ["app.conf"]
    assert machine.install("three\n", validate="false").returncode == 1
    assert machine.beside() == ["app.conf"]


def test_a_refused_file_changes_nothing_and_the_reason_names_the_file(machine: Machine) -> None:
    machine.install("one\n")
    before = machine.identity()
    refuse = f'cat "$STAGED"; cat {machine.target}; echo "$STAGED:1: no" >&2; exit 7'
    done = machine.install("two\n", validate=refuse, apply="apply", gate="gate")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{machine.target}: the new file was refused, the old one stays in force:",
        "two",
        "one",
        f"{machine.target}:1: no",
    ]
    assert machine.identity() == before
    assert machine.taken() == []


def test_of_a_long_reason_the_end_is_shown(machine: Machine) -> None:
    done = machine.install("one\n", validate="seq 100; exit 1")
    assert done.stderr.splitlines()[1:] == [str(n) for n in range(61, 101)]


def test_a_validation_that_fails_in_the_middle_of_a_pipe_refuses(machine: Machine) -> None:
    assert machine.install("one\n", validate="false | cat").returncode == 1
    assert not machine.target.exists()


def test_a_secret_is_never_readable_by_others(machine: Machine) -> None:
    done = machine.install("secret\n", mode="0600", validate='stat -c "%a %U" "$STAGED"; exit 1')
    assert done.stderr.splitlines()[-1] == f"600 {getpass.getuser()}"


@pytest.mark.parametrize("options", [{"apply": "apply-refuses"}, {"apply": "apply", "gate": "gate"}])
def test_what_does_not_work_is_taken_back_and_the_old_file_is_in_force_again(
    machine: Machine, options: dict[str, str]
) -> None:
    machine.install("one\n", mode="0600")
    before = machine.target.stat()
    done = machine.install("broken\n", **options)
    assert done.returncode == 1
    assert done.stderr == f"{machine.target}: it did not work with the new file; the old one is back\n"
    assert machine.target.read_text() == "one\n"
    after = machine.target.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)
    assert machine.taken() == ["broken", "one"]


def test_a_first_file_that_does_not_work_is_taken_away(machine: Machine) -> None:
    done = machine.install("broken\n", apply="apply", gate="gate")
    assert done.returncode == 1
    assert done.stderr == f"{machine.target}: it did not work with the new file; it was taken away again\n"
    assert machine.beside() == []


def test_if_the_old_file_does_not_work_either_that_is_said(machine: Machine) -> None:
    machine.install("one\n")
    done = machine.install("two\n", gate="echo out of order; false")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "out of order",
        f"{machine.target}: it did not work with the new file; the old one is back",
        "out of order",
        f"{machine.target}: it does not work with the old file either",
    ]
    assert machine.target.read_text() == "one\n"


def test_an_unknown_option_is_refused_before_anything_is_written(machine: Machine) -> None:
    done = machine.install("one\n", reload="apply")
    assert (done.returncode, done.stderr) == (64, "install-file: unknown option --reload\n")
    assert not machine.target.exists()


# -- two runs, and half a run -------------------------------------------------------------------------------------


def held_up(machine: Machine, content: str) -> "subprocess.Popen[str]":
    """A run that stands still in its apply command, the new file in place."""
    (machine.folder / "wait").touch()
    before = len(machine.taken())
    process = machine.start(content, apply="apply", gate="gate")
    wait_until(lambda: len(machine.taken()) > before)
    return process


def test_a_second_run_for_a_file_waits_for_the_first(machine: Machine) -> None:
    machine.install("one\n")
    first = held_up(machine, "broken\n")
    second = machine.start("two\n", apply="apply", gate="gate")
    wait_until(lambda: len(machine.stubs.calls("flock")) == 3)
    assert machine.target.read_text() == "broken\n"
    (machine.folder / "wait").unlink()
    assert (first.wait(60), second.wait(60)) == (1, 0)
    assert machine.taken() == ["broken", "one", "two"]
    assert machine.target.read_text() == "two\n"


def test_runs_for_different_files_do_not_wait_for_each_other(machine: Machine) -> None:
    first = held_up(machine, "one\n")
    other = machine.target.with_name("other.conf")
    done = machine.stubs.run(PROGRAM, str(other), "0644", OWNER, stdin="other\n", **machine.variables())
    assert (done.returncode, other.read_text()) == (0, "other\n")
    assert first.poll() is None


def test_what_apply_starts_does_not_keep_later_runs_waiting(machine: Machine) -> None:
    daemon = machine.folder / "daemon"
    start = f"(sleep 600 & echo $! >{daemon}) >/dev/null 2>&1"
    assert machine.install("one\n", apply=start).returncode == 0
    try:
        assert machine.install("two\n").returncode == 0
    finally:
        os.kill(int(daemon.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_was_interrupted_before_its_file_was_in_force_is_made_up_for(
    machine: Machine, number: signal.Signals
) -> None:
    machine.install("one\n")
    first = held_up(machine, "two\n")
    first.send_signal(number)
    first.wait(60)
    (machine.folder / "wait").unlink()
    assert machine.install("two\n", apply="apply", gate="gate").returncode == 0
    assert machine.taken() == ["two", "two"]
    assert len(machine.stubs.calls("gate")) == 1
    assert machine.beside() == ["app.conf"]


@pytest.mark.parametrize("following", ["broken\n", "also broken\n"])
def test_after_an_interrupted_run_the_last_file_that_worked_comes_back(machine: Machine, following: str) -> None:
    machine.install("one\n")
    first = held_up(machine, "broken\n")
    first.kill()
    first.wait(60)
    (machine.folder / "wait").unlink()
    assert machine.install(following, apply="apply", gate="gate").returncode == 1
    assert machine.target.read_text() == "one\n"
    assert machine.taken()[-1] == "one"


def test_after_an_interrupted_first_run_a_file_that_does_not_work_is_taken_away(machine: Machine) -> None:
    first = held_up(machine, "broken\n")
    first.kill()
    first.wait(60)
    (machine.folder / "wait").unlink()
    assert machine.install("broken\n", apply="apply", gate="gate").returncode == 1
    assert machine.beside() == []


def test_a_run_that_is_interrupted_while_the_file_is_judged_changes_nothing(machine: Machine) -> None:
    machine.install("one\n")
    (machine.folder / "wait").touch()
    judge = f"touch {machine.folder}/judging; while [ -e {machine.folder}/wait ]; do sleep 0.02; done"
    process = machine.start("two\n", validate=judge, apply="apply")
    wait_until((machine.folder / "judging").exists)
    process.kill()
    process.wait(60)
    (machine.folder / "wait").unlink()
    assert machine.target.read_text() == "one\n"
    assert machine.install("three\n", apply="apply").returncode == 0
    assert machine.taken() == ["three"]
