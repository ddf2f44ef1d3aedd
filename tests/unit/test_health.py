"""The health responder, as its own process, before servers that answer, refuse, hang and drip."""

import http.client
import json
import runpy
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from localregion.wait import wait_until
from tests.fakemysql import FakeMysql

RESPONDER = Path(__file__).parents[2] / "files/health/health.py"
PASSWORD = "secret-€"


class Responder:
    """The program, started as systemd starts it: with the listening socket as descriptor 3."""

    def __init__(self, settings: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            # The shell puts the socket where systemd would.
            script = f'exec "$@" 3<&{listener.fileno()}'
            self._process = subprocess.Popen(
                ["bash", "-c", script, "-", sys.executable, str(RESPONDER), str(settings)],
                pass_fds=[listener.fileno()],
                stderr=subprocess.PIPE,
            )

    def ask(self, method: str = "OPTIONS", target: str = "*") -> tuple[int, str, float]:
        """Status, words, seconds."""
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, target, headers={"Host": "www"})
        response = connection.getresponse()
        words = response.read().decode()
        connection.close()
        return response.status, words, time.monotonic() - started

    def stop(self) -> str:
        """What it has said; a check is nothing to talk about."""
        self._process.terminate()
        return self._process.communicate(timeout=10)[1].decode()


@pytest.fixture
def mycat() -> Iterator[FakeMysql]:
    with FakeMysql(PASSWORD) as server:
        yield server


@pytest.fixture
def responder(mycat: FakeMysql, tmp_path: Path) -> Iterator[Responder]:
    settings = tmp_path / "health.json"
    login = {"host": "127.0.0.1", "port": mycat.port, "user": "health", "password": PASSWORD}
    settings.write_text(json.dumps({"/mycat": login}))
    responder = Responder(settings)
    yield responder
    assert responder.stop() == ""


@pytest.mark.parametrize(
    ("method", "target"), [("OPTIONS", "*"), ("GET", "/"), ("GET", "/mycat"), ("OPTIONS", "/mycat")]
)
def test_a_mycat_that_answers_is_healthy(responder: Responder, method: str, target: str) -> None:
    assert responder.ask(method, target)[:2] == (200, "ok\n")


@pytest.mark.parametrize(("seconds", "expected"), [(600, (503, "leaving service\n")), (-1, (200, "ok\n"))])
def test_a_service_that_leaves_gets_no_more_clients_for_a_while(
    seconds: int, expected: tuple[int, str], mycat: FakeMysql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYCAT_HA_LEAVING", str(tmp_path))
    (tmp_path / "mycat").write_text(f"{time.clock_gettime(time.CLOCK_BOOTTIME) + seconds}\n")
    login = {"host": "127.0.0.1", "port": mycat.port, "user": "health", "password": PASSWORD}
    (tmp_path / "health.json").write_text(json.dumps({"/mycat": login}))
    responder = Responder(tmp_path / "health.json")
    assert responder.ask("OPTIONS", "*")[:2] == expected
    (tmp_path / "mycat").unlink()
    assert responder.ask("OPTIONS", "*")[:2] == (200, "ok\n")
    responder.stop()


class Node:
    """What a database says to the responder's two questions."""

    cluster = ""

    def __init__(self, state: str, method: str, desynced: int, *, serves: bool) -> None:
        self.serves = serves
        self._state, self._others = state, ((0, method, desynced),)

    def rows(self, query: str) -> tuple[tuple[object, ...], ...]:
        if query.startswith("SELECT"):
            return self._others
        return (
            ("wsrep_ready", "ON"),
            ("wsrep_cluster_status", "Primary"),
            ("wsrep_local_state", self._state),
            ("wsrep_local_state_comment", f"state {self._state}"),
            ("wsrep_cluster_state_uuid", "some-uuid"),
        )


@pytest.mark.parametrize(
    ("state", "method", "desynced", "serves", "problem"),
    [
        ("4", "mariabackup", 0, False, ""),
        ("4", "rsync", 0, True, ""),
        ("2", "mariabackup", 0, True, ""),  # a donor that can go on
        ("3", "mariabackup", 0, True, ""),  # and catches up afterwards
        ("3", "mariabackup", 0, False, "the node is not synced: state 3"),  # one that joins
        ("2", "rsync", 0, True, "the node is not synced: state 2"),  # it takes no writes
        ("3", "rsync", 0, True, "the node is not synced: state 3"),
        ("2", "mariabackup", 1, True, "the node is not synced: state 2"),  # an operator's
        ("1", "mariabackup", 0, True, "the node is not synced: state 1"),
    ],
)
def test_a_database_is_usable_if_it_is_synced_or_a_donor_that_goes_on(
    state: str, method: str, desynced: int, serves: bool, problem: str
) -> None:
    database = runpy.run_path(str(RESPONDER))["database"]
    node = Node(state, method, desynced, serves=serves)
    assert database(node) == problem
    assert node.cluster == "some-uuid"


@pytest.mark.parametrize("problem", ["", "the node is not synced: Donor/Desynced"])
def test_an_answer_names_the_databases_cluster(problem: str) -> None:
    handler = runpy.run_path(str(RESPONDER))["Handler"]
    handler.services = {"/mysql": SimpleNamespace(problem=lambda: problem, cluster="some-uuid")}
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.handle_request).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request("GET", "/mysql")
        answer = connection.getresponse()
        connection.close()
    assert (answer.status, answer.headers["X-Galera-Cluster"]) == (503 if problem else 200, "some-uuid")


