"""The virtual IP: a secondary private address that the load balancers can move between their interfaces."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.instance_role import trust
from components.interface import Interface


@dataclass
class VirtualIpArgs:
    address: str
    subnet_id: pulumi.Input[str]
    #: The load balancers' interfaces.
    interfaces: Sequence[Interface]
    #: ARN of an IAM policy.
    permissions_boundary: str | None = None


class VirtualIp(pulumi.ComponentResource):
    """The subnet reservation for the address, and a role that may assign addresses to these interfaces only."""

    instance_profile: pulumi.Output[str]
    role_name: pulumi.Output[str]

    def __init__(self, name: str, args: VirtualIpArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:virtual_ip:VirtualIp", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        # Keeps EC2 from giving the address to another interface while no interface holds it.
        aws.ec2.SubnetCidrReservation(
            f"{name}-reservation",
            subnet_id=args.subnet_id,
            cidr_block=f"{args.address}/32",
            reservation_type="explicit",
            description="Virtual IP of the load balancers",
            opts=child,
        )
        role = aws.iam.Role(
            f"{name}-role",
            description="Load balancers: claim the virtual IP",
            permissions_boundary=args.permissions_boundary,
            assume_role_policy=trust(),
            opts=child,
        )
        policy = aws.iam.RolePolicy(
            f"{name}-policy",
            role=role.id,
            policy=pulumi.Output.all(*[interface.arn for interface in args.interfaces]).apply(claim_policy),
            opts=child,
        )
        profile = aws.iam.InstanceProfile(
            f"{name}-profile", role=role.name, opts=pulumi.ResourceOptions(parent=self, depends_on=[policy])
        )
        self.instance_profile = profile.name
        self.role_name = role.name
        self.register_outputs({"instanceProfile": self.instance_profile})


def claim_policy(interface_arns: Sequence[str]) -> str:
    """An IAM policy document: assign addresses on these interfaces, and look.

    DescribeNetworkInterfaces knows no resource-level permissions (Service Authorization Reference, Amazon EC2).
    """
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "ClaimVirtualIp",
                    "Effect": "Allow",
                    "Action": "ec2:AssignPrivateIpAddresses",
                    "Resource": sorted(interface_arns),
                },
                {"Sid": "SeeWhoHoldsIt", "Effect": "Allow", "Action": "ec2:DescribeNetworkInterfaces", "Resource": "*"},
            ],
        }
    )
