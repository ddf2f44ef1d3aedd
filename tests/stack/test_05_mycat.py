"""Mycat behind port 3307: what it does with tables, what happens when one of them fails, and how it takes changes."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from tests.conftest import NAME, NET, ROOT, Stackctl, create_words
from tests.stack.clients import Login, haproxy, login, mariadb, servers
from tests.stack.whole import make_whole

CREATE = create_words(NAME, NET)
LOCAL = yaml.safe_load((ROOT / "stacks/Pulumi.local.yaml").read_text())["config"]["mycat-ha:mycat"]
APPLY = "/usr/local/lib/mycat-ha/mycat-apply"
HEALTHY, UNHEALTHY = "200", "503"


@dataclass(frozen=True)
class Mycat:
    """The tier as a client, HAProxy and an administrator see it."""

    region: Region
    stack: Stack
    login: Login

    def query(self, sql: str, *, timeout: float = 20, **other: Any) -> str:
        """Through the VIP, in a connection of its own, as the application's user unless another login is given."""
        return mariadb(self.region, replace(self.login, **other), sql, timeout=timeout)

    def queries_work(self) -> bool:
        try:
            return all(self.query("SELECT 1", timeout=10) == "1" for _ in range(4))
        except (RegionError, subprocess.TimeoutExpired):
            return False

    def shell(self, machine: str, script: str, **options: Any) -> str:
        return self.region.exec(self.stack.machine(machine)["instanceId"], ["bash", "-c", script], **options).stdout

    def machines(self) -> list[str]:
        return [machine["name"] for machine in self.stack.of_role("mycat")]

    def spare(self) -> str:
        """The name of one whose machine does not hold the VIP."""
        holder = self.stack.holder(self.region)
        return next(name for name in self.machines() if name != holder)

    def health(self, machine: str) -> str:
        """What the responder tells the other balancer."""
        asker = next(name for name in self.machines() if name != machine)
        url = f"http://{self.stack.machine(machine)['address']}:48700/"
        options = "-s -m 2 -o /dev/null -w '%{http_code}' -X OPTIONS --request-target '*'"
        return self.shell(asker, f"curl {options} {url} || true")

    def servers(self) -> dict[str, tuple[str, int]]:
        return servers(self.region, self.stack, "mycat_servers")

    def up(self, *names: str) -> bool:
        found = self.servers()
        return all(found[name][0] == "UP" for name in names or self.machines())

    def down(self, name: str) -> bool:
        """Out of rotation; `UP 1/3` is still in it."""
        return self.servers()[name][0].startswith("DOWN")

    def put(self, table: str, **row: object) -> None:
        """A row that replaces one with the same first column; Mycat knows no REPLACE."""
        names, values = ", ".join(row), ", ".join(repr(value) for value in row.values())
        key, value = next(iter(row.items()))
        self.query(f"DELETE FROM {table} WHERE {key} = {value!r}")
        self.query(f"INSERT INTO {table} ({names}) VALUES ({values})")

    def process(self, machine: str) -> str:
        return self.shell(machine, "systemctl show -p MainPID --value mycat").strip()

    def configuration(self, machine: str) -> dict[str, str]:
        """The files that are in force."""
        script = (
            "import json, pathlib\n"
            "files = [p for p in pathlib.Path('/etc/mycat').iterdir() if not p.is_symlink()]\n"
            "print(json.dumps({p.name: p.read_text() for p in files}))\n"
        )
        target = self.stack.machine(machine)["instanceId"]
        return dict(json.loads(self.region.exec(target, ["python3", "-c", script]).stdout))

    def user_password(self, user: str) -> str:
        root = ET.fromstring(self.configuration(self.machines()[0])["server.xml"])
        return root.findtext(f"./user[@name='{user}']/property[@name='password']") or ""

    def as_line(self) -> str:
        """The login as the Python clients read it."""
        at = self.login
        return f"{at.address} {at.port} {at.user} {at.password} {at.schema}\n"

    def client(self, body: str) -> "subprocess.Popen[str]":
        """A Python program on the client host that can `connect()` and goes on until it is told that it is `done`."""
        head = (
            "import pymysql, sys, threading, time\n"
            "host, port, user, password, schema = sys.stdin.readline().split()\n"
            "done = threading.Event()\n"
            "threading.Thread(target=lambda: (sys.stdin.readline(), done.set()), daemon=True).start()\n"
            "def connect():\n"
            "    return pymysql.connect(host=host, port=int(port), user=user, password=password, database=schema,\n"
            "                           autocommit=True, connect_timeout=5, read_timeout=20)\n"
        )
        client = self.region.popen(
            "client",
            [sys.executable, "-c", head + body],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert client.stdin is not None
        client.stdin.write(self.as_line())
        client.stdin.flush()
        return client

    def connected(self, on: str, body: str) -> "subprocess.Popen[str]":
        """A client with a cursor `k` in a connection to the Mycat on ``on``."""
        others = [name for name in self.machines() if name != on]
        for name in others:
            haproxy(self.region, self.stack, f"set server mycat_servers/{name} state drain")
        client = self.client("c = connect(); k = c.cursor(); print('connected', flush=True)\n" + body)
        assert client.stdout is not None
        connected = client.stdout.readline()
        for name in others:
            haproxy(self.region, self.stack, f"set server mycat_servers/{name} state ready")
        assert connected == "connected\n"
        return client

    @contextmanager
    def session(self, on: str) -> Iterator[None]:
        """A client with one connection to the Mycat on ``on``, which is at work all the time; no statement may fail."""
        client = self.connected(
            on,
            "n = 0\n"
            "while not done.is_set():\n"
            "    k.execute('SELECT COUNT(*) FROM settings'); k.fetchall(); n += 1; time.sleep(0.05)\n"
            "print(n)\n",
        )
        try:
            yield
            said, failed = client.communicate("end\n", timeout=30)
            assert client.returncode == 0, failed
            assert int(said) > 10
        finally:
            client.kill()
            client.wait()


@pytest.fixture(scope="module")
def mycat(region: Region, stack: Stack) -> Mycat:
    found = Mycat(region, stack, login(stack, "mycat"))
    make_whole(region, stack, "client")
    found.query(
        "CREATE TABLE IF NOT EXISTS orders (id INT PRIMARY KEY, what VARCHAR(40));"
        "CREATE TABLE IF NOT EXISTS countries (id INT PRIMARY KEY, name VARCHAR(40));"
        "CREATE TABLE IF NOT EXISTS settings (name VARCHAR(40) PRIMARY KEY, value VARCHAR(40));"
        "CREATE TABLE IF NOT EXISTS unlisted (id INT PRIMARY KEY)"
    )
    return found


# -- statements ---------------------------------------------------------------------------------------------------


def database(mycat: Mycat, sql: str) -> str:
    """Past Mycat, on a database itself."""
    return mycat.shell("node3", f'mariadb -N -e "SET wsrep_sync_wait=7; {sql}"').strip()


def test_both_mycats_take_part(mycat: Mycat) -> None:
    before = mycat.servers()
    assert sorted(before) == ["node1", "node2"]
    for _ in range(6):
        assert mycat.query("SELECT 1") == "1"
    after = mycat.servers()
    assert all(after[name][1] > before[name][1] for name in before)


def test_a_sharded_table_has_each_row_in_one_place(mycat: Mycat) -> None:
    for number in range(1, 7):
        mycat.query(f"DELETE FROM orders WHERE id = {number}")
        mycat.query(f"INSERT INTO orders (id, what) VALUES ({number}, 'number {number}')")
    for place, node in enumerate(("app1", "app2", "app3")):
        found = database(mycat, f"SELECT id FROM {node}.orders WHERE id < 7 ORDER BY id").split()
        assert found == [str(number) for number in range(1, 7) if number % 3 == place]
    for number in range(1, 7):
        assert mycat.query(f"SELECT what FROM orders WHERE id = {number}") == f"number {number}"


def test_a_global_table_is_the_same_everywhere(mycat: Mycat) -> None:
    mycat.query("DELETE FROM countries WHERE id = 1")
    mycat.query("INSERT INTO countries (id, name) VALUES (1, 'Utopia')")
    for node in ("app1", "app2", "app3"):
        assert database(mycat, f"SELECT name FROM {node}.countries WHERE id = 1") == "Utopia"


def test_other_tables_are_on_the_first_node_only(mycat: Mycat) -> None:
    mycat.put("settings", name="colour", value="blue")
    mycat.put("unlisted", id=1)
    tables = "SELECT table_schema FROM information_schema.tables WHERE table_name IN ('settings', 'unlisted')"
    assert set(database(mycat, tables).split()) == {"app1"}
    assert database(mycat, "SELECT value FROM app1.settings WHERE name = 'colour'") == "blue"


def test_a_python_client_gets_what_it_has_written(mycat: Mycat) -> None:
    script = (
        "import pymysql, sys\n"
        "host, port, user, password, schema = sys.stdin.readline().split()\n"
        "c = pymysql.connect(host=host, port=int(port), user=user, password=password, database=schema)\n"
        "k = c.cursor()\n"
        "k.execute('DELETE FROM orders WHERE id = 30')\n"
        "k.execute('INSERT INTO orders (id, what) VALUES (30, %s)', ('\\u65e5\\u672c \\'quoted\\'',))\n"
        "c.commit()\n"
        "k.execute('SELECT what FROM orders WHERE id = 30')\n"
        "assert k.fetchall() == (('\\u65e5\\u672c \\'quoted\\'',),)\n"
    )
    mycat.region.exec("client", [sys.executable, "-c", script], input=mycat.as_line())
    assert database(mycat, "SELECT COUNT(*) FROM app1.orders WHERE id = 30") == "1"


# -- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["app", "root", "nobody"])
def test_a_wrong_password_and_an_unknown_user_are_refused(mycat: Mycat, user: str) -> None:
    with pytest.raises(RegionError, match="1045"):
        mycat.query("SELECT 1", user=user, password="123456")


def test_a_read_only_user_reads_only(mycat: Mycat) -> None:
    password = mycat.user_password("report")
    mycat.put("settings", name="size", value="9")
    assert mycat.query("SELECT value FROM settings WHERE name = 'size'", user="report", password=password) == "9"
    with pytest.raises(RegionError, match=r"(?i)read-?\s?only"):
        mycat.query("INSERT INTO settings (name, value) VALUES ('no', '10')", user="report", password=password)


def test_ports_are_bound_to_the_machine_and_there_is_no_jmx(mycat: Mycat) -> None:
    for name in mycat.machines():
        pid = mycat.process(name)
        listening = mycat.shell(name, f"ss -Hltnp | grep 'pid={pid},' | awk '{{print $4}}'").split()
        address = mycat.stack.machine(name)["address"]
        assert {re.sub(r"^\[::ffff:(.*)\]", r"\1", where) for where in listening} == {
            f"{address}:8066",
            f"{address}:9066",
        }


def test_its_ports_are_for_balancers_only(mycat: Mycat) -> None:
    address = mycat.stack.machine("node1")["address"]
    assert mycat.health("node1") == HEALTHY
    for host in ("client", "office", "outsider"):
        done = mycat.region.exec(host, ["curl", "-s", "-m", "2", f"http://{address}:48700/"], check=False)
        assert done.returncode == 28, host
    # Databases ask each other on the health port (test_01_service.py).
    database_only = mycat.stack.machine("node3")["instanceId"]
    for port in (8066, 9066):
        script = f"timeout 1 bash -c '</dev/tcp/{address}/{port}'"
        assert mycat.region.exec(database_only, ["bash", "-c", script], check=False).returncode != 0, port


def test_it_runs_as_its_own_user_and_cannot_change_its_configuration(mycat: Mycat) -> None:
    for name in mycat.machines():
        pid = mycat.process(name)
        assert mycat.shell(name, f"ps -o user= -p {pid}").strip() == "mycat"
        assert mycat.shell(name, "stat -c '%a %U:%G' /etc/mycat /etc/mycat/server.xml").split("\n")[:2] == [
            "750 root:mycat",
            "640 root:mycat",
        ]
        assert mycat.shell(name, "systemctl is-enabled mycat").strip() == "enabled"


def test_no_password_is_in_its_journal_or_command_lines(mycat: Mycat) -> None:
    secrets = [mycat.login.password, mycat.user_password("report"), mycat.user_password("health")]
    schema = ET.fromstring(mycat.configuration("node1")["schema.xml"])
    secrets += {host.get("password", "") for host in schema.iter("writeHost")}
    for machine in mycat.stack.machines:
        script = "journalctl --no-pager -q; cat /var/log/mycat-ha/* /proc/[0-9]*/cmdline 2>/dev/null || true"
        said = mycat.shell(machine["name"], script)
        assert all(secret and secret not in said for secret in secrets), machine["name"]


# -- failures -----------------------------------------------------------------------------------------------------


def break_it(mycat: Mycat, name: str, how: str) -> None:
    match how:
        case "stopped":
            mycat.shell(name, "systemctl stop mycat")
        case "frozen":
            mycat.shell(name, f"kill -STOP {mycat.process(name)}")


def mend_it(mycat: Mycat, name: str, how: str) -> None:
    match how:
        case "stopped":
            mycat.shell(name, "systemctl start mycat")
        case "frozen":
            mycat.shell(name, f"kill -CONT {mycat.process(name)}")


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_one_that_fails_leaves_rotation_and_comes_back(mycat: Mycat, how: str) -> None:
    victim = mycat.spare()
    other = next(name for name in mycat.machines() if name != victim)
    with mycat.session(on=other):
        break_it(mycat, victim, how)
        try:
            # The responder's last answer is good for 200 ms.
            wait_until(lambda: mycat.health(victim) == UNHEALTHY, "the responder to notice", 3)
            wait_until(lambda: mycat.down(victim), "the broken one to leave rotation", 15)
            assert mycat.queries_work()
        finally:
            mend_it(mycat, victim, how)
        wait_until(lambda: mycat.up(victim), "it to come back", 30)
    assert mycat.health(victim) == HEALTHY
    test_both_mycats_take_part(mycat)


def test_clients_of_one_that_hangs_are_let_go(mycat: Mycat) -> None:
    """They hear of it from HAProxy, long before they would give up."""
    victim = mycat.spare()
    client = mycat.connected(
        victim,
        "try:\n"
        "    while True:\n"
        "        k.execute('SELECT 1'); k.fetchall(); time.sleep(0.05)\n"
        "except Exception as error:\n"
        "    print(error)\n",
    )
    try:
        break_it(mycat, victim, "frozen")
        said, _ = client.communicate(timeout=30)
    finally:
        client.kill()
        client.wait()
        mend_it(mycat, victim, "frozen")
    assert "Lost connection" in said
    assert "timed out" not in said


@pytest.mark.parametrize("port", [8066, 48700, None], ids=["8066 only", "48700 only", "everything"])
def test_one_that_is_cut_off_leaves_rotation_and_comes_back(mycat: Mycat, port: int | None) -> None:
    """The responder cannot know of the network in between; the balancer's own connections do."""
    holder, victim = mycat.stack.holder(mycat.region), mycat.spare()
    ends = mycat.stack.machine(holder)["instanceId"], mycat.stack.machine(victim)["instanceId"]
    # Cut off from the balancer, not as a database or a balancer: those are other tests.
    ports = [port] if port else [8066, 48700]
    with mycat.session(on=holder):
        faults = [mycat.region.drop(*ends, protocol="tcp", port=number) for number in ports]
        try:
            wait_until(lambda: mycat.down(victim), "the one that is cut off to leave rotation", 15)
            assert mycat.queries_work()
        finally:
            for fault in faults:
                mycat.region.undrop(fault)
        wait_until(lambda: mycat.up(victim), "it to come back", 30)


def test_one_that_is_killed_is_started_again(mycat: Mycat) -> None:
    victim = mycat.spare()
    before = mycat.process(victim)
    mycat.shell(victim, f"kill -9 {before}")
    wait_until(lambda: mycat.process(victim) not in {before, "0"}, "systemd to start it again", 15)
    wait_until(lambda: mycat.health(victim) == HEALTHY, "it to answer", 30)


def test_a_machine_that_reboots_has_it_again(mycat: Mycat) -> None:
    victim = mycat.spare()
    mycat.shell(victim, "systemctl --no-block reboot")
    wait_until(lambda: mycat.health(victim) != HEALTHY, "the machine to go down", 30)
    wait_until(lambda: mycat.health(victim) == HEALTHY, "Mycat to be back", 120, pause=0.5)


def test_a_database_that_loses_its_power_is_survived(mycat: Mycat) -> None:
    """The node's data host goes on with its next write host; which one that is outlives a restart of Mycat."""

    def own_writes() -> dict[str, int]:
        """How many transactions of its own each database has sent to the others."""
        sql = "SHOW GLOBAL STATUS LIKE 'wsrep_replicated'"
        nodes = [node["name"] for node in mycat.stack.of_role("mysql")]
        return {name: int(mycat.shell(name, f'mariadb -N -e "{sql}"').split()[1]) for name in nodes}

    def update(what: str) -> None:
        mycat.query(f"UPDATE orders SET what = '{what}' WHERE id = 32", timeout=10)

    mycat.put("orders", id=32, what="before")
    before = own_writes()
    for number in range(8):
        update(f"number {number}")
    wrote = {name: count - before[name] for name, count in own_writes().items()}
    victim = max(wrote, key=lambda name: wrote[name])
    assert wrote[victim] >= 4, wrote
    mycat.region.power_cut(mycat.stack.machine(victim)["instanceId"])
    try:

        def works() -> bool:
            try:
                update("after")
                return mycat.query("SELECT what FROM orders WHERE id = 32", timeout=10) == "after"
            except (RegionError, subprocess.TimeoutExpired):
                return False

        # Seconds, as a rule. When Mycat is busy at that moment it waits for itself for a minute (docs/mycat.md).
        wait_until(works, "the third data node to go on", 180)
    finally:
        mycat.region.power_on(mycat.stack.machine(victim)["instanceId"])


# -- changes ------------------------------------------------------------------------------------------------------


def with_table(name: str, **more: Any) -> str:
    """The local stack's tables and one more, as a setting."""
    return f"mycat.schemas.0.tables={json.dumps([*LOCAL['schemas'][0]['tables'], {'name': name, **more}])}"


@pytest.fixture
def as_before(whole: None, stackctl: Stackctl) -> Iterator[None]:
    """The stack has the settings that it was made with again, whatever a test has made of them."""
    yield
    stackctl("create", *CREATE)
    assert " unchanged" in stackctl("create", *CREATE)


@pytest.mark.usefixtures("as_before")
def test_a_new_table_is_taken_without_dropping_a_client(mycat: Mycat, stackctl: Stackctl) -> None:
    processes = [mycat.process(name) for name in mycat.machines()]
    with mycat.session(on="node1"), mycat.session(on="node2"):
        stackctl("create", *CREATE, "--set", with_table("invoices", rule="by-id", dataNodes=["dn1", "dn2", "dn3"]))
    assert [mycat.process(name) for name in mycat.machines()] == processes
    mycat.query("CREATE TABLE IF NOT EXISTS invoices (id INT PRIMARY KEY)")
    mycat.put("invoices", id=1)
    assert database(mycat, "SELECT COUNT(*) FROM app2.invoices") == "1"


@pytest.mark.usefixtures("as_before")
def test_a_new_data_node_is_taken_without_dropping_a_client(mycat: Mycat, stackctl: Stackctl) -> None:
    """With its database, which was not there before."""
    processes = [mycat.process(name) for name in mycat.machines()]
    nodes = [*LOCAL["dataNodes"], {"name": "dn4", "dataHost": "dh2", "database": "app4"}]
    more = ("--set", f"mycat.dataNodes={json.dumps(nodes)}", "--set", with_table("archive", dataNodes=["dn4"]))
    with mycat.session(on="node1"), mycat.session(on="node2"):
        stackctl("create", *CREATE, *more)
    assert [mycat.process(name) for name in mycat.machines()] == processes
    mycat.query("CREATE TABLE IF NOT EXISTS archive (id INT PRIMARY KEY)")
    mycat.put("archive", id=7)
    assert database(mycat, "SELECT id FROM app4.archive") == "7"
    # Mycat may refuse the next change of data nodes for sqlExecuteTimeout, unless it has been started anew.
    for name in mycat.machines():
        for change, state in ((break_it, UNHEALTHY), (mend_it, HEALTHY)):
            change(mycat, name, "stopped")
            wait_until(lambda: mycat.health(name) == state, f"{name} to be started anew", 30)  # noqa: B023  (at once)


@pytest.mark.usefixtures("as_before")
def test_what_needs_a_restart_takes_one_after_the_other(mycat: Mycat, stackctl: Stackctl) -> None:
    """The other one is in rotation all the time, so that new connections find one."""
    processes = [mycat.process(name) for name in mycat.machines()]
    client = mycat.client(
        "failed = []; n = 0\n"
        "while not done.is_set():\n"
        "    try:\n"
        "        c = connect(); k = c.cursor(); k.execute('SELECT 1'); k.fetchall(); c.close(); n += 1\n"
        "    except Exception as error:\n"
        "        failed.append(f'{time.time():.1f} {error}')\n"
        "    time.sleep(0.1)\n"
        "print(n, len(failed), *failed[:20], sep='\\n')\n"
    )
    try:
        stackctl("create", *CREATE, "--set", "mycat.directMemoryMib=160")
        said, _ = client.communicate("end\n", timeout=60)
    finally:
        client.kill()
        client.wait()
    count, failed, *words = said.split("\n")
    assert int(count) > 20
    # A connection that is made in the moment in which Mycat stops is lost with it.
    assert int(failed) <= 4, words
    assert not {mycat.process(name) for name in mycat.machines()} & set(processes)


def test_a_broken_configuration_is_refused_on_the_machine(mycat: Mycat) -> None:
    name = mycat.machines()[0]
    files = mycat.configuration(name)
    before = files, mycat.process(name)
    broken = {**files, "schema.xml": files["schema.xml"].replace('dataHost="dh1"', 'dataHost="dh9"')}
    assert broken != files
    machine = mycat.stack.machine(name)
    done = mycat.region.exec(
        machine["instanceId"],
        ["bash", "-c", f'exec {APPLY} "$(readlink /opt/mycat/current)" {machine["address"]}'],
        input=json.dumps(broken),
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "the new configuration was refused" in done.stderr
    assert "dh9" in done.stderr
    assert mycat.login.password not in done.stderr
    assert (mycat.configuration(name), mycat.process(name)) == before
    assert mycat.queries_work()


@pytest.mark.usefixtures("as_before")
def test_ones_own_broken_files_are_refused_and_the_old_ones_stay(
    mycat: Mycat, stackctl: Stackctl, tmp_path: Path
) -> None:
    """Well-formed, so that only Mycat can tell: a table whose rule does not exist."""
    name = mycat.machines()[0]
    files = mycat.configuration(name)
    files["schema.xml"] = files["schema.xml"].replace('rule="by-id"', 'rule="by-nothing"')
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    empty = [f"mycat.{key}=[]" for key in ("users", "schemas", "rules", "functions", "dataNodes", "dataHosts")]
    settings = [word for setting in [f"mycat.files={tmp_path}", *empty] for word in ("--set", setting)]
    said = stackctl("create", *CREATE, *settings, check=False)
    assert "by-nothing" in said
    assert mycat.queries_work()


def test_settings_that_contradict_each_other_change_nothing(mycat: Mycat, stackctl: Stackctl) -> None:
    said = stackctl("create", *CREATE, "--set", "mycat.functions.0.count=4", check=False)
    assert "mycat-ha:mycat.schemas[0].tables[0].dataNodes: 3 data nodes, but the function of rule by-id" in said
    assert " unchanged" in stackctl("create", *CREATE)
