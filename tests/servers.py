"""Mycat and databases as processes of this computer: on loopback, or in the network of one of the region's hosts.

What they are set to serve is the same for all: the logins `USERS`, the schemas of `schema_xml`, the rule `RULE`.
"""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

DATABASES = ("app1", "app2", "app3")
ANYBODY = "nobody"  # mariadbd refuses to be root
LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0
#: A process started through it ends with the one that started it, even if that is killed. What changes users itself
#: would lose this (prctl(2), PR_SET_PDEATHSIG), so setpriv changes them.
BOUND = ("setpriv", "--pdeathsig=KILL")

USERS = """\
<user name="root"><property name="password">r00t</property><property name="schemas">APP,OTHER</property></user>
<user name="only"><property name="password">0nly</property><property name="schemas">OTHER</property></user>
<user name="reader"><property name="password">reader</property><property name="schemas">APP</property>
  <property name="readOnly">true</property><property name="defaultSchema">APP</property></user>
"""
RULE = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE mycat:rule SYSTEM "rule.dtd">
<mycat:rule xmlns:mycat="http://io.mycat/">
<tableRule name="by-id"><rule><columns>id</columns><algorithm>modulo-3</algorithm></rule></tableRule>
<function name="modulo-3" class="io.mycat.route.function.PartitionByMod"><property name="count">3</property></function>
</mycat:rule>
"""


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process: as it is asked to, or by force after 30 s. A database may miss a signal while it starts."""
    process.terminate()
    try:
        process.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Below what the kernel gives to clients (ip_local_port_range), one of which could be quicker than its server."""
    while True:
        port = random.randrange(20_000, 32_768)
        with suppress(OSError), socket.create_server(("", port)):
            return port


def connect(port: int, user: str, password: str, schema: str | None = None) -> "pymysql.Connection[Any]":
    return pymysql.connect(
        host=LOOPBACK,
        port=port,
        user=user,
        password=password,
        database=schema,
        connect_timeout=10,
        read_timeout=20,
        autocommit=True,
    )


def ask(connection: "pymysql.Connection[Any]", statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


@dataclass
class Database:
    """A MariaDB server with the databases app1 to app3, a data directory of its own, and the login app/app."""

    folder: Path
    port: int = field(default_factory=free_port)
    address: str = LOOPBACK
    _process: "subprocess.Popen[bytes] | None" = None
    _connection: "pymysql.Connection[Any] | None" = None

    def command(self) -> list[str]:
        program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program
        as_anybody = (f"--reuid={ANYBODY}", "--regid=nogroup", "--clear-groups") if os.geteuid() == 0 else ()
        return [
            *(
                *BOUND,
                *as_anybody,
                program,
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                f"--socket={self.folder / 's'}",
            ),
            # One that starts removes the temporary tables of all that have the same.
            f"--tmpdir={self.folder}",
            *(f"--port={self.port}", f"--bind-address={self.address}", "--lower-case-table-names=1"),
            *("--innodb-buffer-pool-size=16M", "--innodb-flush-method=nosync"),
        ]

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait(self._up, (self.folder / "log").read_text, self._process)
        except BaseException:
            self.stop()
            raise

    def _up(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), 1):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        self._connection = None
        if self._process:
            end(self._process)
            self._process = None

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Past Mycat."""
        if self._connection is None:
            self._connection = connect(self.port, "app", "app")
        return ask(self._connection, statement)


def install_database(folder: Path) -> Path:
    """A data directory that servers are started from copies of."""
    folder.mkdir()
    as_root = os.geteuid() == 0
    if as_root:
        shutil.chown(folder, ANYBODY)
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder / 'data'}", "--skip-test-db"]
    install += ["--auth-root-authentication-method=normal", "--lower-case-table-names=1"]
    install += [f"--user={ANYBODY}"] if as_root else []
    own = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(install, env=own, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(install)}: exit status {done.returncode}\n{done.stdout}")
    server = Database(folder)
    server.start()
    try:
        with pymysql.connect(unix_socket=str(folder / "s"), user="root") as root:
            for name in DATABASES:
                ask(root, f"CREATE DATABASE {name}")
            ask(root, "GRANT ALL ON *.* TO app@'%' IDENTIFIED BY 'app'")
    finally:
        server.stop()
    return folder


def copy_database(installed: Path, folder: Path) -> Database:
    subprocess.run(["cp", "-a", installed, folder], check=True)
    return Database(folder)


