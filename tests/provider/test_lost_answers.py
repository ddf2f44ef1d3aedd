"""Every answer to a creating call is lost once: what the AWS provider makes of it, and what heal makes of that."""

import pytest

from localregion.api import ApiFaults
from localregion.auth import Credentials
from resource_types import TAGGED
from stackctl import adoption, healing, inventory
from stackctl.aws import connect_stack
from stackctl.pulumi import Pulumi
from tests.unit.test_region_api import Endpoint

#: One of each type that the program creates, by its own components where they need no machine.
PROGRAM = """
import os
from types import SimpleNamespace

import pulumi
import pulumi_aws as aws

from components.ec2_endpoint import Ec2Endpoint, Ec2EndpointArgs
from components.firewall import Firewall, FirewallArgs
from components.interface import Interface, InterfaceArgs
from components.network import Network, NetworkArgs
from components.tagging import tag_everything
from components.virtual_ip import VirtualIp, VirtualIpArgs
from settings import Settings
from tests import example

settings = Settings.parse(example.settings())

node = settings.machines[0]
tag_everything({})
network = Network("network", NetworkArgs(settings.network, settings.machines, settings.vip.address))
firewall = Firewall(
    "firewall",
    FirewallArgs(
        network.vpc_id,
        [node],
        settings.access,
        settings.haproxy,
        settings.database,
        None,
        (),
        None,
        None,
        ec2_endpoint=True,
    ),
)
Ec2Endpoint("ec2-endpoint", Ec2EndpointArgs(network.vpc_id, network.subnet_id, firewall.ec2_endpoint.id))
interface = Interface(node.name, InterfaceArgs(network.subnet_id, str(node.address), firewall.groups_of(node)))
# Of a subnet and an interface of its own, and all after the VPC: the more is made at once, the fewer runs it takes.
subnet = aws.ec2.Subnet("vip-subnet", vpc_id=network.vpc_id, cidr_block="192.168.106.64/26")
known = SimpleNamespace(arn="arn:aws:ec2:eu-central-1:123456789012:network-interface/eni-1")
later = network.vpc_id.apply(lambda _: None)
vip = VirtualIp("cluster-vip", VirtualIpArgs("192.168.106.80", subnet.id, [known], later))
key = aws.ec2.KeyPair("cluster-key", public_key=network.vpc_id.apply(lambda _: os.environ["PUBLIC_KEY"]))
aws.ec2.Eip("cluster-bastion-address", domain="vpc", network_interface=interface.id)
ami = aws.ec2.get_ami(most_recent=True, owners=[settings.instances.image.owner])
aws.ec2.Instance(
    f"{node.name}-instance",
    ami=ami.id,
    instance_type="t3.small",
    key_name=key.key_name,
    iam_instance_profile=vip.instance_profile,
    primary_network_interface=aws.ec2.InstancePrimaryNetworkInterfaceArgs(network_interface_id=interface.id),
    opts=pulumi.ResourceOptions(ignore_changes=["ami", "keyName"]),
)
"""


OTHERS = ("Describe", "Get", "List", "Delete", "Release", "Remove", "Terminate", "Detach", "Disassociate")


class LosesEach(ApiFaults):
    """Loses the first answer to each action that makes something, or a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[str] = []

    def lose(self, action: str, caller: Credentials) -> None:
        del caller
        if not action.startswith(OTHERS) and action not in self.lost:
            self.lost.append(action)
            raise ConnectionAbortedError


def always(question: str) -> bool:
    del question
    return True


def never(question: str) -> bool:
    raise AssertionError(question)


@pytest.fixture
def program() -> str:
    return PROGRAM


def test_every_answer_to_a_creating_call_is_lost_once(pulumi: Pulumi, endpoint: Endpoint) -> None:
    """As many as possible in each run; whatever it could not make is put right before the next one."""
    endpoint.api.faults = faults = LosesEach()
    for _ in range(5):
        again = healing.heal(pulumi, unlock=never, remove=always)
        code = pulumi.stream("up", "--yes", "--skip-preview", "--continue-on-error", *(["--refresh"] if again else []))
        if code == 0:
            break
    assert code == 0, f"not through after five runs; lost: {faults.lost}"

    others = {"CreateRoute", "AssociateRouteTable", "CreateSubnetCidrReservation", "PutRolePolicy", "AssociateAddress"}
    assert {type_.create for type_ in TAGGED} | others <= set(faults.lost)
    aws = connect_stack(pulumi)
    found, resources = inventory.scan(aws, "lost"), pulumi.state()["resources"]
    assert adoption.unknown(found, inventory.parts(aws, found, ()), resources) == []
    assert pulumi.stream("preview", "--expect-no-changes") == 0
