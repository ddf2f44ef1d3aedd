"""files/machine/install-packages with an apt-get and a dpkg-query that keep a list of what is installed."""

import os
import re
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.template import render
from constants import LIBRARY
from settings.base import SourceArchive
from tests.programs import FILES, Stubs
from tests.unit.conftest import Run

PROGRAM = "machine/install-packages"
#: As the real one: two updates at once fail, a mirror may fail, an unknown package too. ``wait`` holds it up.
APT_GET = """
cd {state}
arguments=("$@")
while [ -e wait ]; do /bin/sleep 0.02; done
case " $* " in
*" update "*)
    if [ -s mirror-fails ]; then
        sed -i 1d mirror-fails
        echo "E: Failed to fetch http://mirror/InRelease  503  Service Unavailable"
        exit 100
    fi
    touch lists
    ;;
*" install "*)
    [ -e lists ] || {{ echo "E: Unable to locate package"; exit 100; }}
    if [ -s broken ]; then
        echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem."
        exit 100
    fi
    {{ [ -x policy-rc.d ] && ./policy-rc.d mariadb start; echo $?; }} >>policy-says
    while [ "$1" != install ]; do shift; done
    shift
    for package; do
        case $package in
        unknown*) echo "E: Unable to locate package $package"; exit 100 ;;
        esac
    done
    printf '%s\\n' "$@" >>installed
    echo "Setting up $*"
    ;;
esac
"""
DPKG_QUERY = """
shift 2
status=0
for package; do
    if grep -qx "$package" {state}/installed; then echo 'ii '
    elif grep -qx "$package" {state}/removed; then echo 'rc '
    elif grep -qx "$package" {state}/unpacked; then echo 'iU '
    else status=1; fi
done
exit $status
"""
LOCK_WAIT = 'exec /usr/bin/flock "$@"'


class Machine:
    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        for name in ("installed", "removed", "unpacked", "policy-says"):
            (self.state / name).touch()
        self.stubs = Stubs(folder / "bin")
        self.stubs.add("apt-get", APT_GET.format(state=self.state))
        self.stubs.add("dpkg-query", DPKG_QUERY.format(state=self.state))
        self.stubs.add("dpkg", f'[ "$*" = "--configure -a" ] && rm -f {self.state}/broken')
        self.stubs.add("flock", LOCK_WAIT)
        self.stubs.add("sleep")
        self.policy = self.state / "policy-rc.d"
        self.log = folder / "log" / "packages.log"
        self.variables = {
            "MYCAT_HA_RUN": str(folder / "run"),
            "MYCAT_HA_PACKAGES_LOG": str(self.log),
            "MYCAT_HA_POLICY": str(self.policy),
        }
        self.run_folder = folder / "run"

    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = self.stubs.run(PROGRAM, *arguments, **self.variables)
        return done.returncode, done.stdout, done.stderr

    def actions(self) -> list[str]:
        """What apt-get was told to do: "update", or the packages."""
        calls = self.stubs.calls("apt-get")
        return ["update" if call.endswith(" update") else call.partition(" install ")[2] for call in calls]

    def installed(self) -> list[str]:
        return (self.state / "installed").read_text().split()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    (made.state / "wait").unlink(missing_ok=True)
    made.stubs.end()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def test_what_is_missing_is_installed_and_logged(machine: Machine) -> None:
    assert machine.run("rsyslog", "logrotate") == (0, "", "")
    assert machine.actions() == ["update", "rsyslog logrotate"]
    assert machine.installed() == ["rsyslog", "logrotate"]
    assert "Setting up rsyslog logrotate" in machine.log.read_text()
    install = machine.stubs.calls("apt-get")[-1]
    assert {"--yes", "--no-install-recommends", "DPkg::Lock::Timeout=300"} <= set(install.split())


