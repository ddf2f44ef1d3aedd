"""A small network on a region of its own, made with boto3 as any AWS user would: three machines in a private subnet."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from localregion.client import Region, RegionError, wait_until

VIP = "10.77.0.249"


@dataclass
class World:
    """The region, its API as administrator (boto3's own settings, in the environment), and what stands in it."""

    region: Region
    session: boto3.Session
    key: Path
    vpc: str = ""
    subnet: str = ""
    public: str = ""  # the subnet with the internet gateway
    nat: str = ""  # the NAT gateway's public address
    group: str = ""
    ami: str = ""
    enis: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = Config(retries={"total_max_attempts": 1}, read_timeout=15)
        self.ec2: Any = self.session.client("ec2", config=config)
        self.iam: Any = self.session.client("iam", config=config)

    @staticmethod
    def address(number: int) -> str:
        return f"10.77.0.{200 + number}"

    def shell(self, machine: int | str, script: str, timeout: float = 60, *, check: bool = False) -> str:
        target = self.machines[machine] if isinstance(machine, int) else machine
        return self.region.exec(target, ["bash", "-c", script], timeout=timeout, check=check).stdout.strip()

    def boot(self, eni: str, **options: Any) -> str:
        """Run an instance on an interface and wait until it answers over SSH."""
        reservation = self.ec2.run_instances(
            InstanceType="t3.small",
            MinCount=1,
            MaxCount=1,
            KeyName="key",
            NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": eni}],
            **{"ImageId": self.ami, **options},
        )
        return str(reservation["Instances"][0]["InstanceId"])

    def state(self, instance: str) -> str:
        found = self.ec2.describe_instances(InstanceIds=[instance])
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

    def ssh(self, number: int, command: str) -> str:
        return self.ssh_to(self.address(number), command)

    def ssh_to(self, address: str, command: str) -> str:
        """What the command prints; nothing if the machine cannot be reached."""
        options = [
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ConnectTimeout=2",
            "-q",
        ]
        argv = ["ssh", "-i", str(self.key), *options, f"admin@{address}", command]
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        ).stdout.strip()

    def interface(self, address: str, *extra: str) -> str:
        addresses = [{"PrivateIpAddress": address, "Primary": True}]
        addresses += [{"PrivateIpAddress": other, "Primary": False} for other in extra]
        made = self.ec2.create_network_interface(
            SubnetId=self.subnet, PrivateIpAddresses=addresses, Groups=[self.group]
        )
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def rule(self, direction: str, protocol: str, ports: tuple[int, int] | None, peer: str) -> Callable[[], None]:
        """Allow something in the group of all machines; returns what takes it back. Both are in force on return."""
        permission: dict[str, Any] = {"IpProtocol": protocol}
        if ports:
            permission |= {"FromPort": ports[0], "ToPort": ports[1]}
        if peer.startswith("sg-"):
            permission["UserIdGroupPairs"] = [{"GroupId": peer, "Description": "test"}]
        else:
            permission["IpRanges"] = [{"CidrIp": peer, "Description": "test"}]
        call = getattr(self.ec2, f"authorize_security_group_{direction}")
        call(GroupId=self.group, IpPermissions=[permission])
        self.region.settle()
        revoke = getattr(self.ec2, f"revoke_security_group_{direction}")

        def take_back() -> None:
            revoke(GroupId=self.group, IpPermissions=[permission])
            self.region.settle()

        return take_back


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    region = Region("check")
    region.stop()
    region.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in region.env().items():
                patch.setitem(os.environ, name, value)
            yield _build(region, tmp_path_factory.mktemp("world"))
    finally:
        region.stop()


def _answers(world: World, number: int) -> bool:
    return world.ssh(number, "echo up") == "up"


def _build(region: Region, directory: Path) -> World:
    region.api(iam_delay_ms=0)  # tests/unit/test_region_api.py has the delay
    env = region.env()
    session = boto3.Session()
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    world = World(region, session, key)
    ec2, iam = world.ec2, world.iam

    world.vpc = ec2.create_vpc(CidrBlock="10.77.0.0/24")["Vpc"]["VpcId"]
    zone = f"{env['AWS_REGION']}a"
    world.public = ec2.create_subnet(VpcId=world.vpc, CidrBlock="10.77.0.0/28", AvailabilityZone=zone)["Subnet"][
        "SubnetId"
    ]
    world.subnet = ec2.create_subnet(VpcId=world.vpc, CidrBlock="10.77.0.128/25", AvailabilityZone=zone)["Subnet"][
        "SubnetId"
    ]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=world.vpc)
    table = ec2.create_route_table(VpcId=world.vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    ec2.associate_route_table(RouteTableId=table, SubnetId=world.public)
    address = ec2.allocate_address(Domain="vpc")
    world.nat = address["PublicIp"]
    nat = ec2.create_nat_gateway(SubnetId=world.public, AllocationId=address["AllocationId"])["NatGateway"][
        "NatGatewayId"
    ]
    table = ec2.create_route_table(VpcId=world.vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    ec2.associate_route_table(RouteTableId=table, SubnetId=world.subnet)
    world.group = ec2.create_security_group(GroupName="machines", Description="test", VpcId=world.vpc)["GroupId"]
    world.rule("ingress", "tcp", (22, 22), "100.64.0.0/10")

    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": [trust]}
    iam.create_role(RoleName="mover", AssumeRolePolicyDocument=json.dumps(document))
    iam.create_instance_profile(InstanceProfileName="mover")
    iam.add_role_to_instance_profile(InstanceProfileName="mover", RoleName="mover")
    ec2.import_key_pair(KeyName="key", PublicKeyMaterial=key.with_suffix(".pub").read_text())
    images = ec2.describe_images(Owners=["136693071363"], Filters=[{"Name": "name", "Values": ["debian-12-*"]}])
    world.ami = images["Images"][0]["ImageId"]

    world.enis = [world.interface(world.address(i)) for i in range(3)]
    arns = [f"arn:aws:ec2:{env['AWS_REGION']}:123456789012:network-interface/{eni}" for eni in world.enis[:2]]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "ec2:AssignPrivateIpAddresses", "Resource": arns},
            {"Effect": "Allow", "Action": "ec2:DescribeNetworkInterfaces", "Resource": "*"},
            {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::backups/mine/*"},
        ],
    }
    iam.put_role_policy(RoleName="mover", PolicyName="move", PolicyDocument=json.dumps(policy))
    data = "#!/bin/sh\necho user data ran as $(id -un) >/root/user-data\n"
    profile = {"Name": "mover"}
    world.machines = [world.boot(eni, IamInstanceProfile=profile, UserData=data) for eni in world.enis]
    region.attach(world.vpc)
    region.attach(world.vpc, source="10.20.0.0/24")
    for number in range(3):
        wait_until(partial(_answers, world, number), f"machine {number} over SSH", 60)
        world.shell(number, "cloud-init status --wait")
    # Not earlier: cloud-init would write it into the first machine's network configuration (test_boot.py).
    ec2.assign_private_ip_addresses(NetworkInterfaceId=world.enis[0], PrivateIpAddresses=[VIP])
    region.settle()
    region.add_host("inside", "10.77.0.40")
    region.add_host("outside", "10.20.0.10")
    return world


@pytest.fixture(autouse=True)
def _whole(world: World) -> Iterator[None]:
    """Every test leaves faults and the VIP's place as it found them."""
    yield
    try:
        world.region.clear_faults()
        world.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=world.enis[0], PrivateIpAddresses=[VIP], AllowReassignment=True
        )
        world.region.settle()
    except RegionError:
        pass
