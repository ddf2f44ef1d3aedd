"""files/mariadb/galera_start.py: who may form a cluster, and who has to find one or to wait."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.template import FILES, render, verbatim
from constants import LIBRARY, SERVICE_HEALTH_PORT
from localregion.client import wait_until
from stackctl import recovery_plan
from tests.programs import Stubs
from tests.unit.galera_start import galera_start as hook

A, B, C = "10.0.0.9", "10.0.0.10", "10.0.0.11"
ALL = frozenset({A, B, C})
CLUSTER, OTHER = "5d4c1c43-0000-11f0-8000-000000000001", "5d4c1c43-0000-11f0-8000-000000000002"
IDS = {A: "a", B: "b", C: "c"}
CLEAN = hook.Facts(CLUSTER, 7, left_last=False, crashed=False, view=None, nodes=ALL, run="1")
UNREACHABLE, RUNNING, PRIMARY = hook.Unreachable(), hook.Running(), hook.Primary()


def at(position: int) -> Any:
    return replace(CLEAN, position=position)


def remembers(node: str, *members: str, number: str = "3") -> Any:
    view = hook.View(number, IDS[node], frozenset(IDS[member] for member in members))
    return replace(CLEAN, crashed=True, view=view)


NEW = replace(CLEAN, cluster="", position=-1)
LAST = replace(CLEAN, left_last=True)


@pytest.mark.parametrize(
    ("me", "b", "c", "does"),
    [
        (CLEAN, UNREACHABLE, PRIMARY, hook.Start),
        (LAST, RUNNING, PRIMARY, hook.Start),
        (LAST, UNREACHABLE, UNREACHABLE, hook.Form),
        (replace(NEW, left_last=True), UNREACHABLE, UNREACHABLE, hook.Form),
        (CLEAN, UNREACHABLE, UNREACHABLE, hook.Wait),
        (CLEAN, CLEAN, UNREACHABLE, hook.Wait),
        (at(9), CLEAN, UNREACHABLE, hook.Wait),
        # All are here.
        (CLEAN, CLEAN, CLEAN, hook.Form),
        (at(6), CLEAN, CLEAN, hook.Wait),
        (at(8), CLEAN, CLEAN, hook.Form),
        (CLEAN, NEW, at(6), hook.Form),
        (NEW, at(0), at(0), hook.Wait),
        (NEW, NEW, NEW, hook.Wait),
        (CLEAN, LAST, CLEAN, hook.Wait),
        (CLEAN, CLEAN, replace(CLEAN, cluster=OTHER), hook.Wait),
        (CLEAN, CLEAN, replace(CLEAN, nodes=frozenset({A, C})), hook.Wait),
        # After crashes.
        (remembers(A, A, B, C), remembers(B, A, B, C), remembers(C, A, B, C), hook.Start),
        (remembers(A, A, B), remembers(B, A, B), UNREACHABLE, hook.Start),
        (remembers(A, A), UNREACHABLE, UNREACHABLE, hook.Start),
        (remembers(A, A, B), UNREACHABLE, CLEAN, hook.Wait),
        (remembers(A, A, B), remembers(B, A, B, number="4"), UNREACHABLE, hook.Wait),
        (remembers(A, A, B, number="2"), remembers(B, B, C), remembers(C, B, C), hook.Wait),
        (remembers(A, A, B, C), CLEAN, remembers(C, A, B, C), hook.Form),
        # Somebody lives.
        (CLEAN, UNREACHABLE, RUNNING, hook.Start),
        (LAST, UNREACHABLE, RUNNING, hook.Form),
    ],
)
def test_decision(me: Any, b: Any, c: Any, does: type) -> None:
    assert type(hook.decide(A, me, {B: b, C: c})) is does


def test_a_failed_attempt_is_not_repeated_at_once() -> None:
    assert type(hook.decide(A, CLEAN, {B: RUNNING, C: UNREACHABLE}, hold=True)) is hook.Wait
    assert type(hook.decide(A, CLEAN, {B: RUNNING, C: PRIMARY}, hold=True)) is hook.Start


STRANGER, FAILED = hook.STRANGER, 2 * hook.HOLD


@pytest.mark.parametrize(
    ("me", "met", "failed", "seconds"),
    [
        (CLEAN, {}, False, STRANGER),
        (CLEAN, {}, True, FAILED),
        (remembers(A, A, B), {}, False, 0),
        (remembers(A, A, B), {}, True, FAILED),
        (remembers(A, A, B), {B: remembers(B, A, B)}, True, 0),
        (remembers(A, A, B), {B: CLEAN}, False, STRANGER),
        (remembers(A, A, B), {B: remembers(B, B, number="4")}, True, FAILED),
        (remembers(A, A, B), {C: CLEAN}, False, 0),
    ],
)
def test_how_long_a_peer_without_a_cluster_is_left_to_itself(me: Any, met: Any, failed: bool, seconds: float) -> None:
    assert not hook.too_early(me, [B], met, waited=seconds, failed=failed)
    assert hook.too_early(me, [B], met, waited=seconds - 1, failed=failed) is (seconds > 0)


def test_of_equals_exactly_one_forms() -> None:
    forms = [
        node
        for node in ALL
        if type(hook.decide(node, CLEAN, {peer: CLEAN for peer in ALL if peer != node})) is hook.Form
    ]
    assert forms == [A]  # by number, not by text


def test_a_node_without_peers() -> None:
    alone = replace(CLEAN, nodes=frozenset({A}))
    assert type(hook.decide(A, replace(alone, crashed=True), {})) is hook.Form
    assert type(hook.decide(A, replace(alone, left_last=True), {})) is hook.Form
    # It was one of several, which may go on.
    assert type(hook.decide(A, alone, {})) is hook.Wait


ORDER = hook.Order(CLUSTER, 7, frozenset({C}))
ORDERED = replace(CLEAN, order=ORDER)
#: Of the cluster that was formed so.
FORMED = replace(ORDERED, cluster=ORDER.becomes, position=9)


@pytest.mark.parametrize(
    ("me", "b", "c", "does"),
    [
        (ORDERED, ORDERED, UNREACHABLE, hook.Form),
        (ORDERED, replace(ORDERED, position=6), UNREACHABLE, hook.Form),
        (replace(ORDERED, position=6), ORDERED, UNREACHABLE, hook.Wait),
        (replace(NEW, order=ORDER), ORDERED, UNREACHABLE, hook.Wait),
        (ORDERED, replace(NEW, order=ORDER), UNREACHABLE, hook.Form),
        (
            replace(remembers(A, A, B, C), order=ORDER),
            replace(remembers(B, A, B, C), order=ORDER),
            UNREACHABLE,
            hook.Form,
        ),
        # All that take part have to be here, and to have the same one.
        (ORDERED, UNREACHABLE, UNREACHABLE, hook.Wait),
        (ORDERED, CLEAN, UNREACHABLE, hook.Wait),
        (CLEAN, ORDERED, UNREACHABLE, hook.Wait),
        (ORDERED, replace(CLEAN, order=hook.Order(CLUSTER, 7, frozenset({A}))), UNREACHABLE, hook.Wait),
        # The position is that of the order.
        (replace(ORDERED, position=6), replace(ORDERED, position=6), UNREACHABLE, hook.Wait),
        # Somebody has been in a cluster since: the order is out of date.
        (replace(ORDERED, position=8), replace(ORDERED, position=8), UNREACHABLE, hook.Wait),
        (replace(ORDERED, position=8), replace(ORDERED, position=8), CLEAN, hook.Form),
        # Who was given up runs, after all; or is here.
        (ORDERED, ORDERED, RUNNING, hook.Start),
        (ORDERED, ORDERED, PRIMARY, hook.Start),
        (ORDERED, ORDERED, at(99), hook.Form),
        # They need no order.
        (replace(LAST, order=ORDER), ORDERED, UNREACHABLE, hook.Form),
        (replace(remembers(A, A, B), order=ORDER), replace(remembers(B, A, B), order=ORDER), UNREACHABLE, hook.Start),
        # It was carried out; then all were stopped, and who was given up is back.
        (FORMED, FORMED, UNREACHABLE, hook.Wait),
        (FORMED, FORMED, at(99), hook.Form),
        (FORMED, replace(NEW, order=ORDER), at(99), hook.Form),
        (FORMED, CLEAN, at(99), hook.Form),
        (FORMED, ORDERED, replace(LAST, position=99), hook.Form),
    ],
)
def test_decision_with_an_order(me: Any, b: Any, c: Any, does: type) -> None:
    decision: Any = hook.decide(A, me, {B: b, C: c})
    if isinstance(decision, hook.Form):
        by_order = me.ordered is not None and not me.left_last
        assert decision.becomes == (ORDER.becomes if by_order else "")
    assert type(decision) is does


def test_a_cluster_that_was_replaced_is_not_joined() -> None:
    """Its data were given up, and its only member has returned when none of the new one's was there."""
    back = hook.Primary(CLUSTER)
    for others in ({B: UNREACHABLE, C: back}, {B: PRIMARY, C: back}):
        decision = hook.decide(A, FORMED, others)
        assert type(decision) is hook.Wait
        assert f"{C} has formed the cluster again that this one has replaced" in decision.reason
    assert type(hook.decide(A, FORMED, {B: UNREACHABLE, C: hook.Primary(ORDER.becomes)})) is hook.Start
    assert type(hook.decide(A, CLEAN, {B: UNREACHABLE, C: back})) is hook.Start