def test_nothing_is_done_when_all_is_installed(machine: Machine) -> None:
    (machine.state / "installed").write_text("rsyslog\nlogrotate\n")
    assert machine.run("rsyslog", "logrotate") == (0, "", "")
    assert machine.run("--no-start", "rsyslog") == (0, "", "")
    assert machine.actions() == []
    assert not machine.log.exists()


@pytest.mark.parametrize("state", ["removed", "unpacked", "unknown"])
def test_one_that_is_not_wholly_installed_is_installed(machine: Machine, state: str) -> None:
    (machine.state / "installed").write_text("rsyslog\n")
    (machine.state / state).write_text("logrotate\n")
    assert machine.run("rsyslog", "logrotate")[0] == 0
    assert machine.actions() == ["update", "rsyslog logrotate"]


def test_the_lists_are_read_once_for_several_callers(machine: Machine) -> None:
    for package in ("rsyslog", "python3-pymysql", "socat"):
        assert machine.run(package)[0] == 0
    assert machine.actions() == ["update", "rsyslog", "python3-pymysql", "socat"]


@pytest.mark.parametrize("why", ["an hour later", "after a boot"])
def test_the_lists_are_read_again(machine: Machine, why: str) -> None:
    assert machine.run("rsyslog")[0] == 0
    mark = machine.run_folder / "packages.updated"
    if why == "after a boot":  # /run is empty
        mark.unlink()
    else:
        hour_ago = time.time() - 3700
        os.utime(mark, (hour_ago, hour_ago))
    assert machine.run("socat")[0] == 0
    assert machine.actions() == ["update", "rsyslog", "update", "socat"]


def test_lists_that_are_gone_or_too_old_are_read_again(machine: Machine) -> None:
    assert machine.run("rsyslog")[0] == 0
    (machine.state / "lists").unlink()
    assert machine.run("socat")[0] == 0
    assert machine.actions() == ["update", "rsyslog", "socat", "update", "socat"]


def test_a_mirror_that_fails_once_is_asked_again(machine: Machine) -> None:
    (machine.state / "mirror-fails").write_text("once\n")
    assert machine.run("rsyslog") == (0, "", "")
    assert machine.actions() == ["update", "update", "rsyslog"]
    assert machine.stubs.calls("sleep") == ["2"]
    assert "APT::Update::Error-Mode=any" in machine.stubs.calls("apt-get")[0]


def test_a_mirror_that_stays_away_is_an_error_with_the_reason(machine: Machine) -> None:
    (machine.state / "mirror-fails").write_text("again\n" * 100)
    status, out, err = machine.run("rsyslog")
    assert (status, out) == (1, "")
    assert err.startswith(f"installing rsyslog failed; the end of {machine.log}:\n")
    assert "503  Service Unavailable" in err
    assert machine.actions() == ["update"] * 6
    assert machine.stubs.calls("sleep") == ["2", "4", "8", "16", "32"]
    assert machine.installed() == []


def test_an_unknown_package_is_named_and_only_this_runs_words_are_shown(machine: Machine) -> None:
    assert machine.run("rsyslog")[0] == 0
    status, _, err = machine.run("unknown-package")
    assert status == 1
    assert "E: Unable to locate package unknown-package" in err
    assert "rsyslog" not in err
    assert "Setting up rsyslog" in machine.log.read_text()


def test_an_interrupted_installation_is_completed_first(machine: Machine) -> None:
    (machine.state / "broken").write_text("yes")
    assert machine.run("rsyslog")[0] == 0
    assert machine.stubs.calls("dpkg") == ["--configure -a"]
    assert machine.installed() == ["rsyslog"]


def test_two_at_once_do_not_get_in_each_others_way(machine: Machine) -> None:
    (machine.state / "wait").touch()
    first = machine.stubs.start(PROGRAM, "rsyslog", **machine.variables)
    wait_until(lambda: machine.actions() == ["update"])
    second = machine.stubs.start(PROGRAM, "socat", **machine.variables)
    wait_until(lambda: len(machine.stubs.calls("flock")) == 2)
    assert second.poll() is None
    assert machine.actions() == ["update"]
    (machine.state / "wait").unlink()
    for process in (first, second):
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    assert machine.actions() == ["update", "rsyslog", "socat"]


