"""A single writer is one writer at every moment: real HAProxys, as they are rendered, and servers that fail and return.

Sessions are held open all the time. What must never be: sessions on two servers.
"""

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pymysql
import pytest

from components import cluster, haproxy
from constants import MYSQL_PORT, SERVICE_HEALTH_PORT
from settings import Settings
from stackctl import reports
from tests import example
from tests.fakemysql import FakeMysql
from tests.rendering.loopback import off_machine
from tests.servers import BOUND, end, free_port

#: The databases' machines.
ADDRESSES = {"db1": "127.8.8.141", "db2": "127.8.8.142", "db3": "127.8.8.143"}
NAMES = tuple(ADDRESSES)
PASSWORD = "secret"
Sessions = list["pymysql.Connection[Any]"]


class HealthPort(ThreadingHTTPServer):
    """Of one database: what it answers a GET of each path with, and after how many seconds. 200 where nothing else is
    said."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__((address, port), _Health)
        self.says: dict[str, int] = {}
        self.seconds = 0.0


class _Health(BaseHTTPRequestHandler):
    server: HealthPort

    def do_GET(self) -> None:
        time.sleep(self.server.seconds)
        self.send_response(self.server.says.get(self.path, 200))
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        with suppress(ConnectionError):  # HAProxy may have heard enough
            self.wfile.write(b'<html>\r\n\r\n<p>"Some words", for people.</p>\r\n</html>\r\n')

    def log_message(self, *_: object) -> None:
        pass


class Servers(dict[str, FakeMysql]):
    """By name; each says its name when it is asked anything. They live through the whole test."""

    def __init__(self, stack: ExitStack) -> None:
        self.port, self.health_port = free_port(), free_port()
        self.health: dict[str, HealthPort] = {}
        for name, address in ADDRESSES.items():
            self[name] = stack.enter_context(FakeMysql(PASSWORD, self._answers(name), address, self.port))
            health = self.health[name] = stack.enter_context(HealthPort(address, self.health_port))
            threading.Thread(target=health.serve_forever, daemon=True).start()
            stack.callback(health.shutdown)

    def make_writer(self, writer: str | None) -> None:
        """By its own health port's word, and that of the others."""
        for name, health in self.health.items():
            health.says["/writer"] = 200 if name == writer else 503

    @staticmethod
    def _answers(name: str) -> Callable[[str], list[str]]:
        return lambda statement: [name] if statement.startswith("SELECT") else []


