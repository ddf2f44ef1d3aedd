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


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    made = Stubs(tmp_path / "bin")
    for command in ("curl", "logger", "sleep", "systemctl"):
        made.add(command)
    return made


def haproxy(stubs: Stubs, script: str) -> None:
    """How HAProxy answers: a script that has the number of restarts so far in $restarts, of questions in $asked."""
    calls = f"{stubs.folder}.calls"
    count = f"restarts=$(grep -c '^systemctl {RESTART}' {calls}); asked=$(grep -c ^curl {calls})\n"
    stubs.add("curl", count + script)


def notes(stubs: Stubs) -> list[str]:
    return [call.partition(" --id=")[2].partition(" ")[2] for call in stubs.calls("logger")]


def test_a_haproxy_that_answers_is_left_alone(stubs: Stubs) -> None:
    done = stubs.run(CHECK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stubs.calls("curl") == ["-fsS -o /dev/null --max-time 0.8 http://127.0.0.1:8889/health"]
    assert stubs.calls("systemctl") == stubs.calls("logger") == []


@pytest.mark.parametrize(
    ("answers", "status", "said"),
    [
        pytest.param("((restarts))", 0, ["HAProxy does not answer: restarting it"], id="after a restart"),
        pytest.param("((asked == 6))", 0, ["HAProxy does not answer: restarting it"], id="some time after a restart"),
        pytest.param(
            "exit 22",
            1,
            ["HAProxy does not answer: restarting it", "HAProxy does not answer after a restart either"],
            id="never",
        ),
    ],
)
def test_the_check_restarts_haproxy_once_and_then_fails(
    stubs: Stubs, answers: str, status: int, said: list[str]
) -> None:
    haproxy(stubs, answers)
    assert stubs.run(CHECK).returncode == status
    assert stubs.calls("systemctl") == [KILL, RESTART]
    assert notes(stubs) == said
    assert all(call.startswith("--tag check-haproxy ") for call in stubs.calls("logger"))


def test_one_that_hangs_is_killed_before_it_is_restarted(stubs: Stubs) -> None:
    """A stop that is only asked for would wait as long as the unit allows."""
    haproxy(stubs, "((restarts))")
    stubs.run(CHECK)
    assert stubs.calls("systemctl").index(KILL) < stubs.calls("systemctl").index(RESTART)


@pytest.mark.parametrize("refused", [KILL, RESTART])
def test_a_systemd_that_refuses_does_not_decide(stubs: Stubs, refused: str) -> None:
    """There may be nothing to kill, or systemd restarts HAProxy itself at the moment: what counts is the answer."""
    stubs.add("systemctl", f'[ "$*" != "{refused}" ]')
    haproxy(stubs, "((asked > 1))")
    assert stubs.run(CHECK).returncode == 0


def test_a_restart_that_hangs_ends_within_keepaliveds_limit(stubs: Stubs) -> None:
    stubs.add("systemctl", '[ "$1" != restart ] || exec /bin/sleep 60')
    haproxy(stubs, "exit 28")
    begun = time.monotonic()
    assert stubs.run(CHECK).returncode == 1
    assert time.monotonic() - begun < 30  # 3 s are its own limit; 60 would be the restart's


def test_keepalived_waits_as_long_as_the_check_can_take(stubs: Stubs) -> None:
    """The check's own limits, as it states them, and keepalived's for it."""
    stubs.add("timeout", "exit 124")
    haproxy(stubs, "exit 28")
    assert stubs.run(CHECK).returncode == 1
    limits = [float(call.split("--max-time ")[1].split()[0]) for call in stubs.calls("curl")]
    limits += [float(call) for call in stubs.calls("sleep")] + [float(stubs.calls("timeout")[0].split()[0])]
    conf = (TEMPLATES / "keepalived/keepalived.conf.j2").read_text()
    (timeout,) = re.findall(r"^ *timeout (\S+)$", conf, re.MULTILINE)
    assert len(limits) == 12
    assert sum(limits) < float(timeout)


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
def test_only_a_master_does_more_than_to_note_its_state(stubs: Stubs, state: str, claims: list[str]) -> None:
    assert stubs.run(NOTIFY, state).returncode == 0
    assert stubs.calls("systemctl") == claims
    assert stubs.calls("logger")[0].startswith("--tag vrrp-notify ")
    assert notes(stubs) == [f"VRRP state: {state}"]


def test_a_state_is_noted_though_systemd_refuses(stubs: Stubs) -> None:
    stubs.add("systemctl", "exit 1")
    assert stubs.run(NOTIFY, "master").returncode == 0
    assert notes(stubs) == ["VRRP state: master"]
