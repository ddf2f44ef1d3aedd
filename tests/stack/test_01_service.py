"""What the stack offers, and to whom: seen from a client, an administrator, and a stranger."""

import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from tests.stack.clients import administrator, curl, login, mariadb

PORTS = (22, 25, 53, 80, 443, 514, 3306, 3307, 4444, 4567, 4568, 8066, 8888, 8889, 9066, 48700)


def query(region: Region, stack: Stack, sql: str) -> str:
    """Through the VIP, as the application user, with the MariaDB command line."""
    return mariadb(region, login(stack, "mysql"), sql)


def open_ports(region: Region, host: str, address: str) -> set[int]:
    """A TCP scan: all at once, half a second each."""
    scan = (
        "import socket, sys, concurrent.futures as f\n"
        "def probe(p):\n"
        "    s = socket.socket(); s.settimeout(1)\n"
        "    return p if s.connect_ex((sys.argv[1], p)) == 0 else None\n"
        "ports = [int(p) for p in sys.argv[2:]]\n"
        "print(*filter(None, f.ThreadPoolExecutor(32).map(probe, ports)))\n"
    )
    said = region.exec(host, [sys.executable, "-c", scan, address, *map(str, PORTS)]).stdout
    return {int(port) for port in said.split()}


def test_sql_through_the_vip_reaches_every_server(region: Region, stack: Stack) -> None:
    names = {query(region, stack, "SELECT @@wsrep_node_name") for _ in range(9)}
    assert names == {node["name"] for node in stack.of_role("mysql")}


def test_a_row_written_through_the_vip_is_on_every_database(region: Region, stack: Stack) -> None:
    query(region, stack, "CREATE TABLE IF NOT EXISTS proof (n INT PRIMARY KEY); REPLACE INTO proof VALUES (42)")
    for node in stack.of_role("mysql"):
        sql = f"SET wsrep_sync_wait=7; SELECT n FROM {stack.schema}.proof"
        assert region.exec(node["instanceId"], ["mariadb", "-N", "-e", sql]).stdout.strip() == "42"


def test_a_wrong_password_is_refused(region: Region, stack: Stack) -> None:
    with pytest.raises(RegionError, match="1045"):
        region.exec("client", ["mariadb", f"-h{stack.vip}", f"-u{stack.user}", "-pwrong", "-e", "SELECT 1"])


def test_statistics_ask_for_credentials_and_show_the_servers(region: Region, stack: Stack) -> None:
    challenge = curl(region, "office", "-i", stack.statistics_url)
    assert "401" in challenge.splitlines()[0]
    assert 'realm="Hapadmin"' in challenge
    credentials = administrator(stack)
    page = curl(region, "office", "-u", credentials, stack.statistics_url)
    for node in stack.of_role("mysql"):
        assert node["name"] in page
    assert "mysqlservers" in page
    assert "HAProxy version" not in page
    assert (
        "401"
        in curl(region, "office", "-i", "-u", f"{stack.statistics_user}:wrong", stack.statistics_url).splitlines()[0]
    )
    page = f"http://{stack.vip}:8888/metrics"
    assert 'haproxy_server_status{proxy="mysqlservers"' in curl(region, "office", "-u", credentials, page)
    assert "401" in curl(region, "office", "-i", page).splitlines()[0]


@pytest.mark.parametrize("host", ["client", "office", "outsider"])
def test_only_the_ports_that_the_firewall_names_are_open(region: Region, stack: Stack, host: str) -> None:
    """A balancer with a database on it has 3306 on its own address as well; a security group cannot tell addresses."""
    expected = {"client": {3306, 3307}, "office": {3306, 3307, 8888}, "outsider": set()}[host]
    assert open_ports(region, host, stack.vip) == expected
    for machine in stack.machines:
        allowed = expected - {3307} if "lb" in machine["roles"] else set()
        assert open_ports(region, host, machine["address"]) == allowed, machine["name"]


def test_the_deployer_reaches_ssh_and_nothing_else_but_the_statistics(region: Region, stack: Stack) -> None:
    """The local stack's administrators include the deployer's range."""

    def connects(port: int, address: str) -> bool:
        with socket.socket() as attempt:
            attempt.settimeout(1)
            return attempt.connect_ex((address, port)) == 0

    for machine in stack.machines:
        with ThreadPoolExecutor(len(PORTS)) as pool:
            answers = pool.map(partial(connects, address=machine["address"]), PORTS)
            found = {port for port, answer in zip(PORTS, answers, strict=True) if answer}
        assert found == {22} | ({8888} if "lb" in machine["roles"] else set()), machine["name"]


def test_between_machines_only_what_the_roles_need(region: Region, stack: Stack) -> None:
    balancer, database = stack.of_role("lb")[0], stack.machine("node3")
    script = "timeout 1 bash -c '</dev/tcp/{}/{}'"
    for port, possible in ((3306, True), (48700, True), (22, False), (4567, True)):
        done = region.exec(
            balancer["instanceId"], ["bash", "-c", script.format(database["address"], port)], check=False
        )
        assert (done.returncode == 0) is possible, port
    # node3 is no balancer: nobody's statistics, nobody's Mycat and nobody's health port.
    for port in (8888, 8066, 9066, 48700, 22):
        done = region.exec(
            database["instanceId"], ["bash", "-c", script.format(balancer["address"], port)], check=False
        )
        assert done.returncode != 0, port


