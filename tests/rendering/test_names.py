"""A database by its DNS name: a real HAProxy, as it is rendered, and a name server whose answer changes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pymysql
import pytest

from localregion.resolver import own_answer
from tests.rendering.test_writer import ADDRESSES, Balancer, Servers, servers, wait, where

__all__ = ["servers"]
NAME = "db.cluster-x1.eu-central-1.rds.amazonaws.test"


class NameServer:
    """On loopback. ``leads_to`` is what it says; it says nothing while that is None."""

    def __init__(self) -> None:
        self.leads_to: str | None = None
        self.asked = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # until it is closed
            while True:
                question, client = self.socket.recvfrom(4096)
                self.asked += 1
                if self.leads_to and (answer := own_answer(question, {NAME: IPv4Address(self.leads_to)})):
                    self.socket.sendto(answer, client)

    def wait_for_questions(self, count: int) -> None:
        enough = self.asked + count
        wait(lambda: self.asked >= enough, lambda: f"{enough - self.asked} questions are missing")


class Named(Balancer):
    """A balancer before one database, which has a name, with the test's name server."""

    def __init__(self, folder: Path, prefix: Path, servers: Servers, name_server: NameServer) -> None:
        super().__init__(folder, prefix, servers, number=0, failback=False, external=True)
        file = folder / "haproxy.cfg"
        text = file.read_text()
        assert "parse-resolv-conf" in text
        file.write_text(text.replace("parse-resolv-conf", f"nameserver test 127.0.0.1:{name_server.port}"))

    def _settings(self, raw: dict[str, Any], servers: Servers, failback: bool, external: bool) -> None:
        super()._settings(raw, servers, failback, external)
        server = {"name": "db", "host": NAME, "within": ["127.8.8.0/24"], "port": servers.port}
        raw["database"] = {"external": [server], "externalCheckUser": None}
        raw["haproxy"]["mysql"] |= {"singleWriter": False, "readPort": None}


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    running = NameServer()
    yield running
    running.socket.close()


@pytest.fixture
def balancer(haproxy_prefix: Path, servers: Servers, name_server: NameServer, tmp_path: Path) -> Iterator[Named]:
    made = Named(tmp_path, haproxy_prefix, servers, name_server)
    yield made
    made.stop()


def test_new_sessions_are_where_the_name_leads_to(balancer: Named, name_server: NameServer) -> None:
    name_server.leads_to = ADDRESSES["db1"]
    balancer.start()
    balancer.wait_for("db", "UP")
    first = balancer.sessions()
    assert where(first) == {"db1"}
    name_server.leads_to = ADDRESSES["db2"]
    wait(lambda: where([balancer.open()]) == {"db2"}, lambda: balancer.ask("show servers state"))
    assert where(balancer.sessions()) == {"db2"}
    assert where(first) == {"db1"}  # they end when the server that has them ends them


def test_a_name_server_that_does_not_answer_stops_nothing(balancer: Named, name_server: NameServer) -> None:
    """Not the start, not what works, and not a reload."""
    balancer.start()
    name_server.wait_for_questions(2)
    assert balancer.state("db") == "MAINT (resolution)"
    with pytest.raises(pymysql.Error):
        balancer.open()
    name_server.leads_to = ADDRESSES["db1"]
    balancer.wait_for("db", "UP")
    sessions = balancer.sessions()

    name_server.leads_to = None
    name_server.wait_for_questions(5)
    sessions += balancer.sessions()
    balancer.reload()
    sessions += balancer.sessions()
    name_server.wait_for_questions(5)
    assert where([*sessions, *balancer.sessions()]) == {"db1"}

    name_server.leads_to = ADDRESSES["db2"]
    wait(lambda: where([balancer.open()]) == {"db2"}, lambda: balancer.ask("show servers state"))
