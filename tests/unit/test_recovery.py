"""`stackctl database recover`: what is decided of what nodes say, what is refused and why, and in which order machines
are told to do what. The machines are played; what runs on them is not (test_galera_start.py).
"""

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from stackctl import recovery, recovery_plan, ssh, status
from stackctl.project import StackError
from stackctl.pulumi import Pulumi
from stackctl.recovery_plan import Facts, Node, Order, Plan, Told, View
from stackctl.reports import Database, Machine
from stackctl.ssh import Host, SshError
from stackctl.switchover import REFUSED, RefusedError

CLUSTER, OTHER = "5d4c1c43-0000-11f0-8000-000000000001", "5d4c1c43-0000-11f0-8000-000000000002"
ADDRESSES = {"node1": "10.0.0.9", "node2": "10.0.0.10", "node3": "10.0.0.11"}
STOPPED = Database("inactive", running=False)
WAITING = Database("activating", running=False, waits="waiting: nothing is known of 10.0.0.11")
SYNCED = Database(
    "active", running=True, cluster_status="Primary", local_state="Synced", cluster_size=3, ready=True, cluster=CLUSTER
)
LONELY = replace(SYNCED, cluster_status="non-Primary", local_state="Initialized", ready=False)
AT_7 = Facts(CLUSTER, 7, left_last=False, view=None, waits=True, order=None)
NEW = replace(AT_7, cluster=None, position=None)
ALL = View("3 x", "a", frozenset("abc"))
GONE = "10.0.0.11, port 22: no answer within 15 s"


def has(name: str, facts: Facts | None, problem: str = "", **peers: Any) -> Node:
    """One that is asked, and whose mariadbd does not run."""
    database = WAITING if facts and facts.waits else STOPPED
    told = Told(facts, problem, {ADDRESSES[peer]: what for peer, what in peers.items()})
    return Node(name, ADDRESSES[name], None, database, told)


def away(name: str) -> Node:
    return Node(name, ADDRESSES[name], GONE)


def runs(name: str, database: Database = SYNCED) -> Node:
    return Node(name, ADDRESSES[name], None, database)


def refused(*nodes: Node, given_up: tuple[str, ...] = ()) -> str:
    with pytest.raises(RefusedError) as raised:
        recovery_plan.decide(nodes, given_up)
    return str(raised.value)


def planned(*nodes: Node, given_up: tuple[str, ...] = ()) -> Plan:
    return recovery_plan.decide(nodes, given_up)


# -- who is missing -----------------------------------------------------------------------------------------------


def test_a_node_that_is_not_there_is_not_given_up_silently() -> None:
    said = refused(has("node1", AT_7), has("node2", replace(AT_7, position=9)), away("node3"))
    assert f"nothing is known of node3 ({GONE}), but may have writes after 9" in said
    assert said.endswith("--given-up node3")


def test_all_that_are_missing_are_named_and_those_that_are_given_up_already() -> None:
    nodes = (has("node1", AT_7), away("node2"), away("node3"))
    assert refused(*nodes).endswith("--given-up node2 --given-up node3")
    assert refused(*nodes, given_up=("node3",)).endswith("--given-up node3 --given-up node2")


def test_given_up_by_name_the_others_form_a_cluster_from_the_highest_position() -> None:
    nodes = (has("node1", AT_7), has("node2", replace(AT_7, position=9)), away("node3"))
    plan = planned(*nodes, given_up=("node3",))
    assert (plan.best, plan.rest) == ("node2", ("node1", "node2"))
    assert plan.order == Order(CLUSTER, 9, frozenset({ADDRESSES["node3"]}))
    words = "; ".join(plan.words)
    assert "node2 has the highest position of those that are here, 9" in words
    assert "LOST is what only node3 has from there on" in words
    assert "forms a new cluster; a copy of everything goes from there to node1" in words


def test_of_equals_the_lowest_address() -> None:
    plan = planned(has("node2", AT_7), has("node1", AT_7), away("node3"), given_up=("node3",))
    assert plan.best == "node1"


def test_a_single_node_is_enough() -> None:
    plan = planned(has("node1", replace(AT_7, waits=False)), away("node2"), away("node3"), given_up=("node2", "node3"))
    assert (plan.best, plan.rest) == ("node1", ("node1",))


def test_an_unknown_name_is_refused() -> None:
    assert "node9 is no database of the stack; those are node1, node2, node3" in refused(
        has("node1", AT_7), has("node2", AT_7), away("node3"), given_up=("node9",)
    )


