"""files/keepalived: the check that restarts HAProxy, and what is done when VRRP's state changes."""

import fcntl
import os
import re
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.template import TEMPLATES
from constants import HAPROXY_HEALTH_PORT
from localregion.wait import wait_until
from tests.programs import FILES, Stubs

CHECK, NOTIFY = "keepalived/check-haproxy", "keepalived/vrrp-notify"
KILL = "kill --kill-whom=all --signal=SIGKILL haproxy.service"
RESTART = "restart haproxy.service"


KILL_SESSIONS = ["--kill", "--tcp", "--numeric", "--no-header", "src"]
#: A session by each of two addresses, an end of those of one, and a new session by each.
SESSIONS = """
import socket, subprocess, sys
addresses = ["127.0.0.9", "127.0.0.8"]
listeners = {a: socket.create_server((a, 5000)) for a in addresses}
clients = {a: socket.create_connection((a, 5000)) for a in addresses}
servers = {a: listeners[a].accept()[0] for a in addresses}
subprocess.run(sys.argv[1].split(), check=True, stdout=subprocess.DEVNULL)
for a in addresses:
    servers[a].settimeout(0.5)
    try:
        servers[a].recv(1)
    except TimeoutError:
        print(f"{a}:alive")
    except OSError:
        print(f"{a}:ended")
for a in addresses:
    with socket.create_connection((a, 5000)):
        listeners[a].accept()
        print(f"{a}:listens")
"""
START = "start haproxy.service"
RUNNING = "Pid: 77\\nStopping: 0\\n"


def since_boot() -> int:
    """Hundredths of a second."""
    return int(Path("/proc/uptime").read_text().split()[0].replace(".", ""))


