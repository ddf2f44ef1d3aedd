"""What the stack offers, and to whom: seen from a client, an administrator, and a stranger."""

import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest

from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from stackctl.pulumi import stack_outputs
from tests.conftest import ROOT
from tests.stack.clients import administrator, condition, connects, curl, login, mariadb, servers

PORTS = (22, 25, 53, 80, 443, 514, 3305, 3306, 3307, 4444, 4567, 4568, 8066, 8888, 8889, 8890, 9066, 48700)


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


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("refused (n INT PRIMARY KEY) ENGINE=MyISAM", "1290"),
        ("refused (PRIMARY KEY (n)) ENGINE=MyISAM AS SELECT 1 AS n", "1290"),
        ("refused (n INT)", "1173.*primary key"),
    ],
)
def test_tables_that_galera_does_not_replicate_are_refused(
    region: Region, stack: Stack, table: str, words: str
) -> None:
    with pytest.raises(RegionError, match=words):
        query(region, stack, f"CREATE TABLE {table}")
    assert query(region, stack, "SHOW TABLES LIKE 'refused'") == ""


def test_every_database_has_the_settings_in_force(region: Region, stack: Stack) -> None:
    expected = {
        "innodb_flush_log_at_trx_commit": "1",
        "sync_binlog": "1",
        "enforce_storage_engine": "InnoDB",
        "innodb_force_primary_key": "1",
        "wsrep_sync_wait": "0",
    }
    sql = "SELECT " + ", ".join(f"@@GLOBAL.{name}" for name in expected)
    for node in stack.of_role("mysql"):
        said = region.exec(node["instanceId"], ["mariadb", "-N", "-e", sql]).stdout
        assert dict(zip(expected, said.split(), strict=True)) == expected, node["name"]


def test_a_machine_takes_many_logins_at_once(region: Region, stack: Stack) -> None:
    for machine in stack.machines:
        said = region.exec(machine["instanceId"], ["/usr/sbin/sshd", "-T"]).stdout
        assert "maxstartups 200:30:400" in said.lower().splitlines()


def test_a_session_may_wait_for_what_is_committed_elsewhere(region: Region, stack: Stack) -> None:
    assert query(region, stack, "SET SESSION wsrep_sync_wait = 1; SELECT @@wsrep_sync_wait") == "1"


def test_the_application_has_its_schema_and_no_other(region: Region, stack: Stack) -> None:
    rights = query(region, stack, "SHOW GRANTS").splitlines()
    assert [re.sub(" IDENTIFIED BY .*", "", grant) for grant in rights] == [
        f"GRANT USAGE ON *.* TO `{stack.user}`@`%`",
        f"GRANT ALL PRIVILEGES ON `{stack.schema}`.* TO `{stack.user}`@`%`",
    ]


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


def test_the_outsider_is_kept_out_by_the_firewall_alone(region: Region, stack: Stack, aws: boto3.Session) -> None:
    """Else a test that finds nothing open for it would prove nothing: with a rule for it, the way is there."""
    ec2 = aws.client("ec2")
    eni = stack.machine(stack.holder(region))["eniId"]
    groups = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]["Groups"]
    rule: Any = {"IpProtocol": "tcp", "FromPort": 3306, "ToPort": 3306, "IpRanges": [{"CidrIp": "10.66.0.10/32"}]}
    assert not connects(region, "outsider", stack.vip, 3306)
    ec2.authorize_security_group_ingress(GroupId=groups[0]["GroupId"], IpPermissions=[rule])
    try:
        wait_until(lambda: connects(region, "outsider", stack.vip, 3306), "the rule to take effect", 10)
    finally:
        ec2.revoke_security_group_ingress(GroupId=groups[0]["GroupId"], IpPermissions=[rule])
    wait_until(lambda: not connects(region, "outsider", stack.vip, 3306), "the rule to be gone", 10)