def test_who_answers_is_not_given_up() -> None:
    said = refused(has("node1", AT_7), has("node2", AT_7), given_up=("node2",))
    assert f"node2 is given up, but it answers, with data at {CLUSTER}:7" in said


def test_who_is_seen_by_another_node_is_not_given_up() -> None:
    said = refused(has("node1", AT_7, node3=AT_7), has("node2", AT_7), away("node3"), given_up=("node3",))
    assert "node3 is given up, but it answers" in said


def test_who_is_seen_by_another_node_is_known() -> None:
    plan = planned(has("node1", AT_7, node3=AT_7), has("node2", AT_7), away("node3"))
    assert (plan.order, plan.best) == (None, None)


def test_a_position_that_cannot_be_recovered() -> None:
    said = refused(has("node1", AT_7), has("node2", None, "cannot be recovered"), away("node3"), given_up=("node3",))
    assert "the position of node2 (cannot be recovered) is not known, but may have writes after 7" in said
    assert "remove grastate.dat and gvwstate.dat" in said


# -- who lives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes",
    [
        (runs("node1"), has("node2", AT_7), away("node3")),
        (has("node1", AT_7), has("node2", AT_7, node3="primary"), away("node3")),
    ],
    ids=["it says so", "another one sees it"],
)
def test_a_cluster_exists(nodes: tuple[Node, ...]) -> None:
    for given_up in ((), ("node3",)):
        assert "has a cluster" in refused(*nodes, given_up=given_up)
    assert "join it by themselves once mariadb is started there" in refused(*nodes)


@pytest.mark.parametrize(
    "nodes",
    [
        (runs("node1", LONELY), has("node2", AT_7), away("node3")),
        (runs("node1", Database("active", running=True, error="no answer")), has("node2", AT_7), away("node3")),
        (has("node1", AT_7), has("node2", AT_7, node3="running"), away("node3")),
    ],
    ids=["it says so", "it says nothing", "another one sees it"],
)
def test_one_runs_without_a_cluster(nodes: tuple[Node, ...]) -> None:
    for given_up in ((), ("node3",)):
        said = refused(*nodes, given_up=given_up)
        assert "runs mariadbd without a cluster" in said
        assert "`systemctl stop mariadb` there" in said


# -- who needs nobody ---------------------------------------------------------------------------------------------


def test_all_are_here() -> None:
    plan = planned(*(has(name, AT_7) for name in ADDRESSES))
    assert plan.order is None
    assert "the cluster" in plan.words[0]
    assert "they are doing so now" in plan.words[0]


def test_all_are_here_but_stopped() -> None:
    plan = planned(*(has(name, replace(AT_7, waits=name == "node1")) for name in ADDRESSES))
    assert (plan.order, plan.rest) == (None, tuple(ADDRESSES))
    assert "mariadb is started on node2 and node3" in plan.words[0]


@pytest.mark.parametrize("given_up", [(), ("node3",)])
def test_the_last_one_is_here(given_up: tuple[str, ...]) -> None:
    plan = planned(has("node1", AT_7), has("node2", replace(AT_7, left_last=True)), away("node3"), given_up=given_up)
    assert plan.order is None
    assert "node2 was alone in the cluster when it left" in plan.words[0]


def test_all_of_the_last_view_are_here() -> None:
    two = [replace(AT_7, view=View("3 x", me, frozenset("ab"))) for me in "ab"]
    assert planned(has("node1", two[0]), has("node2", two[1]), away("node3")).order is None
    assert "--given-up node3" in refused(has("node1", two[0]), has("node2", AT_7), away("node3"))
    other = replace(two[1], view=View("4 x", "b", frozenset("ab")))
    assert "--given-up node3" in refused(has("node1", two[0]), has("node2", other), away("node3"))


# -- what does not fit --------------------------------------------------------------------------------------------


def test_different_clusters() -> None:
    said = refused(has("node1", AT_7), has("node2", replace(AT_7, cluster=OTHER)), away("node3"), given_up=("node3",))
    assert "data of 2 different clusters" in said
    assert CLUSTER in said
    assert OTHER in said


def test_nobody_has_a_position() -> None:
    said = refused(has("node1", NEW), has("node2", NEW), away("node3"), given_up=("node3",))
    assert "none of node1, node2 has data with a position" in said