class Balancer(Stubs):
    """The commands that the scripts call, and the files that they look at, in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "bin")
        self.run_folder = folder / "run"
        self.pid = folder / "haproxy.pid"
        self.pid.write_text("77\n")
        for command in ("curl", "logger", "sleep", "ss", "systemctl", "systemd-notify"):
            self.add(command)

    def haproxy(self, *, socket: str = "exit 28", port: str = "exit 28") -> None:
        """How HAProxy answers on each: scripts that have the number of starts so far in $starts, of looks in $looks."""
        calls = f"{self.folder}.calls"
        self.add(
            "curl",
            f"starts=$(grep -cE '^systemctl (re)?start' {calls}); looks=$(grep -c ^curl.*admin.sock {calls})\n"
            f'if [[ "$*" == *admin.sock* ]]; then {socket}; else {port}; fi',
        )

    def check(self) -> int:
        environment = {"MYCAT_HA_RUN": str(self.run_folder), "MYCAT_HA_HAPROXY_PID": str(self.pid)}
        done = self.run(CHECK, **environment)
        assert (done.stdout, done.stderr) == ("", "")
        return done.returncode

    def notify(self, what: str) -> int:
        (self.folder.parent / "vip.env").write_text("VIP=192.0.2.9\n")
        environment = {
            "MYCAT_HA_RUN": str(self.run_folder),
            "MYCAT_HA_LIBRARY": str(FILES / "vip"),
            "MYCAT_HA_VIP_ENV": str(self.folder.parent / "vip.env"),
        }
        done = self.run(NOTIFY, what, **environment)
        assert (done.stdout, done.stderr) == ("", "")
        return done.returncode

    def state(self) -> str:
        """What VRRP says of this machine, as vrrp-state has it."""
        return self.run("vip/vrrp-state", MYCAT_HA_RUN=str(self.run_folder)).stdout.strip()

    def notes(self) -> list[str]:
        return [call.partition(" --id=")[2].partition(" ")[2] for call in self.calls("logger")]


@pytest.fixture
def stubs(tmp_path: Path) -> Balancer:
    return Balancer(tmp_path)


def says(script: str) -> str:
    """Answers as a worker that serves, if ``script`` succeeds; otherwise not at all."""
    return f'if {script}; then printf "{RUNNING}"; else exit 28; fi'


def test_a_haproxy_that_answers_is_left_alone(stubs: Balancer) -> None:
    stubs.haproxy(socket=says("true"))
    assert stubs.check() == 0
    assert stubs.calls("curl") == [
        "-sS --max-time 0.8 --unix-socket /run/haproxy/admin.sock gopher://haproxy/_show%20info"
    ]
    assert stubs.calls("systemctl") == stubs.calls("logger") == []


@pytest.mark.parametrize(
    ("socket", "port"),
    [
        pytest.param(says("true"), "exit 28", id="at the limit of connections"),
        pytest.param("exit 7", "exit 0", id="administrators' socket used up"),
        pytest.param('printf "Pid: 76\\nStopping: 1\\n"', "exit 0", id="the old worker of a reload"),
        pytest.param(says("((looks == 2))"), "exit 28", id="the second time"),
        pytest.param("exit 28", "((looks == 2))", id="the second time, the other way"),
    ],
)
def test_one_of_two_ways_of_asking_is_enough_and_nothing_is_killed(stubs: Balancer, socket: str, port: str) -> None:
    stubs.haproxy(socket=socket, port=port)
    assert stubs.check() == 0
    assert stubs.calls("systemctl") == stubs.calls("logger") == []


@pytest.mark.parametrize("limit_reached", [False, True])
@pytest.mark.parametrize(
    ("socket", "status"),
    [
        pytest.param(says("((starts))"), 0, id="after a restart"),
        pytest.param(says("((looks == 7))"), 0, id="some time after a restart"),
        pytest.param("exit 28", 1, id="never"),
    ],
)
def test_a_haproxy_that_hangs_is_restarted_once(stubs: Balancer, socket: str, status: int, limit_reached: bool) -> None:
    stubs.haproxy(socket=socket, port="exit 28" if limit_reached else "exit 22")
    assert stubs.check() == status
    assert stubs.calls("systemctl") == [KILL, RESTART]
    said = ["HAProxy does not answer: restarting it", "HAProxy does not answer after that either"]
    assert stubs.notes() == said[: 1 + status]
    assert all(call.startswith("--tag check-haproxy ") for call in stubs.calls("logger"))
    before = stubs.calls()[: stubs.calls().index(f"systemctl {KILL}")]
    port = f" http://127.0.0.1:{HAPROXY_HEALTH_PORT}/health"
    assert sum("admin.sock" in call for call in before) == sum(call.endswith(port) for call in before) == 2


def test_a_haproxy_that_is_not_there_is_started_at_once_and_nothing_is_killed(stubs: Balancer) -> None:
    stubs.haproxy(socket='((starts)) && printf "Stopping: 0" || exit 7', port="exit 7")
    assert stubs.check() == 0
    assert stubs.calls("systemctl") == [START]
    assert stubs.notes() == ["HAProxy does not run: starting it"]
    assert len(stubs.calls("curl")) == 3


def test_a_haproxy_that_cannot_be_started_is_not_fit(stubs: Balancer) -> None:
    stubs.haproxy(socket="exit 7", port="exit 7")
    stubs.add("systemctl", "exit 1")
    assert stubs.check() == 1
    assert stubs.calls("systemctl") == [START]
    assert stubs.notes()[-1] == "HAProxy does not answer after that either"


@pytest.mark.parametrize("refused", [KILL, RESTART])
def test_a_systemd_that_refuses_does_not_decide(stubs: Balancer, refused: str) -> None:
    """There may be nothing to kill, or systemd restarts HAProxy itself at the moment: what counts is the answer."""
    stubs.add("systemctl", f'[ "$*" != "{refused}" ]')
    stubs.haproxy(socket=says("((looks > 2))"))
    assert stubs.check() == 0


@pytest.mark.parametrize("hangs", ["systemctl", "logger"])
def test_a_command_that_hangs_does_not_hold_up_the_check(stubs: Balancer, hangs: str) -> None:
    stubs.add(hangs, "exec /bin/sleep 60")
    stubs.haproxy()
    begun = time.monotonic()
    assert stubs.check() == 1
    assert time.monotonic() - begun < 30  # 1 and 3 s are its own limits; 60 would be the command's


def test_keepalived_waits_as_long_as_the_check_can_take(stubs: Balancer) -> None:
    """The check's own limits, as it states them, and keepalived's for it."""
    stubs.add("timeout", "exit 124")
    stubs.haproxy()
    assert stubs.check() == 1
    limits = [float(call.split("--max-time ")[1].split()[0]) for call in stubs.calls("curl")]
    limits += [float(call) for call in stubs.calls("sleep")]
    limits += [float(call.split()[0]) for call in stubs.calls("timeout")]
    conf = (TEMPLATES / "keepalived/keepalived.conf.j2").read_text()
    script = conf[conf.index('check-haproxy"') :]
    (timeout,) = re.findall(r"^ *timeout (\S+)$", script[: script.index("\n}")], re.MULTILINE)
    assert len(limits) == 4 + 10 + 5 + 4
    assert sum(limits) < float(timeout)


def test_a_restart_loop_is_not_fit_although_it_answers_until_it_has_settled(stubs: Balancer) -> None:
    stubs.haproxy(socket=says("true"))
    statuses = []
    for pid in range(100, 107):
        stubs.pid.write_text(f"{pid}\n")
        statuses.append(stubs.check())
    assert statuses == [0, 0, 0, 0, 0, 1, 1]
    assert stubs.notes()[0] == "HAProxy has started 6 times in 60 s: not fit until it has settled"
    said = len(stubs.notes())
    assert stubs.check() == 1
    assert len(stubs.notes()) == said, "it is said when HAProxy starts, not at every look"
    kept = stubs.run_folder / "haproxy-starts"
    last, *times = kept.read_text().split()
    kept.write_text(" ".join([last, *(str(int(time) - 61) for time in times)]))
    assert stubs.check() == 0


def test_a_haproxy_that_goes_on_running_starts_once(stubs: Balancer) -> None:
    stubs.haproxy(socket=says("true"))
    assert [stubs.check() for _ in range(8)] == [0] * 8
    assert len((stubs.run_folder / "haproxy-starts").read_text().split()) == 2


@pytest.mark.parametrize(
    ("state", "claims"),
    [
        # The latest state wins over a claim that still runs.
        ("master", ["--no-block restart claim-vip.service"]),
        ("backup", []),
        ("fault", []),
        ("stop", []),
    ],
)
def test_only_a_master_does_more_than_to_note_its_state(stubs: Balancer, state: str, claims: list[str]) -> None:
    assert stubs.notify(state) == 0
    assert stubs.calls("systemctl") == claims
    assert stubs.calls("logger")[0].startswith("--tag vrrp-notify ")
    assert stubs.notes() == [f"VRRP state: {state}"]
    assert stubs.state() == state


@pytest.mark.parametrize("state", ["backup", "fault", "stop"])
def test_a_machine_that_is_no_longer_master_ends_the_vips_sessions(stubs: Balancer, state: str) -> None:
    stubs.notify("master")
    assert stubs.calls("ss") == []
    stubs.notify(state)
    assert stubs.calls("ss") == [" ".join([*KILL_SESSIONS, "192.0.2.9"])]


def test_the_kernel_ends_sessions_of_the_address_and_no_others_and_goes_on_listening(tmp_path: Path) -> None:
    """What the script above asks of `ss`, in a network of its own."""
    command = " ".join(["ss", *KILL_SESSIONS, "127.0.0.9"])
    own = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    program = tmp_path / "sessions.py"
    program.write_text(SESSIONS)
    done = subprocess.run(
        [*own, "bash", "-c", f"ip link set lo up && python3 {program} '{command}'"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == ["127.0.0.9:ended", "127.0.0.8:alive", "127.0.0.9:listens", "127.0.0.8:listens"], done


def test_the_state_is_written_before_the_claim_begins(stubs: Balancer) -> None:
    stubs.add("systemctl", f"grep -q ^master {stubs.run_folder}/vrrp || echo too early >&2")
    assert stubs.notify("master") == 0


def test_a_state_is_noted_though_systemd_refuses(stubs: Balancer) -> None:
    stubs.add("systemctl", "exit 1")
    assert stubs.notify("master") == 0
    assert stubs.notes() == ["VRRP state: master"]


def test_what_the_states_are_in_is_for_root_only(stubs: Balancer) -> None:
    stubs.notify("backup")
    assert stat.S_IMODE(stubs.run_folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in stubs.run_folder.iterdir()} == {0o600}


def test_the_last_one_started_is_right_whichever_ends_last(stubs: Balancer) -> None:
    """keepalived sends master, then backup, and the machine gets round to the first one later."""
    stubs.notify("backup")
    later = stubs.run_folder / "vrrp"
    state, pid, start, order = later.read_text().split()
    later.write_text(f"{state} {pid} {start} {int(order) + 10**12}\n")
    assert stubs.notify("master") == 0
    assert stubs.state() == "backup"
    assert stubs.calls("systemctl") == []
    assert stubs.notes()[-1] == "VRRP state: master, which is no longer so: backup"


def test_two_at_the_same_moment_write_one_after_the_other(stubs: Balancer) -> None:
    """The one that waits looks at what the other one has written, not at what was there before."""
    stubs.notify("backup")
    report, lock = stubs.run_folder / "vrrp", stubs.run_folder / "vrrp.lock"
    state, pid, start, order = report.read_text().split()
    with ThreadPoolExecutor() as pool, lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = re.compile(rf"-> FLOCK .*:{lock.stat().st_ino} ")  # proc_locks(5)
        earlier = pool.submit(stubs.notify, "master")
        wait_until(lambda: waiting.search(Path("/proc/locks").read_text()) or earlier.done(), "the lock", 30, 0.01)
        report.write_text(f"{state} {pid} {start} {int(order) + 10**12}\n")
        fcntl.flock(held, fcntl.LOCK_UN)
        assert earlier.result() == 0
    assert stubs.state() == "backup"
    assert stubs.calls("systemctl") == []


@pytest.mark.parametrize(
    ("field", "value"), [(1, "1"), (2, "1")], ids=["another process", "another process of the same number"]
)
def test_what_an_earlier_keepalived_said_counts_for_nothing(stubs: Balancer, field: int, value: str) -> None:
    stubs.notify("master")
    report = stubs.run_folder / "vrrp"
    words = report.read_text().split()
    words[field] = value
    words[3] = str(10**18)
    report.write_text(" ".join(words) + "\n")
    assert stubs.state() == ""
    stubs.notify("backup")
    assert stubs.state() == "backup"


def test_a_sign_of_life_is_written_down_and_given_to_the_units_watchdog(stubs: Balancer) -> None:
    before = since_boot()
    assert stubs.notify("pulse") == 0
    assert before <= int((stubs.run_folder / "pulse").read_text()) <= since_boot()
    assert stubs.calls("systemd-notify") == ["WATCHDOG=1"]
    assert stubs.calls("logger") == stubs.calls("systemctl") == []


def test_a_sign_of_life_never_fails(stubs: Balancer) -> None:
    """keepalived would take a failure for a fault of this machine."""
    stubs.add("systemd-notify", "exit 1")
    assert stubs.notify("pulse") == 0


def test_a_change_of_state_is_a_sign_of_life(stubs: Balancer) -> None:
    stubs.notify("master")
    assert (stubs.run_folder / "pulse").exists()


def test_adverts_of_another_master_start_one_claim_in_ten_seconds(stubs: Balancer) -> None:
    stubs.notify("master")
    for _ in range(5):
        assert stubs.notify("master-again") == 0
    start = "--no-block start claim-vip.service"
    assert stubs.calls("systemctl")[1:] == [start]
    assert stubs.notes() == ["VRRP state: master", "VRRP state: master-again"]
    contested = stubs.run_folder / "contested"
    contested.write_text(str(int(contested.read_text()) - 1001))
    stubs.notify("master-again")
    assert stubs.calls("systemctl")[1:] == [start, start]
    assert stubs.state() == "master"


def test_keepalived_asks_for_a_sign_of_life_more_often_than_anybody_waits_for_one() -> None:
    conf = (TEMPLATES / "keepalived/keepalived.conf.j2").read_text()
    script = conf[conf.index('vrrp-notify pulse"') :]
    (interval,) = re.findall(r"^ *interval (\S+)$", script[: script.index("\n}")], re.MULTILINE)
    (silence,) = re.findall(r"^SILENCE=(\d+)$", (FILES / "vip/vrrp-state").read_text(), re.MULTILINE)
    (watchdog,) = re.findall(
        r"^WatchdogSec=(\d+)$", (FILES / "keepalived/keepalived.service").read_text(), re.MULTILINE
    )
    assert 3 * float(interval) <= int(silence) / 100 < float(watchdog)
