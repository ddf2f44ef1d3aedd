"""The AWS resources of a stack that carry its tags: the program tags them, and stackctl finds them by their tags.

A new type is one line here, its listing call in stackctl/inventory.py, and what .github/policies/deploy.json has to
allow; the tests say which of them is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROJECT = "mycat-ha"
STACK_TAG = f"{PROJECT}:stack"
PROJECT_TAG = f"{PROJECT}:project"
#: On the stack, in its settings' `tags`, or on any of its resources.
PROTECTED_TAG = f"{PROJECT}:protected"


@dataclass(frozen=True)
class ResourceType:
    #: Pulumi's type token.
    token: str
    #: What stackctl calls it.
    kind: str
    #: The service and the type of resource in its ARN, such as ec2:vpc.
    arn: str
    #: The actions of that service that make and remove it.
    create: str
    delete: str


def is_protected(tags: Mapping[str, Any]) -> bool:
    """Whether ``tags`` mark a stack, or a resource, as one that must not be lost by mistake."""
    return str(tags.get(PROTECTED_TAG, "false")).lower() not in ("", "false", "no")


INSTANCE = "aws:ec2/instance:Instance"
RULE = "security group rule"

TAGGED = (
    ResourceType("aws:ec2/vpc:Vpc", "VPC", "ec2:vpc", "CreateVpc", "DeleteVpc"),
    ResourceType("aws:ec2/subnet:Subnet", "subnet", "ec2:subnet", "CreateSubnet", "DeleteSubnet"),
    ResourceType("aws:ec2/internetGateway:InternetGateway", "internet gateway", "ec2:internet-gateway",
                 "CreateInternetGateway", "DeleteInternetGateway"),
    ResourceType("aws:ec2/natGateway:NatGateway", "NAT gateway", "ec2:natgateway",
                 "CreateNatGateway", "DeleteNatGateway"),
    ResourceType("aws:ec2/vpcEndpoint:VpcEndpoint", "VPC endpoint", "ec2:vpc-endpoint",
                 "CreateVpcEndpoint", "DeleteVpcEndpoints"),
    ResourceType("aws:ec2/eip:Eip", "elastic address", "ec2:elastic-ip", "AllocateAddress", "ReleaseAddress"),
    ResourceType("aws:ec2/routeTable:RouteTable", "route table", "ec2:route-table",
                 "CreateRouteTable", "DeleteRouteTable"),
    ResourceType("aws:ec2/securityGroup:SecurityGroup", "security group", "ec2:security-group",
                 "CreateSecurityGroup", "DeleteSecurityGroup"),
    ResourceType("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", RULE, "ec2:security-group-rule",
                 "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"),
    ResourceType("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule", RULE, "ec2:security-group-rule",
                 "AuthorizeSecurityGroupEgress", "RevokeSecurityGroupEgress"),
    ResourceType("aws:ec2/networkInterface:NetworkInterface", "network interface", "ec2:network-interface",
                 "CreateNetworkInterface", "DeleteNetworkInterface"),
    ResourceType(INSTANCE, "instance", "ec2:instance", "RunInstances", "TerminateInstances"),
    # Made with its instance, which has the tags for it.
    ResourceType("aws:ebs/volume:Volume", "volume", "ec2:volume", "RunInstances", "DeleteVolume"),
    ResourceType("aws:ec2/keyPair:KeyPair", "key pair", "ec2:key-pair", "ImportKeyPair", "DeleteKeyPair"),
    ResourceType("aws:iam/role:Role", "role", "iam:role", "CreateRole", "DeleteRole"),
    ResourceType("aws:iam/instanceProfile:InstanceProfile", "instance profile", "iam:instance-profile",
                 "CreateInstanceProfile", "DeleteInstanceProfile"),
)  # fmt: skip
