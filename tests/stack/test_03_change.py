"""Bad changes are refused where they would do harm, and say why."""

import subprocess

import boto3
import pytest

from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from stackctl import project
from stackctl.pulumi import Pulumi, stack_outputs
from tests.conftest import NAME, NET, Stackctl, create_words
from tests.stack.clients import Login, connects, mariadb


@pytest.mark.parametrize(
    ("path", "mode", "validate"),
    [
        ("/etc/haproxy/haproxy.cfg", "0600", '/opt/haproxy/current/sbin/haproxy -c -f "$STAGED"'),
        ("/etc/keepalived/keepalived.conf", "0600", '/opt/keepalived/current/sbin/keepalived -t -f "$STAGED"'),
    ],
)
def test_a_broken_file_is_refused_and_the_old_one_stays(
    region: Region, stack: Stack, path: str, mode: str, validate: str
) -> None:
    machine = stack.of_role("lb")[0]["instanceId"]
    service = path.split("/")[2]

    def state() -> str:
        script = f"sha256sum {path}; systemctl show -p MainPID {service}"
        return region.exec(machine, ["bash", "-c", script]).stdout

    before = state()
    done = region.exec(
        machine,
        ["/usr/local/lib/mycat-ha/install-file", path, mode, "root:root", "--validate", validate],
        input="nonsense {\n",
        check=False,
    )
    assert done.returncode == 1
    assert "the new file was refused, the old one stays in force" in done.stderr
    assert "nonsense" in done.stderr
    assert state() == before


def test_a_file_that_does_not_work_is_taken_back(region: Region, stack: Stack) -> None:
    machine = stack.of_role("lb")[0]["instanceId"]
    tool = ["/usr/local/lib/mycat-ha/install-file", "/tmp/mycat-ha-file", "0644", "root:root"]
    region.exec(machine, tool, input="old\n")
    gate = "grep -q old /tmp/mycat-ha-file"
    done = region.exec(machine, [*tool, "--gate", gate], input="new\n", check=False)
    assert done.returncode == 1
    assert "the old one is back" in done.stderr
    assert region.exec(machine, ["cat", "/tmp/mycat-ha-file"]).stdout == "old\n"


def test_wrong_settings_change_nothing_and_name_the_key(stack: Stack, stackctl: Stackctl) -> None:
    words = create_words(NAME, NET)
    said = stackctl("create", *words, "--set", f"vip.address={NET}.251", check=False)
    assert f"mycat-ha:vip.address: {NET}.251 is the address of machine node1" in said
    said = stackctl("create", *words, "--set", f"machines.1.address={NET}.240", check=False)
    assert f"mycat-ha:machines[1].address: node2 exists with another address than {NET}.240" in said
    said = stackctl("create", *words, "--set", "haproxy.sha256=" + "0" * 64, check=False)
    assert "mycat-ha:haproxy.sha256" in said
    assert " unchanged" in stackctl("create", *words)


def test_a_line_of_ones_own_that_mariadb_does_not_take_fails_up_and_changes_nothing(
    region: Region, stack: Stack, stackctl: Stackctl
) -> None:
    words = create_words(NAME, NET)
    script = "sha256sum /etc/mysql/mariadb.conf.d/60-galera.cnf; systemctl show -p MainPID mariadb"

    def state() -> list[str]:
        return [region.exec(node["instanceId"], ["bash", "-c", script]).stdout for node in stack.of_role("mysql")]

    before = state()
    said = stackctl("create", *words, "--set", "database.extra=[max_alowed_packet = 64M]", check=False)
    assert "60-galera.cnf: the new file was refused, the old one stays in force" in said
    assert "unknown variable 'max_alowed_packet=64M'" in said
    assert state() == before
    assert " unchanged" in stackctl("create", *words)


def test_a_user_of_the_settings_has_its_rights_everywhere_and_goes_with_them(
    region: Region, stack: Stack, stackctl: Stackctl
) -> None:
    words = create_words(NAME, NET)
    reader = "{name: reader, secret: reader, rights: {shop_a: [SELECT, INSERT, CREATE]}}"
    show = ["mariadb", "--batch", "--raw", "-N", "-e", "SHOW GRANTS FOR reader"]
    nodes = [node["instanceId"] for node in stack.of_role("mysql")]
    try:
        stackctl("create", *words, "--set", "database.schemas=[shop_a]", "--set", f"database.users=[{reader}]")
        password = Pulumi(project.Stack(stack.name)).read("config", "get", "--path", "mycat-ha:secrets.reader").strip()
        as_reader = Login(stack.vip, stack.port, "reader", password, "shop_a")
        sql = "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (7); SELECT id FROM t"
        assert mariadb(region, as_reader, sql) == "7"
        with pytest.raises(RegionError, match="1142"):
            mariadb(region, as_reader, "DELETE FROM t")

        reader = "{name: reader, secret: reader, rights: {shop_a: [SELECT]}}"
        stackctl("create", *words, "--set", "database.schemas=[shop_a]", "--set", f"database.users=[{reader}]")
        for node in nodes:
            granted = region.exec(node, show).stdout.splitlines()
            assert granted[1:] == [r"GRANT SELECT ON `shop\_a`.* TO `reader`@`%`"]
    finally:
        stackctl("create", *words)
    for node in nodes:
        assert "1141" in region.exec(node, show, check=False).stderr
        assert region.exec(node, ["mariadb", "-N", "-e", "SELECT id FROM shop_a.t"]).stdout.strip() == "7"
    assert stack.problems(region) == []


