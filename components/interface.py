"""A machine's network interface, which outlives the machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass
class InterfaceArgs:
    subnet_id: pulumi.Input[str]
    address: str
    security_groups: Sequence[pulumi.Input[str]]


class Interface(pulumi.ComponentResource):
    """An ENI with a fixed private address, which a replaced instance keeps.

    Without the VIP: an address that an interface has before the first boot is written into the machine by cloud-init.
    The first master claims it, and from then on Pulumi never looks at where it is.
    """

    id: pulumi.Output[str]
    arn: pulumi.Output[str]

    def __init__(self, name: str, args: InterfaceArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:interface:Interface", name, {}, opts)
        eni = aws.ec2.NetworkInterface(
            f"{name}-eni",
            subnet_id=args.subnet_id,
            # The list keeps its order: EC2 makes the first address the primary one, which can never move.
            private_ip_list_enabled=True,
            private_ip_lists=[args.address],
            security_groups=list(args.security_groups),
            opts=pulumi.ResourceOptions(
                parent=self, ignore_changes=["privateIps", "privateIpsCount", "privateIpLists", "privateIpListEnabled"]
            ),
        )
        self.id = eni.id
        self.arn = eni.arn
        self.register_outputs({"id": self.id, "arn": self.arn})
