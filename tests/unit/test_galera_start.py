"""files/mariadb/galera-start: who may form a cluster, and who has to find one."""

import random
import socket
import time
from pathlib import Path

import pytest

from tests.programs import Stubs

PROGRAM = "mariadb/galera-start"
FORGET = "unset-environment _WSREP_NEW_CLUSTER"
FORM = "set-environment _WSREP_NEW_CLUSTER=--wsrep-new-cluster"
LAST = "# GALERA saved state\nversion: 2.1\nuuid:    5d4c\nseqno:   12\nsafe_to_bootstrap: 1\n"
GALERA_PORT = 4567


class Node:
    def __init__(self, folder: Path) -> None:
        self.data = folder / "mysql"
        self.data.mkdir()
        self.stubs = Stubs(folder / "bin")
        self.stubs.add("systemctl")
        self.settings = folder / "galera.env"
        # Loopback addresses of this test alone; nothing listens there unless the test does.
        octets = [random.randint(1, 254) for _ in range(3)]
        self.peers = ["127.{}.{}.{}".format(*octets[:2], (octets[2] + n) % 254 + 1) for n in range(2)]
        self.settings.write_text(f"PEERS='{' '.join(self.peers)}'\n")

    def start(self) -> tuple[int, str, list[str]]:
        """Status, output, and what systemd was told."""
        done = self.stubs.run(PROGRAM, MYCAT_HA_DATA=str(self.data), MYCAT_HA_GALERA_ENV=str(self.settings))
        return done.returncode, done.stdout, self.stubs.calls("systemctl")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_the_node_that_stopped_last_forms_the_cluster(node: Node) -> None:
    (node.data / "grastate.dat").write_text(LAST)
    assert node.start() == (0, "this node stopped last and no other is up: forming the cluster\n", [FORGET, FORM])


@pytest.mark.parametrize("up", [0, 1])
def test_it_joins_if_any_other_is_up(node: Node, up: int) -> None:
    (node.data / "grastate.dat").write_text(LAST)
    with socket.create_server((node.peers[up], GALERA_PORT)):
        assert node.start() == (0, f"node {node.peers[up]} is up: joining it\n", [FORGET])


def test_a_node_alone_forms_its_cluster(node: Node) -> None:
    (node.data / "grastate.dat").write_text(LAST)
    node.settings.write_text("PEERS=''\n")
    assert node.start()[2] == [FORGET, FORM]


@pytest.mark.parametrize(
    "state",
    [
        LAST.replace("safe_to_bootstrap: 1", "safe_to_bootstrap: 0"),
        LAST.replace("safe_to_bootstrap: 1", "safe_to_bootstrap: 10"),
        LAST.replace("safe_to_bootstrap: 1", "#safe_to_bootstrap: 1"),
        "",
        None,
    ],
    ids=["not the last", "10", "comment", "empty", "no file"],
)
def test_nobody_else_does(node: Node, state: str | None) -> None:
    if state is not None:
        (node.data / "grastate.dat").write_text(state)
    assert node.start() == (0, "", [FORGET])


def test_after_a_power_cut_the_last_view_decides(node: Node) -> None:
    """Even beside a state file that would allow it."""
    (node.data / "grastate.dat").write_text(LAST)
    (node.data / "gvwstate.dat").write_text("my_uuid: 1\n")
    assert node.start() == (0, "", [FORGET])


def test_a_peer_that_does_not_answer_costs_a_second(node: Node) -> None:
    """Not a refusal but silence: the queue of a listener that accepts nobody is full."""
    (node.data / "grastate.dat").write_text(LAST)
    with socket.create_server((node.peers[0], GALERA_PORT), backlog=0), socket.socket() as first:
        first.connect((node.peers[0], GALERA_PORT))
        begun = time.monotonic()
        status, _, told = node.start()
    assert (status, told) == (0, [FORGET, FORM])
    assert time.monotonic() - begun < 30  # TCP's own limit is two minutes


def test_without_its_settings_a_node_neither_forms_nor_starts(node: Node) -> None:
    (node.data / "grastate.dat").write_text(LAST)
    node.settings.unlink()
    status, _, told = node.start()
    assert status != 0
    assert FORM not in told


def test_a_systemd_that_refuses_is_a_failure(node: Node) -> None:
    (node.data / "grastate.dat").write_text(LAST)
    node.stubs.add("systemctl", '[ "$1" != set-environment ]')
    assert node.start()[0] != 0