class Balancer:
    """A load balancer's HAProxy with its own VIP, all on loopback; `reload` puts a new process before the old one."""

    def __init__(
        self, folder: Path, prefix: Path, servers: Servers, number: int, failback: bool, external: bool
    ) -> None:
        self.folder, self.port, self.read_port = folder, free_port(), free_port()
        self._program = prefix / "sbin/haproxy"
        self._processes: list[subprocess.Popen[bytes]] = []
        settings = Settings.parse(example.settings(lambda raw: self._settings(raw, servers, failback, external)))
        text = cluster.haproxy_cfg(settings, settings.machines[number], "secret")
        text = off_machine(text, prefix, folder).replace("127.8.8.249", "127.0.0.1")
        for fixed, port in ((MYSQL_PORT, servers.port), (SERVICE_HEALTH_PORT, servers.health_port)):
            text = re.sub(rf"\b{fixed}\b", str(port), text)
        (folder / "haproxy.cfg").write_text(text)

    def _settings(self, raw: dict[str, Any], servers: Servers, failback: bool, external: bool) -> None:
        raw["network"] = {"vpcCidr": "127.8.8.0/24", "subnetCidr": "127.8.8.128/25", "natSubnetCidr": "127.8.8.0/28"}
        raw["vip"]["address"] = "127.8.8.249"
        raw["machines"] = [{"name": f"lb{i}", "address": f"127.8.8.{250 + i}", "roles": ["lb"]} for i in (1, 2)]
        databases = [{"name": name, "address": address} for name, address in ADDRESSES.items()]
        if external:
            raw["database"] = {
                "external": [{**database, "port": servers.port} for database in databases],
                "externalCheckUser": "probe",
                "externalWriterCheck": {"port": servers.health_port, "path": "/writer"},
                "externalReaderCheck": {"port": servers.health_port, "path": "/reader?of=all"},
            }
        else:
            raw["machines"] += [{**database, "roles": ["mysql"]} for database in databases]
        check = {"inter": 0.1, "fastinter": 0.1, "downinter": 0.1, "rise": 2, "fall": 2}
        raw["haproxy"] |= {
            "mysql": {
                "port": self.port,
                "singleWriter": True,
                "singleWriterFailback": failback,
                "readPort": self.read_port,
                "check": check,
            },
            "statistics": {"port": free_port()},
            "timeouts": {"check": 1 if external else 0.3},
        }

    def start(self) -> None:
        """Beside what runs, which then takes no more sessions."""
        old = [str(process.pid) for process in self._processes if process.poll() is None]
        soft = ["-x", str(self.folder / "admin.sock"), "-sf", *old] if old else []
        argv = [*BOUND, str(self._program), "-db", "-f", str(self.folder / "haproxy.cfg"), *soft]
        with (self.folder / "log").open("ab") as log:
            self._processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        wait(self._answers, (self.folder / "log").read_text)

    def reload(self) -> None:
        """As reload-haproxy does it."""
        state = self.folder / "servers"
        state.write_text(self.ask("show servers state"))
        self.start()
        state.unlink()

    def stop(self) -> None:
        """With all sessions."""
        for process in self._processes:
            end(process)
        self._processes.clear()

    def _answers(self) -> bool:
        return f"Pid: {self._processes[-1].pid}\n" in self.ask("show info")

    def ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as channel, suppress(OSError):
            channel.connect(str(self.folder / "admin.sock"))
            channel.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: channel.recv(65536), b"")).decode()
        return ""

    def server(self, name: str) -> reports.Server:
        """As `stackctl status` reads it."""
        servers = reports.servers(self.ask("show stat"))
        return next(server for server in servers if (server.backend, server.name) == ("mysqlservers", name))

    def state(self, name: str) -> str:
        return self.server(name).status

    def wait_until_settled(self) -> None:
        """It has given up to look for a process before it. One that is younger hands nothing on to the one after it."""

        def settled() -> bool:
            flags = re.search(r"id=balancers .* flags=0x(\w+)", self.ask("show peers"))
            return flags is not None and int(flags[1], 16) & 3 == 3

        wait(settled, lambda: self.ask("show peers"))

    def wait_to_know(self, writer: str) -> None:
        table = "show table mysqlservers"
        wait(lambda: f"server_key={writer}\n" in self.ask(table), lambda: self.ask(table) + self.ask("show peers"))

    def wait_for(self, name: str, state: str) -> None:
        wait(lambda: self.state(name) == state, lambda: f"{name} is {self.state(name)} instead of {state}")

    def open(self, port: int | None = None) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            host="127.0.0.1",
            port=port or self.port,
            user="app",
            password=PASSWORD,
            connect_timeout=5,
            read_timeout=5,
        )

    def reads(self, count: int = 4) -> Sessions:
        return [self.open(self.read_port) for _ in range(count)]

    def sessions(self, count: int = 3) -> Sessions:
        return [self.open() for _ in range(count)]


