"""Two stacks in one region; and on the second: the recipe's own keepalived, its web servers, its test, its end."""

import json
import re
import time
from email import message_from_string
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from stackctl import inventory, life, teststack
from stackctl.project import StackError
from stackctl.pulumi import stack_names
from tests.conftest import Stackctl
from tests.stack.clients import (
    FOLDER,
    Repeated,
    administrator,
    adverts,
    connects,
    curl,
    login,
    mariadb,
    outputs,
    status,
)
from tests.stack.conftest import CLIENT, NET, TIERS, Mailbox
from tests.stack.whole import make_whole, problems

OFFICE = "office"


def shell(region: Region, tiers: Stack, machine: str, script: str) -> str:
    return region.exec(tiers.machine(machine)["instanceId"], ["bash", "-c", script]).stdout.strip()


# -- beside each other ------------------------------------------------------------------------------------------


def test_two_stacks_share_nothing(stack: Stack, tiers: Stack, aws: boto3.Session) -> None:
    first, second = (set(inventory.scan(aws, name)) for name in (stack.name, tiers.name))
    assert len(first) > 20
    assert len(second) > 40
    assert not {(found.kind, found.id) for found in first} & {(found.kind, found.id) for found in second}
    names = [{found.name for found in stacks if found.name} for stacks in (first, second)]
    assert not names[0] & names[1]

    ec2: Any = aws.client("ec2")
    addresses, groups, references, reservations = [], [], [], []
    for name in (stack.name, tiers.name):
        mine = [{"Name": "tag:mycat-ha:stack", "Values": [name]}]
        enis = ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"]
        addresses.append({a["PrivateIpAddress"] for eni in enis for a in eni["PrivateIpAddresses"]})
        groups.append({group["GroupId"] for eni in enis for group in eni["Groups"]})
        rules = ec2.describe_security_group_rules(Filters=mine)["SecurityGroupRules"]
        references.append({rule["ReferencedGroupInfo"]["GroupId"] for rule in rules if "ReferencedGroupInfo" in rule})
        found = [
            reservation["Cidr"]
            for subnet in {eni["SubnetId"] for eni in enis}
            for reservation in ec2.get_subnet_cidr_reservations(SubnetId=subnet)["SubnetIpv4CidrReservations"]
        ]
        reservations.append(found)
    assert not addresses[0] & addresses[1]
    assert not groups[0] & groups[1]
    assert references[0] <= groups[0]
    assert references[1] <= groups[1]
    assert reservations == [[f"{stack.vip}/32"], [f"{tiers.vip}/32"]]


def test_each_vip_leads_to_the_databases_of_its_own_stack(region: Region, stack: Stack, tiers: Stack) -> None:
    here, there = login(stack, "mysql"), login(tiers, "mysql")
    assert mariadb(region, here, "SELECT @@wsrep_cluster_name") == f"mycat-ha-{stack.name}"
    assert mariadb(region, there, "SELECT @@wsrep_cluster_name", CLIENT) == f"mycat-ha-{tiers.name}"
    mariadb(region, there, "CREATE TABLE IF NOT EXISTS only_there (n INT PRIMARY KEY)", CLIENT)
    wait_until(lambda: "only_there" in mariadb(region, there, "SHOW TABLES", CLIENT).split(), "the table", 10)
    assert "only_there" not in mariadb(region, here, "SHOW TABLES").split()
    assert not connects(region, "client", tiers.vip, tiers.port)
    assert not connects(region, CLIENT, stack.vip, stack.port)


def test_each_tier_is_reached_through_the_balancers_only(region: Region, tiers: Stack) -> None:
    ports = {"mysql": 3306, "mycat": 8066, "web": 80}
    for machine in tiers.machines:
        for role in machine["roles"]:
            if role in ports:
                assert not connects(region, CLIENT, machine["address"], ports[role]), machine["name"]
                assert not connects(region, OFFICE, machine["address"], ports[role]), machine["name"]
    assert {mariadb(region, login(tiers, "mysql"), "SELECT @@wsrep_node_name", CLIENT) for _ in range(9)} == {
        node["name"] for node in tiers.of_role("mysql")
    }


