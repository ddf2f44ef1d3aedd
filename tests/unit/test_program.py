"""What the program registers: shapes, least privilege, and secrets that stay secret."""

import inspect
import json
import re
import subprocess
from importlib import import_module
from ipaddress import IPv4Address
from typing import Any

import pytest
import yaml

from components import bastion, remote
from components.claim import ec2_endpoint
from components.template import verbatim
from resource_types import INSTANCE, PROTECTED_TAG, TAGGED
from settings import SettingsError, topology
from stackctl import inventory
from tests import example
from tests.example import EGRESS, INGRESS
from tests.unit.conftest import Recorder, Run

COMMAND = "command:remote:Command"


def test_no_interface_has_the_vip_before_its_machine_has_booted(run_program: Run) -> None:
    recorded = run_program()
    for machine, address in (("node1", "192.168.106.251"), ("node2", "192.168.106.252")):
        interface = recorded.named(f"{machine}-eni").inputs
        assert interface["privateIpLists"] == [address]
        assert interface["privateIpListEnabled"] is True


def test_instances_demand_imdsv2_encrypt_and_keep_their_interface(run_program: Run) -> None:
    instances = run_program().of_type("aws:ec2/instance:Instance")
    assert len(instances) == 3
    for instance in instances:
        assert instance.inputs["metadataOptions"]["httpTokens"] == "required"
        assert instance.inputs["rootBlockDevice"]["encrypted"] is True
        assert instance.inputs["primaryNetworkInterface"]["networkInterfaceId"].endswith("-eni-id")
        assert instance.inputs["userData"].startswith("#cloud-boothook\n#!/bin/sh\n# own-addresses")


def test_a_protected_stack_keeps_its_instances_and_above_all_its_databases(run_program: Run) -> None:
    def protected(raw: dict[str, Any]) -> None:
        example.created_bastion(raw)
        raw["machines"][1]["roles"] = ["lb"]
        raw["machines"].append({"name": "node4", "address": "192.168.106.254", "roles": ["mysql"]})
        raw["tags"] = {PROTECTED_TAG: "true"}

    recorded = run_program(example.settings(protected))
    kept = {r.name: r.inputs["disableApiTermination"] for r in recorded.of_type(INSTANCE)}
    names = {f"{name}-instance" for name in ("node1", "node2", "node3", "node4")}
    assert kept == dict.fromkeys({*names, "cluster-bastion-instance"}, True)
    assert recorded.protected == names - {"node2-instance"}


@pytest.mark.parametrize("tags", [{}, {PROTECTED_TAG: "false"}])
def test_a_stack_that_is_not_protected_can_be_thrown_away(tags: dict[str, str], run_program: Run) -> None:
    recorded = run_program(example.settings(lambda raw: raw.update(tags=tags)))
    assert not any(instance.inputs["disableApiTermination"] for instance in recorded.of_type(INSTANCE))
    assert not recorded.protected


def test_every_machine_keeps_all_but_root_from_the_metadata_service(run_program: Run) -> None:
    recorded = run_program()
    for machine in ("node1", "node2", "node3"):
        rules, unit = (recorded.named(f"{machine}-metadata-{what}-file") for what in ("rules", "unit"))
        assert rules.stdin == verbatim("machine/metadata.nft")
        assert "nft --check" in rules.inputs["create"]
        assert "systemctl enable --quiet guard-metadata.service" in unit.inputs["create"]
        assert "install-packages nftables" in recorded.named(f"{machine}-nftables").inputs["create"]


def test_only_balancers_have_a_role_and_it_reaches_exactly_their_interfaces(run_program: Run) -> None:
    recorded = run_program()
    profiles = {r.name: r.inputs.get("iamInstanceProfile") for r in recorded.of_type("aws:ec2/instance:Instance")}
    assert profiles["node1-instance"] == profiles["node2-instance"] is not None
    assert profiles["node3-instance"] is None

    statements = json.loads(recorded.named("cluster-vip-policy").inputs["policy"])["Statement"]
    write = next(s for s in statements if "Assign" in s["Action"])
    assert write["Action"] == "ec2:AssignPrivateIpAddresses"
    assert [arn.rsplit("/", 1)[1] for arn in write["Resource"]] == ["node1-eni", "node2-eni"]
    assert [s["Action"] for s in statements if s["Resource"] == "*"] == ["ec2:DescribeNetworkInterfaces"]


