"""TLS of the databases: a real mariadbd with the lines that it is given, and clients that look closely."""

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymysql
import pytest

from components import certificates, database, health
from constants import MYSQL_CHECK_USER
from settings import Role, Settings
from tests import example
from tests.rendering.conftest import Judge
from tests.servers import LOOPBACK, Database, ask, install_database

NAME = "db.example.com"
#: Enough of 60-galera.cnf to see who gets in.
TLS_LINES = re.compile(
    r"^(ssl_cert|ssl_key|tls_version|require_secure_transport|max_connect_errors) = .*$", re.MULTILINE
)


def vip_on_loopback(raw: dict[str, Any]) -> None:
    """So that clients connect to the VIP's address."""
    raw["network"] = {"vpcCidr": "127.8.9.0/24", "subnetCidr": "127.8.9.128/25", "natSubnetCidr": "127.8.9.0/28"}
    raw["vip"]["address"] = "127.8.9.249"
    raw["machines"] = [{"name": f"lb{i}", "address": f"127.8.9.{250 + i}", "roles": ["lb"]} for i in (1, 2)]
    raw["machines"].append({"name": "node3", "address": "127.8.9.253", "roles": ["mysql"]})


def settings(**tls: Any) -> Settings:
    raw = example.settings(vip_on_loopback)
    example.with_tls(raw, **{"names": [NAME], **tls})
    return Settings.parse(raw)


def identity(now: datetime | None = None, **tls: Any) -> certificates.Identity:
    made = certificates.identity(settings(**tls), "test", now)
    assert made
    return made


def galera_cnf(given: Settings) -> str:
    return database.configuration(
        "node3",
        addresses={"node3": "127.8.9.253"},
        cluster="test",
        database=given.database,
        max_connections=500,
        mycat=False,
    )


@dataclass
class Server(Database):
    """With the rendered lines about TLS, on the VIP's address."""

    address: str = "127.8.9.249"
    lines: str = field(default="", kw_only=True)

    def command(self) -> list[str]:
        program, *words = super().command()
        options = [f"--{line.replace(' = ', '=')}" for line in self.lines.splitlines()]
        return [program, *words, "--skip-name-resolve", "--performance-schema=ON", *options]

    def begin(self, given: Settings) -> None:
        """With a fresh certificate, as for these settings."""
        self.bundle.write_text(identity().bundle)
        lines = "\n".join(found[0] for found in TLS_LINES.finditer(galera_cnf(given)))
        self.lines = lines.replace(database.TLS_BUNDLE, str(self.bundle))
        self.start()

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle.pem"

    def root(self, statement: str) -> list[tuple[Any, ...]]:
        with pymysql.connect(unix_socket=str(self.folder / "s"), user="root") as root:
            return ask(root, statement)

    def client(self, **options: Any) -> "pymysql.Connection[Any]":
        return pymysql.connect(host=self.address, port=self.port, user="app", password="app", **options)

    def serial(self) -> int:
        """Of the certificate that a new session gets."""
        argv = ["openssl", "s_client", "-starttls", "mysql", "-connect", f"{self.address}:{self.port}"]
        shown = subprocess.run(argv, input="", capture_output=True, text=True, check=False).stdout
        found = subprocess.run(
            ["openssl", "x509", "-noout", "-serial"], input=shown, capture_output=True, text=True, check=True
        )
        return int(found.stdout.strip().removeprefix("serial="), 16)


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mycat-tls-"))  # mariadbd gets there, unlike to pytest's own
    folder.chmod(0o755)
    try:
        yield install_database(folder / "database")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def server(installed: Path) -> Iterator[Server]:
    server = Server(installed)
    server.bundle.touch()
    yield server
    server.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    path.write_text(identity().authority)
    return path


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("between", [None, "preferred", "required"])
def test_mariadbd_takes_the_file(judge_mariadb: Judge, required: bool, between: str | None) -> None:
    raw = example.settings()
    example.with_tls(raw, required=required)
    if between:
        example.with_galera_tls(raw, between)
    text = galera_cnf(Settings.parse(raw))
    assert not re.search("^status|error", judge_mariadb(text), re.IGNORECASE)


