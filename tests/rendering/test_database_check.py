"""HAProxy's check of the stack's own databases: a real HAProxy, as it is rendered, before a real MariaDB."""

import csv
import runpy
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest

from components import certificates, cluster
from constants import MYSQL_CHECK_USER, MYSQL_PORT, SERVICE_HEALTH_PORT
from localregion.client import wait_until
from settings import Settings
from stackctl import machine_report
from tests import example
from tests.rendering.loopback import off_machine
from tests.servers import BOUND, LOOPBACK, Database, ask, end, free_port, install_database

#: The database's machine.
ADDRESS = "127.8.9.253"
RESPONDER = Path(__file__).parents[2] / "files/health/health.py"


@dataclass
class Server(Database):
    """With what 60-galera.cnf says of clients that leave early, and room for ten."""

    address: str = ADDRESS
    port: int = MYSQL_PORT
    options: tuple[str, ...] = ()

    def command(self) -> list[str]:
        return [
            *super().command(),
            "--skip-name-resolve",
            "--performance-schema=ON",
            "--max-connections=10",
            *self.options,
        ]

    def hang(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def root(self, statement: str) -> list[tuple[Any, ...]]:
        """One more gets in when it is full."""
        with pymysql.connect(unix_socket=str(self.folder / "s"), user="root") as root:
            return ask(root, statement)

    def counted(self, *names: str) -> list[int]:
        status = dict(self.root("SHOW GLOBAL STATUS"))
        return [int(status[name]) for name in names]

    def client(self) -> "pymysql.Connection[Any]":
        return pymysql.connect(host=self.address, port=self.port, user="app", password="app")


Step = Callable[[Server], None]


@dataclass
class Stand:
    """A balancer, the database behind it, and what the responder says."""

    database: Server
    problem: str = ""
    asked: int = 0

    def row(self) -> dict[str, str]:
        rows = csv.DictReader(machine_report.ask_haproxy("show stat").removeprefix("# ").splitlines())
        row = next(row for row in rows if (row["pxname"], row["svname"]) == ("mysqlservers", "node3"))
        # While the next check is under way, the last one's status is marked.
        return {**row, "check_status": row["check_status"].removeprefix("* ")}

    def wait_for(self, status: str) -> dict[str, str]:
        wait_until(lambda: self.row()["status"] == status, f"the database to be {status}", 30)
        return self.row()

    def wait_for_checks(self, count: int = 10) -> None:
        """Whatever comes of them."""
        before = self.asked
        wait_until(lambda: self.asked > before + count, "checks", 20)

    def say(self) -> str:
        self.asked += 1
        return self.problem


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="mycat-check-"))  # mariadbd gets there, unlike to pytest's own
    folder.chmod(0o755)
    running = Server(install_database(folder / "database"))
    try:
        running.start()
        for _ in range(2):  # by every `up` again
            make_users(running)
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


def make_users(server: Server, *, tls_required: bool = False) -> None:
    sql = example.users_sql(check_hosts=[LOOPBACK, ADDRESS], tls_required=tls_required)
    as_root = ["mariadb", "--no-defaults", "--batch", "-uroot", f"--socket={server.folder / 's'}"]
    subprocess.run(as_root, input=sql, text=True, check=True)


def one_database(raw: dict[str, Any]) -> None:
    raw["network"] = {"vpcCidr": "127.8.9.0/24", "subnetCidr": "127.8.9.128/25", "natSubnetCidr": "127.8.9.0/28"}
    raw["vip"]["address"] = "127.8.9.249"
    raw["machines"] = [{"name": f"lb{i}", "address": f"127.8.9.{250 + i}", "roles": ["lb"]} for i in (1, 2)]
    raw["machines"].append({"name": "node3", "address": ADDRESS, "roles": ["mysql"]})
    check = {"inter": 0.1, "fastinter": 0.1, "downinter": 0.1, "rise": 2, "fall": 2}
    raw["haproxy"] |= {"mysql": {"check": check}, "statistics": {"port": free_port()}}


