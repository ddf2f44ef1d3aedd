"""What a region has of a stack, found by tag: the region's own answer, not the state's."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError

from resource_types import PROJECT_TAG, RULE, STACK_TAG, TAGGED
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
#: Pulumi type to kind, of what AWS cannot tag, and the inputs that say which one it is: what `parts` finds.
PARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "aws:ec2/route:Route": ("route", ("routeTableId", "destinationCidrBlock")),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": ("route table association", ("routeTableId", "subnetId")),
    "aws:ec2/subnetCidrReservation:SubnetCidrReservation": ("subnet reservation", ("subnetId", "cidrBlock")),
    "aws:iam/rolePolicy:RolePolicy": ("role policy", ("role",)),
}
#: Nothing but its owner removes them: they may hold data.
KEPT = frozenset({"instance", "volume"})


def scan(aws: Clients, stack: str) -> list[Found]:
    """Everything in the region that carries the stack's tag. Raises StackError if the region cannot be asked."""
    try:
        return sorted({*_in_ec2(aws, stack), *_in_iam(aws, stack)})
    except (BotoCoreError, ClientError) as error:
        raise StackError(f"cannot look for resources of stack '{stack}': {error}") from None


def parts(aws: Clients, found: Iterable[Found], subnets: Iterable[str]) -> list[Found]:
    """What is on ``found`` and on ``subnets`` (ids) without a tag of its own, made by anybody.

    The name of each is the values of its inputs in PARTS; its id is the one that Pulumi's state has.
    """
    ids = {kind: {item.id for item in found if item.kind == kind} for kind in ("route table", "subnet", "role")}
    ec2, iam = aws.client("ec2"), aws.client("iam")
    try:
        return [
            *_of_tables(ec2, ids["route table"]),
            *(item for subnet in sorted({*ids["subnet"], *subnets}) for item in _of_subnet(ec2, subnet)),
            *(
                Found("role policy", f"{role}:{policy}", role)
                for role in sorted(ids["role"])
                for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]
            ),
        ]
    except (BotoCoreError, ClientError) as error:
        raise StackError(f"cannot look for routes, reservations and policies: {error}") from None


def route_id(table: str, destination: str) -> str:
    """As the Terraform provider makes it: internal/service/ec2/id.go, routeCreateID."""
    return f"r-{table}{zlib.crc32(destination.encode())}"


def remove(aws: Clients, item: Found) -> str | None:
    """Delete one of what `scan` finds. AWS's words if it refuses, as it does while anything uses it or is in it."""
    try:
        if item.kind == RULE:
            _revoke(aws.client("ec2"), item.id)
            return None
        type_ = next(type_ for type_ in TAGGED if type_.kind == item.kind)
        service = type_.arn.partition(":")[0]
        # IAM's parameters are named after its types: RoleName, InstanceProfileName.
        key = f"{type_.delete.removeprefix('Delete')}Name"
        key = next((kind.id for kind in KINDS if kind.name == item.kind), key)
        several = type_.delete == "DeleteVpcEndpoints"  # it takes a list, and says of each whether it was refused
        wanted = {f"{key}s": [item.id]} if several else {key: item.id}
        answer = getattr(aws.client(service), xform_name(type_.delete))(**wanted)
        if refused := answer.get("Unsuccessful"):
            return str(refused[0]["Error"]["Message"])
    except (BotoCoreError, ClientError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        # Gone already, such as by a call whose answer was lost.
        return None if code.endswith((".NotFound", "NoSuchEntity")) else str(error)
    return None


def _revoke(ec2: Any, rule: str) -> None:
    (there,) = ec2.describe_security_group_rules(SecurityGroupRuleIds=[rule])["SecurityGroupRules"]
    revoke = ec2.revoke_security_group_egress if there["IsEgress"] else ec2.revoke_security_group_ingress
    revoke(GroupId=there["GroupId"], SecurityGroupRuleIds=[rule])


def _of_tables(ec2: Any, tables: set[str]) -> Iterator[Found]:
    if not tables:
        return
    for page in ec2.get_paginator("describe_route_tables").paginate(RouteTableIds=sorted(tables)):
        for table in page["RouteTables"]:
            identifier = table["RouteTableId"]
            for route in table["Routes"]:
                destination = route.get("DestinationCidrBlock")
                if destination and route.get("Origin") == "CreateRoute":  # neither local nor a VPN's
                    yield Found("route", route_id(identifier, destination), f"{identifier} {destination}")
            for association in table["Associations"]:
                if subnet := association.get("SubnetId"):
                    key = association["RouteTableAssociationId"]
                    yield Found("route table association", key, f"{identifier} {subnet}")


def _of_subnet(ec2: Any, subnet: str) -> Iterator[Found]:
    try:
        answer = ec2.get_subnet_cidr_reservations(SubnetId=subnet)
    except ClientError:  # the subnet itself is gone
        return
    for item in answer["SubnetIpv4CidrReservations"]:
        yield Found("subnet reservation", item["SubnetCidrReservationId"], f"{subnet} {item['Cidr']}")


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
