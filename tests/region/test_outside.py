"""Who reaches a VPC from outside: by a public address everybody whom a security group lets in, else who is attached."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from localregion.client import RegionError, wait_until
from tests.region.conftest import World
from tests.region.test_network import ANSWER, answer_of

STRANGER, STRANGERS = "203.0.113.10", "203.0.113.0/24"
#: Prints who connects, then ends.
SEEN = (
    "import socket; s = socket.create_server(('', 8080)); s.settimeout(8); print('up', flush=True); "
    "print(s.accept()[1][0])"
)


@pytest.fixture(scope="module", autouse=True)
def stranger(world: World) -> Iterator[None]:
    """A host on the region's internet, attached to nothing."""
    world.region.add_host("stranger", STRANGER)
    yield
    world.region.remove_host("stranger")


def route(address: str) -> str:
    """The device by which this machine would send to an address."""
    found = subprocess.run(["ip", "-j", "route", "get", address], capture_output=True, text=True, check=True).stdout
    return str(json.loads(found)[0]["dev"])


def seen_as(world: World, machine: str) -> str:
    """The address that the stranger sees when this machine connects to it."""
    listener = world.region.popen("stranger", ["python3", "-c", SEEN], stdout=subprocess.PIPE, text=True)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "up\n"
    world.shell(machine, f"timeout 2 bash -c '</dev/tcp/{STRANGER}/8080'")
    return str(listener.communicate(timeout=10)[0].strip())


# -- attachments -----------------------------------------------------------------------------------------------


@dataclass
class Other:
    """A VPC with the range of the first one, and a host in it."""

    vpc: str
    address: str


@pytest.fixture
def twin(world: World) -> Iterator[Other]:
    vpc = world.ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    subnet = world.ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.9.0/24")["Subnet"]["SubnetId"]
    world.region.add_host("second", "10.77.9.40")
    yield Other(vpc, "10.77.9.40")
    world.ec2.delete_subnet(SubnetId=subnet)
    world.ec2.delete_vpc(VpcId=vpc)
    world.region.settle()


def knock(world: World, host: str, address: str) -> int:
    """curl's exit status: 7 is refused (somebody is there, and does not listen), 28 silence."""
    return world.region.exec(host, ["curl", "-s", "-m", "2", f"http://{address}"], check=False).returncode


@pytest.mark.parametrize("host", ["stranger", "second"])
def test_a_host_asks_a_name_server_that_answers(world: World, twin: Other, host: str) -> None:
    """What looks up its client's name, as mariadbd and Java do, would wait ten seconds for one out of reach."""
    script = "import socket; socket.gethostbyaddr('10.77.0.201')"
    done = world.region.exec(host, ["python3", "-c", script], check=False)
    assert "herror: [Errno 1] Unknown host" in done.stderr


def test_vpcs_may_overlap_and_only_one_of_them_be_attached(world: World, twin: Other) -> None:
    with pytest.raises(RegionError, match=rf"{twin.vpc} \(10.77.0.0/16\) overlaps with {world.vpc} .* detach"):
        world.region.attach(twin.vpc)
    assert knock(world, "outside", twin.address) != 7
    assert world.ssh(0, "echo up") == "up"


def test_a_network_reaches_what_it_is_attached_to_as_long_as_it_is(world: World, twin: Other) -> None:
    office = "10.20.0.0/24"
    for source in (None, office):
        world.region.detach(world.vpc, source=source)
    try:
        assert route(world.address(0)) == route(STRANGER)
        assert knock(world, "outside", world.address(0)) != 7
        assert world.region.attach(twin.vpc, source=office) == [twin.vpc, "10.77.0.0/16", office]
        assert knock(world, "outside", twin.address) == 7
        assert knock(world, "stranger", twin.address) != 7
        assert route(twin.address) == route(STRANGER)  # the office is attached, this machine is not
        world.region.detach(twin.vpc, source=office)
        assert knock(world, "outside", twin.address) != 7
        with pytest.raises(RegionError, match=f"{office} is not attached to {twin.vpc}"):
            world.region.detach(twin.vpc, source=office)
    finally:
        for source in (None, office):
            world.region.attach(world.vpc, source=source)
    assert route(world.address(0)) != route(STRANGER)
    assert world.ssh(0, "echo up") == "up"


def test_a_vpc_that_is_deleted_is_attached_to_nothing(world: World) -> None:
    vpc = world.ec2.create_vpc(CidrBlock="10.80.0.0/24")["Vpc"]["VpcId"]
    subnet = world.ec2.create_subnet(VpcId=vpc, CidrBlock="10.80.0.0/24")["Subnet"]["SubnetId"]
    world.region.attach(vpc)
    assert route("10.80.0.40") != route(STRANGER)
    world.ec2.delete_subnet(SubnetId=subnet)
    world.ec2.delete_vpc(VpcId=vpc)
    world.region.settle()
    assert route("10.80.0.40") == route(STRANGER)
    assert vpc not in {attachment["vpc"] for attachment in world.region.status()["attachments"]}


