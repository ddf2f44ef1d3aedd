"""What the AWS provider, the official one or the one built here, calls resources that have no name of their own.

IAM policies go by these names (.github/policies), and they have to be within IAM's limits.
"""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from toolchain.paths import BIN

ROLE = "aws:iam/role:Role"
#: The types that have a name in AWS, with what they cannot do without: token, inputs, the property.
NAMED: tuple[tuple[str, dict[str, Any], str], ...] = (
    (ROLE, {"assumeRolePolicy": "{}"}, "name"),
    ("aws:iam/rolePolicy:RolePolicy", {"policy": "{}", "role": "one"}, "name"),
    ("aws:iam/instanceProfile:InstanceProfile", {"role": "one"}, "name"),
    ("aws:ec2/securityGroup:SecurityGroup", {"description": "one"}, "name"),
    ("aws:ec2/keyPair:KeyPair", {"publicKey": "ssh-ed25519 AAAA"}, "keyName"),
)


class Provider:
    """The plugin, as the engine asks it when it looks at a resource's inputs; it calls nothing of AWS for that."""

    def __init__(self, stub: provider_pb2_grpc.ResourceProviderStub) -> None:
        self._stub = stub

    def check(
        self, token: str, name: str, inputs: dict[str, Any], old: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], str]:
        """The inputs with the provider's defaults, and what is wrong with them; ``old`` are those in the state."""
        request = provider_pb2.CheckRequest(
            urn=f"urn:pulumi:test::mycat-ha::{token}::{name}", olds=_struct(old or {}), news=_struct(inputs)
        )
        answer = self._stub.Check(request)
        return json_format.MessageToDict(answer.inputs), " ".join(failure.reason for failure in answer.failures)


def _struct(values: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


@pytest.fixture(scope="module")
def provider(aws_provider: str) -> Iterator[Provider]:
    # The engine's address: nobody is there, nor asked.
    with subprocess.Popen([aws_provider, "127.0.0.1:1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
                yield Provider(provider_pb2_grpc.ResourceProviderStub(channel))
        finally:
            process.terminate()


@pytest.mark.parametrize(("token", "inputs", "property_"), NAMED, ids=[token for token, _, _ in NAMED])
def test_a_name_is_the_programs_with_seven_random_digits(
    provider: Provider, token: str, inputs: dict[str, Any], property_: str
) -> None:
    names = [provider.check(token, "cluster-vip", inputs)[0][property_] for _ in range(2)]
    assert all(re.fullmatch(r"cluster-vip-[0-9a-f]{7}", name) for name in names)
    assert names[0] != names[1]


@pytest.mark.parametrize(("token", "inputs", "property_"), NAMED, ids=[token for token, _, _ in NAMED])
def test_a_resource_keeps_its_name(provider: Provider, token: str, inputs: dict[str, Any], property_: str) -> None:
    old = {**inputs, property_: "cluster-vip-0a1b2c3", "__defaults": [property_]}
    assert provider.check(token, "cluster-vip", inputs, old)[0][property_] == "cluster-vip-0a1b2c3"


@pytest.mark.skipif(not (BIN / "pulumi-resource-aws").exists(), reason="only the provider that is built here had none")
@pytest.mark.parametrize(("token", "inputs", "property_"), NAMED, ids=[token for token, _, _ in NAMED])
def test_what_was_made_without_a_name_of_the_programs_is_not_replaced(
    provider: Provider, token: str, inputs: dict[str, Any], property_: str
) -> None:
    """A name among the inputs would be another one than Terraform's in the state, and names cannot be changed."""
    assert property_ not in provider.check(token, "cluster-vip", inputs, inputs)[0]


def test_a_name_that_is_too_long_is_refused_at_preview(provider: Provider) -> None:
    reason = provider.check(ROLE, "x" * 57, {"assumeRolePolicy": "{}"})[1]
    assert "expected length of name to be in the range (1 - 64)" in reason
    assert not provider.check(ROLE, "x" * 56, {"assumeRolePolicy": "{}"})[1]


def test_an_instance_uses_a_key_pair_and_does_not_name_one(provider: Provider) -> None:
    inputs = {"ami": "ami-1", "instanceType": "t3.small"}
    assert "keyName" not in provider.check("aws:ec2/instance:Instance", "node1", inputs)[0]