@pytest.mark.parametrize("me", [CLEAN, LAST, at(99), remembers(C, C), remembers(C, B, C)])
def test_who_is_given_up_leaves_the_others_alone(me: Any) -> None:
    """Before and after they have formed a cluster."""
    for others in ({A: ORDERED, B: UNREACHABLE}, {A: ORDERED, B: replace(remembers(B, B, C), order=ORDER)}):
        decision = hook.decide(C, me, others)
        assert type(decision) is hook.Wait
        assert "this node is given up" in decision.reason
    assert type(hook.decide(C, me, {A: FORMED, B: UNREACHABLE})) is hook.Wait
    assert hook.given_up_since(C, me, {A: FORMED, B: UNREACHABLE}) == ORDER
    assert hook.given_up_since(C, me, {A: ORDERED, B: PRIMARY}) is None
    assert hook.given_up_since(C, FORMED, {A: FORMED, B: PRIMARY}) is None
    assert hook.given_up_since(B, CLEAN, {A: FORMED, C: PRIMARY}) is None


def test_other_orders_make_other_clusters() -> None:
    others = [replace(ORDER, position=8), replace(ORDER, without=frozenset({B, C})), replace(ORDER, cluster=OTHER)]
    assert len({order.becomes for order in (ORDER, replace(ORDER), *others)}) == 4


