"""files/keepalived: the check that restarts HAProxy, and what is done when VRRP's state changes."""

import re
import time
from pathlib import Path

import pytest

from components.template import TEMPLATES
from tests.programs import Stubs

CHECK, NOTIFY = "keepalived/check-haproxy", "keepalived/vrrp-notify"
KILL = "kill --kill-whom=all --signal=SIGKILL haproxy.service"
RESTART = "restart haproxy.service"


START = "start haproxy.service"
RUNNING = "Pid: 77\\nStopping: 0\\n"


class Balancer(Stubs):
    """The commands that the scripts call, and the files that they look at, in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "bin")
        self.run_folder = folder / "run"
        self.pid = folder / "haproxy.pid"
        self.pid.write_text("77\n")
        for command in ("curl", "logger", "sleep", "systemctl"):
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
    assert sum("admin.sock" in call for call in before) == sum(":8889" in call for call in before) == 2


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
    (timeout,) = re.findall(r"^ *timeout (\S+)$", conf, re.MULTILINE)
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
    pid, *times = kept.read_text().split()
    kept.write_text(" ".join([pid, *(str(int(time) - 61) for time in times)]))
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
        ("master-again", ["--no-block start claim-vip.service"]),
        ("backup", []),
        ("fault", []),
        ("stop", []),
    ],
)
def test_only_a_master_does_more_than_to_note_its_state(stubs: Balancer, state: str, claims: list[str]) -> None:
    assert stubs.run(NOTIFY, state).returncode == 0
    assert stubs.calls("systemctl") == claims
    assert stubs.calls("logger")[0].startswith("--tag vrrp-notify ")
    assert stubs.notes() == [f"VRRP state: {state}"]


def test_a_state_is_noted_though_systemd_refuses(stubs: Balancer) -> None:
    stubs.add("systemctl", "exit 1")
    assert stubs.run(NOTIFY, "master").returncode == 0
    assert stubs.notes() == ["VRRP state: master"]