def test_the_rest_is_not_here(responder: Responder) -> None:
    assert responder.ask("GET", "/mysql")[0] == 404
    assert responder.ask("GET", "/nonsense")[0] == 404


def test_many_balancers_cost_one_connection(responder: Responder, mycat: FakeMysql) -> None:
    for _ in range(20):
        assert responder.ask()[0] == 200
    assert mycat.connections == 1


def test_a_restart_in_between_is_not_a_failure(responder: Responder, mycat: FakeMysql) -> None:
    assert responder.ask()[0] == 200
    mycat.hang_up()
    time.sleep(0.25)
    assert responder.ask()[0] == 200
    assert mycat.connections == 2


def becomes_well(responder: Responder) -> None:
    """Its own limit of 0.9 s can be short on a machine that has other things to do."""
    wait_until(lambda: responder.ask()[0] == 200, "the responder to say so", 5)


@pytest.mark.parametrize("known", [True, False], ids=["kept connection", "first connection"])
@pytest.mark.parametrize("mode", ["frozen", "dripping", "refusing", "stopped", "wrong password"])
def test_no_answer_is_an_answer_in_time_and_it_recovers(
    responder: Responder, mycat: FakeMysql, mode: str, known: bool
) -> None:
    if known:
        becomes_well(responder)
    if mode == "wrong password":
        mycat.password = "another"
        mycat.hang_up()
    else:
        mycat.become(mode)
    time.sleep(0.25)
    for _ in range(3):
        status, words, seconds = responder.ask()
        assert status == 503, words
        assert seconds < 5  # its own limit is 0.9 s; the rest is for a machine that has other things to do
        time.sleep(0.25)
    mycat.password = PASSWORD
    mycat.become("answering")
    becomes_well(responder)


def test_a_balancer_that_hangs_up_after_the_head_or_says_nothing_disturbs_nobody(responder: Responder) -> None:
    idle = socket.create_connection(("127.0.0.1", responder.port))
    for _ in range(20):
        hasty = socket.create_connection(("127.0.0.1", responder.port))
        hasty.sendall(b"OPTIONS * HTTP/1.1\r\nHost: www\r\n\r\n")
        assert hasty.recv(12) == b"HTTP/1.1 200"
        hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        hasty.close()
    assert responder.ask()[0] == 200
    idle.close()
