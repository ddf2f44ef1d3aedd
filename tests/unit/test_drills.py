"""What a drill says of its observations."""

import gc
import io
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import pytest
from rich.console import Console

from drills import report, stack
from drills.analysis import Attempt, Ledger, Parts, ledger, outage, parts
from drills.drill import Client, Result
from drills.stack import Stack
from localregion.client import Region
from stackctl.project import StackError

OUTPUTS = {
    "vip": "192.168.106.249",
    "mysqlPort": 3306,
    "statisticsUrl": "http://192.168.106.249:8888/admin?stats",
    "statisticsUser": "admin",
    "machines": [{"name": "node1", "roles": ["lb", "mysql"]}, {"name": "node2", "roles": ["lb"]}],
    "databaseUser": "app",
    "databasePassword": "hush-hush",
    "databaseSchema": "app",
}


def attempts(*observed: tuple[float, float, str | None]) -> list[Attempt]:
    """Reads, by start, end and error; the fault strikes at 10."""
    return [Attempt("read", n, start, end, error) for n, (start, end, error) in enumerate(observed)]


def test_downtime_ends_with_the_first_success_begun_after_the_last_failure() -> None:
    found = outage(
        attempts(
            (9.9, 9.95, None), (9.99, 10.2, None), (10.1, 11.6, "timeout"), (11.0, 12.5, "timeout"), (11.8, 11.9, None)
        ),
        "read",
        10,
    )
    assert found.downtime == pytest.approx(1.9)
    assert found.gap == pytest.approx(1.7)
    assert (found.failures, found.attempts) == (2, 4)


def test_an_attempt_that_is_held_up_is_downtime_although_it_succeeds() -> None:
    found = outage(
        attempts((9.9, 9.95, None), (10.05, 10.15, "reset"), (10.1, 11.3, None), (10.2, 10.3, None)), "read", 10
    )
    assert found.downtime == pytest.approx(1.3)


def test_a_fault_that_nobody_notices_is_as_long_as_the_longest_gap() -> None:
    found = outage(attempts((9.9, 9.95, None), (10.0, 10.05, None), (10.1, 10.2, None)), "read", 10)
    assert found.downtime == found.gap == pytest.approx(0.15)


def test_a_client_that_never_succeeds_again_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="no read succeeded"):
        outage(attempts((9.9, 9.95, None), (10.1, 12, "timeout")), "read", 10)


def test_the_ledger_tells_lost_rows_from_unanswered_ones() -> None:
    writes = [Attempt("write", n, 0, 1, error) for n, error in enumerate((None, None, "timeout", "timeout"))]
    assert ledger([*writes, Attempt("read", 9, 0, 1, None)], [0, 2]) == Ledger(2, lost=(1,), unknown=(2,))


def test_the_parts_of_a_failover_follow_each_other_from_the_fault_to_the_first_answer() -> None:
    seen = attempts((9.9, 9.95, None), (10.1, 11.6, "timeout"), (11.25, 11.45, None), (11.3, 11.35, None))
    found = parts(seen, 10, master=10.7, answered=10.8, in_force=11.3)
    assert astuple(found) == pytest.approx((0.7, 0.1, 0.5, 0.05))
    assert found.total == pytest.approx(1.35)


def test_a_failover_that_nobody_saw_the_end_of_has_no_parts() -> None:
    with pytest.raises(ValueError, match="nothing succeeded"):
        parts(attempts((9.9, 9.95, None), (10.1, 11.6, "timeout")), 10, master=10.7, answered=10.8, in_force=11.3)


def test_a_report_has_each_drills_parts_and_their_median() -> None:
    results = [
        Result("power-cut", machine, other, 0, {}, Ledger(0, (), ()), [], 0, found)
        for machine, other, found in (
            ("node1", "node2", Parts(0.6, 0.05, 0.5, 0.03)),
            ("node2", "node1", Parts(0.7, 0.07, 0.51, 0.05)),
            ("node1", "node1", None),
        )
    ]
    console = Console(width=160, file=io.StringIO())
    report.show_parts(results, console)
    assert isinstance(console.file, io.StringIO)
    rows = [re.findall(r"node. to node.|median|[0-9.]+ s", line) for line in console.file.getvalue().splitlines()]
    assert [row for row in rows if row] == [
        ["node1 to node2", "0.600 s", "0.050 s", "0.500 s", "0.030 s", "1.180 s"],
        ["node2 to node1", "0.700 s", "0.070 s", "0.510 s", "0.050 s", "1.330 s"],
        ["median", "0.650 s", "0.060 s", "0.505 s", "0.040 s", "1.255 s"],
    ]


class TestStack:
    def read(self, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, Any]) -> Stack:
        monkeypatch.setattr(stack, "stack_outputs", lambda name: outputs)
        return Stack.read("local")

    def test_is_what_its_outputs_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.read(monkeypatch, OUTPUTS)
        assert (found.vip, found.port, found.user, found.password) == ("192.168.106.249", 3306, "app", "hush-hush")
        assert [machine["name"] for machine in found.of_role("lb")] == ["node1", "node2"]
        assert found.mycat_port is None

    def test_that_is_not_up_says_how_to_make_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(RuntimeError, match=r"stack local is not up: it has no outputs; run `make up`"):
            self.read(monkeypatch, {})

        def missing(_name: str) -> dict[str, Any]:
            raise StackError("no stack named 'local' found")

        monkeypatch.setattr(stack, "stack_outputs", missing)
        with pytest.raises(RuntimeError, match=r"stack local is not up: no stack named 'local' found; run `make up`"):
            Stack.read("local")


class _Probe(Region):
    """Instead of a region: the probe's process is a script that notes one attempt, and ends with its input."""

    def __init__(self) -> None:
        super().__init__("none")

    def popen(self, target: str, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        attempt = json.dumps({"kind": "read", "n": 0, "start": 1.0, "end": 2.0, "error": None})
        script = f"import sys; assert 'hush-hush' in sys.stdin.readline(); print({attempt!r}); sys.stdin.read()"
        return subprocess.Popen([sys.executable, "-c", script], **options)


def test_a_client_ends_with_its_process_and_leaves_no_pipe_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "stack_outputs", lambda name: OUTPUTS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = Client(_Probe(), Stack.read("local"), "run")
        client.stop()
        assert client.attempts == [Attempt("read", 0, 1.0, 2.0, None)]
        del client
        gc.collect()
    # Other tests' event loops may be collected at this moment as well.
    assert [text for warning in caught if "unclosed file" in (text := str(warning.message))] == []
