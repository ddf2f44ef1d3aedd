"""Every answer to a creating call is lost once: what the AWS provider makes of it, and what heal makes of that.

The region is moto in this process, without a network and without machines; provider and engine are the real ones.
"""

import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto.ec2.models import amis

from localregion import ec2
from localregion.api import ApiFaults
from localregion.auth import Credentials
from localregion.ec2 import images
from localregion.ec2.corrections import corrections
from resource_types import TAGGED
from stackctl import adoption, healing, inventory
from stackctl.aws import connect_stack
from stackctl.project import Stack
from stackctl.pulumi import Pulumi
from tests.unit.test_moto_corrections import Machines
from tests.unit.test_region_api import REGION, Endpoint

ROOT = Path(__file__).resolve().parents[2]

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
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for correction in corrections(Machines()):
        monkeypatch.setattr(correction.owner, correction.attribute, correction.replacement)
    monkeypatch.setattr(amis, "AMIS", images.amis())
    ec2.backend(REGION).reset()
    return Endpoint()


@pytest.fixture
def pulumi(tmp_path: Path, endpoint: Endpoint, aws_provider: str, monkeypatch: pytest.MonkeyPatch) -> Pulumi:
    """The stack, of the program above."""
    del aws_provider  # Pulumi finds it by itself
    if shutil.which("pulumi") is None:
        pytest.fail("no pulumi on PATH: run `python3 -m toolchain install`, and the tests with `make test`")
    (tmp_path / "state").mkdir()
    (tmp_path / "stacks").mkdir()
    (tmp_path / "Pulumi.yaml").write_text("name: mycat-ha\nruntime: python\nstackConfigDir: stacks\n")
    (tmp_path / "__main__.py").write_text(PROGRAM)
    public = Ed25519PrivateKey.generate().public_key()
    for name, value in {
        "PULUMI_BACKEND_URL": (tmp_path / "state").as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "lost",
        "PYTHONPATH": str(ROOT),
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": endpoint.administrator.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.administrator.secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PUBLIC_KEY": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
    }.items():
        monkeypatch.setenv(name, value)
    made = Pulumi(Stack("lost", root=tmp_path, local=tmp_path / ".local"))
    made.read("stack", "init")
    return made


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