def test_a_client_verifies_the_vip_and_the_names(server: Server, authority: Path) -> None:
    server.begin(settings())
    with server.client(ssl={"ca": str(authority)}) as session:
        assert ask(session, "SHOW STATUS LIKE 'Ssl_version'") == [("Ssl_version", "TLSv1.3")]
    argv = ["mariadb", "--no-defaults", "--batch", f"--host={server.address}", f"--port={server.port}", "--user=app"]
    argv += ["--password=app", f"--ssl-ca={authority}", "--ssl-verify-server-cert", "--execute=SELECT 1"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split() == ["1", "1"]
    verify = ["openssl", "s_client", "-starttls", "mysql", "-connect", f"{server.address}:{server.port}"]
    verify += ["-verify_return_error", "-CAfile", str(authority)]
    for words, good in (
        (["-verify_ip", server.address], True),
        (["-verify_ip", "127.8.9.253"], True),
        (["-verify_hostname", NAME], True),
        (["-verify_ip", "127.8.9.1"], False),
        (["-verify_hostname", "other.example.com"], False),
    ):
        done = subprocess.run([*verify, *words], input="", capture_output=True, text=True, check=False)
        assert ("Verify return code: 0 (ok)" in done.stdout) == good, (words, done.stdout, done.stderr)


@pytest.mark.parametrize(("version", "taken"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_old_versions_of_tls_are_refused(server: Server, version: str, taken: bool) -> None:
    server.begin(settings())
    argv = ["openssl", "s_client", "-starttls", "mysql", "-connect", f"{server.address}:{server.port}", version]
    # The client is willing, which Debian's is not by itself.
    done = subprocess.run([*argv, "-cipher", "ALL:@SECLEVEL=0"], input="", capture_output=True, text=True, check=False)
    assert ("BEGIN CERTIFICATE" in done.stdout) == taken, done.stderr
    assert taken or "alert protocol version" in done.stderr


def test_another_certificate_is_taken_while_sessions_go_on(server: Server, authority: Path) -> None:
    server.begin(settings())
    before, later = server.serial(), identity(datetime(datetime.now(UTC).year + 1, 8, 1, tzinfo=UTC))
    (flush,) = re.findall(r'"(FLUSH [^"]+)"', database.TAKE_CERTIFICATE)
    with server.client(ssl={"ca": str(authority)}) as session:
        (mine,) = ask(session, "SELECT CONNECTION_ID()")
        server.bundle.write_text(later.bundle)
        assert server.serial() == before
        server.root(flush)
        after = server.serial()
        assert after != before
        assert ask(session, "SELECT CONNECTION_ID()") == [mine]
        # One that cannot be loaded is an error, upon which install-file brings the old file back.
        server.bundle.write_text("no certificate")
        with pytest.raises(pymysql.Error, match="Failed to refresh SSL"):
            server.root(flush)
        assert server.serial() == after


def test_without_tls_the_same_statement_does_nothing(server: Server) -> None:
    """The file is there before the server is restarted with it."""
    server.lines = "skip-ssl"
    server.start()
    (flush,) = re.findall(r'"(FLUSH [^"]+)"', database.TAKE_CERTIFICATE)
    assert server.root(flush) == []


def test_who_comes_without_tls_is_refused_if_it_is_required(server: Server, authority: Path) -> None:
    server.begin(settings())
    server.client(ssl_disabled=True).close()
    server.stop()
    server.begin(settings(required=True))
    with pytest.raises(pymysql.Error, match="1045"):
        server.client(ssl_disabled=True)
    with server.client(ssl={"ca": str(authority)}) as session:
        assert ask(session, "SELECT 1") == [(1,)]
    assert server.root("SELECT 1") == [(1,)]


def test_a_user_of_the_settings_is_refused_without_tls_if_that_is_wanted(server: Server, authority: Path) -> None:
    server.begin(settings())
    as_root = ["mariadb", "--no-defaults", "--batch", "-uroot", f"--socket={server.folder / 's'}"]

    def reader(**options: Any) -> "pymysql.Connection[Any]":
        return pymysql.connect(host=server.address, port=server.port, user="reader", password="x", **options)

    for required in (True, False, True):
        sql = example.users_sql(users=[{"name": "reader", "requireTls": required}])
        subprocess.run(as_root, input=sql, text=True, check=True)
        reader(ssl={"ca": str(authority)}).close()
        if required:
            with pytest.raises(pymysql.Error, match="1045"):
                reader(ssl_disabled=True)
        else:
            reader(ssl_disabled=True).close()


def test_the_responder_gets_in_if_it_is_required(server: Server) -> None:
    server.begin(settings(required=True))
    server.root("CREATE USER IF NOT EXISTS health@'127.0.0.1' IDENTIFIED BY 'x'")
    given = health.checks([Role.MYSQL], server.address, "x", tls=True)["/mysql"]
    given |= {"port": server.port, "init_command": None}
    with pymysql.connect(**given) as session:
        assert ask(session, "SHOW STATUS LIKE 'Ssl_version'") == [("Ssl_version", "TLSv1.3")]


@pytest.mark.parametrize("wrong", ["no certificate", "the key of another one"])
def test_a_machine_refuses_what_its_openssl_does_not_load(tmp_path: Path, wrong: str) -> None:
    staged = tmp_path / "staged"
    staged.write_text(identity().bundle)

    def validate() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-uo", "pipefail", "-c", certificates.BUNDLE_LOADS],
            env={"STAGED": str(staged), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    assert validate().returncode == 0
    bundle = staged.read_text()
    other = example.tls_keys()["databaseAuthorityKey"] + bundle[bundle.index("-----BEGIN CERT") :]
    staged.write_text({"no certificate": "x", "the key of another one": other}[wrong])
    assert validate().returncode != 0


def test_nobody_logs_in_as_the_user_of_the_checks_if_tls_is_required(server: Server) -> None:
    server.begin(settings(required=True))
    sql = example.users_sql(check_hosts=[LOOPBACK, "127.8.9.249"], tls_required=True)
    for _ in range(2):
        as_root = ["mariadb", "--no-defaults", "--batch", "-uroot", f"--socket={server.folder / 's'}"]
        subprocess.run(as_root, input=sql, text=True, check=True)
    with pytest.raises(pymysql.Error, match="1698"):
        pymysql.connect(host=server.address, port=server.port, user=MYSQL_CHECK_USER, bind_address=LOOPBACK)
    with closing(socket.create_connection((server.address, server.port))) as plain:
        assert plain.recv(5)[4] == 10  # it greets, so the port is alive
