"""files/vip/switch-vip against the fakes of test_claim_vip: each step of a planned move, and how it is refused."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakeaws import DROP, error
from tests.unit.test_claim_vip import ASSIGN, MINE, OTHER, SERVED_LOCALLY, VIP, Node, since_boot

SERVING, SERVING_NO_LONGER = f"route replace {SERVED_LOCALLY}", f"route delete {SERVED_LOCALLY}"


def haproxy(node: Node, **backends: str) -> None:
    """Its statistics; without backends it does not answer."""
    rows = "".join(f"{name},BACKEND{',' * 16}{status},\n" for name, status in backends.items())
    (node.run_folder / "statistics").write_text(f"# pxname,svname\n{rows}" if rows else "")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A backup that is fit; the address is at the other balancer, and port 3306 of it answers here."""
    with ExitStack() as stack:
        node = Node(tmp_path, stack)
        statistics = node.run_folder / "statistics"
        node.stubs.add("systemctl")
        node.stubs.add("ip", f'[[ $* != *show* || ! -e {node.run_folder}/left ]] || echo "{SERVED_LOCALLY}"')
        node.stubs.add("curl", f'[[ $* == *gopher:* ]] && exec cat {statistics}; exec /usr/bin/curl "$@"')
        node.stubs.add("ss", f'[[ $* != *--listening* ]] || echo "LISTEN 0 4096 {VIP}:3306 0.0.0.0:*"')
        # Nobody has the address here, so it cannot be connected to.
        node.stubs.add("timeout", f'[[ $* != *"/dev/tcp/{VIP}/3306"* ]] || exit 0; exec /usr/bin/timeout "$@"')
        haproxy(node, mysqlservers="UP", mycat_servers="UP")
        node.report("backup")
        yield node


