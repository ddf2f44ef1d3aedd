"""The profile of an instance that exists is given and replaced in place, as the AWS provider does it."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from localregion.api import ApiFaults
from stackctl.pulumi import Pulumi
from tests.unit.test_region_api import Endpoint

PROGRAM = """
import json
from pathlib import Path

import pulumi_aws as aws

settings = json.loads(Path(__file__).with_name("settings.json").read_text())
for name, profile in settings["profiles"].items():
    interface = aws.ec2.NetworkInterface(name, subnet_id=settings["subnet"])
    aws.ec2.Instance(
        f"{name}-instance",
        ami=settings["ami"],
        instance_type="t3.small",
        iam_instance_profile=profile,
        primary_network_interface=aws.ec2.InstancePrimaryNetworkInterfaceArgs(network_interface_id=interface.id),
    )
"""


@pytest.fixture
def program() -> str:
    return PROGRAM


def test_a_profile_is_given_and_replaced(pulumi: Pulumi, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.api.faults = ApiFaults(iam_delay_ms=0)
    iam, (first, second) = endpoint.client(1, "iam"), (uuid.uuid4().hex, uuid.uuid4().hex)
    for name in (first, second):
        endpoint.role(name)
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)

    def up(profiles: dict[str, str | None]) -> None:
        settings = {"subnet": endpoint.subnet, "ami": endpoint.ami, "profiles": profiles}
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        assert pulumi.stream("up", "--yes", "--skip-preview") == 0

    def instances() -> list[Any]:
        return [each for found in endpoint.ec2.describe_instances()["Reservations"] for each in found["Instances"]]

    up({"node1": None, "node2": first})
    before = {each["InstanceId"]: "IamInstanceProfile" in each for each in instances()}
    assert sorted(before.values()) == [False, True]
    up({"node1": first, "node2": second})
    after = {each["InstanceId"]: each["IamInstanceProfile"]["Arn"].rpartition("/")[2] for each in instances()}
    assert after == {instance: second if had else first for instance, had in before.items()}
    assert pulumi.stream("preview", "--refresh", "--expect-no-changes") == 0
