"""Databases that see who asks: a real HAProxy, as it is rendered, before a real MariaDB; switched on and off."""

import os
import re
import runpy
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest

from components import certificates, cluster
from constants import SERVICE_HEALTH_PORT
from localregion.client import wait_until
from settings import Settings
from stackctl import machine_report
from tests import example
from tests.rendering.loopback import off_machine
from tests.rendering.test_database_check import ADDRESS, RESPONDER, Server, make_users, one_database
from tests.servers import BOUND, LOOPBACK, ask, end, install_database

VIP, PORT, READ_PORT = "127.8.9.249", 3306, 3308
#: The client's; HAProxy's own is LOOPBACK.
CLIENT = "127.0.0.9"
PROGRAM = Path(__file__).parents[2] / "files/mariadb/proxy-networks"
WHO = "SELECT SUBSTRING_INDEX(host, ':', 1), USER() FROM information_schema.processlist WHERE id = CONNECTION_ID()"
NETWORKS = "SELECT @@GLOBAL.proxy_protocol_networks"


@dataclass
class Believer(Server):
    """With a file that it reads at its start, and the program that writes it."""

    @property
    def config(self) -> Path:
        return self.folder / "61-proxy-protocol.cnf"

    def command(self) -> list[str]:
        words = super().command()
        if self.config.exists():
            words[words.index("--no-defaults")] = f"--defaults-file={self.config}"
        return words

    def believe(self, *addresses: str, active: str = "active") -> None:
        """As a machine does, whose `mariadb` finds the server and whose systemd knows of it."""
        commands = self.folder / "bin"
        commands.mkdir(exist_ok=True)
        for name, line in (
            ("systemctl", f"echo {active}"),
            ("mariadb", f'exec {shutil.which("mariadb")} --no-defaults -uroot --socket={self.folder}/s "$@"'),
        ):
            (commands / name).write_text(f"#!/bin/sh\n{line}\n")
            (commands / name).chmod(0o755)
        environment = {"PATH": f"{commands}:{os.environ['PATH']}", "MYCAT_HA_PROXY_CONFIG": str(self.config)}
        subprocess.run(["bash", str(PROGRAM), *addresses], env=environment, check=True)

    def networks(self) -> set[str]:
        return set(self.root(NETWORKS)[0][0].split(",")) - {""}


@pytest.fixture(scope="module")
def database() -> Iterator[Believer]:
    folder = Path(tempfile.mkdtemp(prefix="mycat-proxy-"))  # mariadbd gets there, unlike to pytest's own
    folder.chmod(0o755)
    running = Believer(install_database(folder / "database"))
    identity = certificates.identity(Settings.parse(example.settings(example.with_tls)), "test")
    assert identity
    bundle = running.folder / "bundle.pem"
    bundle.write_text(identity.bundle)
    running.options = (f"--ssl-cert={bundle}", f"--ssl-key={bundle}")
    try:
        running.start()
        make_users(running)
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


@dataclass
class Balancer:
    """`reload` puts a process with a new file before the old one, which keeps its sessions."""

    folder: Path
    prefix: Path
    checks: int = 0
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def write(self, *, proxy_protocol: bool, single_writer: bool = False) -> None:
        def change(raw: dict[str, Any]) -> None:
            one_database(raw)
            raw["haproxy"]["mysql"] |= {
                "proxyProtocol": proxy_protocol,
                "readPort": READ_PORT,
                "singleWriter": single_writer,
            }

        settings = Settings.parse(example.settings(change))
        text = off_machine(cluster.haproxy_cfg(settings, settings.machines[0], "secret"), self.prefix, self.folder)
        # No port of all addresses, of which one may be the port of a client's connection.
        text = re.sub(r"bind \*:\d+", f"bind {VIP}:8888", text)
        (self.folder / "haproxy.cfg").write_text(text)

    def reload(self) -> None:
        old = [str(process.pid) for process in self.processes if process.poll() is None]
        soft = ["-x", str(self.folder / "admin.sock"), "-sf", *old] if old else []
        argv = [*BOUND, str(self.prefix / "sbin/haproxy"), "-db", "-f", str(self.folder / "haproxy.cfg"), *soft]
        running = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.processes.append(running)

        def answers() -> bool:
            assert running.poll() is None, "HAProxy has ended"
            return f"Pid: {running.pid}\n" in self._ask("show info")

        wait_until(answers, "HAProxy to run", 20)
        up = "mysqlservers,node3,"
        wait_until(
            lambda: any(
                line.startswith(up) and line.split(",")[17] == "UP" for line in self._ask("show stat").splitlines()
            ),
            "the database to be up",
            20,
        )

    @staticmethod
    def _ask(command: str) -> str:
        try:
            return machine_report.ask_haproxy(command)
        except OSError:
            return ""

    def wait_for_checks(self, count: int = 10) -> None:
        before = self.checks
        wait_until(lambda: self.checks > before + count, "checks", 20)

    def asked(self) -> str:
        self.checks += 1
        return ""