@pytest.mark.parametrize(
    "told", [CLEAN, NEW, remembers(B, A, B), ORDERED], ids=["clean", "new", "crashed", "with an order"]
)
def test_facts_arrive_as_they_were_sent(told: Any) -> None:
    assert hook.decode(hook.encode(told)) == told


def test_its_ports_are_those_of_the_stack() -> None:
    assert hook.HEALTH_PORT == SERVICE_HEALTH_PORT


def grastate(cluster: str = CLUSTER, position: int = 12, flag: int = 0) -> str:
    """As Galera writes it: over what was there, so that something may follow."""
    return f"# GALERA saved state\nversion: 2.1\nuuid:    {cluster}\nseqno:   {position}\nsafe_to_bootstrap: {flag}\n "


def gvwstate(me: int, *members: int) -> str:
    ids = [f"880b5a97-e9ba-11f1-bc5b-00000000000{i}" for i in range(10)]
    lines = "".join(f"member: {ids[member]} 0\n" for member in members)
    return f"my_uuid: {ids[me]}\n#vwbeg\nview_id: 3 {ids[members[0]]} 3\nbootstrap: 0\n{lines}#vwend\n"


def _unit(state: str, pid: int = 0) -> str:
    return f"case $* in *ActiveState*) echo {state} ;; *MainPID*) echo {pid} ;; esac"


class Node:
    def __init__(self, folder: Path, address: str, peers: list[str]) -> None:
        self.address = address
        self.data, self.run, self.order = folder / "mysql", folder / "run", folder / "state/order.json"
        self.data.mkdir(parents=True)
        self.stubs = Stubs(folder / "bin")
        self.recovers(f"{CLUSTER}:12")
        self.stubs.add("systemctl", _unit("inactive"))
        self.settings = folder / "galera.env"
        self.settings.write_text(f"ADDRESS={address}\nPEERS='{' '.join(peers)}'\n")
        self._said = folder / "said"
        self.process: subprocess.Popen[bytes] | None = None

    def recovers(self, position: str) -> None:
        self.stubs.add("galera_recovery", f"echo --wsrep_start_position={position}")

    def start(self) -> "Node":
        self.stubs.add("systemctl", _unit("activating"))
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, FILES / "mariadb/galera_start.py"],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        return self

    def does(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, FILES / "mariadb/galera_start.py", *words],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        settings = {
            "DATA": self.data, "GALERA_ENV": self.settings, "GALERA_RUN": self.run, "GALERA_ORDER": self.order,
        }  # fmt: skip
        return self.stubs.environment(**{f"MYCAT_HA_{name}": str(path) for name, path in settings.items()})

    def said(self) -> str:
        return self._said.read_text()

    def ends(self, status: int = 0) -> str:
        """What mariadbd would be started with."""
        assert self.process is not None
        assert self.process.wait(30) == status, self.said()
        return (self.run / "start.env").read_text() if status == 0 else ""

    def waits(self, words: str) -> None:
        wait_until(lambda: words in self.said(), f"it to say: {words}", 20)
        assert self.process is not None
        assert self.process.poll() is None