def test_who_cannot_reach_the_bastion_is_told_its_address_and_port(
    region: Region, stack: Stack, stackctl: Stackctl, aws: boto3.Session
) -> None:
    address = stack_outputs(stack.name)["bastion"]
    found = aws.client("ec2").describe_instances(Filters=[{"Name": "ip-address", "Values": [address]}])
    bastion = found["Reservations"][0]["Instances"][0]["InstanceId"]
    region.freeze(bastion)
    try:
        said = " ".join(stackctl("up", stack.name).split())
    finally:
        region.thaw(bastion)
    assert f"the bastion does not answer at {address}, port 22, within 5 s. A new machine boots" in said
    assert "port 22, within 5 s; likely, `access.bastion.cidrs` does not have the address" in said


def test_a_route_that_somebody_added_stays(stack: Stack, stackctl: Stackctl, aws: boto3.Session) -> None:
    """Such as the one of a VPN: neither a refresh nor an `up` takes it for a mistake."""
    ec2 = aws.client("ec2")
    table, foreign = stack_outputs(stack.name)["routeTableId"], "10.99.0.0/16"

    def routes() -> dict[str, str]:
        found = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
        return {route["DestinationCidrBlock"]: route.get("NatGatewayId", "") for route in found}

    before = routes()
    nat = before["0.0.0.0/0"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock=foreign, NatGatewayId=nat)
    try:
        stackctl("refresh", stack.name)
        assert " unchanged" in stackctl("up", stack.name, "--", "--expect-no-changes")
        assert routes() == {**before, foreign: nat}
    finally:
        ec2.delete_route(RouteTableId=table, DestinationCidrBlock=foreign)


def test_a_build_that_fails_says_why_and_leaves_what_runs(region: Region, stack: Stack) -> None:
    """The build script of the program itself, with a command that fails, on a machine that has a build running."""
    from components.template import render  # noqa: PLC0415
    from settings.base import SourceArchive  # noqa: PLC0415

    machine = stack.of_role("lb")[0]["instanceId"]
    archive = region.exec(
        machine, ["bash", "-c", "cd /tmp && mkdir -p x && tar czf broken.tar.gz x && sha256sum broken.tar.gz"]
    ).stdout.split()[0]
    source = SourceArchive.model_validate({"version": "9.9", "sha256": archive, "url": "http://192.0.2.1/x.tar.gz"})

    def build(command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        script = render(
            "source_build/build.sh.j2",
            software="haproxy",
            source=source.model_copy(update=changes),
            archive="/tmp/broken.tar.gz",
            digest="0123",
            build=command,
            packages=(),
        )
        return region.exec(machine, ["bash", "-euo", "pipefail", "-c", script], check=False)

    before = region.exec(machine, ["readlink", "-f", "/opt/haproxy/current"]).stdout
    failed = build("echo first words; echo no rule to make target; false")
    assert failed.returncode == 1
    assert "building haproxy 9.9 failed" in failed.stderr
    assert "no rule to make target" in failed.stderr
    assert region.exec(machine, ["readlink", "-f", "/opt/haproxy/current"]).stdout == before
    region.exec(machine, ["systemctl", "is-active", "haproxy"])


def test_an_archive_that_is_another_one_is_not_unpacked(region: Region, stack: Stack) -> None:
    from components.template import render  # noqa: PLC0415
    from settings.base import SourceArchive  # noqa: PLC0415

    machine = stack.of_role("lb")[0]["instanceId"]
    server = (
        "cd /tmp && echo other >other.tar.gz && (timeout 20 python3 -m http.server -b 127.0.0.1 8099 &>/dev/null &)"
    )
    region.exec(machine, ["bash", "-c", f"rm -f /tmp/was-unpacked; {server}"])
    wait_until(lambda: connects(region, machine, "127.0.0.1", 8099), "the web server", 10)
    source = SourceArchive.model_validate(
        {"version": "9.8", "sha256": "0" * 64, "url": "http://127.0.0.1:8099/other.tar.gz"}
    )
    script = render(
        "source_build/build.sh.j2",
        software="haproxy",
        source=source,
        archive="/tmp/downloaded.tar.gz",
        digest="0124",
        build="touch /tmp/was-unpacked",
        packages=(),
    )
    done = region.exec(machine, ["bash", "-euo", "pipefail", "-c", script], check=False)
    assert done.returncode == 1
    assert f"the setting haproxy.sha256 demands {'0' * 64}; nothing was unpacked" in done.stderr
    assert region.exec(machine, ["ls", "/tmp/was-unpacked"], check=False).returncode != 0
