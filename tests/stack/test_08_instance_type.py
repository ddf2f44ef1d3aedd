"""A change for which EC2 has to stop the machines."""

import json
import subprocess
import sys
import time

import boto3
import pytest

from drills.stack import Stack
from localregion.client import Region
from tests.conftest import NAME, NET, Stackctl, create_words
from tests.stack.clients import FOLDER, haproxy_says, login


@pytest.mark.last
def test_another_instance_type_fails_no_new_connection(
    region: Region, stack: Stack, stackctl: Stackctl, aws: boto3.Session
) -> None:
    """All machines are stopped for it, one after the other, and each leaves service before."""
    ec2 = aws.client("ec2")
    ids = [machine["instanceId"] for machine in stack.machines]

    def types() -> set[str]:
        found = ec2.describe_instances(InstanceIds=ids)["Reservations"]
        return {instance["InstanceType"] for each in found for instance in each["Instances"]}

    before, at, since = types(), login(stack, "mysql"), time.monotonic()
    settings = {"host": at.address, "port": at.port, "user": at.user, "password": at.password, "database": at.schema}
    client = region.popen(
        "client",
        [sys.executable, str(FOLDER / "connector.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdin is not None
    client.stdin.write(json.dumps(settings) + "\n")
    client.stdin.flush()
    try:
        stackctl("create", *create_words(NAME, NET), "--set", "instances.instanceType=t3.large")
    finally:
        said, _ = client.communicate(timeout=60)
    attempts, failed = json.loads(said)
    assert before != types() == {"t3.large"}
    assert attempts > 100
    # One that is under way when the VIP moves reaches a balancer that does not know it: between the answer to the call
    # and the moment at which the region has finished. Ten begin in a second, and each lasts some tenths of it.
    moves = [(move["answered"], move["in_force"]) for move in region.moves(since) if move["address"] == stack.vip]
    under_way = [[each for each in failed if each[0] < done and called < each[1]] for called, done in moves]
    others = [each for each in failed if not any(each in excused for excused in under_way)]
    seen = {"failed": failed, "moves": moves, "HAProxy": haproxy_says(region, stack)}
    assert not others, seen
    assert all(len(each) <= 3 for each in under_way), seen
    assert " unchanged" in stackctl("preview", stack.name)
