"""stackctl/machine_report.py as it runs on a machine, with that machine's programs played."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from components import certificates
from settings import Settings
from stackctl import reports, status
from stackctl.ssh import Host
from tests import example
from tests.contract.sshd import serving
from tests.programs import Stubs

REPORT = Path(__file__).parents[2] / "stackctl/machine_report.py"
STATISTICS = "# pxname,svname,scur,status,\nmysqlservers,node1,3,UP,\n\n"


class Haproxy:
    """Its administrators' socket."""

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller = self._listener.accept()[0]
            except OSError:
                return
            with caller:
                self.asked.append(caller.recv(100).decode())
                caller.sendall(STATISTICS.encode())

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stubs = Stubs(folder / "bin")
        for name in ("library", "run", "data"):
            (folder / name).mkdir()
        self.stubs.add("systemctl", "printf 'ActiveState=active\\nMainPID=7\\n'")
        self.stubs.add("ip", "echo '2: ens5    inet 10.0.0.9/32 scope global ens5'")
        self.stubs.add("mariadb", "printf 'wsrep_ready\\tON\\nwsrep_last_committed\\t41\\nread_only\\t0\\n'")
        self.stubs.add("journalctl", "echo 'waiting: node2'")
        switch = folder / "library/switch-vip"
        switch.write_text("#!/bin/bash\n[[ $* == state ]] && echo master\n")
        switch.chmod(0o755)
        (folder / "run/vrrp").write_text("master 7 8 9\n")
        (folder / "run/claimed").write_text("master 7 8 9\n")

    def report(self, *roles: str, address: str = "127.0.0.1", port: int = 1) -> dict[str, Any]:
        """As it is sent to a machine: on standard input."""
        question = {"roles": roles, "vip": "10.0.0.9", "address": address, "healthPort": port}
        variables = {
            "MYCAT_HA_LIBRARY": str(self.folder / "library"),
            "MYCAT_HA_RUN": str(self.folder / "run"),
            "MYCAT_HA_DATA": str(self.folder / "data"),
            "MYCAT_HA_ADMIN_SOCKET": str(self.folder / "admin.sock"),
            "MYCAT_HA_SECOND_LOOK": "0",
            "MYCAT_HA_UNITS": str(self.folder),
            "MYCAT_HA_HAPROXY": str(self.folder),
        }
        done = subprocess.run(
            [sys.executable, "-I", "-", json.dumps(question)],
            input=REPORT.read_text(),
            env=self.stubs.environment(**variables),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stderr == ""
        return dict(json.loads(done.stdout))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def haproxy(machine: Machine) -> Iterator[Haproxy]:
    haproxy = Haproxy(machine.folder / "admin.sock")
    yield haproxy
    haproxy.close()


@pytest.fixture
def responder() -> Iterator[Callable[[int, str], int]]:
    """Starts a health responder that gives one answer; its port."""
    servers = []

    def start(status: int, body: str) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/mycat"
                self.send_response(status if known else 404)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_balancer(machine: Machine, haproxy: Haproxy) -> None:
    balancer = reports.balancer(machine.report("lb")["lb"])
    server = reports.Server("mysqlservers", "node1", "UP", "UP", None, 3)
    assert balancer == reports.Balancer("active", "active", "master", True, True, None, (server,), None)
    assert haproxy.asked == ["show stat\n"]
    assert machine.stubs.calls("ip") == ["-4 -oneline address show to 10.0.0.9/32"]


def test_a_balancer_whose_statistics_page_has_tls(machine: Machine, haproxy: Haproxy) -> None:
    """The certificate's own date; one of an earlier `up` that no line names any more does not count."""
    settings = Settings.parse(example.settings(example.with_statistics_tls))
    identity = certificates.of_statistics(settings, "test", datetime(2026, 3, 5, tzinfo=UTC))
    assert identity
    (machine.folder / "statistics.pem").write_text(identity.bundle)
    (machine.folder / "haproxy.cfg").write_text("bind *:8888\n")
    assert reports.balancer(machine.report("lb")["lb"]).certificate_expires is None
    (machine.folder / "haproxy.cfg").write_text("bind *:8888 ssl crt x\n")
    assert reports.balancer(machine.report("lb")["lb"]).certificate_expires == "2027-01-01T00:00:00+00:00"


def test_a_balancer_without_anything(machine: Machine) -> None:
    machine.stubs.add("systemctl", "printf 'ActiveState=inactive\\nMainPID=0\\n'")
    machine.stubs.add("ip")
    for file in ("library/switch-vip", "run/vrrp", "run/claimed"):
        (machine.folder / file).unlink()
    balancer = reports.balancer(machine.report("lb")["lb"])
    assert (balancer.keepalived, balancer.vrrp, balancer.claimed, balancer.has_vip) == (
        "inactive", "unknown", False, False,
    )  # fmt: skip
    assert balancer.error
    assert "No such file" in balancer.error


def test_a_database(machine: Machine) -> None:
    database = reports.database(machine.report("mysql")["mysql"])
    assert (database.mariadb, database.running, database.position, database.ready) == ("active", True, 41, True)
    assert database.read_only is False
    assert database.certificate_expires is None


def test_a_database_with_tls(machine: Machine, tmp_path: Path) -> None:
    """The certificate's own date, by the real openssl."""
    raw = example.settings(example.with_tls)
    identity = certificates.identity(Settings.parse(raw), "test", datetime(2026, 3, 5, tzinfo=UTC))
    assert identity
    (tmp_path / "bundle.pem").write_text(identity.bundle)
    machine.stubs.add("mariadb", f"printf 'wsrep_ready\\tON\\nssl_cert\\t{tmp_path}/bundle.pem\\n'")
    assert reports.database(machine.report("mysql")["mysql"]).certificate_expires == "2027-01-01T00:00:00+00:00"


GALERA = r"printf 'wsrep_flow_control_requested\t%s\nwsrep_local_recv_queue\t%s\nwsrep_last_committed\t%s\n'"


def test_a_database_that_asks_the_others_to_stop_writing_is_looked_at_again(machine: Machine) -> None:
    def says(first: str, later: str) -> reports.Database:
        looks = machine.folder / "looks"
        looks.unlink(missing_ok=True)
        machine.stubs.add("mariadb", f"[[ -e {looks} ]] && {GALERA} {later} || {GALERA} {first}; touch {looks}")
        return reports.database(machine.report("mysql")["mysql"])

    stuck = says("true 30 41", "true 30 41")
    assert (stuck.holds_writes, stuck.queue, stuck.position) == (True, 30, 41)
    assert not says("true 30 41", "true 30 42").holds_writes  # it gets on
    assert not says("true 30 41", "false 5 41").holds_writes
    asked = len(machine.stubs.calls("mariadb"))
    assert not says("false 3 41", "true 30 41").holds_writes
    assert len(machine.stubs.calls("mariadb")) == asked + 1, "nothing was wrong, and it was looked at twice"


def test_a_database_that_does_not_run(machine: Machine) -> None:
    machine.stubs.add("systemctl", "printf 'ActiveState=activating\\nMainPID=0\\n'")
    machine.stubs.add("mariadb", "echo 'ERROR 2002' >&2; exit 1")
    cluster = "6a9c2e1d-0000-11f0-8000-000000000001"
    (machine.folder / "data/grastate.dat").write_text(f"uuid:    {cluster}\nseqno:   40\nsafe_to_bootstrap: 0\n")
    database = reports.database(machine.report("mysql")["mysql"])
    assert (database.mariadb, database.running, database.cluster, database.position, database.waits) == (
        "activating", False, cluster, 40, "waiting: node2",
    )  # fmt: skip
    assert machine.stubs.calls("galera_recovery") == []


def test_a_database_that_hangs(machine: Machine) -> None:
    machine.stubs.add("mariadb", "exec sleep 60")
    database = reports.database(machine.report("mysql")["mysql"])
    assert database.error == "mariadb has not answered within 3 s"


def test_a_mycat(machine: Machine, responder: Callable[[int, str], int]) -> None:
    said = machine.report("mycat", port=responder(200, "ok\n"))
    assert reports.mycat(said["mycat"]) == reports.Mycat("active", True, None)
    said = machine.report("mycat", port=responder(503, "it has not answered in time\n"))
    assert reports.mycat(said["mycat"]) == reports.Mycat("active", False, "it has not answered in time")


def test_a_mycat_without_its_responder(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mycat = reports.mycat(machine.report("mycat", port=port)["mycat"])
    assert not mycat.answers
    assert mycat.reason
    assert "its health responder does not answer" in mycat.reason


def test_only_what_is_asked_for(machine: Machine) -> None:
    assert machine.report("web") == {}
    assert machine.stubs.calls() == []


def test_it_is_what_a_machine_runs_over_ssh(tmp_path: Path) -> None:
    settings = {"name": "web1", "address": "10.0.0.7", "roles": ["web"]}
    with serving(tmp_path) as server:
        host = Host("127.0.0.1", server.port, "root", server.private_key, server.host_public_key)
        found = asyncio.run(status.ask(settings, host, "10.0.0.9"))
    assert found == reports.Machine("web1", "10.0.0.7", ("web",), None)


def test_a_database_says_which_backups_there_are_if_the_stack_keeps_any(machine: Machine) -> None:
    newest = '{"newest": {"id": "2026-07-01T02-30-00Z"}, "tried": null, "alarmHours": 26}'
    program = machine.folder / "library/database-backup"
    program.write_text(f"#!/bin/bash\n[[ $* == newest ]] && echo '{newest}'\n")
    program.chmod(0o755)
    assert "backup" not in machine.report("mysql")  # it was switched off, and the program is still there

    (machine.folder / "database-backup@run.timer").touch()
    backup = reports.machine("node1", "10.0.0.1", ("mysql",), json.dumps(machine.report("mysql"))).backup
    assert backup
    assert (backup.error, backup.newest, backup.begun, backup.failed) == (
        None, "2026-07-01T02-30-00Z", "2026-07-01T02:30:00+00:00", (),
    )  # fmt: skip

    program.write_text("#!/bin/bash\necho 'S3, for b: denied' >&2; exit 1\n")
    machine.stubs.add("systemctl", "printf 'ActiveState=failed\\nMainPID=0\\n'")
    backup = reports.machine("node1", "10.0.0.1", ("mysql",), json.dumps(machine.report("mysql"))).backup
    assert backup
    assert (backup.error, backup.failed) == ("S3, for b: denied", ("run", "test"))
    assert "backup" not in machine.report("lb")
