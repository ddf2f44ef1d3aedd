"""Two load balancers, and nothing else of the stack's, before databases, Mycats and a web server that exist already."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pymysql
import pytest

from drills.stack import Stack
from localregion.client import Region, wait_until
from stackctl import inventory
from stackctl.pulumi import stack_names, stack_outputs
from tests.conftest import ROOT, Stackctl, create_words, created
from tests.servers import (
    RULE,
    Database,
    Mycat,
    ask,
    copy_database,
    end,
    install_database,
    schema_xml,
    server_xml,
    unpack,
)
from tests.stack.clients import FOLDER, Login, condition, connects, curl, haproxy, mariadb, outputs, servers, shell
from tests.stack.conftest import EDGE_CLIENT as CLIENT
from tests.stack.whole import problems
from toolchain import mycat as toolchain_mycat

EDGE = "test-edge"
NET = "192.168.109"
DATABASES = {"db1": f"{NET}.71", "db2": f"{NET}.72"}
MYCATS = {"mycat1": f"{NET}.81", "mycat2": f"{NET}.82"}
WEB = f"{NET}.91"
BACKENDS = {"mysqlservers": set(DATABASES), "mycat_servers": set(MYCATS), "servers": {"web1"}}


@dataclass
class Server:
    """A process of this computer in the network of a test host."""

    region: Region
    host: str
    argv: list[str]
    folder: Path
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def start(self) -> None:
        """Harmless if it runs."""
        if self._process and self._process.poll() is None:
            return
        with (self.folder / "said").open("ab") as said:
            self._process = self.region.popen(
                self.host, self.argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )

    def send(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process:
            end(self._process)
            self._process = None


Servers = dict[str, Server]


def settings(**mycat: Any) -> list[str]:
    """What is different from the local stack, as stackctl's words."""
    sections = {
        "machines": [{"name": f"lb{i}", "address": f"{NET}.25{i}", "roles": ["lb"]} for i in (1, 2)],
        "database": {
            "external": [{"name": name, "address": address} for name, address in DATABASES.items()],
            "externalCheckUser": "haproxy",
        },
        "mycat": {"external": [{"name": name, "address": address} for name, address in MYCATS.items()], **mycat},
        "http": {
            "backends": {"servers": {"external": [{"name": "web1", "address": WEB, "port": 8080}]}},
            "defaultBackend": "servers",
        },
        "network.ec2Endpoint": True,
    }
    return [word for key, value in sections.items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def edge(region: Region, stackctl: Stackctl) -> Iterator[Stack]:
    with created(EDGE, NET, region, stackctl, *settings()) as edge:
        region.add_host(CLIENT, f"{NET}.41")
        yield edge


@pytest.fixture(scope="module")
def external(region: Region, edge: Stack) -> Iterator[Servers]:
    scratch = Path(tempfile.mkdtemp(prefix="mycat-external-"))
    scratch.chmod(0o755)  # for mariadbd, which has no rights
    made: Servers = {}
    try:
        for name, argv, folder in _programs(scratch):
            address = {**DATABASES, **MYCATS, "web1": WEB}.get(name)
            if address:
                region.add_host(name, address)
            made[name] = Server(region, name.partition(" ")[0], argv, folder)
            made[name].start()
        for name in DATABASES:
            _let_haproxy_in(scratch / name / "s")
        yield made
    finally:
        for server in made.values():
            server.stop()
        shutil.rmtree(scratch)


@pytest.fixture(autouse=True)
def all_in_rotation(whole: None, region: Region, edge: Stack, external: Servers) -> None:
    """Every test begins with all servers running and in rotation, whatever the one before has done to them."""
    for server in external.values():
        server.start()
    for backend, names in BACKENDS.items():
        wait_until(lambda: up(region, edge, backend) == names, f"all of {backend} to be in rotation", 60)  # noqa: B023


def _programs(scratch: Path) -> Iterator[tuple[str, list[str], Path]]:
    """Name, command line and folder of each server; the responder of a Mycat is called after it."""
    installed = install_database(scratch / "installed")
    for name, address in DATABASES.items():
        database: Database = copy_database(installed, scratch / name)
        database.address, database.port = address, 3306
        # A test host has this computer's resolver, which its network may not reach: each login would wait for it.
        yield name, [*database.command(), "--skip-name-resolve"], database.folder
        yield f"{name} health", [sys.executable, str(FOLDER / "web_server.py"), name, "9200"], database.folder
    distribution = unpack(toolchain_mycat.install().path, scratch / "distribution")
    for name, address in MYCATS.items():
        (scratch / name).mkdir()
        mycat = Mycat(distribution, scratch / name, 8066, 9066, address)
        mycat.configure(server=server_xml(mycat), schema=schema_xml(3306, address=DATABASES["db1"]), rule=RULE)
        yield name, mycat.command(), mycat.home
        yield f"{name} responder", [sys.executable, str(FOLDER / "mycat_responder.py"), address], mycat.home
    (scratch / "web1").mkdir()
    yield "web1", [sys.executable, str(FOLDER / "web_server.py"), "web1", "8080"], scratch / "web1"


def _let_haproxy_in(socket: Path) -> None:
    wait_until(socket.exists, "the database", 30)
    with pymysql.connect(unix_socket=str(socket), user="root") as root:
        ask(root, "CREATE USER haproxy@'%'")


def at_databases(edge: Stack) -> Login:
    return Login(edge.vip, edge.port, "app", "app", "app1")


def at_mycat(edge: Stack) -> Login:
    assert edge.mycat_port
    return Login(edge.vip, edge.mycat_port, "root", "r00t", "APP")


def database_of(region: Region, at: Login) -> str:
    """Which of them answers, by its folder's name."""
    return mariadb(region, at, "SELECT @@datadir", CLIENT).split("/")[-3]


def up(region: Region, edge: Stack, backend: str) -> set[str]:
    """The servers that are in rotation."""
    return {name for name, (state, _) in servers(region, edge, backend).items() if state.startswith("UP")}


def test_both_databases_are_behind_3306(region: Region, edge: Stack, external: Servers) -> None:
    wait_until(lambda: up(region, edge, "mysqlservers") == set(DATABASES), "the databases to be in rotation", 30)
    assert {database_of(region, at_databases(edge)) for _ in range(6)} == set(DATABASES)


def test_logins_that_are_not_the_stacks_are_not_among_its_outputs(edge: Stack) -> None:
    assert (edge.user, edge.password, edge.schema) == ("", "", "")
    assert not {name for name in outputs(EDGE) if name.startswith(("database", "mycat"))} - {"mycatPort"}


def test_checks_are_logins_that_no_database_counts_as_errors(region: Region, edge: Stack, external: Servers) -> None:
    """Else it would block the balancers after max_connect_errors of them."""
    status = "SELECT variable_value FROM information_schema.global_status WHERE variable_name"

    def counted(folder: Path) -> list[int]:
        with pymysql.connect(unix_socket=str(folder / "s"), user="root") as root:
            return [int(ask(root, f"{status} = '{name}'")[0][0]) for name in ("Connections", "Aborted_connects")]

    for name in DATABASES:
        folder = external[name].folder
        before = counted(folder)
        wait_until(lambda: counted(folder)[0] > before[0] + 8, "checks by two balancers, twice a second", 20)  # noqa: B023
        assert counted(folder)[1] == before[1]


def test_a_database_that_fails_leaves_rotation_and_comes_back(region: Region, edge: Stack, external: Servers) -> None:
    external["db2"].stop()
    try:
        wait_until(lambda: up(region, edge, "mysqlservers") == {"db1"}, "it to leave rotation", 15)
        assert {database_of(region, at_databases(edge)) for _ in range(6)} == {"db1"}
        # The stack cannot ask it; its balancers can.
        code, said = condition(edge)
        assert (code, [machine["database"] for machine in said["machines"]]) == (1, [None, None])
        assert {problem["what"].partition(" for ")[0] for problem in said["problems"]} == {"mysqlservers/db2 is DOWN"}
    finally:
        external["db2"].start()
    wait_until(lambda: up(region, edge, "mysqlservers") == set(DATABASES), "it to come back", 30)
    assert {database_of(region, at_databases(edge)) for _ in range(6)} == set(DATABASES)


def test_both_mycats_are_behind_3307(region: Region, edge: Stack, external: Servers) -> None:
    wait_until(lambda: up(region, edge, "mycat_servers") == set(MYCATS), "the Mycats to be in rotation", 60)
    at = at_mycat(edge)
    mariadb(region, at, "CREATE TABLE IF NOT EXISTS orders (id INT PRIMARY KEY, text VARCHAR(40))", CLIENT)
    before = servers(region, edge, "mycat_servers")
    for number in range(6):
        mariadb(region, at, f"INSERT INTO orders (id, text) VALUES ({number}, 'number {number}')", CLIENT)
        assert mariadb(region, at, f"SELECT text FROM orders WHERE id = {number}", CLIENT) == f"number {number}"
    after = servers(region, edge, "mycat_servers")
    assert all(after[name][1] > before[name][1] for name in MYCATS)
    with pymysql.connect(unix_socket=str(external["db1"].folder / "s"), user="root") as root:
        for place, name in enumerate(("app1", "app2", "app3")):
            found = ask(root, f"SELECT id FROM {name}.orders ORDER BY id")
            assert found == [(number,) for number in range(6) if number % 3 == place]


def test_a_mycat_that_fails_leaves_rotation_and_comes_back(region: Region, edge: Stack, external: Servers) -> None:
    external["mycat2"].stop()
    try:
        wait_until(lambda: up(region, edge, "mycat_servers") == {"mycat1"}, "it to leave rotation", 15)
        assert {mariadb(region, at_mycat(edge), "SELECT 1", CLIENT) for _ in range(4)} == {"1"}
    finally:
        external["mycat2"].start()
    wait_until(lambda: up(region, edge, "mycat_servers") == set(MYCATS), "it to come back", 60)


def test_a_web_server_is_behind_80(region: Region, edge: Stack, external: Servers) -> None:
    wait_until(lambda: up(region, edge, "servers") == {"web1"}, "the web server to be in rotation", 30)
    assert json.loads(curl(region, CLIENT, f"http://{edge.vip}/shop"))["server"] == "web1"


def test_balancers_get_out_to_these_ports_only(region: Region, edge: Stack, external: Servers) -> None:
    for balancer in edge.machines:
        for address, port in ((DATABASES["db1"], 3306), (MYCATS["mycat1"], 8066), (MYCATS["mycat1"], 48700)):
            assert connects(region, balancer["instanceId"], address, port), port
        assert connects(region, CLIENT, MYCATS["mycat1"], 9066)
        assert not connects(region, balancer["instanceId"], MYCATS["mycat1"], 9066)


def test_a_power_cut_leaves_the_other_balancer_and_it_needs_no_nat_gateway(
    region: Region, edge: Stack, external: Servers, aws: boto3.Session
) -> None:
    """The EC2 API has an endpoint in the VPC: its name leads there, and nowhere else is there a way to it."""
    ec2, table = aws.client("ec2"), outputs(EDGE)["routeTableId"]
    (routes,) = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
    nat = next(route["NatGatewayId"] for route in routes["Routes"] if route["DestinationCidrBlock"] == "0.0.0.0/0")
    outside = region.status()["endpoint"].removeprefix("http://")
    holder, balancers = edge.holder(region), [balancer["instanceId"] for balancer in edge.machines]
    assert all(connects(region, balancer, outside, 80) for balancer in balancers)
    ec2.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
    try:
        region.settle()
        assert not any(connects(region, balancer, outside, 80) for balancer in balancers)
        for balancer in balancers:
            said = shell(region, balancer, "/usr/local/lib/mycat-ha/claim-vip probe")
            assert f"at https://ec2.{aws.region_name}.amazonaws.com; " in said
        region.power_cut(edge.machine(holder)["instanceId"])
        wait_until(lambda: edge.holder(region) != holder, "the VIP to move", 20)
        for at in (at_databases(edge), at_mycat(edge)):
            wait_until(lambda: mariadb(region, at, "SELECT 1", CLIENT, check=False) == "1", "SQL", 20)  # noqa: B023
    finally:
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
        region.power_on(edge.machine(holder)["instanceId"])


def test_mycats_without_a_responder_are_asked_themselves(
    region: Region, edge: Stack, external: Servers, stackctl: Stackctl
) -> None:
    assert connects(region, edge.machines[0]["instanceId"], MYCATS["mycat1"], 48700)
    stackctl("create", *create_words(EDGE, NET), *settings(externalCheckPort=None))
    try:
        assert connects(region, CLIENT, MYCATS["mycat1"], 48700)
        for balancer in edge.machines:
            assert not connects(region, balancer["instanceId"], MYCATS["mycat1"], 48700)
        for name in MYCATS:
            external[f"{name} responder"].stop()
        assert not connects(region, CLIENT, MYCATS["mycat1"], 48700)
        time.sleep(8)  # more than three checks
        assert up(region, edge, "mycat_servers") == set(MYCATS)
        external["mycat1"].stop()
        wait_until(lambda: up(region, edge, "mycat_servers") == {"mycat2"}, "it to leave rotation", 15)
        assert {mariadb(region, at_mycat(edge), "SELECT 1", CLIENT) for _ in range(4)} == {"1"}
        external["mycat1"].start()
        wait_until(lambda: up(region, edge, "mycat_servers") == set(MYCATS), "it to come back", 60)
    finally:
        for server in external.values():
            server.start()
        stackctl("create", *create_words(EDGE, NET), *settings())


_SESSIONS = """\
import json, pymysql, sys
login, sessions = json.loads(sys.stdin.readline()), []
for line in sys.stdin:
    if line == "open\\n":
        sessions.append(pymysql.connect(connect_timeout=5, read_timeout=5, **login))
    found = []
    for session in sessions:
        try:
            with session.cursor() as cursor:
                cursor.execute("SELECT @@datadir")
                found.append(cursor.fetchone()[0].split("/")[-3])
        except pymysql.Error:
            found.append(None)
    print(json.dumps(found), flush=True)
"""


class Sessions:
    """Sessions of a client that are held open; each call says on which database each is, None if it has ended."""

    def __init__(self, region: Region, at: Login) -> None:
        argv = [sys.executable, "-c", _SESSIONS]
        self._process = region.popen(CLIENT, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        login = {"host": at.address, "port": at.port, "user": at.user, "password": at.password, "database": at.schema}
        self._say(json.dumps(login))

    def _say(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def __call__(self, word: str = "ask") -> list[str | None]:
        self._say(word)
        assert self._process.stdout
        return list(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def settled(region: Region, edge: Stack) -> bool:
    """Whether the holder's HAProxy has done with looking for a process before it."""
    flags = re.search(r"id=balancers .* flags=0x(\w+)", haproxy(region, edge, "show peers"))
    return flags is not None and int(flags[1], 16) & 3 == 3


def test_a_single_writer_is_one_across_fail_return_reload_and_switchover(
    region: Region, edge: Stack, external: Servers, stackctl: Stackctl
) -> None:
    """The first database hangs, with its sessions on it, and goes on later; the other one gives up its office, and does
    not. Reads go to the one that does not write."""
    mysql = {"singleWriter": True, "readPort": 3308}
    own = ["--set", f"haproxy.mysql={json.dumps(mysql)}", "--set", "database.externalWriterCheck={port: 9200}"]
    # The computer's limit of open files may be too low for all ports with the default.
    own += ["--set", "haproxy.defaultMaxConnections=1000"]
    stackctl("create", *create_words(EDGE, NET), *settings(), *own)
    reads = replace(at_databases(edge), port=stack_outputs(EDGE)["mysqlReadPort"])
    sessions = Sessions(region, at_databases(edge))
    try:
        sessions("open")
        assert sessions("open") == ["db1", "db1"]
        assert database_of(region, reads) == "db2"
        external["db1"].send(signal.SIGSTOP)
        wait_until(lambda: up(region, edge, "mysqlservers") == {"db2"}, "it to leave rotation", 15)
        assert sessions("open") == [None, None, "db2"]
        external["db1"].send(signal.SIGCONT)
        wait_until(lambda: up(region, edge, "mysqlservers") == set(DATABASES), "it to come back", 15)
        assert sessions("open") == [None, None, "db2", "db2"]
        wait_until(lambda: settled(region, edge), "a process that hands on what it knows (docs/databases.md)", 30)
        shell(region, edge.machine(edge.holder(region))["instanceId"], "systemctl reload haproxy")
        assert sessions("open") == [None, None, "db2", "db2", "db2"]
        stackctl("switchover", EDGE, "--wait", "0")
        assert sessions("open") == [None] * 5 + ["db2"]
        assert database_of(region, reads) == "db1"
        external["db2 health"].stop()
        wait_until(lambda: up(region, edge, "mysqlservers") == {"db1"}, "it to say no more that it may write", 15)
        assert sessions("open") == [None] * 6 + ["db1"]
    finally:
        external["db1"].send(signal.SIGCONT)
        sessions.close()
        stackctl("create", *create_words(EDGE, NET), *settings())


def listed() -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "stackctl", "list", "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.destroys("edge")
def test_an_expired_stack_is_swept_and_the_other_one_stays_as_it_is(
    region: Region, stack: Stack, edge: Stack, external: Servers, stackctl: Stackctl, aws: boto3.Session
) -> None:
    assert " unchanged" in stackctl("preview", EDGE, "--", "--expect-no-changes")
    rows = listed()
    for name in (stack.name, edge.name):
        assert rows[name]["owner"] == "tests"
        assert rows[name]["expired"] is False
        assert rows[name]["protected"] is None
    stackctl("sweep")
    assert {stack.name, edge.name} <= set(stack_names())

    tag = ["pulumi", "stack", "tag", "set", "mycat-ha:expires", "2020-01-01T00:00:00Z", "--stack", EDGE]
    subprocess.run(tag, cwd=ROOT, check=True, capture_output=True)
    assert listed()[EDGE]["expired"] is True
    region.power_cut(edge.machine("lb2")["instanceId"])
    said = stackctl("sweep")
    assert f"stack {EDGE} of tests expired at 2020-01-01T00:00:00Z: destroying it" in said
    assert EDGE not in stack_names()
    assert inventory.scan(aws, EDGE) == []
    assert "the region has nothing that is tagged" in stackctl("leftovers", EDGE)

    assert stack.name in stack_names()
    assert problems(region, stack, "client") == []
    assert " unchanged" in stackctl("preview", stack.name, "--", "--expect-no-changes")
