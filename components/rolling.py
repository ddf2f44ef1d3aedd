"""Which machines an `up` stops, so that it can stop one after the other."""

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

from components.tagging import own_filters
from settings import MachineSettings

#: All in which an instance is there, or comes back.
_THERE = ("pending", "running", "stopping", "stopped")


def retyped(machines: Sequence[MachineSettings], types: Sequence[str]) -> list[str]:
    """The names of the machines that exist with another instance type than theirs of ``types``.

    EC2 changes the type of a stopped instance only, so the provider stops it, changes it, and starts it again.
    """
    there = _addresses()
    if not there:
        return []
    of_type = {kind: _addresses(kind) for kind in set(types)}
    names = [
        machine.name
        for machine, kind in zip(machines, types, strict=True)
        if str(machine.address) in there - of_type[kind]
    ]
    if names:
        pulumi.log.info(f"another instance type, one after the other: {', '.join(names)}")
    return names


def _addresses(instance_type: str | None = None) -> set[str]:
    """Of this stack's instances."""
    wanted = own_filters()
    if instance_type:
        wanted["instance-type"] = instance_type
    filters = [aws.ec2.GetInstancesFilterArgs(name=name, values=[value]) for name, value in wanted.items()]
    return set(aws.ec2.get_instances(filters=filters, instance_state_names=_THERE).private_ips)