def test_two_for_the_same_package_install_it_once(machine: Machine) -> None:
    (machine.state / "wait").touch()
    first = machine.stubs.start(PROGRAM, "rsyslog", **machine.variables)
    wait_until(lambda: machine.actions() == ["update"])
    second = machine.stubs.start(PROGRAM, "rsyslog", **machine.variables)
    wait_until(lambda: len(machine.stubs.calls("flock")) == 2)
    (machine.state / "wait").unlink()
    assert [process.wait(60) for process in (first, second)] == [0, 0]
    assert machine.actions() == ["update", "rsyslog"]


# -- without starting services ------------------------------------------------------------------------------------


def said(machine: Machine) -> list[str]:
    """What policy-rc.d answered during each installation: 101 is no; 1: there was none."""
    return (machine.state / "policy-says").read_text().split()


def test_services_may_start_unless_that_is_forbidden(machine: Machine) -> None:
    assert machine.run("rsyslog")[0] == 0
    assert machine.run("--no-start", "mariadb-server")[0] == 0
    assert machine.run("socat")[0] == 0
    assert said(machine) == ["1", "101", "1"]
    assert not machine.policy.exists()


@pytest.mark.parametrize("package", ["mariadb-server", "unknown-package"])
def test_the_administrators_policy_is_put_back_as_it_was(machine: Machine, package: str) -> None:
    machine.policy.write_text("#!/bin/sh\nexit 104\n")
    machine.policy.chmod(0o750)
    machine.run("--no-start", package)
    assert set(said(machine)) == {"101"}
    assert machine.policy.read_text() == "#!/bin/sh\nexit 104\n"
    assert stat.S_IMODE(machine.policy.stat().st_mode) == 0o750
    assert [path.name for path in machine.state.glob("policy-rc.d*")] == ["policy-rc.d"]


