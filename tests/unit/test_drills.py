"""What a drill says of its observations."""

import base64
import gc
import io
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from drills import calls, cli, report, stack
from drills import suite as suites
from drills.analysis import (
    Attempt,
    Floor,
    Ledger,
    Outage,
    Parts,
    Spread,
    ledger,
    outage,
    parts,
    spread,
    turns,
    two_holders,
)
from drills.calls import Calls
from drills.drill import KINDS, Client, Result
from drills.faults import FAULTS, Fault, Scene
from drills.faults.fault import Machine, Step
from drills.stack import Stack
from drills.suite import Failure, Outcome, chosen
from localregion.client import Region, RegionError
from stackctl.project import StackError

OUTPUTS = {
    "vip": "192.168.106.249",
    "mysqlPort": 3306,
    "statisticsUrl": "http://192.168.106.249:8888/admin?stats",
    "statisticsUser": "admin",
    "machines": [
        {"name": "node1", "roles": ["lb", "mysql"], "instanceId": "i-1", "address": "192.168.106.251"},
        {"name": "node2", "roles": ["lb"], "instanceId": "i-2", "address": "192.168.106.252"},
        {"name": "node3", "roles": ["mysql"], "instanceId": "i-3", "address": "192.168.106.253"},
    ],
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


def test_attempts_begun_after_the_fault_are_told_apart_from_those_that_were_in_flight() -> None:
    found = outage(
        attempts(
            (9.9, 9.95, None),
            (9.98, 11.4, "timeout"),
            (9.99, 10.3, None),
            (10.1, 10.2, None),  # to a database that is still there
            (10.2, 11.7, "timeout"),
            (10.9, 11.9, None),  # held up
            (11.3, 11.35, None),
            (11.4, 11.45, None),
        ),
        "read",
        10,
    )
    assert (found.in_flight, found.in_flight_failed) == (2, 1)
    assert found.in_flight_longest == pytest.approx(1.4)
    assert found.first == pytest.approx(0.2)
    assert found.back == pytest.approx(1.35)


def test_a_fault_that_hits_nothing_begun_after_it_leaves_the_service_where_it_was() -> None:
    found = outage(attempts((9.9, 9.95, None), (9.99, 10.2, "reset"), (10.01, 10.05, None)), "read", 10)
    assert found.back == 0
    assert (found.in_flight, found.in_flight_failed) == (1, 1)


def by(*answers: tuple[float, float, str]) -> list[Attempt]:
    return [Attempt("read", n, start, end, None, balancer) for n, (start, end, balancer) in enumerate(answers)]


def test_a_turn_is_an_answer_to_an_attempt_that_began_after_the_last_one_through_the_balancer_before() -> None:
    seen = by((1, 2, "a"), (1.5, 2.1, "b"), (2.05, 2.2, "a"), (3, 3.1, "b"), (3.2, 3.3, "b"))
    assert [(turn.by, turn.left, turn.seen) for turn in turns(seen)] == [("b", 2.2, 3.1)]
    assert turns(attempts((1, 2, None), (2, 3, "timeout"))) == []


def test_balancers_that_answer_by_turns_more_often_than_the_vip_moves_are_two_holders() -> None:
    there_and_back = turns(by((1, 2, "a"), (3, 4, "b"), (5, 6, "a"), (7, 8, "b")))
    assert two_holders(there_and_back, 3) == 0
    assert two_holders(there_and_back, 1) == pytest.approx(8 - 2)
    assert two_holders([], 0) == 0


def test_a_spread_over_few_runs_has_its_largest_value_as_p99() -> None:
    assert spread([3, 1, 2]) == Spread(min=1, median=2, p99=3, max=3)
    assert spread([float(n) for n in range(1, 201)]).p99 == 198


def test_the_floor_of_a_failover_is_vrrps_wait_and_one_call_with_its_effect() -> None:
    assert Floor(advert=0.2, priority=128, effect=0.5).total(0.1) == pytest.approx(0.6 + 0.1 + 0.1 + 0.5)


def test_the_ledger_tells_lost_rows_from_unanswered_ones() -> None:
    writes = [Attempt("write", n, 0, 1, error) for n, error in enumerate((None, None, "timeout", "timeout"))]
    seen = [*writes, Attempt("read", 9, 0, 1, None)]
    assert ledger(seen, {"node1": [0, 2], "node3": [0, 2]}) == Ledger(2, lost=(1,), unknown=(2,))


def test_a_row_that_one_database_has_not_is_lost() -> None:
    writes = [Attempt("write", n, 0, 1, None) for n in range(3)]
    assert ledger(writes, {"node1": [0, 1, 2], "node3": [0, 2]}) == Ledger(3, lost=(1,), unknown=())


def test_the_parts_of_a_failover_follow_each_other_from_the_fault_to_the_first_answer() -> None:
    seen = attempts((9.9, 9.95, None), (10.1, 11.6, "timeout"), (11.25, 11.45, None), (11.3, 11.35, None))
    found = parts(seen, 10, master=10.7, answered=10.8, in_force=11.3)
    assert astuple(found) == pytest.approx((0.7, 0.1, 0.5, 0.05))
    assert found.total == pytest.approx(1.35)


def test_a_move_that_vrrp_only_follows_has_no_parts() -> None:
    with pytest.raises(ValueError, match="otherwise than by a failover"):
        parts(attempts((11, 11.1, None)), 10, master=10.9, answered=10.2, in_force=10.7)


def test_a_failover_that_nobody_saw_the_end_of_has_no_parts() -> None:
    with pytest.raises(ValueError, match="nothing succeeded"):
        parts(attempts((9.9, 9.95, None), (10.1, 11.6, "timeout")), 10, master=10.7, answered=10.8, in_force=11.3)


def result(fault: str = "power-cut", found: Parts | None = None, **given: Any) -> Result:
    seen = [
        Attempt(kind, n, start, start + 0.05, None) for kind in KINDS for n, start in enumerate((9.9, 10.0, 11.2, 11.4))
    ]
    values: dict[str, Any] = {
        "fault": fault,
        "machine": "node1",
        "moved_to": "node2",
        "moment": 10,
        "outages": {kind: outage(seen, kind, 10) for kind in KINDS},
        "ledger": Ledger(100, (), (7,)),
        "events": [(0.5, "node2: VRRP state: master <again>")],
        "rejoined": 12.0,
        "parts": found,
        "floor": Floor(0.2, 128, 0.5) if found else None,
        "moves": 1,
        "turns": [],
        "two_holders": 0.0,
        "broken": [],
        "attempts": seen,
    }
    return Result(**values | given)


def connects_back(seconds: float) -> dict[str, Outage]:
    """New connections, which are held up until so many seconds after the fault."""
    seen = [Attempt("connect", n, start, 10 + seconds, None) for n, start in enumerate((10.1, 10.2))]
    return {"connect": outage(seen, "connect", 10)}


def test_a_report_has_each_drills_parts_and_their_median() -> None:
    results = [
        result(machine=machine, moved_to=other, found=found)
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


def test_a_report_is_a_page_that_needs_nothing_else_and_the_same_as_json(tmp_path: Path) -> None:
    outcomes: list[Outcome] = [
        result(found=Parts(0.6, 0.05, 0.5, 0.03)),
        result(found=Parts(0.8, 0.05, 0.5, 0.03), outages=connects_back(2.5)),
        result("haproxy-kill", broken=["the VIP has moved 1 times, which may be 0"]),
        Failure("freeze", "the client to recover: not within 90 s"),
    ]
    report.write(outcomes, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', page)
    for picture in re.findall(r'src="data:image/png;base64,([^"]+)"', page):
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    for words in ("master &lt;again&gt;", "may be 0", "not within 90 s", "0 of 200", "0.60 / 0.70 / 0.80 / 0.80"):
        assert words in page
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found["faults"]) == ["power-cut", "freeze", "haproxy-kill"]
    assert found["faults"]["power-cut"]["parts"]["detection"] == {"min": 0.6, "median": 0.7, "p99": 0.8, "max": 0.8}
    # The call counts as it was measured.
    assert found["faults"]["power-cut"]["floor"] == pytest.approx(0.6 + 0.1 + 0.05 + 0.5)
    # One noticed nothing, the other one waited twice the floor.
    assert found["faults"]["power-cut"]["floor_ratio"]["back"] == pytest.approx((0 + 2) / 2)
    assert found["faults"]["power-cut"]["floor_ratio"]["first"] == pytest.approx((1 + 2) / 2)
    assert found["faults"]["freeze"]["floor_ratio"] == {"first": None, "back": None}
    assert "against" not in found
    assert "calls" not in found
    assert found["faults"]["freeze"]["broken"] == 1
    assert len(found["drills"]) == 4
    assert "attempts" not in found["drills"][0]


def test_a_report_compares_with_another_stack_and_with_the_aws_command_line(tmp_path: Path) -> None:
    ours = [*(result(outages=connects_back(seconds)) for seconds in (2, 4, 2)), result("freeze")]
    theirs: list[Outcome] = [
        result(outages=connects_back(8)),
        Failure("power-cut", "the client to recover: not within <90> s"),
    ]
    measured = Calls((0.1, 0.3, 0.1), (2.0, 1.0, 2.0))
    report.write(ours, tmp_path, against_name="test-recipe", against=theirs, calls=measured)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["against"]["stack"] == "test-recipe"
    assert list(found["against"]["faults"]) == ["power-cut"]
    assert list(found["against"]["faults"]["power-cut"]["back"]) == ["connect"]
    assert found["against"]["faults"]["power-cut"]["back"]["connect"] == pytest.approx(
        {"stack": 2, "against": 8, "ratio": 0.25}
    )
    assert len(found["against"]["drills"]) == 2
    assert found["calls"]["ratio"] == pytest.approx(0.05)
    assert found["calls"]["aws_cli"]["median"] == 2.0
    page = (tmp_path / "report.html").read_text()
    for words in (
        "2.00 / 8.00 = <b>0.25</b>",
        "power-cut: the client to recover: not within &lt;90&gt; s",
        "<b>0.050</b>",
    ):
        assert words in page
    console = Console(width=160, file=io.StringIO())
    report.show_against(ours, "test-recipe", theirs, console)
    report.show_calls(measured, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "2.00 s / 8.00 s = 0.25" in shown
    assert "claim-vip 0.100 s, the AWS command line 2.000 s, ratio 0.050" in shown


def test_there_is_no_ratio_to_a_stack_that_noticed_nothing() -> None:
    assert report.Compared(1, 0).ratio is None
    assert report.Compared(0, 2).ratio == 0


class TestFault:
    scene = Scene(Region("none"), Stack("local", "vip", 3306, "", "", ()), {"name": "node1"}, {"name": "node2"})

    def test_holds_what_becomes_of_the_vip(self) -> None:
        def broken(vip: Any, at: str, moves: int) -> int:
            return len(Fault("x", "x", "holder", vip, ()).broken("node1", at, moves))

        assert [broken("moves", at, n) for at, n in (("node2", 1), ("node1", 0), ("node2", 3))] == [0, 1, 1]
        assert [broken("stays", at, n) for at, n in (("node1", 0), ("node2", 1), ("node1", 2))] == [0, 2, 1]
        assert [broken("comes back", at, n) for at, n in (("node1", 2), ("node2", 1))] == [0, 1]
        assert [broken("may move", at, n) for at, n in (("node1", 0), ("node2", 1), ("node2", 3))] == [0, 0, 1]

    def test_is_mended_from_the_last_step_to_the_first_whatever_becomes_of_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []
        monkeypatch.setattr(Stack, "restore", lambda self, region: done.append("restored"))

        def step(name: str, fails: bool = False) -> Step:
            def undo(_scene: Scene, _machines: Sequence[Machine]) -> None:
                done.append(name)
                if fails:
                    raise RegionError(name)

            return Step(lambda _scene, _machines: None, undo)

        fault = Fault("x", "x", "holder", "stays", (step("first"), step("second", fails=True), step("third")))
        with pytest.raises(RegionError, match="second"):
            fault.heal(self.scene, [])
        assert done == ["restored", "third", "second", "first"]

    def test_its_moment_is_that_of_the_step_that_is_the_fault(self) -> None:
        def nothing(_scene: Scene, _machines: Sequence[Machine]) -> None:
            pass

        steps = (Step(nothing), Step(lambda _scene, _machines: 4.0), Step(nothing))
        assert Fault("x", "x", "holder", "stays", steps).inject(self.scene, []) == 4.0

    def test_a_database_that_is_struck_alone_is_on_no_balancer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stack, "stack_outputs", lambda name: OUTPUTS)
        found = Stack.read("local")
        scene = Scene(Region("none"), found, found.machine("node1"), found.machine("node2"))
        assert [machine["name"] for machine in scene.machines("database")] == ["node3"]
        assert [machine["name"] for machine in scene.machines("databases")] == ["node1", "node3"]
        assert [machine["name"] for machine in scene.machines("machines")] == ["node1", "node2", "node3"]
        with pytest.raises(LookupError, match="stack local has no Mycat on another machine than the VIP's holder"):
            scene.machines("Mycat")

    def test_there_is_one_of_each_name_and_a_quick_set(self) -> None:
        assert [name for name, fault in FAULTS.items() if name != fault.name] == []
        quick = chosen([], quick=True)
        assert 0 < len(quick) < len(chosen([], quick=False)) == len(FAULTS)
        assert [fault.name for fault in chosen(["freeze", "power-cut", "freeze"], quick=True)] == [
            "freeze",
            "power-cut",
        ]
        with pytest.raises(LookupError, match="no fault is called flood, fire; there are: power-cut"):
            chosen(["flood", "power-cut", "fire"], quick=True)


class TestSuite:
    def test_goes_on_after_a_drill_that_has_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def drill(_region: Region, _stack: Stack, fault: Fault, _say: Any) -> Result:
            if fault.name == "freeze":
                raise TimeoutError("the client to recover: not within 90 s")
            return result(fault.name)

        monkeypatch.setattr(suites, "drill", drill)
        said: list[str] = []
        faults = [FAULTS["freeze"], FAULTS["power-cut"]]
        found = list(suites.suite(TestFault.scene.region, [TestFault.scene.stack], faults, 2, said.append))
        outcomes = [outcome for _, outcome in found]
        assert [outcome.fault for outcome in outcomes] == ["freeze", "power-cut"] * 2
        assert [bool(outcome.broken) for outcome in outcomes] == [True, False] * 2
        assert said[0].startswith("1 of 4, 0 min: freeze (holder: ")
        assert "not within 90 s" in said[1]

    def test_runs_each_drill_on_one_stack_and_then_on_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        struck: list[tuple[str, str]] = []

        def drill(_region: Region, stack: Stack, fault: Fault, _say: Any) -> Result:
            struck.append((fault.name, stack.name))
            return result(fault.name)

        monkeypatch.setattr(suites, "drill", drill)
        stacks = [Stack(name, "vip", 3306, "", "", ()) for name in ("local", "test-recipe")]
        said: list[str] = []
        faults = [FAULTS["power-cut"], FAULTS["haproxy-gone"]]
        found = list(suites.suite(TestFault.scene.region, stacks, faults, 1, said.append))
        assert [(outcome.fault, stack.name) for stack, outcome in found] == struck
        assert struck == [(fault.name, stack.name) for fault in faults for stack in stacks]
        assert said[2].startswith("2 of 4, 0 min: power-cut (holder of test-recipe: ")

    def test_judges_its_own_stack_and_not_the_one_that_it_is_compared_with(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def suite(_region: Region, stacks: Sequence[Stack], *_: Any) -> Iterator[tuple[Stack, Outcome]]:
            yield stacks[0], result()
            yield stacks[1], Failure("power-cut", "the stack is not whole")

        monkeypatch.setattr(cli, "run_suite", suite)
        monkeypatch.setattr(Stack, "read", lambda name: Stack(name, "vip", 3306, "", "", ()))
        ended = CliRunner().invoke(cli.app, ["suite", "--against", "test-recipe", "--report", str(tmp_path)])
        assert ended.exit_code == 0
        assert "test-recipe, power-cut: the stack is not whole" in ended.output
        assert json.loads((tmp_path / "results.json").read_text())["faults"]["power-cut"]["broken"] == 0

    @pytest.mark.parametrize("command", [["suite", "power-cut", "freeze"], ["run", "freeze"]])
    def test_ends_with_exit_status_1_and_a_report_if_something_did_not_hold(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
    ) -> None:
        def suite(_region: Region, stacks: Sequence[Stack], *_: Any) -> Iterator[tuple[Stack, Outcome]]:
            yield stacks[0], result()
            yield stacks[0], Failure("freeze", "the stack is not whole")

        monkeypatch.setattr(cli, "run_suite", suite)
        monkeypatch.setattr(Stack, "read", lambda _name: TestFault.scene.stack)
        ended = CliRunner().invoke(cli.app, [*command, "--report", str(tmp_path)])
        assert ended.exit_code == 1
        assert "freeze: the stack is not whole" in ended.output
        assert "not whole" in (tmp_path / "report.html").read_text()

    def test_that_is_interrupted_reports_what_it_has(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def suite(_region: Region, stacks: Sequence[Stack], *_: Any) -> Iterator[tuple[Stack, Outcome]]:
            yield stacks[0], result()
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "run_suite", suite)
        monkeypatch.setattr(Stack, "read", lambda _name: TestFault.scene.stack)
        ended = CliRunner().invoke(cli.app, ["suite", "--report", str(tmp_path)])
        assert ended.exit_code != 0
        assert json.loads((tmp_path / "results.json").read_text())["faults"]["power-cut"]["runs"] == 1


class TestStack:
    def read(self, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, Any]) -> Stack:
        monkeypatch.setattr(stack, "stack_outputs", lambda name: outputs)
        return Stack.read("local")

    def test_is_what_its_outputs_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.read(monkeypatch, OUTPUTS)
        assert (found.vip, found.port, found.user, found.password) == ("192.168.106.249", 3306, "app", "hush-hush")
        assert [machine["name"] for machine in found.of_role("lb")] == ["node1", "node2"]
        assert found.mycat_port is None
        assert "hush-hush" not in repr(found)

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


@pytest.mark.parametrize(
    ("script", "refused"),
    [
        ("echo 'attempt 1: EC2 has assigned the VIP'; sleep 2", None),
        ("echo 'giving up: another claim'; exit 1", "giving up: another claim"),
        ("echo 'no longer master'", "no longer master"),
    ],
)
def test_a_claim_is_timed_until_ec2_has_accepted_it(script: str, refused: str | None) -> None:
    class Machine(Region):
        def popen(self, target: str, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
            return subprocess.Popen(["bash", "-c", script], **options)

    if refused:
        with pytest.raises(RegionError, match=refused):
            calls._claim_vip(Machine("none"), "i-1")
    else:
        assert 0 < calls._claim_vip(Machine("none"), "i-1") < 2