@contextmanager
def runs(node: Node, cluster: str, status: int = 200, words: str = "ok") -> Iterator[None]:
    """mariadbd on this node, as the others see it: its group communication, and its health responder."""

    class Responder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/mysql" else 404)
            self.send_header("X-Galera-Cluster", cluster)
            self.end_headers()
            self.wfile.write(words.encode())

        def log_message(self, *_: object) -> None:
            pass

    health = (node.address, hook.HEALTH_PORT)
    with socket.create_server((node.address, hook.GROUP_PORT)), HTTPServer(health, Responder) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield
        finally:
            server.shutdown()


POSITION = f"_WSREP_START_POSITION=--wsrep_start_position={CLUSTER}:12\n"
FORM = f"_WSREP_NEW_CLUSTER=--wsrep-new-cluster\n{POSITION}"
JOIN = f"_WSREP_NEW_CLUSTER=\n{POSITION}"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    # Loopback addresses of this test alone; nothing listens there unless the test does.
    first, second = random.randint(1, 254), random.randint(1, 254)
    addresses = [f"127.{first}.{second}.{n}" for n in range(1, 4)]
    three = [Node(tmp_path / a, a, [peer for peer in addresses if peer != a]) for a in addresses]
    yield three
    for node in three:
        if node.process:
            node.process.kill()
            node.process.wait()


def test_after_a_stop_of_all_at_once_one_forms_and_the_others_join_it(nodes: list[Node]) -> None:
    for node in nodes:
        (node.data / "grastate.dat").write_text(grastate())
    nodes[1].recovers(f"{CLUSTER}:13")
    nodes[0].start().waits(f"nothing is known of {nodes[1].address}, {nodes[2].address}")
    nodes[2].start().waits(f"nothing is known of {nodes[1].address}")
    assert nodes[1].start().ends() == FORM.replace(":12", ":13")
    nodes[0].waits("waiting: ")
    with socket.create_server((nodes[1].address, hook.GROUP_PORT)):
        for node in (nodes[0], nodes[2]):
            assert node.ends() == JOIN
            assert (node.run / "attempt").exists()
    state = (nodes[1].data / "grastate.dat").read_text()
    assert f"uuid:    {CLUSTER}\nseqno:   12\nsafe_to_bootstrap: 1\n" in state
    assert not (nodes[1].run / "attempt").exists()


def test_all_of_the_last_view_meet_without_the_third(nodes: list[Node]) -> None:
    for place, node in enumerate(nodes[:2]):
        (node.data / "grastate.dat").write_text(grastate(position=-1))
        (node.data / "gvwstate.dat").write_text(gvwstate(place, 0, 1))
    nodes[0].start().waits("nothing is known of")
    nodes[1].start()
    processes = [node.process for node in nodes[:2] if node.process]
    wait_until(lambda: any(process.poll() == 0 for process in processes), "one to start", 20)
    # The other one sees it still here, or gone to start.
    first = next(node for node, process in zip(nodes, processes, strict=False) if process.poll() == 0)
    with socket.create_server((first.address, hook.GROUP_PORT)):
        assert [node.ends() for node in nodes[:2]] == [JOIN, JOIN]
    assert (nodes[0].data / "gvwstate.dat").exists()


def order(node: Node, *without: Node, position: int = 12) -> "subprocess.CompletedProcess[str]":
    wanted = {"cluster": CLUSTER, "position": position, "without": [one.address for one in without]}
    return node.does("order", json.dumps(wanted))


def test_with_one_given_up_the_others_form_a_cluster_of_another_name(nodes: list[Node]) -> None:
    """One of them is stopped when the order comes, the other one waits."""
    for node in nodes:
        (node.data / "grastate.dat").write_text(grastate(position=-1))
    nodes[0].start().waits(f"nothing is known of {nodes[1].address}, {nodes[2].address}")
    for node in nodes[:2]:
        assert order(node, nodes[2]).returncode == 0
        assert order(node, nodes[2]).returncode == 0  # once more
    nodes[0].waits(f"a cluster without {nodes[2].address} is ordered")
    nodes[1].start()
    becomes = hook.Order(CLUSTER, 12, frozenset({nodes[2].address})).becomes
    assert nodes[0].ends() == FORM.replace(CLUSTER, becomes)
    state = (nodes[0].data / "grastate.dat").read_text()
    assert f"uuid:    {becomes}\nseqno:   12\nsafe_to_bootstrap: 1\n" in state
    # Also one with the same data gets a copy of them: MariaDB looks for the cluster's name inside of them.
    with socket.create_server((nodes[0].address, hook.GROUP_PORT)):
        assert nodes[1].ends() == JOIN
    # The start was interrupted before mariadbd has written its new name down.
    assert nodes[0].start().ends() == FORM.replace(CLUSTER, becomes)