def test_haproxy_is_confined_and_logs_over_loopback(region: Region, stack: Stack) -> None:
    query(region, stack, "SELECT 1")
    machine = stack.machine(stack.holder(region))["instanceId"]

    def shell(script: str) -> str:
        return region.exec(machine, ["bash", "-c", script]).stdout.strip()

    worker = shell("pgrep -u haproxy -x haproxy | tail -n 1")
    assert shell(f"readlink /proc/{worker}/root") == "/var/lib/haproxy"
    assert shell("ls -A /var/lib/haproxy") == ""
    assert shell("stat -c '%U %a' /var/lib/haproxy") == "root 755"
    assert shell("getent passwd haproxy").endswith(":/usr/sbin/nologin")
    assert shell("ss -Hlnu 'sport = :514' | awk '{print $4}'") == "127.0.0.1:514"
    assert "mysqlservers/" in shell("tail -n 200 /var/log/haproxy.log")
    assert shell("grep -c haproxy /var/log/syslog 2>/dev/null || true") in {"", "0"} or "mysqlservers" not in shell(
        "cat /var/log/syslog"
    )
    assert shell("logrotate --debug /etc/logrotate.d/haproxy 2>&1 | grep -ci error || true") == "0"
    assert shell("sysctl -n net.ipv4.ip_nonlocal_bind net.ipv4.ip_forward").split() == ["1", "1"]
    options = shell("/opt/haproxy/current/sbin/haproxy -vv")
    for feature in ("USE_PCRE2=1", "USE_PCRE2_JIT=1", "USE_OPENSSL=1", "USE_ZLIB=1", "USE_LUA=1", "USE_PROMEX=1"):
        assert feature in options
    assert "PCRE2 library supports JIT : yes" in options


@pytest.mark.parametrize("software", ["haproxy", "keepalived"])
def test_a_build_has_a_place_of_its_own_and_belongs_to_root(region: Region, stack: Stack, software: str) -> None:
    for machine in stack.of_role("lb"):
        script = f"readlink /opt/{software}/current; find /opt/{software}/current/ ! -user root"
        said = region.exec(machine["instanceId"], ["bash", "-c", script]).stdout.strip()
        assert re.fullmatch(rf"/opt/{software}/[0-9.]+-[0-9a-f]{{12}}-debian[0-9]+", said)


def test_a_database_that_is_not_usable_leaves_rotation_and_comes_back(region: Region, stack: Stack) -> None:
    node = stack.machine("node3")
    balancer = stack.machine(stack.holder(region))["instanceId"]

    def health() -> str:
        url = f"http://{node['address']}:48700/mysql"
        return region.exec(balancer, ["curl", "-s", "-m", "2", "-w", "%{http_code}", "-o", "/dev/null", url]).stdout

    assert health() == "200"
    region.exec(node["instanceId"], ["systemctl", "stop", "mariadb"], timeout=60)
    try:
        # An answer may be as old as the responder keeps one.
        wait_until(lambda: health() == "503", "the responder to say so", 5)
        time.sleep(3)
        assert "node3" not in {query(region, stack, "SELECT @@wsrep_node_name") for _ in range(6)}
    finally:
        region.exec(node["instanceId"], ["systemctl", "start", "mariadb"], timeout=60)
    wait_until(lambda: health() == "200", "the database to be healthy again", 60)
    wait_until(
        lambda: "node3" in {query(region, stack, "SELECT @@wsrep_node_name") for _ in range(6)}, "node3 in rotation", 30
    )


def test_the_responder_knows_only_what_the_machine_has(region: Region, stack: Stack) -> None:
    balancer = stack.of_role("lb")[0]["instanceId"]
    url = f"http://{stack.machine('node3')['address']}:48700"
    for path, status in (("/nonsense", "404"), ("/mycat", "404"), ("/mysql", "200")):
        said = region.exec(balancer, ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{url}{path}"]).stdout
        assert said == status, path


def test_no_secret_is_readable_where_it_should_not_be(region: Region, stack: Stack) -> None:
    stored = subprocess.run(
        ["pulumi", "stack", "export", "--stack", stack.name], capture_output=True, text=True, check=True
    ).stdout
    secrets = [stack.password]
    for machine in stack.machines:
        logs = region.exec(
            machine["instanceId"],
            [
                "bash",
                "-c",
                "journalctl --no-pager -q; cat /var/log/mycat-ha/* /var/log/*.log 2>/dev/null; cat /proc/*/cmdline",
            ],
        ).stdout
        for secret in secrets:
            assert secret not in logs, machine["name"]
        for path in ("/etc/haproxy/haproxy.cfg", "/etc/keepalived/keepalived.conf", "/etc/mycat-ha/health.json"):
            said = region.exec(machine["instanceId"], ["stat", "-c", "%a", path], check=False).stdout.strip()
            assert said in {"", "600", "640"}, path
    for secret in secrets:
        assert secret not in stored