@pytest.fixture
def stand(haproxy_prefix: Path, database: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setattr(machine_report, "ADMIN_SOCKET", str(tmp_path / "admin.sock"))
    settings = Settings.parse(example.settings(one_database))
    text = cluster.haproxy_cfg(settings, settings.machines[0], "secret")
    (tmp_path / "haproxy.cfg").write_text(off_machine(text, haproxy_prefix, tmp_path))
    stand = Stand(database)
    handler = runpy.run_path(str(RESPONDER))["Handler"]
    handler.services = {"/mysql": SimpleNamespace(problem=stand.say, cluster="some-uuid")}
    argv = [*BOUND, str(haproxy_prefix / "sbin/haproxy"), "-db", "-q", "-f", str(tmp_path / "haproxy.cfg")]
    with ThreadingHTTPServer((ADDRESS, SERVICE_HEALTH_PORT), handler) as responder:
        threading.Thread(target=responder.serve_forever, daemon=True).start()
        running = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        try:
            wait_until((tmp_path / "admin.sock").exists, "HAProxy to run", 20)
            stand.wait_for("UP")
            yield stand
        finally:
            end(running)
            responder.shutdown()


def test_no_database_counts_a_check_as_an_error_or_logs_it(stand: Stand, database: Server) -> None:
    errors = ("Aborted_connects", "Aborted_connects_preauth", "Aborted_clients", "Access_denied_errors")
    log = database.folder / "log"
    before, (connections,), said = database.counted(*errors), database.counted("Connections"), log.read_text()
    wait_until(lambda: database.counted("Connections")[0] > 2 * (connections + 20), "many checks", 30)
    assert database.counted(*errors) == before
    assert log.read_text() == said
    assert database.root("SELECT SUM(sum_connect_errors) FROM performance_schema.host_cache") in ([(None,)], [(0,)])


@pytest.mark.parametrize(
    ("fail", "come_back", "reason"), [(Server.hang, Server.go_on, "L7TOUT"), (Server.stop, Server.start, "L4CON")]
)
def test_one_whose_port_cannot_be_used_is_out_of_rotation_whatever_the_responder_says(
    stand: Stand, database: Server, fail: Step, come_back: Step, reason: str
) -> None:
    try:
        fail(database)
        row = stand.wait_for("DOWN")
        assert row["check_status"] == reason
        assert int(row["check_duration"]) < 2100  # milliseconds
    finally:
        come_back(database)
    stand.wait_for("UP")


def test_what_the_responder_says_is_the_reason(stand: Stand) -> None:
    stand.problem = "the node is not synced: Joining"
    row = stand.wait_for("DOWN")
    assert [row[key] for key in ("check_status", "check_code", "last_chk")] == ["L7STS", "503", stand.problem]
    stand.problem = ""
    stand.wait_for("UP")


def test_a_full_database_stays_in_rotation(stand: Stand, database: Server) -> None:
    """Else its sessions would end, and its load be the next one's."""
    sessions: list[pymysql.Connection[Any]] = []

    def fill() -> None:
        while True:
            sessions.append(database.client())

    try:
        with pytest.raises(pymysql.Error, match="1040"):
            fill()
        stand.wait_for_checks()
        assert stand.row()["status"] == "UP", stand.row()
    finally:
        for session in sessions:
            session.close()


def test_who_may_log_in_is_not_the_question(stand: Stand, database: Server) -> None:
    """As before the first `up` with this check, or if somebody has changed the user."""
    host = f"'{MYSQL_CHECK_USER}'@'{LOOPBACK}'"
    database.root(f"RENAME USER {host} TO other")
    try:
        (before,) = database.counted("Access_denied_errors")
        stand.wait_for_checks()
        assert database.counted("Access_denied_errors")[0] > before
        assert stand.row()["status"] == "UP", stand.row()
    finally:
        database.root(f"RENAME USER other TO {host}")


def test_a_database_that_requires_tls_is_up_or_down_as_any_other(stand: Stand, database: Server) -> None:
    """The checks have none: they are refused, without a line in the log, and without a word of a blocked host."""
    bundle = database.folder / "bundle.pem"
    identity = certificates.identity(Settings.parse(example.settings(example.with_tls)), "test")
    assert identity
    bundle.write_text(identity.bundle)
    database.stop()
    database.options = (f"--ssl-cert={bundle}", f"--ssl-key={bundle}", "--require-secure-transport=ON")
    try:
        database.start()
        make_users(database, tls_required=True)
        stand.wait_for("UP")
        stand.wait_for_checks()
        errors = ("Aborted_clients", "Aborted_connects_preauth", "Access_denied_errors")
        (refused,), before = database.counted("Aborted_connects"), database.counted(*errors)
        said = (database.folder / "log").read_text()
        stand.wait_for_checks()
        assert stand.row()["status"] == "UP", stand.row()
        assert database.counted("Aborted_connects")[0] > refused  # that is what is to be seen of them
        assert database.counted(*errors) == before
        assert (database.folder / "log").read_text() == said
        host_cache = "SELECT SUM(sum_connect_errors) FROM performance_schema.host_cache"
        assert database.root(host_cache) in ([(None,)], [(0,)])
        database.hang()
        try:
            stand.wait_for("DOWN")
        finally:
            database.go_on()
        stand.wait_for("UP")
    finally:
        database.stop()
        database.options = ()
        database.start()
        make_users(database)


@pytest.mark.parametrize("statement", ["SELECT 1", "SHOW DATABASES", "DO SLEEP(1)", "PREPARE s FROM 'SELECT 1'"])
def test_the_user_of_the_checks_may_say_nothing(database: Server, statement: str) -> None:
    """Through the VIP every client comes from the address that it is for."""
    assert "ERROR 1820" in as_check_user(statement)


def test_who_gives_the_user_of_the_checks_a_password_has_no_rights(database: Server) -> None:
    try:
        assert as_check_user("SET PASSWORD = ''") == ""
        for statement, error in (
            ("SELECT * FROM mysql.user", 1142),
            ("USE shop", 1044),
            ("CREATE DATABASE other", 1044),
        ):
            assert f"ERROR {error}" in as_check_user(statement)
    finally:
        database.root(f"ALTER USER '{MYSQL_CHECK_USER}'@'{LOOPBACK}' IDENTIFIED BY '' PASSWORD EXPIRE")
    assert "ERROR 1820" in as_check_user("SELECT 1")


def as_check_user(statement: str) -> str:
    """What the database says against it."""
    argv = ["mariadb", "--no-defaults", f"--host={ADDRESS}", f"--user={MYSQL_CHECK_USER}", "--execute", statement]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stderr