def wait(condition: Callable[[], bool], words: Callable[[], str]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, words()
        time.sleep(0.02)


def where(sessions: Sessions) -> set[str]:
    """The servers on which those are that still live; none may be on another."""
    found = set()
    for session in sessions:
        with suppress(pymysql.Error, OSError), session.cursor() as cursor:
            cursor.execute("SELECT @@hostname")
            found.add(str(cursor.fetchone()[0]))
    return found


def alive(sessions: Sessions) -> int:
    return sum(1 for session in sessions if where([session]))


@pytest.fixture
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


Make = Callable[..., Balancer]


@pytest.fixture
def make(haproxy_prefix: Path, servers: Servers, tmp_path: Path) -> Iterator[Make]:
    """Makes a balancer of the pair and starts it, with every server up."""
    made: list[Balancer] = []

    def one(number: int = 0, failback: bool = False, external: bool = False) -> Balancer:
        folder = tmp_path / f"lb{number + 1}"
        folder.mkdir()
        made.append(Balancer(folder, haproxy_prefix, servers, number, failback, external))
        made[-1].start()
        return made[-1]

    yield one
    for balancer in made:
        balancer.stop()


def fail(servers: Servers, name: str, *balancers: Balancer) -> None:
    """It hangs: what is open to it stays open, unless somebody ends it."""
    servers[name].become("frozen")
    for balancer in balancers:
        balancer.wait_for(name, "DOWN")


def come_back(servers: Servers, name: str, *balancers: Balancer) -> None:
    servers[name].become("answering")
    for balancer in balancers:
        balancer.wait_for(name, "UP")


def failed_and_back(servers: Servers, *balancers: Balancer, sessions: int = 3) -> Sessions:
    """The first server has failed and works again; what the first balancer has opened since is on the second."""
    fail(servers, "db1", *balancers)
    since = balancers[0].sessions(sessions)
    assert where(since) == {"db2"}
    come_back(servers, "db1", *balancers)
    return since


def test_the_writer_stays_the_writer_when_the_one_before_it_returns(make: Make, servers: Servers) -> None:
    balancer = make()
    first = balancer.sessions()
    assert where(first) == {"db1"}
    second = failed_and_back(servers, balancer)
    assert where([*first, *second, *balancer.sessions()]) == {"db2"}
    assert (alive(first), alive(second)) == (0, 3)
    fail(servers, "db2", balancer)
    third = balancer.sessions()
    assert where(third) == {"db1"}
    come_back(servers, "db2", balancer)
    assert where([*second, *third, *balancer.sessions()]) == {"db1"}


def test_without_a_session_the_writer_is_remembered(make: Make, servers: Servers) -> None:
    balancer = make()
    (session,) = failed_and_back(servers, balancer, sessions=1)
    session.close()
    wait(lambda: not balancer.server("db2").sessions, lambda: "it still has a session")
    assert where(balancer.sessions()) == {"db2"}


def test_a_reload_keeps_the_writer(make: Make, servers: Servers) -> None:
    """Also for the first sessions of the new process, while the old one still has its own."""
    balancer = make()
    sessions = failed_and_back(servers, balancer)
    balancer.wait_until_settled()
    for _ in range(3):
        balancer.reload()
        sessions += balancer.sessions()
        assert where(sessions) == {"db2"}
    assert alive(sessions) == 12


def test_the_other_balancer_knows_the_writer(make: Make, servers: Servers) -> None:
    """One that was there all the time, and one that has just been started."""
    one, other = make(0), make(1)
    failed_and_back(servers, one, other)
    other.wait_to_know("db2")
    one.stop()
    assert where(other.sessions()) == {"db2"}
    one.start()
    one.wait_to_know("db2")
    other.stop()
    assert where(one.sessions()) == {"db2"}


def test_what_has_sessions_is_the_writer_whatever_the_other_balancer_says(make: Make, servers: Servers) -> None:
    """A process that starts alone begins with the first server, and learns later that it was another one."""
    one, other = make(0), make(1)
    failed_and_back(servers, one, other)
    one.stop()
    one.start()
    sessions = one.sessions()
    (writer,) = where(sessions)
    # The other one disagrees about who is up, and has another writer for itself.
    other.ask(f"set server mysqlservers/{writer} state maint")
    (elsewhere,) = where(other.sessions())
    assert elsewhere != writer
    # Whichever of the two told the other one last is believed by both: it goes on telling.
    wait(
        lambda: bool(other.sessions(1)) and f"server_key={elsewhere}\n" in one.ask("show table mysqlservers"),
        lambda: one.ask("show peers"),
    )
    assert where([*sessions, *one.sessions()]) == {writer}


def test_with_failback_the_first_server_takes_all_sessions_back(make: Make, servers: Servers) -> None:
    balancer = make(failback=True)
    first = balancer.sessions()
    assert where(first) == {"db1"}
    fail(servers, "db1", balancer)
    second = balancer.sessions()
    assert where(second) == {"db2"}
    fail(servers, "db2", balancer)
    third = balancer.sessions()
    come_back(servers, "db2", balancer)
    assert where([*second, *third, *balancer.sessions()]) == {"db3"}
    come_back(servers, "db1", balancer)
    wait(lambda: not alive(third), lambda: f"{alive(third)} sessions are still on db3")
    assert where([*first, *second, *third, *balancer.sessions()]) == {"db1"}


@pytest.mark.parametrize("failback", [False, True])
def test_only_the_first_session_of_all_waits(make: Make, failback: bool) -> None:
    balancer = make(failback=failback)
    balancer.open()
    started = time.monotonic()
    balancer.sessions(10)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("failback", [False, True])
def test_reads_are_where_the_writer_is_not(make: Make, servers: Servers, failback: bool) -> None:
    balancer = make(failback=failback)
    assert where(balancer.reads()) == {"db2", "db3"}
    assert where(balancer.sessions()) == {"db1"}
    assert where(balancer.reads()) == {"db2", "db3"}
    fail(servers, "db1", balancer)
    assert where(balancer.sessions()) == {"db2"}
    assert where(balancer.reads()) == {"db3"}
    come_back(servers, "db1", balancer)
    assert where(balancer.reads(12)) == ({"db2", "db3"} if failback else {"db1", "db3"})
    fail(servers, "db3", balancer)
    reads = balancer.reads()
    assert where(reads) == ({"db2"} if failback else {"db1"})
    fail(servers, "db2" if failback else "db1", balancer)
    wait(lambda: not alive(reads), lambda: f"{alive(reads)} sessions are still on it")
    assert where(balancer.reads()) == where(balancer.sessions()) == ({"db1"} if failback else {"db2"})


def test_sessions_are_where_an_external_server_says_that_it_may_write(make: Make, servers: Servers) -> None:
    """A primary with two replicas, of which another one is promoted."""
    servers.make_writer("db1")
    servers.health["db1"].says["/reader?of=all"] = 503
    balancer = make(external=True)
    for replica in ("db2", "db3"):
        balancer.wait_for(replica, "DOWN")
    reason = balancer.server("db2").reason
    assert reason
    assert reason.startswith("Layer7 wrong status 503")
    first, reads = balancer.sessions(), balancer.reads()
    assert (where(first), where(reads)) == ({"db1"}, {"db2", "db3"})

    servers.make_writer(None)
    balancer.wait_for("db1", "DOWN")
    wait(lambda: not alive(first), lambda: f"{alive(first)} sessions are still on it")
    with pytest.raises(pymysql.Error):
        balancer.open()

    servers.make_writer("db2")
    balancer.wait_for("db2", "UP")
    second = balancer.sessions()
    assert where(second) == {"db2"}
    assert where([*reads, *balancer.reads()]) == {"db2", "db3"}  # the first one does not say that it may be read
    servers.health["db1"].says["/reader?of=all"] = 200
    wait(lambda: where(balancer.reads()) == {"db1", "db3"}, lambda: balancer.ask("show stat"))
    assert (alive(second), alive(reads)) == (3, 4)

    # The health port is fine, and nobody gets through to the database.
    servers["db2"].become("frozen")
    balancer.wait_for("db2", "DOWN")
    assert not alive(second)


def test_while_no_server_works_new_sessions_wait_for_one(
    make: Make, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment without any, as between two views of Galera, fails nobody, and nobody waits for longer than that."""
    monkeypatch.setattr(haproxy, "NO_SERVER_PATIENCE", 60)
    balancer = make()
    for name in NAMES:
        fail(servers, name, balancer)
    with ThreadPoolExecutor(8) as pool:
        opened = [pool.submit(balancer.open, port) for port in (balancer.port, balancer.read_port) for _ in range(4)]
        time.sleep(0.5)
        assert not [one for one in opened if one.done()]
        come_back(servers, "db3", balancer)
        # PyMySQL waits for 5 s.
        assert where([one.result() for one in opened]) == {"db3"}


def test_a_session_that_waits_for_a_server_in_vain_is_closed(make: Make, servers: Servers) -> None:
    balancer = make()
    for name in NAMES:
        fail(servers, name, balancer)
    began = time.monotonic()
    with pytest.raises(pymysql.Error, match="Lost connection"):
        balancer.open()
    assert time.monotonic() - began >= haproxy.NO_SERVER_PATIENCE
    log = (balancer.folder / "log").read_text()
    assert "Lua" not in log, log


def test_a_process_that_was_just_started_sends_nobody_to_a_replica(make: Make, servers: Servers) -> None:
    """HAProxy takes every server for one that works until its first check."""
    servers.make_writer("db3")
    for health in servers.health.values():
        health.seconds = 0.5
    balancer = make(external=True)
    sessions = balancer.sessions()
    assert where(sessions) == {"db3"}
    balancer.reload()
    assert where(balancer.sessions()) == {"db3"}
    # The writer that is remembered, because nobody has opened a session since, may be one no more.
    balancer.wait_until_settled()
    servers.make_writer("db2")
    balancer.wait_for("db2", "UP")
    balancer.wait_for("db3", "DOWN")
    balancer.reload()
    assert where(balancer.sessions(1)) == {"db2"}