def test_in_china_everything_has_its_partition_and_its_domain(run_program: Run) -> None:
    china = Recorder(region="cn-north-1", partition="aws-cn", dns_suffix="amazonaws.com.cn")
    recorded = run_program(example.settings(lambda raw: raw["network"].update(ec2Endpoint=True)), china)
    (endpoint,) = recorded.of_type("aws:ec2/vpcEndpoint:VpcEndpoint")
    assert endpoint.inputs["serviceName"] == "cn.com.amazonaws.cn-north-1.ec2"
    (trust,) = json.loads(recorded.named("cluster-vip-role").inputs["assumeRolePolicy"])["Statement"]
    assert trust["Principal"] == {"Service": "ec2.amazonaws.com.cn"}
    assert "ENDPOINT=https://ec2.cn-north-1.amazonaws.com.cn\n" in recorded.named("node1-vip-environment-file").stdin
    everything = json.dumps([resource.inputs for resource in recorded.resources])
    assert "arn:aws-cn:ec2:cn-north-1:1:network-interface/" in everything
    assert not re.findall(r"arn:aws:\S*|amazonaws\.com(?!\.cn)\S*", everything)


def test_names_leave_room_for_the_providers_suffix_whatever_the_stack_is_called(run_program: Run) -> None:
    """IAM User Guide, "IAM and AWS STS quotas"; the suffix is a hyphen and seven digits."""
    limits = {"role:Role": 64, "rolePolicy:RolePolicy": 128, "instanceProfile:InstanceProfile": 128}
    for type_, limit in limits.items():
        (resource,) = run_program().of_type(f"aws:iam/{type_}")
        assert not {"name", "namePrefix"} & {key for key, value in resource.inputs.items() if value is not None}
        assert len(resource.name) + 8 <= limit


def test_every_rule_has_a_description_and_the_open_ports_are_these(run_program: Run) -> None:
    recorded = run_program()
    rules = recorded.of_type(INGRESS) + recorded.of_type(EGRESS)
    assert all(rule.inputs["description"] for rule in rules)

    def opening(rule: Any) -> tuple[str, str, Any, str]:
        source = rule.inputs.get("cidrIpv4") or rule.inputs["referencedSecurityGroupId"]
        return (rule.inputs["securityGroupId"], rule.inputs["ipProtocol"], rule.inputs.get("fromPort"), source)

    lb, mysql, machine = "firewall-lb-id", "firewall-mysql-id", "firewall-machine-id"
    assert {opening(rule) for rule in recorded.of_type(INGRESS)} == {
        (machine, "tcp", 22, "100.64.0.0/10"),
        (lb, "tcp", 3306, "10.20.0.0/24"),
        (lb, "tcp", 8888, "10.30.0.0/24"),
        (lb, "112", None, lb),
        (mysql, "tcp", 3306, lb),
        (mysql, "tcp", 48700, lb),
        (mysql, "tcp", 4567, mysql),
        (mysql, "udp", 4567, mysql),
        (mysql, "tcp", 4568, mysql),
        (mysql, "tcp", 4444, mysql),
        (mysql, "tcp", 48700, mysql),
    }
    anywhere = {opening(rule)[2] for rule in recorded.of_type(EGRESS) if rule.inputs.get("cidrIpv4") == "0.0.0.0/0"}
    assert anywhere == {80, 443}


def opened(recorded: Recorder, kind: str) -> set[tuple[str, int | None, str]]:
    return {
        (
            rule.inputs["securityGroupId"].removeprefix("firewall-").removesuffix("-id"),
            rule.inputs.get("fromPort"),
            rule.inputs.get("cidrIpv4") or rule.inputs["referencedSecurityGroupId"],
        )
        for rule in recorded.of_type(kind)
    }