def test_another_order_stands() -> None:
    before = replace(AT_7, order=Order(CLUSTER, 7, frozenset({ADDRESSES["node2"]})))
    said = refused(has("node1", before), has("node2", AT_7), away("node3"), given_up=("node3",))
    assert "node1 has the order already to form a cluster from position 7 with --given-up node2" in said
    assert "galera-start withdraw" in said


def test_the_same_order_is_continued() -> None:
    before = replace(AT_7, order=Order(CLUSTER, 7, frozenset({ADDRESSES["node3"]})))
    assert planned(has("node1", before), has("node2", AT_7), away("node3"), given_up=("node3",)).order == before.order


# -- what is done -------------------------------------------------------------------------------------------------


def facts(position: int = 7, order: dict[str, Any] | None = None, cluster: str = CLUSTER) -> dict[str, Any]:
    """As galera_start.py tells them."""
    return {
        "cluster": cluster, "position": position, "left_last": False, "crashed": False, "view": None,
        "nodes": sorted(ADDRESSES.values()), "run": "1", "order": order,
    }  # fmt: skip


class Machines:
    """node3 is away, node1 is stopped, node2 waits. They have a cluster once all that take part have the order."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {
            name: {"facts": facts(), "waits": True, "problem": "", "peers": {}} for name in ("node1", "node2")
        }
        self.told["node1"]["waits"] = False
        self.needed = [*ORDERED, *STARTED]
        self.done: list[tuple[str, str]] = []
        self.wrong: dict[tuple[str, str], BaseException] = {}
        self.then: Callable[[], None] = lambda: None

    async def run(self, host: Host, command: str, *, timeout: float) -> str:
        name = next(name for name, address in ADDRESSES.items() if address == host.address)
        if command == recovery.TELL:
            return json.dumps(self.told[name])
        what = command.removeprefix(f"{recovery.PROGRAM} ").split(" ", 1)[0]
        self.done.append((name, what))
        if wrong := self.wrong.get((name, what)):
            raise wrong
        return ""

    async def ask(self, settings: dict[str, Any], host: Host, vip: str) -> Machine:
        name = settings["name"]
        assert settings["roles"] == ["mysql"]
        database: Database | None = WAITING
        if name == "node3":
            database = None
        elif set(self.needed) <= set(self.done):
            self.then()
            database = replace(SYNCED, cluster_size=2)
        return Machine(name, settings["address"], ("mysql",), GONE if database is None else None, database=database)


CONFIG = {"machines": [{"name": name, "address": address, "roles": ["mysql"]} for name, address in ADDRESSES.items()]}
ORDERED = [("node1", "order"), ("node2", "order")]
STARTED = [("node1", "systemctl"), ("node2", "systemctl")]
WITHDRAWN = [("node1", "withdraw"), ("node2", "withdraw")]


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    machines = Machines()
    monkeypatch.setattr(ssh, "run", machines.run)
    monkeypatch.setattr(status, "ask", machines.ask)
    monkeypatch.setattr(recovery, "LOOK", 0)
    given(monkeypatch, CONFIG)
    return machines


def given(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    hosts = {
        machine["name"]: Host(machine["address"], 22, "admin", "KEY", None)
        for machine in config["machines"]
        if "mysql" in machine["roles"]
    }
    monkeypatch.setattr(recovery, "settings_and_state", lambda _: (config, []))
    monkeypatch.setattr(recovery, "known", lambda *_: hosts)


def recover(*given_up: str, yes: bool = True) -> int:
    return recovery.recover(cast("Pulumi", None), given_up, lambda _: yes)  # the first is only handed on


def test_all_have_the_order_before_any_is_started(machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover("node3") == 0
    assert machines.done == [*ORDERED, *STARTED]
    assert "node1 and node2 are a cluster again, all synced, after 0 s" in capsys.readouterr().err


def test_nothing_is_done_without_a_confirmation(machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover("node3", yes=False) == REFUSED
    assert machines.done == []
    assert "LOST is what only node3 has" in capsys.readouterr().err


def test_those_who_find_out_by_themselves_are_waited_for_without_a_question(machines: Machines) -> None:
    """The third one is seen by another one only, so it is not waited for."""
    machines.told["node1"] |= {"waits": True, "peers": {ADDRESSES["node3"]: facts()}}
    machines.needed = STARTED
    assert recover(yes=False) == 0
    assert machines.done == STARTED


def test_a_refusal_shows_what_is_known(machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover() == REFUSED
    assert machines.done == []
    said = capsys.readouterr()
    assert "refused, and nothing was changed: nothing is known of node3" in said.err
    assert [line.split() for line in said.out.splitlines()[1:4]] == [
        ["node1", "activating", "7", "no", "none"],
        ["node2", "activating", "7", "no", "none"],
        ["node3", "cannot", "be", "asked", "unknown"],
    ]
    assert f"node3: {GONE}" in said.out
    assert f"cluster {CLUSTER}: node1, node2" in said.out


def test_if_one_does_not_take_the_order_none_keeps_it(machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    machines.wrong["node2", "order"] = SshError("node2: exit status 1: mariadbd runs on 10.0.0.11")
    assert recover("node3") == REFUSED
    assert machines.done == [*ORDERED, *WITHDRAWN]
    assert "mariadbd runs on 10.0.0.11" in capsys.readouterr().err


def test_an_order_of_before_is_not_taken_back(machines: Machines) -> None:
    order = {"cluster": CLUSTER, "position": 7, "without": [ADDRESSES["node3"]]}
    machines.told["node1"]["facts"] = facts(order=order)
    machines.wrong["node2", "order"] = SshError("lost")
    assert recover("node3") == REFUSED
    assert machines.done == [*ORDERED, WITHDRAWN[1]]


def test_an_order_that_cannot_be_taken_back_is_told(machines: Machines) -> None:
    machines.wrong["node2", "order"] = machines.wrong["node2", "withdraw"] = SshError("lost")
    with pytest.raises(StackError, match="The order may stand on nodes where it could not be taken back: node2: lost"):
        recover("node3")


def test_a_start_that_fails_is_half_way(machines: Machines) -> None:
    machines.wrong["node1", "systemctl"] = SshError("lost")
    with pytest.raises(StackError, match="mariadb could not be started: node1: lost"):
        recover("node3")


def test_an_interrupt_leaves_the_machines_at_it(machines: Machines) -> None:
    machines.then = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(StackError, match="interrupted; the machines go on by themselves"):
        recover("node3")
    assert ("node1", "withdraw") not in machines.done


def test_it_is_given_up_after_a_time_in_which_nothing_comes_of_it(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(settings: dict[str, Any], host: Host, vip: str) -> Machine:
        waits = None if settings["name"] == "node3" else WAITING
        return Machine(settings["name"], settings["address"], ("mysql",), None if waits else GONE, database=waits)

    monkeypatch.setattr(status, "ask", ask)
    monkeypatch.setattr(recovery, "FORM", 0)
    with pytest.raises(StackError, match=r"not all are synced .*waiting: nothing is known of"):
        recover("node3")


def test_a_program_of_before_this_command_is_not_run(machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    async def run(host: Host, command: str, *, timeout: float) -> str:
        raise SshError(f"{host}: exit status 1: its galera-start is older than this command: run `stackctl up`")

    machines.run = run  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssh, "run", run)
        assert recover("node3") == REFUSED
    assert "run `stackctl up`" in capsys.readouterr().err
    assert recovery.TELL.startswith("grep -qs '^def tell' /usr/local/lib/mycat-ha/galera-start || { ")


def test_a_whole_cluster_needs_nothing(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(settings: dict[str, Any], host: Host, vip: str) -> Machine:
        return Machine(settings["name"], settings["address"], ("mysql",), None, database=SYNCED)

    monkeypatch.setattr(status, "ask", ask)
    assert recover() == 0
    assert machines.done == []


@pytest.mark.parametrize(
    ("names", "words"), [([], "has no databases of its own"), (["node1"], "node1 is the only database")]
)
def test_stacks_without_a_cluster_get_a_sentence(
    machines: Machines,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    words: str,
) -> None:
    given(monkeypatch, {"machines": [machine for machine in CONFIG["machines"] if machine["name"] in names]})
    assert recover() == REFUSED
    assert words in capsys.readouterr().err


def test_machines_are_asked_side_by_side(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    all_asked = asyncio.Event()

    async def ask(settings: dict[str, Any], host: Host, vip: str) -> Machine:
        nonlocal asked
        asked += 1
        if asked >= len(ADDRESSES):
            all_asked.set()
        async with asyncio.timeout(5):
            await all_asked.wait()
        return await machines.ask(settings, host, vip)

    monkeypatch.setattr(status, "ask", ask)
    assert recover("node3") == 0