@dataclass
class Mycat:
    """A Mycat from an unpacked distribution, in a home of its own with the given configuration."""

    distribution: Path
    home: Path
    port: int = field(default_factory=free_port)
    manager: int = field(default_factory=free_port)
    address: str = LOOPBACK
    _process: "subprocess.Popen[bytes] | None" = None

    def configure(self, **files: str) -> None:
        """The distribution's conf with the texts of ``server``, ``schema`` and ``rule`` in it."""
        conf = self.home / "conf"
        if not conf.exists():
            shutil.copytree(self.distribution / "conf", conf)
            (self.home / "logs").mkdir()
        for name, text in files.items():
            (conf / f"{name}.xml").write_text(text)

    def command(self) -> list[str]:
        """As the machines' unit starts it; it has to run in ``home``."""
        return [
            *(*BOUND, "java", "-server", "-Xms32m", "-Xmx256m", "-XX:MaxDirectMemorySize=64m", "-XX:+UseSerialGC"),
            *("--add-exports", "java.base/sun.nio.ch=ALL-UNNAMED", f"-DMYCAT_HOME={self.home}"),
            *("-cp", f"{self.home}/conf:{self.distribution}/lib/*", "io.mycat.MycatStartup", "start"),
        ]

    def launch(self) -> "subprocess.Popen[bytes]":
        """The process; its words are in ``said``."""
        with (self.home / "said").open("ab") as said:
            self._process = subprocess.Popen(
                self.command(), cwd=self.home, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        return self._process

    def start(self) -> None:
        _wait(self._answers, self.words, self.launch())

    def _answers(self) -> bool:
        try:
            with self.login("root", "r00t"):
                return True
        except pymysql.Error:
            return False

    def words(self) -> str:
        """Everything that it has said, wherever."""
        files = (self.home / "said", self.home / "logs/mycat.log", self.home / "logs/wrapper.log")
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def stop(self) -> None:
        if self._process:
            end(self._process)

    def login(self, user: str, password: str, schema: str | None = None) -> "pymysql.Connection[Any]":
        return connect(self.port, user, password, schema)

    def manage(self, statement: str) -> list[tuple[Any, ...]]:
        with Manager(host=LOOPBACK, port=self.manager, user="root", password="r00t", autocommit=None) as manager:
            return ask(manager, statement)


class Manager(pymysql.Connection):
    """For the manager's port, which knows no SET."""

    def set_character_set(self, *_: Any, **__: Any) -> None:
        pass


def server_xml(mycat: Mycat, users: str = USERS) -> str:
    properties = {
        "bindIp": mycat.address,
        "serverPort": mycat.port,
        "managerPort": mycat.manager,
        "useHandshakeV10": 1,
        "useGlobleTableCheck": 0,
        "strictTxIsolation": "true",
        "sqlExecuteTimeout": 300,
        "dataNodeHeartbeatPeriod": 500,
        "bufferPoolPageSize": 1048576,
        "bufferPoolPageNumber": 16,
    }
    system = "".join(f'<property name="{name}">{value}</property>' for name, value in properties.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE mycat:server SYSTEM "server.dtd">\n'
        f'<mycat:server xmlns:mycat="http://io.mycat/"><system>{system}</system>{users}</mycat:server>\n'
    )


def schema_xml(*ports: int, note: str = "dn2", address: str = LOOPBACK) -> str:
    """APP with a table of each kind; OTHER, whose tables that are not listed are on dn3."""
    writers = "".join(
        f'<writeHost host="w{i}" url="{address}:{port}" user="app" password="app"/>' for i, port in enumerate(ports)
    )
    nodes = "".join(f'<dataNode name="dn{i}" dataHost="h1" database="{name}"/>' for i, name in enumerate(DATABASES, 1))
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE mycat:schema SYSTEM "schema.dtd">
<mycat:schema xmlns:mycat="http://io.mycat/">
<schema name="APP" checkSQLschema="true" sqlMaxLimit="-1">
<table name="orders" primaryKey="id" dataNode="dn1,dn2,dn3" rule="by-id"/>
<table name="country" primaryKey="id" dataNode="dn1,dn2,dn3" type="global"/>
<table name="note" primaryKey="id" dataNode="{note}"/>
</schema>
<schema name="OTHER" checkSQLschema="true" sqlMaxLimit="-1" dataNode="dn3"/>
{nodes}
<dataHost name="h1" maxCon="50" minCon="2" balance="0" writeType="0" dbType="mysql" dbDriver="native" switchType="1"
 slaveThreshold="100" maxRetryCount="1" tempReadHostAvailable="1">
<heartbeat>select user()</heartbeat>{writers}</dataHost>
</mycat:schema>
"""


@contextmanager
def running(mycat: Mycat, **files: str) -> Iterator[Mycat]:
    mycat.configure(**files)
    try:
        mycat.start()
        yield mycat
    finally:
        mycat.stop()


def unpack(archive: Path, folder: Path) -> Path:
    """The archive's folder `mycat`. tar refuses names that lead out of `folder`, which Python's tarfile does from
    3.11.4 on only."""
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder, "--no-same-owner"], check=True)
    return folder / "mycat"


def _wait(condition: Any, words: Any, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"it does not answer (exit status {process.poll()}): {words()[-3000:]}")
        time.sleep(0.05)
