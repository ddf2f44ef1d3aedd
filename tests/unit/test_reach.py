"""What the deployer is told of what it cannot reach, and when."""

import asyncio
import runpy
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pulumi
import pytest

from components import reach
from tests import example
from tests.unit.conftest import Recorder, Run


class Log:
    """In the place of Pulumi's log, which goes to the engine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[str, str]] = []
        monkeypatch.setattr(pulumi.log, "info", lambda text: self.lines.append(("info", text)))
        monkeypatch.setattr(pulumi.log, "warn", lambda text: self.lines.append(("warning", text)))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch)


@contextmanager
def silent() -> Iterator[int]:
    """A port of loopback that answers nobody: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as queue:
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


def refused() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def watch(target: reach.Target) -> None:
    asyncio.run(reach._wait(target, str(target.host)))


def test_nothing_is_said_of_what_answers(log: Log) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        watch(reach.Target("node1", "127.0.0.1", "it is the VPN", listener.getsockname()[1]))
    assert log.lines == []


def test_what_does_not_answer_is_named_at_once_and_its_likely_cause_after_a_boot(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "DIAL_SECONDS", 0.2)
    monkeypatch.setattr(reach, "BOOT_SECONDS", 0.4)
    with silent() as port:
        watch(reach.Target("node1", "127.0.0.1", "it is the VPN", port))
    (first, said), (second, cause) = log.lines
    assert (first, second) == ("info", "warning")
    assert f"node1 does not answer at 127.0.0.1, port {port}, within" in said
    assert f"node1 does not answer at 127.0.0.1, port {port}, within" in cause
    assert cause.endswith("likely, it is the VPN")


def test_what_refuses_says_so(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "BOOT_SECONDS", 0.0)
    port = refused()
    watch(reach.Target("node1", "127.0.0.1", "it is the VPN", port))
    assert f"node1 refuses at 127.0.0.1, port {port}: it is still booting" in log.lines[0][1]


def test_a_name_that_does_not_exist_is_named(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "BOOT_SECONDS", 0.0)
    watch(reach.Target("the bastion", "gate.invalid", "it is the name"))
    assert "the bastion cannot be reached at gate.invalid, port 22" in log.lines[0][1]


def test_a_machine_that_boots_is_waited_for(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    port = refused()

    async def boots() -> None:
        target = reach.Target("node1", "127.0.0.1", "it is the VPN", port)
        waiting = asyncio.create_task(reach._wait(target, "127.0.0.1"))
        while not log.lines:
            await asyncio.sleep(0.01)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
        await waiting
        server.close()

    asyncio.run(boots())
    assert [kind for kind, _ in log.lines] == ["info"]


def existing_bastion(raw: dict[str, Any]) -> None:
    raw["access"]["bastion"] = {"host": "gate.example.com", "port": 2222, "address": "10.0.0.9"}


def directly(raw: dict[str, Any]) -> None:
    raw["access"].pop("bastion", None)


@pytest.mark.parametrize(
    ("change", "expected", "key"),
    [
        (example.created_bastion, [("the bastion", "203.0.113.9", 22)], "access.bastion.cidrs"),
        (existing_bastion, [("the bastion", "gate.example.com", 2222)], "access.bastion"),
        (directly, [(f"node{i}", f"192.168.106.25{i}", 22) for i in (1, 2, 3)], "access.deployer"),
    ],
)
def test_what_the_deployer_connects_to_itself_is_watched(
    change: Any, expected: list[tuple[str, str, int]], key: str, monkeypatch: pytest.MonkeyPatch, run_program: Run
) -> None:
    seen: list[reach.Target] = []
    hosts: list[str] = []

    async def note(target: reach.Target, host: str) -> None:
        seen.append(target)
        hosts.append(host)

    run = runpy.run_path
    monkeypatch.setattr(reach, "_wait", note)
    monkeypatch.setattr(runpy, "run_path", lambda path, **_: run(path, run_name="__main__"))  # as Pulumi does
    run_program(example.settings(change), Recorder())
    assert sorted((t.name, host, t.port) for t, host in zip(seen, hosts, strict=True)) == expected
    assert all(key in target.likely for target in seen)


def test_a_machine_that_is_off_is_named_with_the_way_to_start_it(log: Log, run_program: Run) -> None:
    raw = example.settings()
    name, address = raw["machines"][1]["name"], raw["machines"][1]["address"]
    run_program(raw, Recorder(machines={name: address}, types={name: "t3.small"}, off=[name]))
    assert [kind for kind, _ in log.lines] == ["warning"]
    assert f"{name} (i-{name}) is switched off" in log.lines[0][1]
    assert f"aws ec2 start-instances --instance-ids i-{name}" in log.lines[0][1]