def test_from_outside_only_the_bastion_answers(region: Region, stack: Stack) -> None:
    """This machine deploys through it. While it is attached to the VPC, it is one of the administrators."""

    def reached(address: str) -> set[int]:
        def connects(port: int) -> bool:
            with socket.socket() as attempt:
                attempt.settimeout(1)
                return attempt.connect_ex((address, port)) == 0

        with ThreadPoolExecutor(len(PORTS)) as pool:
            answers = pool.map(connects, PORTS)
            return {port for port, answer in zip(PORTS, answers, strict=True) if answer}

    def device(address: str) -> str:
        route = subprocess.run(["ip", "-j", "route", "get", address], capture_output=True, text=True, check=False)
        return str(json.loads(route.stdout)[0]["dev"]) if route.stdout else ""

    bastion = stack_outputs(stack.name)["bastion"]
    assert reached(bastion) == {22}
    addresses = {machine["address"]: "lb" in machine["roles"] for machine in stack.machines}
    assert {address: reached(address) for address in addresses} == {
        address: {8888} if balancer else set() for address, balancer in addresses.items()
    }
    assert {device(address) for address in addresses} == {device(bastion)}
    region.detach(stack.name)
    try:
        # No packet is sent: without an attachment it would leave for this machine's own network.
        assert device(bastion) not in {device(address) for address in addresses}
    finally:
        region.attach(stack.name)