def test_who_was_given_up_learns_of_it_when_it_returns(nodes: list[Node]) -> None:
    """Although it could form its old cluster: it was alone in it."""
    past = hook.Order(CLUSTER, 12, frozenset({nodes[2].address}))
    (nodes[0].data / "grastate.dat").write_text(grastate(past.becomes, 40))
    nodes[0].order.parent.mkdir()
    nodes[0].order.write_text(json.dumps(asdict(past), default=sorted))
    nodes[0].recovers(f"{past.becomes}:40")
    nodes[0].start().waits("nothing is known of")
    (nodes[2].data / "grastate.dat").write_text(grastate(position=99, flag=1))
    (nodes[2].data / "gvwstate.dat").write_text(gvwstate(2, 2))
    nodes[2].start().waits("this node was given up, and a cluster formed from position 12 without it")
    wait_until(lambda: not (nodes[2].data / "gvwstate.dat").exists(), "its last view to be forgotten", 20)
    state = (nodes[2].data / "grastate.dat").read_text()
    assert f"uuid:    {hook.NO_CLUSTER}\nseqno:   -1\nsafe_to_bootstrap: 0\n" in state
    with socket.create_server((nodes[1].address, hook.GROUP_PORT)):
        assert nodes[2].ends() == "_WSREP_NEW_CLUSTER=\n_WSREP_START_POSITION=\n"


def test_who_joins_a_cluster_forgets_that_it_was_the_last_of_another(nodes: list[Node]) -> None:
    """Galera would form its last view again, of this node alone, before it has heard of the cluster that there is."""
    (nodes[2].data / "grastate.dat").write_text(grastate(position=-1, flag=1))
    (nodes[2].data / "gvwstate.dat").write_text(gvwstate(2, 2))
    with runs(nodes[0], OTHER):
        assert nodes[2].start().ends() == JOIN
    assert not (nodes[2].data / "gvwstate.dat").exists()
    assert "safe_to_bootstrap: 0\n" in (nodes[2].data / "grastate.dat").read_text()


def test_an_order_that_may_not_be_is_refused_and_leaves_nothing(nodes: list[Node]) -> None:
    (nodes[0].data / "grastate.dat").write_text(grastate(position=12))

    def refused(*without: Node, position: int = 12) -> str:
        done = order(nodes[0], *without, position=position)
        assert done.returncode == 1
        return done.stderr

    assert f"this node is at {CLUSTER}:12" in refused(nodes[2], position=11)
    with socket.create_server((nodes[1].address, hook.GROUP_PORT)):
        assert f"mariadbd runs on {nodes[1].address}" in refused(nodes[2])
    nodes[2].start().waits("nothing is known of")
    assert f"{nodes[2].address} is given up, but it is here" in refused(nodes[2])
    nodes[0].stubs.add("systemctl", _unit("active", 7))
    assert "mariadbd runs here" in refused(nodes[1])
    assert not nodes[0].order.exists()


def test_one_order_at_a_time(nodes: list[Node]) -> None:
    (nodes[0].data / "grastate.dat").write_text(grastate(position=12))
    assert order(nodes[0], nodes[2]).returncode == 0
    done = order(nodes[0], nodes[1])
    assert done.returncode == 1
    assert f"another order stands here, to form a cluster from position 12 without {nodes[2].address}" in done.stderr
    assert nodes[0].does("withdraw").returncode == 0
    assert order(nodes[0], nodes[1]).returncode == 0