def test_a_client_knows_each_database_behind_the_vip_by_the_stacks_authority(
    region: Region, tiers: Stack, tmp_path: Path
) -> None:
    authority = tmp_path / "authority.pem"
    authority.write_text(outputs(tiers.name)["databaseAuthority"])
    verify = [f"--ssl-ca={authority}", "--ssl-verify-server-cert"]
    sql = "SELECT @@wsrep_node_name, variable_value FROM information_schema.session_status WHERE variable_name = '{}'"
    at, nodes = login(tiers, "mysql"), {node["name"] for node in tiers.of_role("mysql")}
    said = {mariadb(region, at, sql.format("SSL_VERSION"), CLIENT, options=verify) for _ in range(9)}
    assert said == {f"{node}\tTLSv1.3" for node in nodes}
    # The certificates that this computer trusts know nothing of it.
    with pytest.raises(RegionError, match=r"ERROR 2026 .*unable to get local issuer certificate"):
        mariadb(region, at, "SELECT 1", CLIENT, options=["--ssl-verify-server-cert", "--ssl-capath=/etc/ssl/certs"])
    for node in nodes:
        assert shell(region, tiers, node, "stat -c '%a %U:%G' /etc/mysql/mycat-ha-tls.pem") == "640 root:mysql"


def test_databases_know_each_other_by_their_key_also_for_a_copy(region: Region, tiers: Stack) -> None:
    donor, *_, joiner = tiers.of_role("mysql")
    presented = "openssl s_client -connect {}:4567 {} </dev/null 2>&1 || true"
    bundle = "/etc/mysql/mycat-ha-galera.pem"
    own = f"-CAfile {bundle} -cert {bundle} -verify_return_error"
    for node in tiers.of_role("mysql"):
        said = shell(region, tiers, donor["name"], presented.format(node["address"], own))
        assert f"CN = galera-{tiers.name}" in said
        assert "Verify return code: 0 (ok)" in said
    # Without its own view of the data a node needs a copy of everything.
    moment = time.time()
    forget = "systemctl stop mariadb && rm /var/lib/mysql/grastate.dat && systemctl start mariadb"
    region.exec(joiner["instanceId"], ["bash", "-c", forget], timeout=240)
    state = "mariadb -N -e \"SHOW STATUS LIKE 'wsrep_local_state_comment'\""
    wait_until(lambda: "Synced" in shell(region, tiers, joiner["name"], f"{state} || true"), "the joiner", 240)
    said = shell(region, tiers, joiner["name"], f"journalctl -u mariadb --since=@{moment:.0f} --no-pager")
    assert re.search(rf"openssl-listen:4444,.*cafile='{bundle}'", said)
    assert make_whole(region, tiers, CLIENT) == []


@pytest.fixture
def authority(tiers: Stack, tmp_path: Path) -> Path:
    """Who has signed the statistics pages' certificate."""
    file = tmp_path / "authority.pem"
    file.write_text(outputs(tiers.name)["statisticsAuthority"])
    return file


def page(region: Region, authority: Path, url: str, *words: str) -> str:
    return curl(region, OFFICE, "--cacert", str(authority), *words, url)


def test_statistics_and_metrics_are_known_by_the_stacks_authority(
    region: Region, tiers: Stack, authority: Path
) -> None:
    assert tiers.statistics_url.startswith(f"https://{tiers.vip}:8888/")
    for address in (tiers.vip, *(balancer["address"] for balancer in tiers.of_role("lb"))):
        metrics = page(region, authority, f"https://{address}:8888/metrics", "-u", administrator(tiers))
        assert "haproxy_process_uptime_seconds" in metrics
        assert curl(region, OFFICE, f"https://{address}:8888/metrics") == ""  # nobody else has signed it
        assert "Statistics Report" not in curl(region, OFFICE, "-u", administrator(tiers), f"http://{address}:8888/")
    by_name = ["--resolve", f"lb.{TIERS}.example:8888:{tiers.vip}", "-o", "/dev/null", "-w", "%{http_code}"]
    assert page(region, authority, f"https://lb.{TIERS}.example:8888/admin?stats", *by_name) == "401"
    for version in ("1.0", "1.1"):
        assert page(region, authority, tiers.statistics_url, "-i", "--tls-max", version) == ""
    for balancer in tiers.of_role("lb"):
        assert shell(region, tiers, balancer["name"], "stat -c '%a %U' /etc/haproxy/statistics.pem") == "600 root"