@pytest.fixture
def balancer(
    haproxy_prefix: Path, database: Believer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Balancer]:
    monkeypatch.setattr(machine_report, "ADMIN_SOCKET", str(tmp_path / "admin.sock"))
    made = Balancer(tmp_path, haproxy_prefix)
    handler = runpy.run_path(str(RESPONDER))["Handler"]
    handler.services = {"/mysql": SimpleNamespace(problem=made.asked, cluster="some-uuid")}
    with ThreadingHTTPServer((ADDRESS, SERVICE_HEALTH_PORT), handler) as responder:
        threading.Thread(target=responder.serve_forever, daemon=True).start()
        try:
            yield made
        finally:
            for process in made.processes:
                end(process)
            responder.shutdown()
            database.believe()


def client(port: int = PORT, host: str = VIP, **options: Any) -> "pymysql.Connection[Any]":
    options = {"bind_address": CLIENT, "ssl_disabled": "ssl" not in options, **options}
    return pymysql.connect(host=host, port=port, user="app", password="app", connect_timeout=5, **options)


def seen(port: int = PORT, **options: Any) -> str:
    """Whom the database sees."""
    with client(port, **options) as session:
        ((address, user),) = ask(session, WHO)
    assert user == f"app@{address}"
    return str(address)


class Clients:
    """New sessions, one after the other, from before a change until after it; each has to work."""

    def __enter__(self) -> "Clients":
        self.addresses: list[str] = []
        self._problems: list[Exception] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.addresses.append(seen())
            except (pymysql.Error, OSError) as error:
                self._problems.append(error)

    def wait_for(self, address: str) -> None:
        wait_until(lambda: self.addresses[-5:] == [address] * 5 or self._problems, f"sessions as from {address}", 20)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert not self._problems


def test_it_is_switched_on_and_off_without_an_end_to_any_session(balancer: Balancer, database: Believer) -> None:
    """In the order of `up`: databases, load balancers; and the other way round."""
    balancer.write(proxy_protocol=False)
    balancer.reload()
    with client() as before, Clients() as clients:
        mine = ask(before, "SELECT CONNECTION_ID()")
        clients.wait_for(LOOPBACK)
        database.believe(LOOPBACK)
        clients.addresses.clear()
        clients.wait_for(LOOPBACK)
        balancer.write(proxy_protocol=True)
        balancer.reload()
        clients.wait_for(CLIENT)
        with client() as between:
            balancer.write(proxy_protocol=False)
            balancer.reload()
            clients.wait_for(LOOPBACK)
            database.believe()
            clients.addresses.clear()
            clients.wait_for(LOOPBACK)
            assert ask(between, WHO)[0][0] == CLIENT
        assert ask(before, "SELECT CONNECTION_ID()") == mine
    assert database.networks() == set()
    assert not database.config.exists()


@pytest.mark.parametrize("single_writer", [False, True])
def test_every_way_to_a_database_says_who_asks(balancer: Balancer, database: Believer, single_writer: bool) -> None:
    """Also in TLS, which begins after it."""
    database.believe(LOOPBACK)
    balancer.write(proxy_protocol=True, single_writer=single_writer)
    balancer.reload()
    for port in (PORT, READ_PORT):
        assert seen(port) == CLIENT
        with client(port, ssl={"check_hostname": False}) as session:
            assert ask(session, "SHOW STATUS LIKE 'Ssl_version'") == [("Ssl_version", "TLSv1.3")]
            assert ask(session, WHO)[0][0] == CLIENT
    # Who comes directly, as Mycat does, has no need of it; also from a machine that is a load balancer as well.
    for address in (CLIENT, LOOPBACK):
        assert seen(host=ADDRESS, bind_address=address) == address