def test_a_node_tells_what_it_knows_and_sees(nodes: list[Node]) -> None:
    """Whether it waits or is stopped: the position is recovered, and nothing is started."""
    (nodes[0].data / "grastate.dat").write_text(grastate(position=-1))
    (nodes[1].data / "grastate.dat").write_text(grastate(position=-1))
    nodes[1].start().waits("nothing is known of")
    for node, peer, waits in ((nodes[0], nodes[1], False), (nodes[1], nodes[0], True)):
        told = recovery_plan.told(node.does("tell").stdout)
        assert told.facts == recovery_plan.Facts(CLUSTER, 12, left_last=False, view=None, waits=waits, order=None)
        assert told.peers == ({} if waits else {peer.address: recovery_plan.told(peer.does("tell").stdout).facts})
    with socket.create_server((nodes[2].address, hook.GROUP_PORT)):
        assert recovery_plan.told(nodes[0].does("tell").stdout).peers[nodes[2].address] == "primary"
    assert not (nodes[0].run / "start.env").exists()
    nodes[0].stubs.add("galera_recovery", "exit 1")
    told = recovery_plan.told(nodes[0].does("tell").stdout)
    assert told.facts is None
    assert "cannot be recovered" in told.problem


def test_words_that_are_not_known_start_nothing(nodes: list[Node]) -> None:
    assert nodes[0].does("form").returncode == 1
    assert not nodes[0].run.exists()


def test_the_node_that_left_last_asks_nobody(nodes: list[Node]) -> None:
    (nodes[0].data / "grastate.dat").write_text(grastate(flag=1))
    assert nodes[0].start().ends() == FORM


def test_the_very_first_start(nodes: list[Node]) -> None:
    (nodes[0].data / "grastate.dat").write_text(grastate(hook.NO_CLUSTER, -1, 1))
    nodes[0].recovers(f"{hook.NO_CLUSTER}:-1")
    assert nodes[0].start().ends() == "_WSREP_NEW_CLUSTER=--wsrep-new-cluster\n_WSREP_START_POSITION=\n"
    with socket.create_server((nodes[0].address, hook.GROUP_PORT)):
        assert nodes[1].start().ends() == "_WSREP_NEW_CLUSTER=\n_WSREP_START_POSITION=\n"


@pytest.mark.parametrize(
    "state",
    [grastate(flag=1).replace("safe_to", "#safe_to"), grastate(flag=1).replace(": 1", ": 10"), "", None],
    ids=["comment", "10", "empty", "none"],
)
def test_nothing_else_is_a_flag(nodes: list[Node], state: str | None) -> None:
    if state is not None:
        (nodes[0].data / "grastate.dat").write_text(state)
    nodes[0].start().waits("nothing is known of")


def test_a_flag_beside_a_view_with_others_is_older_than_that(nodes: list[Node]) -> None:
    (nodes[0].data / "grastate.dat").write_text(grastate(flag=1))
    (nodes[0].data / "gvwstate.dat").write_text(gvwstate(0, 0, 1, 2))
    nodes[0].start().waits("nothing is known of")


def test_a_torn_state_is_repaired_and_a_torn_view_is_none(nodes: list[Node]) -> None:
    for node in nodes:
        (node.data / "grastate.dat").write_text("")
        (node.data / "gvwstate.dat").write_text(gvwstate(0, 0, 1, 2).replace("#vwend\n", ""))
        node.start()
    assert nodes[0].ends() == FORM
    assert f"uuid:    {CLUSTER}\nseqno:   -1\nsafe_to_bootstrap: 1\n" in (nodes[0].data / "grastate.dat").read_text()
    assert not (nodes[0].data / "gvwstate.dat").exists()
    for node in nodes[1:]:
        node.waits(f"{nodes[0].address} has the highest position and forms the cluster")
        assert hook.NO_CLUSTER not in (node.data / "grastate.dat").read_text()


def test_data_of_an_interrupted_transfer_do_not_count(nodes: list[Node]) -> None:
    """Whatever InnoDB says of them, or if it says nothing."""
    for node, recovers in zip(nodes, (f"{CLUSTER}:99", f"{CLUSTER}:12", ""), strict=True):
        (node.data / "grastate.dat").write_text(grastate(CLUSTER if node is nodes[1] else hook.NO_CLUSTER, -1))
        node.recovers(recovers)
    nodes[2].stubs.add("galera_recovery", "exit 1")
    for node in nodes:
        node.start()
    assert nodes[1].ends() == FORM


def test_data_without_a_position_are_not_started(nodes: list[Node]) -> None:
    (nodes[0].data / "grastate.dat").write_text(grastate(position=-1))
    nodes[0].stubs.add("galera_recovery", "exit 1")
    nodes[0].start().ends(1)
    assert "cannot be recovered" in nodes[0].said()


def test_a_stop_ends_the_waiting_at_once(nodes: list[Node]) -> None:
    nodes[0].start().waits("nothing is known of")
    assert nodes[0].process is not None
    begun = time.monotonic()
    nodes[0].process.send_signal(signal.SIGTERM)
    nodes[0].ends(-signal.SIGTERM)
    assert time.monotonic() - begun < 2