def test_each_database_behind_the_vip_sees_who_asks(region: Region, tiers: Stack) -> None:
    sql = "SELECT @@wsrep_node_name, SUBSTRING_INDEX(USER(), '@', -1), SUBSTRING_INDEX(host, ':', 1)"
    sql += " FROM information_schema.processlist WHERE id = CONNECTION_ID()"
    said = {mariadb(region, login(tiers, "mysql"), sql, CLIENT) for _ in range(9)}
    assert said == {f"{node['name']}\t{NET}.41\t{NET}.41" for node in tiers.of_role("mysql")}


# -- the recipe's keepalived ------------------------------------------------------------------------------------


def test_the_seed_mode_speaks_vrrp_2_with_a_password_once_a_second(region: Region, tiers: Stack) -> None:
    holder = tiers.holder(region)
    listener = next(machine for machine in tiers.of_role("lb") if machine["name"] != holder)
    heard = adverts(region, listener["instanceId"], 4)
    assert len(heard) == 4
    configured = shell(region, tiers, holder, "sed -n 's/.*auth_pass //p' /etc/keepalived/keepalived.conf")
    for advert in heard:
        assert (advert["version"], advert["router"], advert["interval"], advert["authentication"]) == (2, 249, 1, 1)
        assert advert["source"] == tiers.machine(holder)["address"]
        assert advert["destination"] == listener["address"]
        assert advert["addresses"] == [tiers.vip]
        assert advert["password"] == configured != ""
    assert 2.5 < heard[-1]["at"] - heard[0]["at"] < 3.5


def test_the_vip_has_the_recipes_label(region: Region, tiers: Stack) -> None:
    shown = shell(region, tiers, tiers.holder(region), f"ip -4 -o address show to {tiers.vip}/32")
    assert re.search(r" (\w+) +inet .* \1:0\\", shown)


# -- web servers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(region: Region, tiers: Stack) -> None:
    """A web server on each machine of role web. Until they run, the health check has nothing to answer with."""
    assert health(region, tiers) == {503}
    program = "/usr/local/lib/web_server.py"
    for machine in tiers.of_role("web"):
        unit = f"[Service]\nExecStart=/usr/bin/python3 {program} {machine['name']} 80\n"
        region.exec(machine["instanceId"], ["tee", program], input=(FOLDER / "web_server.py").read_text())
        region.exec(machine["instanceId"], ["tee", "/etc/systemd/system/web.service"], input=unit)
        region.exec(machine["instanceId"], ["bash", "-c", "systemctl daemon-reload; systemctl start web"])
    wait_until(lambda: health(region, tiers) == {200}, "the web servers to be in rotation", 30)


def health(region: Region, tiers: Stack) -> set[int]:
    """What each balancer's own health check says."""
    return {status(region, OFFICE, f"http://{balancer['address']}:1099/") for balancer in tiers.of_role("lb")}


def get(region: Region, tiers: Stack, path: str, host: str = "www.example.com", *words: str) -> dict[str, Any]:
    return dict(json.loads(curl(region, CLIENT, "-H", f"Host: {host}", *words, f"http://{tiers.vip}{path}")))


@pytest.mark.parametrize(
    ("path", "host", "server"),
    [
        ("/", "www.example.com", "web2"),
        ("/static/logo", "www.example.com", "web1"),
        ("/IMAGES/logo", "www.example.com", "web1"),
        ("/a/photo.jpg", "www.example.com", "web1"),
        ("/a/photo.JPG?size=2", "www.example.com", "web1"),
        ("/a/photo.jpg/more", "www.example.com", "web2"),
        ("/not/static", "www.example.com", "web2"),
        ("/index.php", "www.example.com", "web2"),
        ("/static/index.php", "www.example.com", "web1"),  # the first rule that matches decides
        ("/", "img.example.com", "web1"),
        ("/", "Download.example.com", "web1"),
        ("/", "myimg.example.com", "web2"),
    ],
)
def test_requests_go_where_the_rules_say(
    region: Region, tiers: Stack, web: None, path: str, host: str, server: str
) -> None:
    answer = get(region, tiers, path, host)
    assert (answer["server"], answer["path"], answer["host"]) == (server, path, host)