def test_it_is_no_way_around_a_requirement_of_tls(balancer: Balancer, database: Believer) -> None:
    database.believe(LOOPBACK)
    balancer.write(proxy_protocol=True)
    balancer.reload()
    database.root("SET GLOBAL require_secure_transport = ON")
    try:
        with pytest.raises(pymysql.Error, match="1045"):
            seen()
        assert seen(ssl={"check_hostname": False}) == CLIENT
    finally:
        database.root("SET GLOBAL require_secure_transport = OFF")


def test_a_user_may_be_for_one_client_only(balancer: Balancer, database: Believer) -> None:
    database.believe(LOOPBACK)
    balancer.write(proxy_protocol=True)
    balancer.reload()
    database.root(f"CREATE OR REPLACE USER app@'{CLIENT}' IDENTIFIED BY 'other'")
    try:
        with pytest.raises(pymysql.Error, match=f"1045.*'app'@'{CLIENT}'"):
            seen()
        assert seen(bind_address="127.0.0.10") == "127.0.0.10"
    finally:
        database.root(f"DROP USER app@'{CLIENT}'")


def test_no_database_counts_a_check_as_an_error_or_logs_it(balancer: Balancer, database: Believer) -> None:
    database.believe(LOOPBACK)
    balancer.write(proxy_protocol=True)
    balancer.reload()
    errors = ("Aborted_connects", "Aborted_connects_preauth", "Aborted_clients", "Access_denied_errors")
    balancer.wait_for_checks()
    before, (connections,) = database.counted(*errors), database.counted("Connections")
    said = (database.folder / "log").read_text()
    balancer.wait_for_checks(20)
    assert database.counted("Connections")[0] > connections + 10
    assert database.counted(*errors) == before
    assert (database.folder / "log").read_text() == said


def test_who_is_not_named_is_not_believed(balancer: Balancer, database: Believer) -> None:
    """What would happen in the wrong order."""
    balancer.write(proxy_protocol=True)
    balancer.reload()
    for named in ([], ["10.0.0.1"]):
        database.believe(*named)
        with pytest.raises((pymysql.Error, OSError)):
            seen()


@pytest.mark.parametrize(
    ("before", "now", "running", "later"),
    [
        ([], ["10.0.0.1", "10.0.0.2"], {"10.0.0.1", "10.0.0.2"}, {"10.0.0.1", "10.0.0.2"}),
        (["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], {"10.0.0.1", "10.0.0.2"}, {"10.0.0.1", "10.0.0.2"}),
        # One that leaves serves to the end.
        (["10.0.0.1", "10.0.0.2"], ["10.0.0.2"], {"10.0.0.1", "10.0.0.2"}, {"10.0.0.2"}),
        (["10.0.0.1", "10.0.0.2"], [], set(), set()),
        ([], [], set(), set()),
    ],
)  # fmt: skip
def test_what_runs_takes_it_at_once_and_a_start_as_well(
    database: Believer, before: Sequence[str], now: Sequence[str], running: set[str], later: set[str]
) -> None:
    try:
        database.believe(*before)
        for _ in range(2):
            database.believe(*now)
            assert database.networks() == running
        restart(database)
        assert database.networks() == later
    finally:
        database.believe()


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_one_that_does_not_run_has_it_at_its_start(database: Believer, state: str) -> None:
    database.stop()
    database.believe("10.0.0.1", active=state)
    database.start()
    try:
        assert database.networks() == {"10.0.0.1"}
        assert database.config.stat().st_mode & 0o777 == 0o644
    finally:
        database.believe()


def test_one_that_runs_and_does_not_answer_is_a_failure(database: Believer) -> None:
    database.stop()
    try:
        with pytest.raises(subprocess.CalledProcessError):
            database.believe("10.0.0.1", active="activating")
    finally:
        database.start()
        database.believe()


def restart(database: Believer) -> None:
    steps: tuple[Callable[[], None], ...] = (database.stop, database.start)
    for step in steps:
        step()
