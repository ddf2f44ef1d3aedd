"""What a region has of a stack, found by tag: the region's own answer, not the state's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from resource_types import PROJECT_TAG, STACK_TAG, TAGGED
from stackctl.aws import Clients
from stackctl.project import NAME, StackError


@dataclass(frozen=True, order=True)
class Found:
    kind: str
    id: str
    name: str


@dataclass(frozen=True)
class Kind:
    """A kind of resource_types: the EC2 call that lists it, and where in the answer its id and tags are."""

    name: str
    call: str
    items: str
    id: str
    filters: str = "Filters"
    tags: str = "Tags"
    #: States in which the resource is gone and only its record remains, for about an hour.
    gone: tuple[str, ...] = ()


KINDS = (
    Kind("instance", "describe_instances", "Reservations.Instances", "InstanceId", gone=("terminated",)),
    Kind("volume", "describe_volumes", "Volumes", "VolumeId", gone=("deleted",)),
    Kind("network interface", "describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId", tags="TagSet"),
    Kind("key pair", "describe_key_pairs", "KeyPairs", "KeyName"),
    Kind("NAT gateway", "describe_nat_gateways", "NatGateways", "NatGatewayId", filters="Filter", gone=("deleted",)),
    Kind("VPC endpoint", "describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId", gone=("deleted",)),
    Kind("elastic address", "describe_addresses", "Addresses", "AllocationId"),
    Kind("security group", "describe_security_groups", "SecurityGroups", "GroupId"),
    Kind("security group rule", "describe_security_group_rules", "SecurityGroupRules", "SecurityGroupRuleId"),
    Kind("route table", "describe_route_tables", "RouteTables", "RouteTableId"),
    Kind("subnet", "describe_subnets", "Subnets", "SubnetId"),
    Kind("internet gateway", "describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    Kind("VPC", "describe_vpcs", "Vpcs", "VpcId"),
)
#: The kinds that are found in IAM.
IAM_KINDS = ("role", "instance profile")
#: Pulumi type to kind, of everything that `scan` finds.
TYPES: Mapping[str, str] = {type_.token: type_.kind for type_ in TAGGED}


def scan(aws: Clients, stack: str) -> list[Found]:
    """Everything in the region that carries the stack's tag. Raises StackError if the region cannot be asked."""
    try:
        return sorted({*_in_ec2(aws, stack), *_in_iam(aws, stack)})
    except (BotoCoreError, ClientError) as error:
        raise StackError(f"cannot look for resources of stack '{stack}': {error}") from None


def reservation(aws: Clients, subnet: str, cidr: str) -> str | None:
    """The id of a subnet's CIDR reservation, which has no Name and cannot be made twice."""
    try:
        answer = aws.client("ec2").get_subnet_cidr_reservations(SubnetId=subnet)
    except ClientError:  # the subnet itself is gone
        return None
    reserved = {item["Cidr"]: item["SubnetCidrReservationId"] for item in answer["SubnetIpv4CidrReservations"]}
    return reserved.get(cidr)


def _in_ec2(aws: Clients, stack: str) -> Iterator[Found]:
    ec2 = aws.client("ec2")
    for kind in KINDS:
        arguments = {kind.filters: [{"Name": f"tag:{STACK_TAG}", "Values": [stack]}]}
        if ec2.can_paginate(kind.call):
            pages = ec2.get_paginator(kind.call).paginate(**arguments)
        else:
            pages = [getattr(ec2, kind.call)(**arguments)]
        for page in pages:
            for item in _items(page, kind.items):
                tags = _tags(item.get(kind.tags))
                if tags.get(STACK_TAG) != stack or tags.get(PROJECT_TAG, NAME) != NAME:
                    continue
                state = item.get("State")
                if (state["Name"] if isinstance(state, dict) else state) in kind.gone:
                    continue
                yield Found(kind.name, item[kind.id], tags.get("Name", ""))


def _in_iam(aws: Clients, stack: str) -> Iterator[Found]:
    """IAM cannot search by tag, and its lists leave tags out: each role and profile is asked for its own."""
    iam = aws.client("iam")
    for page in iam.get_paginator("list_roles").paginate():
        for role in page["Roles"]:
            if role["Path"].startswith("/aws-service-role/"):
                continue
            tags = _tags(iam.get_role(RoleName=role["RoleName"])["Role"].get("Tags"))
            if tags.get(STACK_TAG) == stack and tags.get(PROJECT_TAG, NAME) == NAME:
                yield Found("role", role["RoleName"], tags.get("Name", ""))
    for profiles in iam.get_paginator("list_instance_profiles").paginate():
        for profile in profiles["InstanceProfiles"]:
            name = profile["InstanceProfileName"]
            tags = _tags(iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"].get("Tags"))
            if tags.get(STACK_TAG) == stack and tags.get(PROJECT_TAG, NAME) == NAME:
                yield Found("instance profile", name, tags.get("Name", ""))


def _items(page: Mapping[str, Any], path: str) -> Iterator[Mapping[str, Any]]:
    """The items of a list, or of lists in a list, such as `Reservations.Instances`."""
    key, _, rest = path.partition(".")
    for item in page.get(key, ()):
        yield from _items(item, rest) if rest else (item,)


def _tags(listed: Any) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in listed or ()}