def test_a_server_learns_who_asked_and_the_log_says_it_early(region: Region, tiers: Stack, web: None) -> None:
    referrer = "http://example.com/where/it/came/from"
    answer = get(region, tiers, "/static/logged", "img.media.example.com", "-e", referrer)
    assert answer["forwardedFor"] == [f"{NET}.41"]
    holder = tiers.holder(region)
    local = shell(region, tiers, holder, f"curl -s -m 5 --interface 127.0.0.1 http://{tiers.vip}/")
    assert json.loads(local)["forwardedFor"] == []

    find = "grep -h 'GET /static/logged ' /var/log/haproxy.log || true"
    line = wait_until(lambda: shell(region, tiers, holder, find), "the request in the log", 10)
    assert "{img.media.example.co|" + referrer + "}" in line
    assert re.search(r" http-in static/web1 \d+/\d+/\d+/\d+/\+\d+ 200 \+\d+ ", line)


def test_the_health_check_fails_when_a_backend_does(region: Region, tiers: Stack, web: None) -> None:
    static = tiers.machine("web1")["instanceId"]
    assert health(region, tiers) == {200}
    region.exec(static, ["systemctl", "stop", "web"])
    try:
        wait_until(lambda: health(region, tiers) == {503}, "the health check to fail", 20)
        assert get(region, tiers, "/")["server"] == "web2"
        assert status(region, CLIENT, f"http://{tiers.vip}/static/logo") == 503
    finally:
        region.exec(static, ["systemctl", "start", "web"])
    wait_until(lambda: health(region, tiers) == {200}, "the health check to succeed", 20)
    assert get(region, tiers, "/static/logo")["server"] == "web1"


def test_the_second_statistics_page_is_for_administrators(
    region: Region, tiers: Stack, web: None, authority: Path
) -> None:
    for address in (tiers.vip, *(balancer["address"] for balancer in tiers.of_role("lb"))):
        url = f"https://{address}:1080/haproxyadmin?stats"
        challenge = page(region, authority, url, "-i")
        assert "401" in challenge.splitlines()[0]
        assert 'realm="Haproxy Statistics"' in challenge
        assert "web1" in page(region, authority, url, "-u", administrator(tiers))
        assert not connects(region, CLIENT, address, 1080)
        assert not connects(region, CLIENT, address, 1099)


def test_a_web_machine_answers_balancers_only(region: Region, tiers: Stack, web: None) -> None:
    for machine in tiers.of_role("web"):
        assert not connects(region, CLIENT, machine["address"], 80)
        assert not connects(region, OFFICE, machine["address"], 80)
        assert connects(region, tiers.of_role("lb")[0]["instanceId"], machine["address"], 80)
        assert not connects(region, tiers.of_role("mysql")[0]["instanceId"], machine["address"], 80)


# -- failovers --------------------------------------------------------------------------------------------------


def shown(region: Region, tiers: Stack, authority: Path) -> str:
    """Which balancer has the VIP, as the statistics page says."""
    text = page(region, authority, tiers.statistics_url, "-u", administrator(tiers))
    found = re.search(r"Statistics Report for pid \d+ on ([a-z0-9-]+)", text)
    return found[1] if found else ""