def test_a_peer_that_says_nothing_is_not_down(nodes: list[Node]) -> None:
    """Silence on either port: the queue of a listener that accepts nobody."""
    (nodes[0].data / "grastate.dat").write_text(grastate())
    with socket.create_server((nodes[1].address, hook.FACTS_PORT)) as silent:
        nodes[0].start().waits(f"nothing is known of {nodes[1].address}")
        silent.settimeout(10)
        silent.accept()[0].close()


@pytest.mark.parametrize(
    ("status", "words", "seen"),
    [
        (200, "ok", hook.Primary),
        (503, "the node is not synced: Donor/Desynced", hook.Primary),
        (503, "wsrep_ready is off: the node does not take queries", hook.Running),
    ],
)
def test_a_peer_that_runs_is_asked_for_its_cluster(nodes: list[Node], status: int, words: str, seen: type) -> None:
    assert words.partition(":")[0] in f"ok {(FILES / 'health/health.py').read_text()}"
    with runs(nodes[0], OTHER, status, words):
        found: Any = hook.look(nodes[0].address)
    assert type(found) is seen
    assert getattr(found, "cluster", OTHER) == OTHER


def test_a_node_without_a_view_leaves_others_to_themselves_at_first(nodes: list[Node]) -> None:
    """Those with a view start at once."""
    for node in nodes[:2]:
        (node.data / "grastate.dat").write_text(grastate())
    (nodes[1].data / "gvwstate.dat").write_text(gvwstate(1, 1, 2))
    # A responder that does not answer is there.
    group, health = hook.GROUP_PORT, hook.HEALTH_PORT
    with socket.create_server((nodes[2].address, group)), socket.create_server((nodes[2].address, health)):
        nodes[0].start().waits(f"{nodes[2].address} runs without a cluster")
        assert nodes[1].start().ends() == JOIN
        nodes[0].waits("too early")


def test_without_its_settings_a_node_does_not_start(nodes: list[Node]) -> None:
    (nodes[0].data / "grastate.dat").write_text(grastate(flag=1))
    nodes[0].settings.unlink()
    nodes[0].start().ends(1)


def test_an_attempt_is_vain_if_no_view_has_come_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubs = Stubs(tmp_path / "bin")
    stubs.add("systemctl", "echo start")
    monkeypatch.setenv("PATH", stubs.environment()["PATH"])
    monkeypatch.setattr(hook, "RUN", tmp_path)
    monkeypatch.setattr(hook, "DATA", tmp_path)
    attempt, view = tmp_path / "attempt", tmp_path / "gvwstate.dat"
    before, now = gvwstate(0, 0, 1), time.time()

    def begun(seconds_ago: float, remembered: str) -> None:
        attempt.write_text(remembered)
        os.utime(attempt, (now - seconds_ago, now - seconds_ago))

    view.write_text(before)
    read = hook.last_view()
    assert read
    assert not hook.attempt_is_vain()
    begun(0, read.id)
    assert not hook.attempt_is_vain()
    begun(31, "")  # without a view mariadbd gives up by itself
    assert not hook.attempt_is_vain()
    begun(31, read.id)
    assert hook.attempt_is_vain()
    stubs.add("systemctl", "echo start-pre")
    assert not hook.attempt_is_vain()
    stubs.add("systemctl", "echo start")
    view.write_text(before.replace("view_id: 3", "view_id: 4"))
    assert not hook.attempt_is_vain()


def test_a_member_is_the_same_after_starts_that_found_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "DATA", tmp_path)
    (tmp_path / "gvwstate.dat").write_text(gvwstate(0, 0, 1))
    before = hook.last_view()
    (tmp_path / "gvwstate.dat").write_text(gvwstate(0, 0, 1).replace("-bc5b-", "-bc5c-", 1))
    assert before == hook.last_view() is not None


class _Over(Exception):  # noqa: N818
    pass


RESTART, KILL = "--no-block restart mariadb", "kill --signal=SIGKILL mariadb"