def test_which_vpc_is_meant_has_to_be_said_if_there_are_several(world: World, twin: Other) -> None:
    for name in (None, "nobody"):
        with pytest.raises(RegionError, match=rf"which VPC\?.*{world.vpc}.*"):
            world.region.attach(name)


# -- public addresses ------------------------------------------------------------------------------------------


@dataclass
class Public:
    machine: str
    address: str
    group: str
    eni: str


@pytest.fixture(scope="module")
def public(world: World) -> Iterator[Public]:
    """A web server in the public subnet with an Elastic IP, in a group of its own that lets this machine in by SSH."""
    group = world.ec2.create_security_group(GroupName="public", Description="test", VpcId=world.vpc)["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "100.64.0.0/10"}]}
    world.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
    made = world.ec2.create_network_interface(SubnetId=world.public, Groups=[group])
    eni = made["NetworkInterface"]["NetworkInterfaceId"]
    elastic = world.ec2.allocate_address(Domain="vpc")
    link = {"AllocationId": elastic["AllocationId"], "NetworkInterfaceId": eni}
    association = world.ec2.associate_address(**link)["AssociationId"]
    machine = world.boot(eni)
    wait_until(lambda: world.ssh_to(elastic["PublicIp"], "echo up") == "up", "SSH to the public address", 60)
    world.shell(machine, ANSWER)
    yield Public(machine, elastic["PublicIp"], group, eni)
    world.ec2.disassociate_address(AssociationId=association)
    world.ec2.release_address(AllocationId=elastic["AllocationId"])
    world.ec2.terminate_instances(InstanceIds=[machine])
    wait_until(lambda: world.state(machine) == "terminated", "its end", 60)
    world.ec2.delete_network_interface(NetworkInterfaceId=eni)
    world.ec2.delete_security_group(GroupId=group)


def test_a_public_address_is_reached_from_here_and_belongs_to_one_machine(world: World, public: Public) -> None:
    assert world.ssh_to(public.address, "hostname") == world.shell(public.machine, "hostname")


def test_security_groups_see_who_uses_a_public_address(world: World, public: Public) -> None:
    rule = {"IpProtocol": "tcp", "FromPort": 3306, "ToPort": 3306, "IpRanges": [{"CidrIp": f"{STRANGER}/32"}]}
    assert answer_of(world, public.address, "stranger") == ""
    world.ec2.authorize_security_group_ingress(GroupId=public.group, IpPermissions=[rule])
    world.region.settle()
    try:
        assert answer_of(world, public.address, "stranger") != ""
        assert answer_of(world, public.address, "outside") == ""
    finally:
        world.ec2.revoke_security_group_ingress(GroupId=public.group, IpPermissions=[rule])
        world.region.settle()
    assert answer_of(world, public.address, "stranger") == ""


def test_machines_are_seen_by_their_own_public_address_or_the_nat_gateways(world: World, public: Public) -> None:
    assert seen_as(world, public.machine) == public.address
    assert seen_as(world, world.machines[0]) == world.nat


def test_a_machine_uses_a_public_address_of_its_own_vpc_as_anybody_does(world: World, public: Public) -> None:
    rule = {"IpProtocol": "tcp", "FromPort": 3306, "ToPort": 3306, "IpRanges": [{"CidrIp": f"{world.nat}/32"}]}
    ask = f"curl -s -m 1 http://{public.address}:3306/name"
    assert world.shell(0, ask) == ""
    world.ec2.authorize_security_group_ingress(GroupId=public.group, IpPermissions=[rule])
    world.region.settle()
    assert world.shell(0, ask) == world.shell(public.machine, "hostname")


def test_without_the_route_to_the_internet_gateway_a_public_address_is_nobodys(world: World, public: Public) -> None:
    filters = [{"Name": "association.subnet-id", "Values": [world.public]}]
    table = world.ec2.describe_route_tables(Filters=filters)["RouteTables"][0]
    gateway = next(r["GatewayId"] for r in table["Routes"] if r["DestinationCidrBlock"] == "0.0.0.0/0")
    out = {"RouteTableId": table["RouteTableId"], "DestinationCidrBlock": "0.0.0.0/0"}
    world.ec2.delete_route(**out)
    world.region.settle()
    try:
        assert world.ssh_to(public.address, "echo up") == ""
        # The NAT gateway stands in that subnet.
        knock_out = f"timeout 2 bash -c '</dev/tcp/{STRANGER}/8080' 2>&1 || true"
        assert "refused" not in world.shell(0, knock_out)
    finally:
        world.ec2.create_route(**out, GatewayId=gateway)
        world.region.settle()
    assert world.ssh_to(public.address, "echo up") == "up"
    assert "refused" in world.shell(0, knock_out)