def test_the_recipes_own_test(region: Region, tiers: Stack, authority: Path) -> None:
    """6.4: HAProxy and keepalived stopped on the holder, then started again; `mysql -P3307` all the time."""
    holder = tiers.holder(region)
    assert shown(region, tiers, authority) == holder
    client = Repeated(region, CLIENT, login(tiers, "mycat"))
    try:
        time.sleep(2)
        stopped = time.time()
        shell(region, tiers, holder, "systemctl stop haproxy keepalived")
        wait_until(lambda: tiers.holder(region) != holder, "the VIP to move", 20)
        taken_by = tiers.holder(region)
        wait_until(lambda: shown(region, tiers, authority) == taken_by, "the statistics page on the VIP", 10)
        shell(region, tiers, holder, "systemctl start haproxy keepalived")
        make_whole(region, tiers, CLIENT)
        # It takes part again, and would be master 3.4 s later if it heard nothing; the rest is for the client to go on.
        time.sleep(12)
    finally:
        attempts = client.stop()
    assert tiers.holder(region) == taken_by
    assert shown(region, tiers, authority) == taken_by
    assert [at for at, worked in attempts if worked and at < stopped], "no client was there before"
    late = [at - stopped for at, worked in attempts if not worked and not 0 <= at - stopped < 8]
    assert not late
    assert len([at for at, worked in attempts if worked and at > stopped + 8]) > 5


def test_two_power_cuts_leave_the_third_balancer_and_each_is_in_the_mail(
    region: Region, tiers: Stack, mailbox: Mailbox
) -> None:
    gone: list[str] = []

    def news(subject: str, since: int) -> list[dict[str, Any]]:
        return [mail for mail in mailbox()[since:] if message_from_string(mail["text"])["Subject"] == subject]

    for _ in range(2):
        gone.append(tiers.holder(region))
        before = len(mailbox())
        region.power_cut(tiers.machine(gone[-1])["instanceId"])
        wait_until(lambda: tiers.holder(region) not in gone, "the VIP to move", 30)
        holder = tiers.holder(region)
        wait_until(lambda: mariadb(region, login(tiers, "mysql"), "SELECT 1", CLIENT, check=False) == "1", "SQL", 30)
        subject = f"[{holder}] VRRP Instance VI_haproxy - Entering MASTER state"
        mail = wait_until(lambda: news(subject, before), "the mail", 45)[0]  # noqa: B023  (waited for at once)
        assert mail["sender"] == "vrrp@example.com"
        assert mail["recipients"] == ["ops@example.com", "dba@example.com"]
        assert mail["peer"] == tiers.machine(holder)["address"]
        assert mail["helo"] == f"[{mail['peer']}]"
        assert message_from_string(mail["text"])["From"] == "vrrp@example.com"
    for machine in gone:
        region.power_on(tiers.machine(machine)["instanceId"])
    assert make_whole(region, tiers, CLIENT) == []
    until = time.monotonic() + 5  # adverts of 1 s: whoever would take it back has done it by then
    while time.monotonic() < until:
        assert tiers.holder(region) == holder
        time.sleep(0.2)


# -- the end ----------------------------------------------------------------------------------------------------


@pytest.mark.destroys("tiers")
def test_a_protected_stack_goes_only_if_that_is_spelled_out(
    region: Region, tiers: Stack, stackctl: Stackctl, aws: boto3.Session
) -> None:
    """Its expiry, Pulumi, EC2 and a plain destroy leave it as it is."""
    before = {(found.kind, found.id) for found in inventory.scan(aws, TIERS)}
    pulumi = life.pulumi_of(TIERS, region.name)
    pulumi.tag(teststack.EXPIRES, "2020-01-01T00:00:00Z")
    assert f"stack {TIERS} expired at 2020-01-01T00:00:00Z but is protected" in stackctl("sweep")
    with pytest.raises(StackError, match="protect"):
        pulumi.read("destroy", "--yes")
    with pytest.raises(ClientError, match="OperationNotPermitted"):
        aws.client("ec2").terminate_instances(InstanceIds=[tiers.machine("lb1")["instanceId"]])
    for words in ([], ["--really-destroy", "tiers"]):
        assert "othing was done" in stackctl("destroy", TIERS, *words, check=False)
    assert {(found.kind, found.id) for found in inventory.scan(aws, TIERS)} == before
    assert problems(region, tiers, CLIENT) == []

    stackctl("destroy", TIERS, "--really-destroy", TIERS)
    assert TIERS not in stack_names()
    assert inventory.scan(aws, TIERS) == []
    assert "the region has nothing that is tagged" in stackctl("leftovers", TIERS)