class Watched:
    """A mariadbd that says the same for ever, with a peer that does so too, beside `galera-start watch`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.status: str = "Primary"
        self.peer: Any = PRIMARY
        self._stubs = Stubs(folder / "bin")
        self._stubs.add("systemctl", "[ $1 = show ] && echo running")
        monkeypatch.setenv("PATH", self._stubs.environment()["PATH"])
        monkeypatch.setattr(hook, "RUN", folder)
        monkeypatch.setattr(hook, "settings", lambda: (A, [B]))
        monkeypatch.setattr(hook, "look_at_all", lambda peers: dict.fromkeys(peers, self.peer))
        monkeypatch.setattr(hook, "cluster_status", lambda: self.status)
        clock = SimpleNamespace(sleep=self._sleep, monotonic=lambda: self.now, time=lambda: 1e9 + self.now)
        monkeypatch.setattr(hook, "time", clock)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self._until or self.done() != self._before:
            raise _Over

    def done(self) -> list[str]:
        return [call for call in self._stubs.calls("systemctl") if not call.startswith("show")]

    def for_seconds(self, seconds: float) -> list[str]:
        """What it has done to mariadb then, or when it did something for the first time."""
        self._until, self._before = self.now + seconds, self.done()
        with pytest.raises(_Over):
            hook.watch()
        return self.done()[len(self._before) :]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("status", "peer", "done"),
    [
        ("non-Primary", CLEAN, [RESTART]),
        ("non-Primary", RUNNING, []),
        ("non-Primary", UNREACHABLE, []),
        ("non-Primary", PRIMARY, []),  # Galera finds the others by itself
        ("Disconnected", CLEAN, [RESTART]),
        ("Disconnected", PRIMARY, [KILL, RESTART]),
        ("Disconnected", RUNNING, []),
        ("Disconnected", UNREACHABLE, []),
        (hook.HANGS, PRIMARY, [KILL, RESTART]),
        (hook.HANGS, CLEAN, [KILL, RESTART]),  # the others wait for it
        (hook.HANGS, RUNNING, []),
        (hook.HANGS, UNREACHABLE, []),  # perhaps all of them do, because of what they share
        ("Primary", CLEAN, []),
        ("", CLEAN, []),
    ],
)
def test_a_node_that_does_not_come_back_by_itself_is_restarted_if_a_peer_is_there(
    watched: Watched, status: str, peer: Any, done: list[str]
) -> None:
    watched.status, watched.peer = status, peer
    assert watched.for_seconds(100) == done
    assert watched.now >= hook.WITHOUT_CLUSTER


@pytest.mark.parametrize("status", [hook.HANGS, "Disconnected"])
def test_a_node_is_restarted_once_in_an_hour_and_then_left_alone(
    watched: Watched, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.status = status
    assert watched.for_seconds(100) == [KILL, RESTART]
    capsys.readouterr()
    assert watched.for_seconds(1000) == []
    said = capsys.readouterr().out
    assert said.startswith("<3>")  # an error, in the journal
    assert "left alone" in said
    assert watched.for_seconds(4000) == [KILL, RESTART]


def test_a_node_that_recovers_in_time_is_left_alone(watched: Watched) -> None:
    for _ in range(3):
        watched.status = hook.HANGS
        assert watched.for_seconds(50) == []
        watched.status = "Primary"
        assert watched.for_seconds(10) == []


def test_a_mariadbd_that_hangs_is_told_from_one_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubs = Stubs(tmp_path / "bin")
    stubs.add("mariadb", "exit 1")
    monkeypatch.setenv("PATH", stubs.environment()["PATH"])
    assert hook.cluster_status() == ""
    stubs.add("mariadb", "printf 'wsrep_cluster_status\\tPrimary\\n'")
    assert hook.cluster_status() == "Primary"
    stubs.add("mariadb", "sleep 30")
    assert hook.cluster_status() == hook.HANGS


def test_the_units_use_it() -> None:
    unit = verbatim("mariadb/mariadb.service.d.conf").splitlines()
    assert f"ExecStartPre=+{LIBRARY}/galera-start" in unit
    assert f"EnvironmentFile=-{hook.RUN}/start.env" in unit
    # The distribution's line is reset, and comes again after what it is to find.
    assert [line for line in unit if line.startswith("ExecStartPost=")] == [
        "ExecStartPost=",
        f"ExecStartPost=+-/bin/rm -f {hook.RUN}/attempt",
        f"ExecStartPost=+-{LIBRARY}/note-version",
        "ExecStartPost=!/etc/mysql/debian-start",
    ]
    # One that hangs in its stop is killed, and the hook's own limit comes before systemd's.
    assert {"SendSIGKILL=yes", "TimeoutStopSec=180", "TimeoutStartSec=3600"} <= set(unit)
    assert hook.PATIENCE < 3600
    assert f"ExecStart={LIBRARY}/galera-start watch" in verbatim("mariadb/galera-watch.service").splitlines()
    start = render("mariadb/start.sh.j2", watch="some-watch", library="/some/library").splitlines()
    assert "systemctl --quiet enable --now some-watch" in start