def test_only_root_reaches_the_metadata_service(region: Region, stack: Stack) -> None:
    """Also after the machine has loaded everything anew, as at a boot."""
    balancer = stack.of_role("lb")[0]["instanceId"]
    token = ["curl", "-sS", "-m", "2", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60"]
    ask = [*token, "http://169.254.169.254/latest/api/token"]
    region.exec(balancer, ["systemctl", "is-enabled", "guard-metadata.service"])
    region.exec(balancer, ["systemctl", "restart", "guard-metadata.service"])
    for user in ("haproxy", "mycat", "mysql", "mycat-ha-health"):
        refused = region.exec(balancer, ["runuser", "-u", user, "--", *ask], check=False)
        assert refused.returncode == 7, (user, refused.stderr)  # curl: could not connect
        assert not refused.stdout
    assert region.exec(balancer, ask).stdout
    region.exec(balancer, ["/usr/local/lib/mycat-ha/claim-vip", "probe"])


def test_between_machines_only_what_the_roles_need(region: Region, stack: Stack) -> None:
    balancer, database = stack.of_role("lb")[0], stack.machine("node3")
    script = "timeout 1 bash -c '</dev/tcp/{}/{}'"
    for port, possible in ((3306, True), (48700, True), (22, False), (4567, True)):
        done = region.exec(
            balancer["instanceId"], ["bash", "-c", script.format(database["address"], port)], check=False
        )
        assert (done.returncode == 0) is possible, port
    # node3 is no balancer: nobody's statistics and nobody's Mycat. It does get to the other database, and asks whether
    # that one has a cluster.
    for port in (4567, 48700):
        assert connects(region, database["instanceId"], balancer["address"], port)
    for port in (8888, 8066, 9066, 22):
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
    # A connection's line; what HAProxy says of its servers goes to the system's log as well.
    connection = "' mysql mysqlservers/node'"
    wait_until(lambda: shell(f"tail -n 200 /var/log/haproxy.log | grep {connection} || true"), "the query's line", 10)
    assert shell(f"grep -h {connection} /var/log/syslog 2>/dev/null || true") == ""
    rotation = shell("logrotate --debug /etc/logrotate.d/haproxy 2>&1")
    assert "/var/log/haproxy.log" in rotation
    assert "error" not in rotation.lower()
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

    def up() -> bool:
        return servers(region, stack, "mysqlservers")["node3"][0] == "UP"

    assert health() == "200"
    assert up()
    region.exec(node["instanceId"], ["systemctl", "stop", "mariadb"], timeout=60)
    try:
        # An answer may be as old as the responder keeps one.
        wait_until(lambda: health() == "503", "the responder to say so", 5)
        wait_until(lambda: not up(), "node3 to leave rotation", 10)
        assert "node3" not in {query(region, stack, "SELECT @@wsrep_node_name") for _ in range(6)}
    finally:
        region.exec(node["instanceId"], ["systemctl", "start", "mariadb"], timeout=60)
    wait_until(lambda: health() == "200", "the database to be healthy again", 60)
    wait_until(up, "node3 in rotation", 30)
    assert "node3" in {query(region, stack, "SELECT @@wsrep_node_name") for _ in range(6)}


def test_a_database_whose_port_cannot_be_reached_leaves_rotation_and_comes_back(region: Region, stack: Stack) -> None:
    """Its responder can, and says that it is well. What checks cost: no error that the database counts."""
    node, holder = stack.machine("node3"), stack.machine(stack.holder(region))

    def counted(name: str) -> int:
        argv = ["mariadb", "--batch", "--skip-column-names", "--execute", f"SHOW GLOBAL STATUS LIKE '{name}'"]
        return int(region.exec(node["instanceId"], argv).stdout.split()[1])

    def state() -> str:
        return servers(region, stack, "mysqlservers")["node3"][0]

    errors, logins = counted("Aborted_connects"), counted("Connections")
    # Each look is a login, too.
    wait_until(lambda: counted("Connections") > logins + 100, "many checks", 60)
    assert counted("Aborted_connects") == errors
    fault = region.drop(holder["instanceId"], node["instanceId"], protocol="tcp", port=3306)
    try:
        wait_until(lambda: state() == "DOWN", "node3 to leave rotation", 15)
        assert connects(region, holder["instanceId"], node["address"], 48700)
        assert "node3" not in {query(region, stack, "SELECT @@wsrep_node_name") for _ in range(6)}
    finally:
        region.undrop(fault)
    wait_until(lambda: state() == "UP", "node3 in rotation", 30)


def test_status_says_that_the_stack_is_whole_and_what_is_not(region: Region, stack: Stack) -> None:
    """As EC2 and the machines say, over SSH; its last word is the exit status."""

    def parts(said: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
        return {machine["name"]: machine[part] for machine in said["machines"] if machine[part]}

    def of_node3(said: dict[str, Any]) -> list[dict[str, Any]]:
        found = [server for one in parts(said, "balancer").values() for server in one["servers"]]
        return [server for server in found if (server["backend"], server["name"]) == ("mysqlservers", "node3")]

    def all_down() -> bool:
        return {server["state"] for server in of_node3(condition(stack)[1])} == {"DOWN"}

    names = {role: {machine["name"] for machine in stack.of_role(role)} for role in ("lb", "mysql", "mycat")}
    code, said = condition(stack)
    assert (code, said["whole"], said["problems"]) == (0, True, [])
    holder = stack.holder(region)
    assert said["vip"]["ec2"] == {"machine": holder, "interface": stack.machine(holder)["eniId"], "error": None}
    assert (said["vip"]["masters"], said["vip"]["on_device"], said["vip"]["agreed"]) == ([holder], [holder], True)
    balancers, databases, mycats = (parts(said, part) for part in ("balancer", "database", "mycat"))
    assert {name: balancer["claimed"] for name, balancer in balancers.items()} == {
        name: name == holder for name in names["lb"]
    }
    for balancer in balancers.values():
        assert {(server["backend"], server["name"], server["state"]) for server in balancer["servers"]} >= {
            ("mysqlservers", name, "UP") for name in names["mysql"]
        }
    assert databases.keys() == names["mysql"]
    assert {(one["cluster_status"], one["local_state"], one["cluster_size"]) for one in databases.values()} == {
        ("Primary", "Synced", len(names["mysql"]))
    }
    assert len({one["cluster"] for one in databases.values()}) == 1
    assert min(one["position"] for one in databases.values()) > 0
    assert {name: mycat["answers"] for name, mycat in mycats.items()} == dict.fromkeys(names["mycat"], True)

    node = stack.machine("node3")["instanceId"]
    region.exec(node, ["systemctl", "stop", "mariadb"], timeout=60)
    try:
        wait_until(all_down, "node3 to leave rotation", 30)
        code, said = condition(stack)
        assert code == 1
        assert [(problem["machine"], problem["what"]) for problem in said["problems"]] == [
            ("node3", "mariadb is inactive")
        ]
        assert [server["reason"] for server in of_node3(said) if "503" not in server["reason"]] == []
        database = parts(said, "database")["node3"]
        assert (database["running"], database["to_be_recovered"], database["view"]) == (False, False, None)
        assert database["cluster"] == databases["node3"]["cluster"]
        assert database["position"] >= databases["node3"]["position"]
    finally:
        region.exec(node, ["systemctl", "start", "mariadb"], timeout=60)
    wait_until(lambda: condition(stack)[0] == 0, "status to find the stack whole again", 90)


def test_the_responder_knows_only_what_the_machine_has(region: Region, stack: Stack) -> None:
    balancer = stack.of_role("lb")[0]["instanceId"]
    url = f"http://{stack.machine('node3')['address']}:48700"
    for path, status in (("/nonsense", "404"), ("/mycat", "404"), ("/mysql", "200")):
        said = region.exec(balancer, ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{url}{path}"]).stdout
        assert said == status, path


def all_secrets(stack: Stack) -> dict[str, str]:
    """Each secret of the stack's settings by its name; of the private key one line in the middle."""
    command = ["pulumi", "config", "get", "mycat-ha:secrets", "--json", "--stack", stack.name]
    generated = ROOT / f".local/stacks/Pulumi.{stack.name}.yaml"
    done = subprocess.run([*command, "--config-file", str(generated)], capture_output=True, text=True, check=True)
    found = json.loads(json.loads(done.stdout)["value"])
    return {name: value.splitlines()[2] if "PRIVATE KEY" in value else value for name, value in found.items()}


def test_no_secret_is_readable_where_it_should_not_be(region: Region, stack: Stack) -> None:
    secrets = all_secrets(stack)
    assert set(secrets) == {
        "sshPrivateKey",
        "statistics",
        "database",
        "health",
        "mycat",
        "mycatReport",
        "mycatDatabase",
    }
    assert min(map(len, secrets.values())) > 12
    patterns = "\n".join(secrets.values())
    on_machines: set[str] = set()
    for machine in stack.machines:

        def shell(script: str) -> str:
            return region.exec(machine["instanceId"], ["bash", "-c", script], input=patterns).stdout  # noqa: B023

        logs = shell("journalctl --no-pager -q; cat /var/log/mycat-ha/* /var/log/*.log 2>/dev/null || true")
        assert "systemd[1]" in logs, "there is nothing to look at"
        commands = shell("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' || true")
        assert "systemd" in commands
        for name, secret in secrets.items():
            assert secret not in logs, (machine["name"], name)
            assert secret not in commands, (machine["name"], name)
        folders = "/etc /opt /root /run /srv /tmp /usr/local /var/lib/cloud /var/lib/mycat-ha /var/log /var/tmp"
        files = shell(f"grep -rlsF -D skip -f /dev/stdin {folders} || true").splitlines()
        assert files, "a machine without a secret is not configured"
        for file in files:
            done = region.exec(
                machine["instanceId"], ["runuser", "-u", "nobody", "--", "test", "-r", file], check=False
            )
            assert done.returncode == 1, f"{machine['name']}: everybody can read {file}"
            text = shell(f"cat {file}")
            on_machines |= {name for name, secret in secrets.items() if secret in text}
    # They are what is looked for: each of them is where it is used. The deployer's key is on no machine, and of the
    # application's password the databases have a hash.
    assert on_machines == set(secrets) - {"sshPrivateKey", "database"}
    assert stack.password == secrets["database"]

    exported = ["pulumi", "stack", "export", "--stack", stack.name]
    stored = subprocess.run(exported, capture_output=True, text=True, check=True).stdout
    assert '"ciphertext"' in stored
    for name, secret in secrets.items():
        assert secret not in stored, name
