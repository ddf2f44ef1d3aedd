"""Tags on everything that AWS can tag, in one place."""

from collections.abc import Mapping

import pulumi

#: Types of this program that take ``tags``.
TAGGED = frozenset(
    {
        "aws:ec2/vpc:Vpc",
        "aws:ec2/subnet:Subnet",
        "aws:ec2/internetGateway:InternetGateway",
        "aws:ec2/natGateway:NatGateway",
        "aws:ec2/eip:Eip",
        "aws:ec2/routeTable:RouteTable",
        "aws:ec2/securityGroup:SecurityGroup",
        "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
        "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
        "aws:ec2/networkInterface:NetworkInterface",
        "aws:ec2/instance:Instance",
        "aws:ec2/keyPair:KeyPair",
        "aws:iam/role:Role",
        "aws:iam/instanceProfile:InstanceProfile",
    }
)


def tag_everything(tags: Mapping[str, str]) -> None:
    """Give every resource registered from now on ``tags``, the stack's name, and a Name that is unique in a region."""
    project, stack = pulumi.get_project(), pulumi.get_stack()

    def transform(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        if args.type_ not in TAGGED:
            return None
        own = {**tags, "mycat-ha:project": project, "mycat-ha:stack": stack, "Name": f"{project}-{stack}-{args.name}"}
        props = {**args.props, "tags": own}
        if args.type_ == "aws:ec2/instance:Instance":
            props["volume_tags"] = {k: v for k, v in own.items() if k != "Name"}
        return pulumi.ResourceTransformationResult(props=props, opts=args.opts)

    pulumi.runtime.register_stack_transformation(transform)
