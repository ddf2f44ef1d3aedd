"""The stack goes away without a trace."""

import boto3
import pytest

from drills.stack import Stack
from localregion.client import Region, wait_until
from stackctl import inventory
from stackctl.pulumi import stack_names
from tests.conftest import NAME, Stackctl
from tests.stack import policies


@pytest.mark.destroys("stack")
def test_destroy_leaves_nothing_even_after_a_failover_and_with_a_machine_down(
    region: Region, stack: Stack, stackctl: Stackctl, aws: boto3.Session
) -> None:
    machines = {machine["instanceId"] for machine in stack.machines}
    assert machines <= {machine["id"] for machine in region.machines()}
    holder = stack.holder(region)
    region.power_cut(stack.machine(holder)["instanceId"])
    wait_until(lambda: stack.holder(region) != holder, "the VIP to move", 20)
    stackctl("destroy", NAME)
    assert not machines & {machine["id"] for machine in region.machines()}
    assert inventory.scan(aws, NAME) == []
    assert NAME not in stack_names()
    # From its making to its end now: what the deploying roles need, and no more.
    assert policies.problems(region.calls(), policies.DEPLOY.read_text()) == []
