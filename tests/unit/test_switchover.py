"""stackctl/switchover.py: in which order the balancers are told to do what, and what follows if one of them fails."""

import asyncio
import signal
from typing import cast

import pytest

from stackctl import ssh, switchover
from stackctl.project import StackError
from stackctl.pulumi import Pulumi
from stackctl.ssh import Host, SshError

BALANCERS = {name: Host(name, 22, "admin", "KEY", None) for name in ("one", "two", "three")}
LEND, TAKE, YIELD, ARRIVED = ("one", "lend"), ("two", "take"), ("one", "yield"), ("two", "arrived")
RECLAIM, AWAY = ("one", "reclaim"), ("two", "away")
MOVED = [("two", "fit"), LEND, TAKE, YIELD, ARRIVED]


class Balancers:
    """`one` is the holder."""

    def __init__(self) -> None:
        self.states = {"one": "master", "two": "backup", "three": "backup"}
        self.done: list[tuple[str, str]] = []  # but for what changes nothing anywhere: `state`
        self.wrong: dict[tuple[str, str], str | BaseException] = {}

    async def run(self, host: Host, command: str, *, timeout: float) -> str:
        program, _, what = command.partition(" ")
        assert program.endswith("/switch-vip")
        if what != "state":
            self.done.append((host.address, what))
        wrong = self.wrong.get((host.address, what))
        if isinstance(wrong, BaseException):
            raise wrong
        if wrong:
            raise SshError(f"{host}: exit status 1: {wrong}")
        return self.states[host.address] + "\n" if what == "state" else ""


@pytest.fixture
def balancers(monkeypatch: pytest.MonkeyPatch) -> Balancers:
    balancers = Balancers()
    monkeypatch.setattr(ssh, "run", balancers.run)
    monkeypatch.setattr(switchover, "hosts", lambda pulumi, role: BALANCERS)
    return balancers


def switch(machine: str | None = None, wait: int | None = 0) -> int:
    return switchover.switchover(cast("Pulumi", None), machine, wait)  # it is only handed on


def test_the_target_has_the_address_before_the_holder_yields(balancers: Balancers) -> None:
    assert switch() == 0
    assert balancers.done == MOVED


@pytest.mark.parametrize(("wait", "drain"), [(7, "drain 7"), (None, "drain")])
def test_sessions_have_time_to_end_before_anything_changes(balancers: Balancers, wait: int | None, drain: str) -> None:
    assert switch(wait=wait) == 0
    assert balancers.done == [MOVED[0], ("one", drain), *MOVED[1:]]


def test_to_the_named_one(balancers: Balancers) -> None:
    assert switch("three") == 0
    assert [step for step in balancers.done if step[0] == "three"] == [
        ("three", "fit"),
        ("three", "take"),
        ("three", "arrived"),
    ]


def test_to_the_first_that_is_fit(balancers: Balancers) -> None:
    balancers.wrong["two", "fit"] = "its HAProxy does not answer"
    assert switch() == 0
    assert ("three", "take") in balancers.done


def refused(balancers: Balancers, capsys: pytest.CaptureFixture[str], machine: str | None = None) -> str:
    assert switch(machine) == switchover.REFUSED
    assert {what for _, what in balancers.done} <= {"fit"}
    said = capsys.readouterr().err
    assert "refused, and nothing was changed" in said
    return " ".join(said.split())


def test_an_unknown_machine_is_refused(balancers: Balancers, capsys: pytest.CaptureFixture[str]) -> None:
    assert "four is not a balancer; those are one, two, three" in refused(balancers, capsys, "four")


def test_a_target_that_is_not_fit_is_refused_and_no_other_taken(
    balancers: Balancers, capsys: pytest.CaptureFixture[str]
) -> None:
    balancers.wrong["two", "fit"] = "it is the holder already"
    said = refused(balancers, capsys, "two")
    assert "two is not fit: two, port 22: exit status 1: it is the holder already" in said
    assert balancers.done == [("two", "fit")]


def test_if_none_is_fit_each_one_says_why(balancers: Balancers, capsys: pytest.CaptureFixture[str]) -> None:
    balancers.wrong["two", "fit"] = "its keepalived is in FAULT"
    balancers.wrong["three", "fit"] = SshError("three, port 22: no answer within 30 s")
    said = refused(balancers, capsys)
    assert "two is not fit: two, port 22: exit status 1: its keepalived is in FAULT" in said
    assert "three is not fit: three, port 22: no answer within 30 s" in said


@pytest.mark.parametrize("states", [{"one": "backup"}, {"two": "master"}, {"one": "silent"}])
def test_without_exactly_one_master_it_is_refused(
    balancers: Balancers, capsys: pytest.CaptureFixture[str], states: dict[str, str]
) -> None:
    balancers.states |= states
    said = refused(balancers, capsys)
    for name, state in balancers.states.items():
        assert f"{name}: {state}" in said


def test_a_balancer_that_cannot_be_asked_is_in_nobodys_way(balancers: Balancers) -> None:
    balancers.wrong["three", "state"] = SshError("three, port 22: no answer within 30 s")
    assert switch() == 0


def failed(balancers: Balancers) -> str:
    with pytest.raises(StackError) as raised:
        switch()
    return str(raised.value)


@pytest.mark.parametrize("at", [LEND, TAKE])
@pytest.mark.parametrize("wrong", ["RequestLimitExceeded: no", SshError("lost")])
def test_until_the_target_has_the_address_the_holder_takes_it_back(
    balancers: Balancers, at: tuple[str, str], wrong: str | SshError
) -> None:
    balancers.wrong[at] = wrong
    said = failed(balancers)
    assert str(wrong) in said
    assert said.endswith("; one has the VIP")
    assert balancers.done == [*MOVED[: MOVED.index(at) + 1], RECLAIM, AWAY]


def test_what_the_target_has_prepared_may_be_left_to_it(balancers: Balancers) -> None:
    balancers.wrong[TAKE] = balancers.wrong[AWAY] = SshError("lost")
    assert failed(balancers).endswith("; one has the VIP")


def test_what_the_holder_cannot_take_back_now_the_target_goes_on_serving(balancers: Balancers) -> None:
    balancers.wrong[TAKE] = balancers.wrong[RECLAIM] = SshError("lost")
    assert "one could not take the VIP back, and tries again within a minute: lost" in failed(balancers)
    assert AWAY not in balancers.done


@pytest.mark.parametrize("at", [YIELD, ARRIVED])
def test_once_the_target_has_the_address_nothing_is_taken_back(balancers: Balancers, at: tuple[str, str]) -> None:
    balancers.wrong[at] = SshError("lost")
    assert "lost; VRRP and the balancers' timers bring it in order" in failed(balancers)
    assert balancers.done == MOVED[: MOVED.index(at) + 1]


def test_an_interrupt_takes_it_back(balancers: Balancers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(host: Host, command: str, *, timeout: float) -> str:
        said = await balancers.run(host, command, timeout=timeout)
        if command.endswith(" take"):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(10)
        return said

    monkeypatch.setattr(ssh, "run", run)
    assert "interrupted; one has the VIP" in failed(balancers)
    assert balancers.done[-2:] == [RECLAIM, AWAY]
