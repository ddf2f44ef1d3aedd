"""More sessions than Mycat has connections for, and clients that do not read: Mycat and HAProxy, as rendered.

On the stand-in for Mycat, or with MYCAT_ARCHIVE=path on a real one. Both refuse a statement when the data host has no
connection left, so sessions must wait in HAProxy.
"""

import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pymysql
import pymysql.cursors
import pytest

from components import cluster, mycat_files
from components.template import render
from settings import Settings
from tests import example
from tests.rendering.conftest import pinned
from tests.rendering.loopback import off_machine
from tests.servers import BOUND, DATABASES, LOOPBACK, Database, Mycat, ask, end, free_port, install_database, unpack
from toolchain import mycat as toolchain_mycat

pytestmark = pytest.mark.parametrize("haproxy_prefix", sorted(pinned("haproxy"))[-1:], indirect=True)
#: Each session may need three connections, so that four of them find some.
POOL, SESSIONS, CLIENTS = 14, 4, 24
HEAP_MIB = 128


class Healthy(BaseHTTPRequestHandler):
    """The responder of a machine whose Mycat works."""

    def do_OPTIONS(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class RealStart(Mycat):
    """Started by the machines' own program."""

    def command(self) -> list[str]:
        text = render("mycat/run.sh.j2", heap_mib=HEAP_MIB, direct_memory_mib=64)
        return [*BOUND, "bash", "-c", text, "mycat-run", str(self.distribution), str(self.home)]

    def login(self, user: str = "app", password: str = "secret-mycat", schema: str | None = "app") -> Any:
        return super().login(user, password, schema)

    def _answers(self) -> bool:
        try:
            with self.login():
                return True
        except pymysql.Error:
            return False


@dataclass
class Tier:
    """A Mycat with its database, and HAProxy's port before it."""

    mycat: RealStart
    database: Database
    port: int

    def session(self) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            host=LOOPBACK, port=self.port, user="app", password="secret-mycat", database="app", autocommit=True
        )