def test_the_policy_is_gone_after_a_failure(machine: Machine) -> None:
    assert machine.run("--no-start", "unknown-package")[0] == 1
    assert said(machine)
    assert list(machine.state.glob("policy-rc.d*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_takes_the_policy_away_only_after_apt_get_has_ended(machine: Machine, number: signal.Signals) -> None:
    machine.run("rsyslog")
    (machine.state / "wait").touch()
    process = machine.stubs.start(PROGRAM, "--no-start", "mariadb-server", **machine.variables)
    wait_until(lambda: machine.actions()[-1] == "mariadb-server")
    process.send_signal(number)
    with pytest.raises(TimeoutError):
        wait_until(lambda: process.poll() is not None, 0.3)
    assert machine.policy.exists()
    (machine.state / "wait").unlink()
    assert process.wait(60) == 143
    assert said(machine)[-1] == "101"
    assert not machine.policy.exists()


@pytest.mark.parametrize("next_package", ["mariadb-server", "socat"])
def test_after_a_kill_the_next_run_waits_for_apt_get_and_takes_the_policy_away(
    machine: Machine, next_package: str
) -> None:
    machine.policy.write_text("#!/bin/sh\nexit 104\n")
    machine.run("rsyslog")
    (machine.state / "wait").touch()
    process = machine.stubs.start(PROGRAM, "--no-start", "mariadb-server", **machine.variables)
    wait_until(lambda: machine.actions()[-1] == "mariadb-server")
    process.kill()
    process.wait(60)
    following = machine.stubs.start(PROGRAM, next_package, **machine.variables)
    wait_until(lambda: len(machine.stubs.calls("flock")) == 3)
    assert following.poll() is None
    assert machine.actions().count(next_package) == (1 if next_package == "mariadb-server" else 0)
    (machine.state / "wait").unlink()
    assert following.wait(60) == 0
    assert machine.policy.read_text() == "#!/bin/sh\nexit 104\n"
    assert machine.actions().count("mariadb-server") == 1
    assert "mariadb-server" in machine.installed()


def test_what_a_kill_left_is_taken_away_though_all_is_installed(machine: Machine) -> None:
    machine.policy.write_text("#!/bin/sh\n# Written by install-packages; gone when it ends.\nexit 101\n")
    (machine.state / "installed").write_text("mariadb-server\n")
    assert machine.run("--no-start", "mariadb-server") == (0, "", "")
    assert not machine.policy.exists()
    assert machine.actions() == []


@pytest.mark.parametrize("arguments", [[], ["--no-start"], ["--force", "socat"]])
def test_wrong_words_are_refused(machine: Machine, arguments: list[str]) -> None:
    assert machine.run(*arguments) == (64, "", "usage: install-packages [--no-start] PACKAGE...\n")
    assert machine.actions() == []


# -- on the machines ----------------------------------------------------------------------------------------------


def test_every_machine_gets_the_programs_that_other_commands_call(run_program: Run, tmp_path: Path) -> None:
    tools = run_program().named("node1-tools")
    script = shlex.split(tools.inputs["create"])[-1]
    assert LIBRARY in script
    programs, root = tmp_path / "programs", tmp_path / "root"
    programs.mkdir()
    sshd, stubs = tmp_path / "sshd_config.d", Stubs(tmp_path / "bin")
    sshd.mkdir()
    reloads = tmp_path / "reloads"
    stubs.add("systemctl", f'echo "$*" >>{reloads}')
    script = script.replace(LIBRARY, str(programs)).replace("/etc/ssh/sshd_config.d", str(sshd))
    assert "/etc/" not in script
    env = stubs.environment(MYCAT_HA_ROOT=str(root))
    for _ in range(2):  # also over those of an earlier run
        subprocess.run(["bash", "-euo", "pipefail", "-c", script], input=tools.stdin, text=True, check=True, env=env)
    assert sorted(path.name for path in programs.iterdir()) == [
        *("in-service", "install-file", "install-packages", "leave-service", "own-addresses"),
    ]
    for path in programs.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert path.read_bytes() == (FILES / "machine" / path.name).read_bytes()
    # Many commands log in at once.
    assert (sshd / "10-mycat-ha.conf").read_text() == "MaxStartups 200:30:400\n"
    assert reloads.read_text() == "try-reload-or-restart ssh\n"


def test_every_template_installs_with_it(machine: Machine, tmp_path: Path) -> None:
    """Each script's call, as it stands there, with this program in its place."""
    source = SourceArchive.model_validate({"version": "1", "sha256": "0" * 64, "url": "http://192.0.2.1/x.tar.gz"})
    build = {"software": "x", "source": source, "archive": "", "digest": "", "build": "", "packages": ["gcc", "make"]}
    scripts = {
        render("haproxy/system.sh.j2"): ["rsyslog", "logrotate"],
        render("health/install.sh.j2"): ["python3-pymysql"],
        render("mariadb/install.sh.j2"): ["mariadb-server", "mariadb-backup", "galera-4", "rsync", "socat"],
        render("source_build/build.sh.j2", **build): ["gcc", "make"],
    }
    for script, packages in scripts.items():
        assert "apt-get" not in script
        (call,) = re.findall(rf"^ *{LIBRARY}/install-packages ([^>\n]*)", script, re.MULTILINE)
        assert machine.run(*call.split())[0] == 0
        assert machine.installed()[-len(packages) :] == packages
    assert said(machine) == ["1", "1", "101", "1"]


def test_without_packages_a_build_installs_nothing() -> None:
    source = SourceArchive.model_validate({"version": "1", "sha256": "0" * 64, "url": "http://192.0.2.1/x.tar.gz"})
    build = {"software": "x", "source": source, "archive": "", "digest": "", "build": "", "packages": ()}
    assert "install-packages" not in render("source_build/build.sh.j2", **build)