def test_mycat_opens_its_ports_to_balancers_and_the_databases_to_itself(run_program: Run) -> None:
    without, recorded = run_program(), run_program(example.settings(example.with_mycat))
    lb, mycat, mysql = "firewall-lb-id", "firewall-mycat-id", "firewall-mysql-id"
    assert opened(recorded, INGRESS) - opened(without, INGRESS) == {
        ("lb", 3307, "10.20.0.0/24"),
        ("mycat", 8066, lb),
        ("mycat", 48700, lb),
        ("mysql", 3306, mycat),
    }
    assert opened(recorded, EGRESS) - opened(without, EGRESS) == {
        ("lb", 8066, mycat),
        ("lb", 48700, mycat),
        ("mycat", 3306, mysql),
    }
    rules = recorded.of_type(INGRESS) + recorded.of_type(EGRESS)
    assert all(rule.inputs["description"] for rule in rules)
    assert recorded.named("node1-eni").inputs["securityGroups"] == [
        "firewall-machine-id", "firewall-lb-id", "firewall-mycat-id", "firewall-mysql-id",
    ]  # fmt: skip


def test_a_single_writer_opens_a_port_between_balancers_and_to_nobody_else(run_program: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["haproxy"]["mysql"] = {"singleWriter": True}

    without, recorded = run_program(), run_program(example.settings(change))
    for kind in (INGRESS, EGRESS):
        assert opened(recorded, kind) - opened(without, kind) == {("lb", 8890, "firewall-lb-id")}


def test_the_read_port_is_open_to_clients(run_program: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["haproxy"]["mysql"] = {"readPort": 3308}

    without, recorded = run_program(), run_program(example.settings(change))
    assert opened(recorded, INGRESS) - opened(without, INGRESS) == {("lb", 3308, "10.20.0.0/24")}


def test_databases_elsewhere_behind_mycat_are_let_out_to(run_program: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.with_mycat(raw)
        raw["mycat"]["dataHosts"][0]["writeHosts"] = [{"address": "10.50.0.7", "port": 3310}]

    assert ("mycat", 3310, "10.50.0.7/32") in opened(run_program(example.settings(change)), EGRESS)


def test_external_mycat_is_let_out_to_and_nothing_is_installed(run_program: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["mycat"] = {"external": [{"name": "m1", "address": "10.50.0.7"}]}

    recorded = run_program(example.settings(change))
    assert opened(recorded, EGRESS) >= {("lb", 8066, "10.50.0.7/32"), ("lb", 48700, "10.50.0.7/32")}
    assert ("lb", 3307, "10.20.0.0/24") in opened(recorded, INGRESS)
    assert not [r for r in recorded.of_type(COMMAND) if "mycat" in r.name]


def test_mycats_configuration_goes_in_by_standard_input_in_one_piece(run_program: Run) -> None:
    recorded = run_program(example.settings(example.with_mycat))
    command = recorded.named("node1-mycat-configuration")
    create = command.inputs["create"]
    assert create.endswith(" 900s /usr/local/lib/mycat-ha/mycat-apply /opt/software/prefix 192.168.106.251")
    bundle = json.loads(command.stdin)
    assert sorted(bundle) == ["log4j2.xml", "rule.xml", "schema.xml", "server.xml"]
    assert ">192.168.106.251<" in bundle["server.xml"]
    other = json.loads(recorded.named("node2-mycat-configuration").stdin)
    assert bundle["schema.xml"] == other["schema.xml"]
    assert ">192.168.106.252<" in other["server.xml"]
    assert not [r for r in recorded.of_type(COMMAND) if r.name.startswith("node3-mycat")]


def test_mycat_is_asked_for_where_it_runs(run_program: Run) -> None:
    recorded = run_program(example.settings(example.with_mycat))

    def asked(node: str) -> set[str]:
        return set(json.loads(recorded.named(f"{node}-health-credentials-file").stdin))

    assert (asked("node1"), asked("node3")) == ({"/mysql", "/mycat"}, {"/mysql"})
    sql = recorded.named("node1-mariadb-users").stdin
    assert "CREATE USER IF NOT EXISTS 'mycat'@'%' IDENTIFIED VIA mysql_native_password" in sql
    assert "GRANT ALL PRIVILEGES ON `app2`.* TO 'mycat'@'%'" in sql
    config = recorded.named("node3-mariadb-config-file").stdin
    assert "lower_case_table_names = 1" in config


@pytest.mark.parametrize("mycat", [False, True], ids=["without Mycat", "with Mycat"])
def test_no_secret_is_in_a_command_line_an_environment_or_a_trigger(run_program: Run, mycat: bool) -> None:
    raw = example.settings(example.with_mycat if mycat else None)
    secrets = raw["secrets"].values()
    for command in run_program(raw).of_type(COMMAND):
        visible = json.dumps({k: v for k, v in command.inputs.items() if k not in {"stdin", "connection"}})
        for secret in secrets:
            assert secret not in visible, command.name


def test_commands_know_the_host_key_after_the_first_contact(run_program: Run) -> None:
    for command in run_program().of_type(COMMAND):
        expected = None if command.name.endswith("-ready") else "ssh-ed25519 AAAAhostkey"
        assert command.inputs["connection"]["value"].get("hostKey") == expected, command.name


def test_everything_on_a_machine_is_done_again_on_a_new_machine(run_program: Run) -> None:
    for command in run_program().of_type(COMMAND):
        if command.name.endswith(("-bootstrap", "-users")):  # once in the life of the cluster, not of a machine
            continue
        assert any(str(trigger).endswith("-instance-id") for trigger in command.inputs["triggers"]), command.name


def test_commands_run_after_the_machines_tools_and_are_forgotten_with_it(run_program: Run) -> None:
    recorded = run_program(example.settings(example.with_mycat))
    names = [command.name for command in recorded.of_type(COMMAND)]
    for name in names:
        dependencies = recorded.depends_on[name]
        node = name.split("-")[0]
        if not name.endswith(("-ready", "-tools")):
            assert f"{node}-tools" in dependencies, name
        outlives = name.endswith(("-bootstrap", "-users"))  # what they did is the cluster's
        assert recorded.deleted_with[name] == ("" if outlives else f"{node}-instance"), name
    assert len(names) > 50


def taggable(token: str) -> bool:
    """Whether the provider's resource takes tags, by its own signature."""
    module, _, name = token.removeprefix("aws:").partition("/")
    made_by = getattr(import_module(f"pulumi_aws.{module}"), name.rpartition(":")[2])
    return "tags" in inspect.signature(made_by._internal_init).parameters


def test_everything_that_can_be_tagged_is_tagged(run_program: Run) -> None:
    raw = example.settings(example.with_mycat) | {"tags": {"owner": "platform"}}
    raw["network"]["ec2Endpoint"] = True
    registered = [r for r in run_program(raw).resources if r.type.startswith("aws:")]
    assert {type_.token for type_ in TAGGED} - {r.type for r in registered} == {"aws:ebs/volume:Volume"}
    # stackctl finds all others by what they are a part of.
    assert {r.type for r in registered} - {type_.token for type_ in TAGGED} == set(inventory.PARTS)
    tagged = [r for r in registered if taggable(r.type)]
    assert len(tagged) > 20
    for resource in tagged:
        tags = resource.inputs.get("tags", {})
        assert tags.get("mycat-ha:stack") == "test", resource.name
        assert tags.get("mycat-ha:project") == "mycat-ha", resource.name
        assert tags.get("owner") == "platform", resource.name
        if resource.type == INSTANCE:
            assert resource.inputs["volumeTags"]["mycat-ha:stack"] == "test", resource.name
    names = [resource.inputs["tags"]["Name"] for resource in tagged]
    assert len(names) == len(set(names))


def test_the_ec2_api_has_an_endpoint_in_the_vpc_for_the_balancers_alone(run_program: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["network"]["ec2Endpoint"] = True

    without, recorded = run_program(), run_program(example.settings(change))
    assert not without.of_type("aws:ec2/vpcEndpoint:VpcEndpoint")
    (endpoint,) = recorded.of_type("aws:ec2/vpcEndpoint:VpcEndpoint")
    group = "firewall-ec2-endpoint-id"
    own = {key: value for key, value in endpoint.inputs.items() if key != "tags"}
    assert own == {
        "vpcId": "network-vpc-id",
        "serviceName": "com.amazonaws.eu-central-1.ec2",
        "vpcEndpointType": "Interface",
        "subnetIds": ["network-subnet-id"],
        "securityGroupIds": [group],
        "privateDnsEnabled": True,
    }
    assert recorded.named("network-vpc").inputs["enableDnsHostnames"] is True  # private DNS needs it
    assert opened(recorded, INGRESS) - opened(without, INGRESS) == {("ec2-endpoint", 443, "firewall-lb-id")}
    assert opened(recorded, EGRESS) - opened(without, EGRESS) == {("lb", 443, group)}
    before, after = (one.named("node1-vip-probe").inputs["triggers"] for one in (without, recorded))
    assert before != after, "the hook has the same file, and its name of the API leads elsewhere"


def test_balancers_use_the_endpoint_in_the_vpc_wherever_the_deployer_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_EC2", raising=False)
    vip = topology.VirtualIp(address=IPv4Address("192.168.106.249"))

    def endpoint(*, in_vpc: bool) -> str:
        return ec2_endpoint(vip, "eu-central-1", "amazonaws.com", in_vpc=in_vpc)

    own = "https://ec2.eu-central-1.amazonaws.com"
    assert {endpoint(in_vpc=True), endpoint(in_vpc=False)} == {own}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://100.64.0.10/")
    assert endpoint(in_vpc=True) == own
    assert endpoint(in_vpc=False) == "http://100.64.0.10"


def test_an_existing_subnet_is_used_as_it_is(run_program: Run) -> None:
    network = {"subnetId": "subnet-0abc", "subnetCidr": "192.168.106.128/25"}
    recorded = run_program(example.settings(lambda raw: raw.update(network=network)))
    assert not recorded.of_type("aws:ec2/vpc:Vpc")
    assert recorded.named("node1-eni").inputs["subnetId"] == "subnet-0abc"


def test_an_existing_subnet_of_another_range_is_refused(run_program: Run) -> None:
    network = {"subnetId": "subnet-0abc", "subnetCidr": "192.168.106.128/25"}
    recorder = Recorder(subnet_cidr="10.0.0.0/24")
    with pytest.raises(SettingsError, match=r"network\.subnetCidr: subnet-0abc has 10\.0\.0\.0/24"):
        run_program(example.settings(lambda raw: raw.update(network=network)), recorder)
    assert not [r for r in recorder.resources if r.type.startswith("aws:")]


def test_a_taken_address_is_refused_before_anything_is_created(run_program: Run) -> None:
    network = {"subnetId": "subnet-0abc", "subnetCidr": "192.168.106.128/25"}
    recorder = Recorder(interfaces=["eni-0f00"])
    with pytest.raises(SettingsError, match=r"192\.168\.106\.251 is taken by eni-0f00"):
        run_program(example.settings(lambda raw: raw.update(network=network)), recorder)
    assert not [r for r in recorder.resources if r.type.startswith("aws:")]


def test_machines_that_exist_keep_their_addresses_and_names(run_program: Run) -> None:
    as_they_are = {f"node{i}": f"192.168.106.25{i}" for i in (1, 2, 3)}
    assert run_program(example.settings(), Recorder(machines=as_they_are)).named("node1-eni")
    assert run_program(example.settings(), Recorder(machines={"node1": "192.168.106.251"})).named("node2-eni")
    for machines, words in (
        ({**as_they_are, "node2": "192.168.106.99"}, r"machines\[1\]\.address: node2 exists with another .*eni-node2"),
        ({"old": "192.168.106.252"}, r"machines\[1\]\.name: 192\.168\.106\.252 is the address of another .*eni-old"),
    ):
        recorder = Recorder(machines=machines)
        with pytest.raises(SettingsError, match=words):
            run_program(example.settings(), recorder)
        assert not [r for r in recorder.resources if r.type.startswith("aws:")]


def test_a_stack_without_settings_says_what_to_write(run_program: Run) -> None:
    with pytest.raises(SettingsError, match=r"stack 'test' has no settings: write stacks/Pulumi\.test\.yaml"):
        run_program({})


def test_an_archive_with_another_checksum_is_refused_by_name(run_program: Run, tmp_path: Any) -> None:
    archive = tmp_path / "haproxy.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(SettingsError, match=r"mycat-ha:haproxy\.sha256: .*demand a{64}"):
        run_program(example.settings(lambda raw: raw["haproxy"].update(archive=str(archive))))


def test_routes_are_resources_of_their_own_so_that_those_of_others_stay(run_program: Run) -> None:
    """A table that lists its routes removes those that somebody else added."""

    def change(raw: dict[str, Any]) -> None:
        raw["network"]["attachments"] = [
            {"id": "tgw-0a1b", "destinations": ["10.20.0.0/16", "10.21.0.0/16"]},
            {"id": "pcx-0c2d", "destinations": ["172.20.0.0/16"]},
        ]

    recorded = run_program(example.settings(change))
    tables = recorded.of_type("aws:ec2/routeTable:RouteTable")
    assert len(tables) == 2
    assert not any("routes" in table.inputs for table in tables)
    targets = ("gatewayId", "natGatewayId", "transitGatewayId", "vpcPeeringConnectionId")
    found = {
        (r.inputs["routeTableId"], r.inputs["destinationCidrBlock"], *(r.inputs[t] for t in targets if t in r.inputs))
        for r in recorded.of_type("aws:ec2/route:Route")
    }
    assert found == {
        ("network-nat-routes-id", "0.0.0.0/0", "network-internet-id"),
        ("network-routes-id", "0.0.0.0/0", "network-nat-id"),
        ("network-routes-id", "10.20.0.0/16", "tgw-0a1b"),
        ("network-routes-id", "10.21.0.0/16", "tgw-0a1b"),
        ("network-routes-id", "172.20.0.0/16", "pcx-0c2d"),
    }


def test_a_bastion_is_the_only_way_in_and_leads_to_ssh_of_the_machines_only(run_program: Run) -> None:
    without, recorded = run_program(), run_program(example.settings(example.created_bastion))
    machine, bastion = "firewall-machine-id", "firewall-bastion-id"
    assert opened(recorded, INGRESS) - opened(without, INGRESS) == {
        ("bastion", 22, "203.0.113.0/24"),
        ("machine", 22, bastion),
    }
    assert opened(without, INGRESS) - opened(recorded, INGRESS) == {("machine", 22, "100.64.0.0/10")}
    assert {rule for rule in opened(recorded, EGRESS) if rule[0] == "bastion"} == {
        ("bastion", 22, machine),
        ("bastion", 80, "0.0.0.0/0"),
        ("bastion", 443, "0.0.0.0/0"),
    }
    made = recorded.named("cluster-bastion-instance").inputs
    assert "iamInstanceProfile" not in made
    assert made["metadataOptions"]["httpTokens"] == "required"
    assert made["rootBlockDevice"]["encrypted"] is True
    eni = recorded.named("cluster-bastion-eni").inputs
    assert eni["subnetId"] == "network-nat-subnet-id"
    assert eni["securityGroups"] == [bastion]
    assert recorded.named("cluster-bastion-address").inputs["networkInterface"] == "cluster-bastion-eni-id"


def test_every_command_goes_through_the_bastion_and_demands_its_host_key(run_program: Run) -> None:
    for command in run_program(example.settings(example.created_bastion)).of_type(COMMAND):
        connection = command.inputs["connection"]["value"]
        if command.name == "cluster-bastion-ready":
            assert connection["host"] == "203.0.113.9"
            assert "proxy" not in connection
            continue
        proxy = connection["proxy"]
        assert (proxy["host"], proxy["hostKey"]) == ("203.0.113.9", "ssh-ed25519 AAAAbastion"), command.name
        assert proxy["dialErrorLimit"] == remote.dials(300), command.name


@pytest.mark.parametrize("seconds", [90, 300, 900])
def test_a_wait_for_a_boot_ends_with_the_address_and_not_with_its_time(seconds: int) -> None:
    """The command provider waits for each dial, then between them as long as in pulumi's retry.Until."""
    limit = remote.dials(seconds)
    delays = [min(0.1 * 1.5**number, 5.0) for number in range(limit)]
    silent, refused = (limit + 1) * remote.DIAL_SECONDS + sum(delays), sum(delays)
    assert seconds - 2 * (remote.DIAL_SECONDS + 5) <= silent < seconds
    assert refused > seconds / 5


def test_machines_get_another_instance_type_one_after_the_other(run_program: Run) -> None:
    """Each is in service again before the next one is stopped, and those that keep theirs are before the first."""
    raw = example.settings()
    raw["instances"] = {"instanceType": "t3.large"}
    raw["machines"][0]["instanceType"] = "t3.small"
    machines = {machine["name"]: machine["address"] for machine in raw["machines"]}
    types = {"node1": "t3.small", "node2": "t3.small", "node3": "t3.small"}
    recorder = run_program(raw, Recorder(machines=machines, types=types))
    waits = {name: recorder.depends_on[f"{name}-instance"] for name in machines}
    assert not {name for name in waits["node1"] if name.endswith("-in-service")}
    assert waits["node2"] >= {"node1-in-service"}
    assert waits["node3"] >= {"node1-in-service", "node2-in-service"}
    # Whatever has another type, all have to be in service.
    triggers = {recorder.named(f"{name}-in-service").inputs["triggers"][-1] for name in machines}
    assert triggers == {"t3.small,t3.large,t3.large"}


def test_machines_of_a_new_stack_boot_together(run_program: Run) -> None:
    recorder = run_program(example.settings(), Recorder())
    for name in ("node1", "node2", "node3"):
        assert not {other for other in recorder.depends_on[f"{name}-instance"] if other.endswith("-in-service")}


def test_every_connection_is_given_up_with_the_address(run_program: Run) -> None:
    """The first ones after the time for a boot, any other when a machine has been away for longer than a restart."""

    def bastion(raw: dict[str, Any]) -> None:
        example.created_bastion(raw)
        raw["instances"] = {"bootTimeout": 90}

    for command in run_program(example.settings(bastion)).of_type(COMMAND):
        limit = command.inputs["connection"]["value"]["dialErrorLimit"]
        assert limit == remote.dials(90 if command.name.endswith("-ready") else 300), command.name


def test_every_command_is_bounded_on_the_machine_itself(run_program: Run) -> None:
    """The command provider's own timeout bounds its dialling, and not the command."""
    commands = run_program(example.settings(example.with_mycat)).of_type(COMMAND)
    bound = {
        c.name: re.match(r"sudo -n timeout --verbose --kill-after=30 (\d+[sm]) ", c.inputs["create"]) for c in commands
    }
    assert all(bound.values())
    assert {match[1] for match in bound.values() if match} == {"300s", "900s", "10m", "20m", "30m", "1440m"}


def test_a_command_that_hangs_is_ended_and_says_so() -> None:
    line = remote.as_root(remote.bash("cat; sleep 60"), "0.3").removeprefix("sudo -n ")
    done = subprocess.run(["bash", "-c", line], input="kept\n", capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (124, "kept\n")
    assert "sending signal TERM to command" in done.stderr


def test_an_existing_bastion_is_used_as_its_settings_say(run_program: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["access"]["bastion"] = {"host": "b.example.com", "user": "ops", "address": "10.0.0.2", "hostKey": "ssh-x A"}

    recorded = run_program(example.settings(change))
    assert ("machine", 22, "10.0.0.2/32") in opened(recorded, INGRESS)
    proxy = recorded.named("node3-tools").inputs["connection"]["value"]["proxy"]
    assert (proxy["host"], proxy["port"], proxy["user"], proxy["hostKey"]) == ("b.example.com", 22, "ops", "ssh-x A")


def test_the_bastions_sshd_is_configured_before_it_starts() -> None:
    """cloud-init writes files before sshd starts, and runs scripts after."""
    config = yaml.safe_load(bastion.user_data().removeprefix("#cloud-config"))
    (file,) = config.pop("write_files")
    assert file["path"] == "/etc/ssh/sshd_config.d/10-mycat-ha.conf"
    assert "\nPermitOpen *:22\n" in file["content"]
    assert not config