def switch(node: Node, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    node._write_settings()
    done = node.stubs.run("vip/switch-vip", *words, **{**node.variables, **more})
    assert "unbound variable" not in done.stderr
    assert "syntax error" not in done.stderr
    return done


def lend(node: Node) -> None:
    """The node is the holder, and has let the address go."""
    node.report("master")
    node.ec2.holder = MINE
    done = switch(node, "lend")
    assert (done.returncode, done.stderr) == (0, "")


# -- the target ---------------------------------------------------------------------------------------------------


def test_a_target_that_is_fit_says_so_and_changes_nothing(node: Node) -> None:
    done = switch(node, "fit")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"may claim {VIP}" in done.stdout
    assert node.ec2.holder == OTHER
    assert node.stubs.calls("ip") == []


@pytest.mark.parametrize("command", ["fit", "take"])
@pytest.mark.parametrize(
    ("state", "silent", "reason"),
    [
        ("master", False, "the holder already"),
        ("fault", False, "in FAULT"),
        ("backup", True, "its keepalived does not answer"),
        ("stop", False, "its keepalived does not run"),
    ],
)
def test_what_vrrp_makes_unfit_is_refused_and_calls_nothing(
    node: Node, command: str, state: str, silent: bool, reason: str
) -> None:
    node.report(state)
    if silent:
        node.answer(-10)
    done = switch(node, command)
    assert done.returncode == 1
    assert reason in done.stderr
    assert node.ec2.actions() == []
    assert node.stubs.calls("ip") == []


@pytest.mark.parametrize("command", ["fit", "take"])
@pytest.mark.parametrize(
    ("backends", "reason"),
    [
        ({}, "its HAProxy does not answer"),
        ({"mysqlservers": "UP", "mycat_servers": "DOWN"}, "no server that works for mycat_servers"),
    ],
)
def test_a_target_whose_haproxy_would_not_serve_is_refused(
    node: Node, command: str, backends: dict[str, str], reason: str
) -> None:
    haproxy(node, **backends)
    done = switch(node, command)
    assert done.returncode == 1
    assert reason in done.stderr
    assert node.ec2.actions() == []
    assert node.stubs.calls("ip") == []


def test_a_target_that_may_not_claim_is_refused(node: Node) -> None:
    node.ec2.allowed.clear()
    done = switch(node, "fit", FIT_SECONDS="0")
    assert done.returncode == 1
    assert "UnauthorizedOperation" in done.stderr


def test_the_target_serves_before_it_calls(node: Node) -> None:
    done = switch(node, "take")
    assert (done.returncode, done.stderr) == (0, "")
    assert node.ec2.holder == MINE
    assert node.ec2.actions() == [ASSIGN]
    assert node.stubs.calls("ip") == [SERVING]
    said = [line.partition(" (")[0] for line in done.stdout.splitlines()]
    assert said == [
        f"serves {VIP}, by every frontend",
        f"EC2 has assigned {VIP} to {MINE}",
        f"in effect: packets for {VIP} come here",
    ]


@pytest.mark.parametrize("listening", [True, False])
def test_without_a_frontend_that_answers_the_target_puts_away_what_it_has_prepared(node: Node, listening: bool) -> None:
    if listening:
        node.stubs.add("timeout", "exit 124")
    else:
        node.stubs.add("ss")
    done = switch(node, "take")
    assert done.returncode == 1
    assert "its HAProxy does not" in done.stderr
    assert node.ec2.actions() == []
    assert node.stubs.calls("ip") == [SERVING, SERVING_NO_LONGER]


def test_a_refusal_of_the_api_is_told(node: Node) -> None:
    node.ec2.planned[ASSIGN] = [error("RequestLimitExceeded", 503, "Request limit exceeded.")]
    done = switch(node, "take")
    assert (done.returncode, done.stderr) == (1, "RequestLimitExceeded: Request limit exceeded.\n")
    assert node.ec2.holder == OTHER


def test_while_it_is_not_known_whether_ec2_has_done_it_the_target_serves(node: Node) -> None:
    node.ec2.planned[ASSIGN] = [DROP]
    assert "no answer from" in switch(node, "take").stderr
    assert node.stubs.calls("ip") == [SERVING]


def test_a_call_without_effect_is_given_up(node: Node) -> None:
    node.behind = 1000
    done = switch(node, "take", EFFECT_SECONDS="1")
    assert done.returncode == 1
    assert "has had no effect for 1 s" in done.stderr


def test_a_target_that_has_become_unfit_meanwhile_is_not_yielded_to(node: Node) -> None:
    node.metadata.on["mac"] = lambda: haproxy(node)
    done = switch(node, "take")
    assert (done.returncode, done.stderr) == (1, "its HAProxy does not answer\n")


def test_the_target_has_arrived_when_it_is_master_and_has_claimed(node: Node) -> None:
    node.report("master")
    assert switch(node, "reclaim").returncode == 0  # claims, as at every beginning of a mastership
    assert switch(node, "arrived").returncode == 0
    assert node.stubs.calls("ip") == [SERVING_NO_LONGER]


@pytest.mark.parametrize(("holder", "puts_away"), [(MINE, False), (OTHER, True)])
@pytest.mark.parametrize("how", ["away", "reconcile"])
def test_what_an_unfinished_move_has_left_goes_once_no_packets_come(
    node: Node, how: str, holder: str, puts_away: bool
) -> None:
    (node.run_folder / "left").touch()
    node.ec2.holder = holder
    done = switch(node, how) if how == "away" else node.run(how)
    assert done.returncode == 0
    assert (SERVING_NO_LONGER in node.stubs.calls("ip")) is puts_away


def test_what_is_in_doubt_stays(node: Node) -> None:
    """A metadata service that does not answer does not say that no packets come."""
    (node.run_folder / "left").touch()
    node.metadata.stop()
    assert switch(node, "away").returncode == 0
    assert SERVING_NO_LONGER not in node.stubs.calls("ip")


# -- the holder ---------------------------------------------------------------------------------------------------


def test_a_lease_keeps_the_holder_from_taking_the_address_back_until_it_ends(node: Node) -> None:
    lend(node)
    node.ec2.holder = OTHER
    for command in ("reconcile", "claim"):
        assert node.run(command).returncode == 0
        assert ASSIGN not in node.ec2.actions()
    lent = node.run_folder / "lent"
    lent.write_text(f"{since_boot() - 1} {lent.read_text().split(' ', 1)[1]}")
    node.run("reconcile")
    assert node.ec2.holder == MINE


def test_a_new_mastership_ends_the_lease(node: Node) -> None:
    lend(node)
    node.ec2.holder = OTHER
    vrrp = node.run_folder / "vrrp"
    vrrp.write_text(vrrp.read_text().replace(" 1\n", " 2\n"))
    node.run("claim")
    assert node.ec2.holder == MINE


def test_the_holder_yields_and_returns_as_a_backup(node: Node) -> None:
    lend(node)
    node.ec2.holder = OTHER
    done = switch(node, "yield")
    assert (done.returncode, done.stderr) == (0, "")
    assert node.stubs.calls("systemctl") == ["--job-mode=ignore-dependencies restart keepalived.service"]
    assert node.stubs.calls("ip") == [SERVING, SERVING_NO_LONGER]


def test_who_has_no_lease_does_not_yield(node: Node) -> None:
    node.report("master")
    assert "its lease has ended" in switch(node, "yield").stderr
    lend(node)
    node.lose()
    assert "not master any more" in switch(node, "yield").stderr
    assert node.stubs.calls("systemctl") == []


def test_who_is_not_master_lends_nothing(node: Node) -> None:
    assert "not master any more" in switch(node, "lend").stderr
    assert not (node.run_folder / "lent").exists()


@pytest.mark.parametrize(("holder", "writes"), [(MINE, 0), (OTHER, 1)])
def test_the_holder_takes_back_what_it_does_not_have(node: Node, holder: str, writes: int) -> None:
    """Also from a balancer of higher priority, and also if that has just been done."""
    node.settings["BETTER"] = OTHER
    for _ in range(2):
        node.ec2.calls.clear()
        lend(node)
        node.ec2.holder = holder
        assert switch(node, "reclaim").returncode == 0
        assert node.ec2.holder == MINE
        assert node.ec2.actions().count(ASSIGN) == writes
    assert not (node.run_folder / "lent").exists()


def test_who_has_lost_the_mastership_takes_nothing_back(node: Node) -> None:
    lend(node)
    node.ec2.holder = OTHER
    node.lose()
    assert switch(node, "reclaim").returncode == 1
    assert node.ec2.holder == OTHER


@pytest.mark.parametrize("seconds", [("1",), ()], ids=["as asked for", "as the settings say"])
@pytest.mark.parametrize(
    ("then", "said"), [("", "0 of 2 sessions"), ("0 0 192.0.2.1:3306 192.0.2.9:3", "1 of 2 sessions")]
)
def test_only_sessions_of_the_moment_are_waited_for(node: Node, then: str, said: str, seconds: tuple[str, ...]) -> None:
    node.settings["DRAIN"] = "60" if seconds else "1"
    sessions = [f"0 0 192.0.2.1:3306 192.0.2.9:{port}" for port in (2, 3)]
    first = node.run_folder / "looked"
    new = "0 0 192.0.2.1:3306 192.0.2.9:4"
    node.stubs.add(
        "ss",
        f"if [[ -e {first} ]]; then echo '{new}'; echo '{then}'; else touch {first}; printf '%s\\n' "
        f"{' '.join(repr(session) for session in sessions)}; fi",
    )
    done = switch(node, "drain", *seconds)
    assert done.returncode == 0
    assert done.stdout.startswith(said)


@pytest.mark.parametrize("words", [(), ("back",)])
def test_anything_else_is_refused(node: Node, words: tuple[str, ...]) -> None:
    done = switch(node, *words)
    assert done.returncode == 64
    assert done.stderr.startswith("usage: switch-vip")