@pytest.fixture(scope="module")
def tier(haproxy_prefix: Path) -> Iterator[Tier]:
    folder = Path(tempfile.mkdtemp(prefix="saturation-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        database = Database(install_database(folder / "database"))
        database.start()
        stack.callback(database.stop)
        for name in DATABASES:
            database.ask(f"CREATE TABLE {name}.orders (id INT PRIMARY KEY, text VARCHAR(40))")
        with pymysql.connect(unix_socket=str(folder / "database/s"), user="root") as root:
            ask(root, "GRANT ALL ON *.* TO sharding@'%' IDENTIFIED BY 'sharding'")
        database.ask("CREATE TABLE app1.settings (id INT PRIMARY KEY)")
        database.ask("INSERT INTO app1.settings SELECT seq FROM app1.seq_1_to_20000")
        settings = Settings.parse(example.settings(lambda raw: _settings(raw, database)))
        assert settings.mycat_sessions() == SESSIONS
        mycat = _mycat(settings, folder)
        mycat.start()
        stack.callback(mycat.stop)
        health = stack.enter_context(ThreadingHTTPServer((LOOPBACK, 0), Healthy))
        threading.Thread(target=health.serve_forever, daemon=True).start()
        stack.callback(health.shutdown)
        port = free_port()
        text = _haproxy_cfg(settings, mycat.port, health.server_port, port, haproxy_prefix)
        (folder / "haproxy.cfg").write_text(text.replace("/run/haproxy/", f"{folder}/"))
        argv = [*BOUND, str(haproxy_prefix / "sbin/haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
        with (folder / "log").open("wb") as log:
            running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(end, running)
        made = Tier(mycat, database, port)
        _until(lambda: _greets(made), (folder / "log").read_text)
        yield made


def _settings(raw: dict[str, Any], database: Database) -> None:
    example.with_mycat(raw)
    del raw["mycat"]["dataHosts"][1:]
    raw["mycat"]["dataHosts"][0] |= {
        "maxConnections": POOL,
        "writeHosts": [{"address": LOOPBACK, "port": database.port}],
    }
    for node in raw["mycat"]["dataNodes"]:
        node["dataHost"] = "dh1"
    raw["mycat"]["directMemoryMib"] = 64
    raw["mycat"]["databaseUser"] = "sharding"
    raw["secrets"] |= {"mycat": "secret-mycat", "mycatDatabase": "sharding"}


def _mycat(settings: Settings, folder: Path) -> RealStart:
    distribution = unpack(toolchain_mycat.install().path, folder / "distribution")
    (folder / "home").mkdir()
    mycat = RealStart(distribution, folder / "home")
    files = mycat_files.configuration(settings, settings.machines[0])
    ports = {"8066": mycat.port, "9066": mycat.manager, str(settings.machines[0].address): LOOPBACK}
    for was, now in ports.items():
        files["server.xml"] = files["server.xml"].replace(f">{was}<", f">{now}<")
    mycat.configure(**{name.removesuffix(".xml"): text for name, text in files.items() if name.endswith(".xml")})
    return mycat


def _haproxy_cfg(settings: Settings, mycat: int, health: int, port: int, prefix: Path) -> str:
    """The load balancer's, with all that it has elsewhere on loopback, and one of the two Mycats."""
    text = off_machine(cluster.haproxy_cfg(settings, settings.machines[0], "secret"), prefix)
    own = str(settings.machines[0].address)
    text = text.replace(f"{own}:8066 port 48700", f"{LOOPBACK}:{mycat} port {health}")
    text = text.replace("connect port 8066", f"connect port {mycat}")
    text = re.sub(r"^    server \S+ \S+:(8066|3306) .*\n", "", text, flags=re.MULTILINE)
    text = text.replace(f"bind {settings.vip.address}:3307", f"bind {LOOPBACK}:{port}")
    return re.sub(r"bind (\*|[\d.]+):(3306|8888)", lambda _: f"bind {LOOPBACK}:{free_port()}", text)


def _greets(tier: Tier) -> bool:
    try:
        tier.session().close()
    except pymysql.Error:
        return False
    return True


def _until(condition: Any, words: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, words()
        time.sleep(0.05)


def test_sessions_beyond_what_the_pools_serve_wait_and_are_served(tier: Tier) -> None:
    """Each statement needs a connection of every data node, and Mycat checks the database all the time."""
    for name in DATABASES:
        tier.database.ask(f"INSERT INTO {name}.orders (id) VALUES (1)")
    together = threading.Barrier(CLIENTS)

    def one(_: int) -> list[tuple[Any, ...]]:
        together.wait(30)
        with closing(tier.session()) as session:
            return ask(session, "SELECT id, SLEEP(0.2) FROM orders")

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(one, range(CLIENTS)))
    assert answers == [[(1, 0)] * len(DATABASES)] * CLIENTS
    assert "max activeConnn" not in tier.mycat.words()
    assert "switch datasource" not in tier.mycat.words()


def test_clients_that_do_not_read_cost_mycat_little_memory(tier: Tier) -> None:
    """Two results of 200 MB each wait in the database, whatever Mycat's heap is, and can be read to their end."""
    statement, rows = "SELECT id, REPEAT('x', 10000) FROM settings", 20000
    with closing(tier.session()) as first, closing(tier.session()) as second:
        readers = [session.cursor(pymysql.cursors.SSCursor) for session in (first, second)]
        for reader in readers:
            reader.execute(statement)
            assert reader.fetchone() is not None
        for _ in range(20):  # it would have been read in a second
            time.sleep(0.1)
            waiting = tier.database.ask("SHOW PROCESSLIST")
        assert sum("REPEAT" in str(row) for row in waiting) == 2
        with closing(tier.session()) as third:
            assert ask(third, "SELECT id FROM settings WHERE id = 7") == [(7,)]
        assert [sum(1 for _ in reader) for reader in readers] == [rows - 1] * 2
    with closing(tier.session()) as session:
        assert ask(session, "SELECT id FROM settings WHERE id = 7") == [(7,)]
