"""Every correction of moto in localregion/ec2 is right, and is still needed.

Each scenario below is what AWS does. It has to pass with all corrections, and to fail when a correction that it is
registered for is left out. When it passes all the same, moto has been mended, and the correction can be removed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.ec2.models import amis

from localregion import ec2
from localregion.ec2 import images
from localregion.ec2.corrections import corrections
from localregion.wait import wait_until


@dataclass
class Machines:
    """A hypervisor whose machines do at once what they are told; keeps what that was."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    public_range: IPv4Network = field(default_factory=lambda: IPv4Network("198.18.0.0/24"))

    def boot(self, instance_id: str) -> None:
        self.calls.append(("boot", instance_id))

    def shutdown(self, instance_id: str) -> None:
        self.calls.append(("shutdown", instance_id))

    def reboot(self, instance_id: str) -> None:
        self.calls.append(("reboot", instance_id))

    def delete(self, instance_id: str) -> None:
        self.calls.append(("delete", instance_id))

    def console(self, instance_id: str) -> str:
        return f"console of {instance_id}"

    def changed(self) -> None:
        self.calls.append(("changed", ""))


@cache
def client() -> Any:
    """One for all tests, because making it takes longer than any of them."""
    once = Config(retries={"total_max_attempts": 1})
    return boto3.Session("key", "secret", region_name="eu-central-1").client("ec2", config=once)


class Account:
    """A VPC with one subnet, by boto3."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.ec2 = client()
        self.vpc = self.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.9.0.0/24", AvailabilityZone="eu-central-1b")
        self.subnet = made["Subnet"]["SubnetId"]
        self.group = self.new_group("first")
        self.image = images.RELEASES[0].ami

    def new_group(self, name: str) -> str:
        return str(self.ec2.create_security_group(GroupName=name, Description="x", VpcId=self.vpc)["GroupId"])

    def interface(self, **options: Any) -> dict[str, Any]:
        made = self.ec2.create_network_interface(SubnetId=self.subnet, Groups=[self.group], **options)
        return dict(made["NetworkInterface"])

    def new_subnet(self, free: int) -> str:
        """With one interface, which leaves so many of its eleven addresses free."""
        subnet = str(self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.9.1.0/28")["Subnet"]["SubnetId"])
        others = {"SecondaryPrivateIpAddressCount": 11 - free - 1}
        self.ec2.create_network_interface(SubnetId=subnet, Groups=[self.group], **others)
        return subnet

    def made(self) -> list[Any]:
        """What there is of what a call can leave half made."""
        return [
            self.ec2.describe_instances()["Reservations"],
            self.ec2.describe_network_interfaces()["NetworkInterfaces"],
            self.ec2.describe_volumes()["Volumes"],
            self.ec2.describe_tags()["Tags"],
        ]

    def addresses(self, eni: str) -> list[str]:
        found = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
        return [address["PrivateIpAddress"] for address in found["PrivateIpAddresses"]]

    def run(self, **options: Any) -> dict[str, Any]:
        made = self.ec2.run_instances(**{"ImageId": self.image, "MinCount": 1, "MaxCount": 1, **options})
        return dict(made["Instances"][0])

    def instance(self, identifier: str) -> dict[str, Any]:
        return dict(self.ec2.describe_instances(InstanceIds=[identifier])["Reservations"][0]["Instances"][0])

    def reaches(self, identifier: str, state: str) -> None:
        wait_until(lambda: self.instance(identifier)["State"]["Name"] == state, state, 5, pause=0.01)

    def running(self, eni: str | None = None) -> str:
        """On this interface, or on one that goes when it is terminated."""
        own = {"NetworkInterfaceId": eni} if eni else {"SubnetId": self.subnet, "DeleteOnTermination": True}
        identifier = str(self.run(NetworkInterfaces=[{"DeviceIndex": 0, **own}])["InstanceId"])
        self.reaches(identifier, "running")
        return identifier


def refused(code: str, call: Callable[..., Any], **arguments: Any) -> None:
    with pytest.raises(ClientError) as error:
        call(**arguments)
    assert error.value.response["Error"]["Code"] == code
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


FULL = "InsufficientFreeAddressesInSubnet"


Scenario = Callable[[Account], None]
CASES: list[tuple[str, Scenario]] = []


def needs(*names: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario for the corrections (OWNER.ATTRIBUTE) without any one of which it fails."""

    def register(scenario: Scenario) -> Scenario:
        CASES.extend((name, scenario) for name in names)
        return scenario

    return register


# -- interfaces ------------------------------------------------------------------------------------------------


@needs("EC2Backend.create_network_interface")
def an_interface_has_its_address_in_the_subnet(account: Account) -> None:
    refused("InvalidParameterValue", account.interface, PrivateIpAddress="10.9.1.20")


@needs("EC2Backend.create_network_interface")
def an_interface_has_no_reserved_address(account: Account) -> None:
    refused("InvalidParameterValue", account.interface, PrivateIpAddress="10.9.0.3")


@needs("EC2Backend.create_network_interface")
def an_address_in_use_is_not_given_to_a_new_interface(account: Account) -> None:
    account.interface(PrivateIpAddress="10.9.0.20")
    refused("InvalidIPAddress.InUse", account.interface, PrivateIpAddress="10.9.0.20")


@needs("EC2Backend.create_network_interface")
def an_interface_without_a_wish_gets_an_address_that_is_neither_reserved_nor_used(account: Account) -> None:
    account.ec2.create_subnet_cidr_reservation(SubnetId=account.subnet, Cidr="10.9.0.5/32", ReservationType="explicit")
    account.interface(PrivateIpAddress="10.9.0.6")
    assert [account.interface()["PrivateIpAddress"] for _ in range(3)] == ["10.9.0.4", "10.9.0.7", "10.9.0.8"]


@needs("EC2Backend.create_network_interface")
def a_full_subnet_has_no_new_interface(account: Account) -> None:
    create = partial(account.ec2.create_network_interface, SubnetId=account.new_subnet(free=1))
    assert create()["NetworkInterface"]["PrivateIpAddress"] == "10.9.1.14"
    before = account.made()
    refused(FULL, create)
    assert account.made() == before


@needs("EC2Backend.create_network_interface")
def an_interface_gets_as_many_free_addresses_as_it_asks_for_or_none(account: Account) -> None:
    create = partial(account.ec2.create_network_interface, SubnetId=account.new_subnet(free=4))
    before = account.made()
    refused(FULL, create, SecondaryPrivateIpAddressCount=4)
    refused(FULL, create, SecondaryPrivateIpAddressCount=4, PrivateIpAddress="10.9.1.12")
    assert account.made() == before
    eni = create(SecondaryPrivateIpAddressCount=2, PrivateIpAddress="10.9.1.12")["NetworkInterface"]
    assert account.addresses(eni["NetworkInterfaceId"]) == ["10.9.1.12", "10.9.1.11", "10.9.1.13"]


@needs("EC2Backend.create_network_interface")
def an_interface_has_a_primary_address_whatever_others_it_asks_for(account: Account) -> None:
    eni = account.interface(PrivateIpAddresses=[{"PrivateIpAddress": "10.9.0.4"}])
    assert eni["PrivateIpAddress"] == "10.9.0.5"
    assert account.addresses(eni["NetworkInterfaceId"]) == ["10.9.0.5", "10.9.0.4"]


@needs("EC2Backend.delete_network_interface")
def an_attached_interface_cannot_be_deleted(account: Account) -> None:
    eni = account.interface()["NetworkInterfaceId"]
    account.running(eni)
    refused("InvalidParameterValue", account.ec2.delete_network_interface, NetworkInterfaceId=eni)


@needs("ElasticNetworkInterfaces.assign_private_ip_addresses")
def an_address_moves_only_with_permission(account: Account) -> None:
    first, second = (account.interface()["NetworkInterfaceId"] for _ in range(2))
    assign = account.ec2.assign_private_ip_addresses
    assign(NetworkInterfaceId=first, PrivateIpAddresses=["10.9.0.20"])
    refused("InvalidParameterValue", assign, NetworkInterfaceId=second, PrivateIpAddresses=["10.9.0.20"])
    assert "10.9.0.20" in account.addresses(first)


@needs("ElasticNetworkInterfaces.assign_private_ip_addresses")
def an_address_that_moves_leaves_the_other_interface(account: Account) -> None:
    first, second = (account.interface()["NetworkInterfaceId"] for _ in range(2))
    move = {"PrivateIpAddresses": ["10.9.0.20"], "AllowReassignment": True}
    account.ec2.assign_private_ip_addresses(NetworkInterfaceId=first, **move)
    account.ec2.assign_private_ip_addresses(NetworkInterfaceId=second, **move)
    assert "10.9.0.20" in account.addresses(second)
    assert "10.9.0.20" not in account.addresses(first)


@needs("ElasticNetworkInterfaces.assign_private_ip_addresses")
def an_assigned_address_lies_in_the_subnet(account: Account) -> None:
    eni = account.interface()["NetworkInterfaceId"]
    refused(
        "InvalidParameterValue",
        account.ec2.assign_private_ip_addresses,
        NetworkInterfaceId=eni,
        PrivateIpAddresses=["10.9.1.20"],
    )


@needs("ElasticNetworkInterfaces.assign_private_ip_addresses")
def a_primary_address_never_moves(account: Account) -> None:
    first, second = account.interface(), account.interface()
    refused(
        "InvalidParameterValue",
        account.ec2.assign_private_ip_addresses,
        NetworkInterfaceId=second["NetworkInterfaceId"],
        PrivateIpAddresses=[first["PrivateIpAddress"]],
        AllowReassignment=True,
    )


@needs("ElasticNetworkInterfaces.assign_private_ip_addresses")
def addresses_by_number_are_free_ones(account: Account) -> None:
    account.interface(PrivateIpAddress="10.9.0.5")
    eni = account.interface(PrivateIpAddress="10.9.0.4")["NetworkInterfaceId"]
    account.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=2)
    assert account.addresses(eni) == ["10.9.0.4", "10.9.0.6", "10.9.0.7"]


@needs("ElasticNetworkInterfaces.assign_private_ip_addresses")
def addresses_by_number_are_all_or_none(account: Account) -> None:
    subnet = account.new_subnet(free=3)
    eni = account.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    assign = partial(account.ec2.assign_private_ip_addresses, NetworkInterfaceId=eni)
    refused(FULL, assign, SecondaryPrivateIpAddressCount=3)
    assert account.addresses(eni) == ["10.9.1.12"]
    assign(SecondaryPrivateIpAddressCount=2)
    assert account.addresses(eni) == ["10.9.1.12", "10.9.1.13", "10.9.1.14"]


@needs("ElasticNetworkInterfaces.assign_private_ip_addresses")
def addresses_are_named_or_counted_and_not_both(account: Account) -> None:
    eni = account.interface()["NetworkInterfaceId"]
    refused(
        "InvalidParameterCombination",
        account.ec2.assign_private_ip_addresses,
        NetworkInterfaceId=eni,
        PrivateIpAddresses=["10.9.0.20"],
        SecondaryPrivateIpAddressCount=1,
    )


@needs("EC2Backend.unassign_private_ip_addresses")
def an_address_that_the_interface_has_not_cannot_be_unassigned(account: Account) -> None:
    eni = account.interface()["NetworkInterfaceId"]
    unassign = account.ec2.unassign_private_ip_addresses
    refused("InvalidParameterValue", unassign, NetworkInterfaceId=eni, PrivateIpAddresses=["10.9.0.20"])


@needs("EC2Backend.unassign_private_ip_addresses")
def a_primary_address_cannot_be_unassigned(account: Account) -> None:
    eni = account.interface()
    refused(
        "InvalidParameterValue",
        account.ec2.unassign_private_ip_addresses,
        NetworkInterfaceId=eni["NetworkInterfaceId"],
        PrivateIpAddresses=[eni["PrivateIpAddress"]],
    )


@needs("NetworkInterface.get_filter_value")
def an_interface_is_found_by_a_secondary_address(account: Account) -> None:
    eni = account.interface()["NetworkInterfaceId"]
    account.interface()
    account.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=["10.9.0.20"])
    filters = [{"Name": "addresses.private-ip-address", "Values": ["10.9.0.20"]}]
    found = account.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
    assert [interface["NetworkInterfaceId"] for interface in found] == [eni]


# -- security groups -------------------------------------------------------------------------------------------


def rules(account: Account, group: str) -> list[dict[str, Any]]:
    answer = account.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])
    return [rule for rule in answer["SecurityGroupRules"] if not rule["IsEgress"]]


def allow(account: Account, **permission: Any) -> None:
    account.ec2.authorize_security_group_ingress(GroupId=account.group, IpPermissions=[permission])


@needs("SecurityGroupRule.__init__")
def a_protocol_without_ports_needs_none(account: Account) -> None:
    allow(account, IpProtocol="112", IpRanges=[{"CidrIp": "10.9.0.0/24"}])
    assert [rule["IpProtocol"] for rule in rules(account, account.group)] == ["112"]


@needs("SecurityGroupRule.__init__")
def tcp_needs_ports(account: Account) -> None:
    permission = {"IpProtocol": "tcp", "IpRanges": [{"CidrIp": "10.9.0.0/24"}]}
    call = account.ec2.authorize_security_group_ingress
    refused("MissingParameter", call, GroupId=account.group, IpPermissions=[permission])


@needs("SecurityGroupRule.description")
def a_reference_to_a_group_has_a_description(account: Account) -> None:
    pair = {"GroupId": account.group, "Description": "from each other"}
    allow(account, IpProtocol="tcp", FromPort=1, ToPort=1, UserIdGroupPairs=[pair])
    assert [rule["Description"] for rule in rules(account, account.group)] == ["from each other"]


@needs("EC2Backend.delete_security_group")
def a_group_of_an_interface_cannot_be_deleted(account: Account) -> None:
    account.interface()
    refused("DependencyViolation", account.ec2.delete_security_group, GroupId=account.group)


@needs("EC2Backend.delete_security_group")
def a_group_that_another_one_refers_to_cannot_be_deleted(account: Account) -> None:
    other = account.new_group("other")
    allow(account, IpProtocol="tcp", FromPort=1, ToPort=1, UserIdGroupPairs=[{"GroupId": other}])
    refused("DependencyViolation", account.ec2.delete_security_group, GroupId=other)


@needs("EC2Backend.revoke_security_group_ingress")
def a_rule_that_is_gone_cannot_be_revoked(account: Account) -> None:
    allow(account, IpProtocol="tcp", FromPort=1, ToPort=1, IpRanges=[{"CidrIp": "10.9.0.0/24"}])
    (rule,) = (rule["SecurityGroupRuleId"] for rule in rules(account, account.group))
    revoke = partial(account.ec2.revoke_security_group_ingress, GroupId=account.group, SecurityGroupRuleIds=[rule])
    revoke()
    refused("InvalidSecurityGroupRuleId.NotFound", revoke)


@needs("EC2Backend.revoke_security_group_egress")
def an_egress_rule_that_is_gone_cannot_be_revoked(account: Account) -> None:
    revoke = account.ec2.revoke_security_group_egress
    refused("InvalidSecurityGroupRuleId.NotFound", revoke, GroupId=account.group, SecurityGroupRuleIds=["sgr-0abc"])


# -- VPCs ------------------------------------------------------------------------------------------------------


def nat_gateway(account: Account) -> tuple[str, str, str]:
    """Its id, its interface and its public address's allocation."""
    allocation = account.ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = account.ec2.create_nat_gateway(SubnetId=account.subnet, AllocationId=allocation)["NatGateway"]
    answer = account.ec2.describe_addresses(AllocationIds=[allocation])["Addresses"][0]
    return nat["NatGatewayId"], answer["NetworkInterfaceId"], allocation


@needs("random_private_ip")
def a_nat_gateway_has_an_address_of_its_subnet(account: Account) -> None:
    _, eni, _ = nat_gateway(account)
    assert account.addresses(eni) == ["10.9.0.4"]


@needs("EC2Backend.delete_nat_gateway")
def a_deleted_nat_gateway_leaves_no_interface(account: Account) -> None:
    nat, eni, _ = nat_gateway(account)
    account.ec2.delete_nat_gateway(NatGatewayId=nat)
    left = account.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert eni not in [interface["NetworkInterfaceId"] for interface in left]


@needs("EC2Backend.delete_nat_gateway")
def a_deleted_nat_gateway_leaves_its_public_address_free(account: Account) -> None:
    nat, _, allocation = nat_gateway(account)
    account.ec2.delete_nat_gateway(NatGatewayId=nat)
    assert "AssociationId" not in account.ec2.describe_addresses(AllocationIds=[allocation])["Addresses"][0]


@needs("EC2Backend.create_nat_gateway")
def a_nat_gateway_that_is_refused_leaves_no_interface(account: Account) -> None:
    before = account.made()
    create = account.ec2.create_nat_gateway
    refused("InvalidAllocationID.NotFound", create, SubnetId=account.subnet, AllocationId="eipalloc-0abc")
    refused(FULL, create, SubnetId=account.new_subnet(free=0), ConnectivityType="private")
    assert len(account.made()[1]) == len(before[1]) + 1


def is_free_and_public(account: Account, address: str) -> bool:
    others = account.ec2.allocate_address(Domain="vpc")["PublicIp"]
    return IPv4Address(address) in account.machines.public_range and address != others


@needs("elastic_ip_addresses.random_ip")
def an_elastic_address_can_be_delivered_to(account: Account) -> None:
    assert is_free_and_public(account, account.ec2.allocate_address(Domain="vpc")["PublicIp"])


@needs("elastic_ip_addresses.random_ip")
def elastic_addresses_come_to_an_end(account: Account) -> None:
    account.machines.public_range = IPv4Network("198.18.0.0/30")
    first, second = (account.ec2.allocate_address(Domain="vpc") for _ in range(2))
    refused("AddressLimitExceeded", account.ec2.allocate_address, Domain="vpc")
    account.ec2.release_address(AllocationId=first["AllocationId"])
    assert account.ec2.allocate_address(Domain="vpc")["PublicIp"] == first["PublicIp"] != second["PublicIp"]


@needs("elastic_network_interfaces.random_public_ip")
def an_assigned_public_address_can_be_delivered_to(account: Account) -> None:
    device = {"DeviceIndex": 0, "SubnetId": account.subnet, "AssociatePublicIpAddress": True}
    instance = account.run(NetworkInterfaces=[device])["InstanceId"]
    assert is_free_and_public(account, account.instance(instance)["PublicIpAddress"])


@needs("vpcs.random_private_ip")
def an_interface_endpoint_has_an_address_of_its_subnet_and_leaves_nothing(account: Account) -> None:
    endpoint = account.ec2.create_vpc_endpoint(
        VpcId=account.vpc,
        ServiceName="com.amazonaws.eu-central-1.ec2",
        VpcEndpointType="Interface",
        SubnetIds=[account.subnet],
        SecurityGroupIds=[account.group],
        PrivateDnsEnabled=True,
    )["VpcEndpoint"]
    (eni,) = endpoint["NetworkInterfaceIds"]
    assert account.addresses(eni) == ["10.9.0.4"]
    account.ec2.delete_vpc_endpoints(VpcEndpointIds=[endpoint["VpcEndpointId"]])
    account.ec2.delete_security_group(GroupId=account.group)
    account.ec2.delete_subnet(SubnetId=account.subnet)


@needs("EC2Backend.create_vpc_endpoint")
def an_interface_endpoint_is_in_all_of_its_subnets_or_in_none(account: Account) -> None:
    subnets = [account.subnet, account.new_subnet(free=0)]
    endpoint = {"VpcId": account.vpc, "ServiceName": "com.amazonaws.eu-central-1.ec2", "VpcEndpointType": "Interface"}
    before = account.made()
    refused(FULL, account.ec2.create_vpc_endpoint, **endpoint, SubnetIds=subnets)
    assert account.made() == before
    ours = [{"Name": "vpc-id", "Values": [account.vpc]}]
    assert not account.ec2.describe_vpc_endpoints(Filters=ours)["VpcEndpoints"]


@needs("Subnets.create_subnet_cidr_reservation")
def a_reservation_keeps_its_description(account: Account) -> None:
    reserve = {"SubnetId": account.subnet, "Cidr": "10.9.0.9/32", "ReservationType": "explicit"}
    account.ec2.create_subnet_cidr_reservation(**reserve, Description="VIP")
    made = account.ec2.get_subnet_cidr_reservations(SubnetId=account.subnet)["SubnetIpv4CidrReservations"]
    assert [reservation["Description"] for reservation in made] == ["VIP"]


# -- instances -------------------------------------------------------------------------------------------------


@needs("EC2Backend.run_instances")
def an_instance_needs_an_image_that_there_is(account: Account) -> None:
    refused("InvalidAMIID.NotFound", account.run, ImageId="ami-0123456789abcdef0")


@needs("EC2Backend.run_instances")
def an_instance_needs_a_key_that_there_is(account: Account) -> None:
    refused("InvalidKeyPair.NotFound", account.run, KeyName="nobody")


@needs("EC2Backend.run_instances")
def an_interface_serves_one_instance(account: Account) -> None:
    eni = account.interface()["NetworkInterfaceId"]
    account.running(eni)
    device = {"DeviceIndex": 0, "NetworkInterfaceId": eni}
    refused("InvalidNetworkInterface.InUse", account.run, NetworkInterfaces=[device])


@needs("EC2Backend.run_instances")
def a_new_instance_boots(account: Account) -> None:
    made = account.run(SubnetId=account.subnet)
    assert made["State"]["Name"] == "pending"
    account.reaches(made["InstanceId"], "running")
    assert account.machines.calls == [("boot", made["InstanceId"])]


@needs("EC2Backend.run_instances")
def an_instance_is_in_the_zone_of_its_interface(account: Account) -> None:
    instance = account.running(account.interface()["NetworkInterfaceId"])
    assert account.instance(instance)["Placement"]["AvailabilityZone"] == "eu-central-1b"


@needs("EC2Backend.replace_iam_instance_profile_association")
def an_instance_has_the_profile_that_replaces_its_first(account: Account) -> None:
    first, second = (
        ec2.iam("eu-central-1").create_instance_profile(name, "/", [], []).arn for name in ("first", "second")
    )
    instance = account.running()
    made = account.ec2.associate_iam_instance_profile(InstanceId=instance, IamInstanceProfile={"Arn": first})
    before = made["IamInstanceProfileAssociation"]["AssociationId"]
    account.ec2.replace_iam_instance_profile_association(AssociationId=before, IamInstanceProfile={"Arn": second})
    assert account.instance(instance)["IamInstanceProfile"]["Arn"] == second
    (association,) = account.ec2.describe_iam_instance_profile_associations()["IamInstanceProfileAssociations"]
    assert association["IamInstanceProfile"]["Arn"] == second
    assert association["AssociationId"] != before


@needs("EC2Backend.run_instances")
def a_full_subnet_has_no_new_instance(account: Account) -> None:
    subnet = account.new_subnet(free=0)
    before = account.made()
    devices = (
        {"SubnetId": subnet},
        {"NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": subnet}]},
        {"NetworkInterfaces": [{"DeviceIndex": n, "SubnetId": s} for n, s in enumerate([account.subnet, subnet])]},
    )
    for options in devices:
        with pytest.raises(ClientError, match=rf"\({FULL}\).*There are not enough free addresses in subnet '{subnet}'"):
            account.run(**options)
        assert account.made() == before
    assert not account.machines.calls


@needs("EC2Backend.run_instances")
def a_refused_instance_leaves_nothing(account: Account) -> None:
    """Neither instances that came before it, nor their volumes and tags; and an interface that it was given is free."""
    eni = account.interface()["NetworkInterfaceId"]
    before = account.made()
    tags = [{"ResourceType": kind, "Tags": [{"Key": "a", "Value": "b"}]} for kind in ("instance", "volume")]
    taken = account.interface()["PrivateIpAddress"]
    second = {"DeviceIndex": 1, "SubnetId": account.subnet, "PrivateIpAddress": taken}
    devices = [{"DeviceIndex": 0, "NetworkInterfaceId": eni}, second]
    refused("InvalidIPAddress.InUse", account.run, NetworkInterfaces=devices, TagSpecifications=tags)
    refused(FULL, account.run, SubnetId=account.new_subnet(free=2), MinCount=3, MaxCount=3, TagSpecifications=tags)
    after = account.made()
    assert [after[0], after[2], after[3]] == [before[0], before[2], before[3]]
    assert len(after[1]) == len(before[1]) + 2  # that with the address in use, and that of the new subnet
    assert account.running(eni)


@needs("InstanceResponse.run_instances")
def as_many_instances_start_as_fit(account: Account) -> None:
    subnet = account.new_subnet(free=4)
    run = partial(account.ec2.run_instances, ImageId=account.image, SubnetId=subnet)
    first = run(MinCount=1, MaxCount=2)["Instances"]
    assert [instance["PrivateIpAddress"] for instance in first] == ["10.9.1.11", "10.9.1.12"]
    before = account.made()
    refused(FULL, run, MinCount=3, MaxCount=5)
    assert len(account.made()[1]) == len(before[1])
    then = run(MinCount=1, MaxCount=5)["Instances"]
    assert [instance["PrivateIpAddress"] for instance in then] == ["10.9.1.13", "10.9.1.14"]
    for instance in first + then:
        account.reaches(instance["InstanceId"], "running")
    assert sorted(account.machines.calls) == sorted(("boot", each["InstanceId"]) for each in first + then)


@needs("InstanceResponse.run_instances")
def no_fewer_instances_than_one_start(account: Account) -> None:
    refused("InvalidParameterValue", account.run, MinCount=0)
    refused("InvalidParameterValue", account.run, MinCount=2)


@needs("EC2Backend.run_instances")
def an_interface_is_for_one_of_several_instances(account: Account) -> None:
    device = {"DeviceIndex": 0, "NetworkInterfaceId": account.interface()["NetworkInterfaceId"]}
    refused("InvalidNetworkInterface.InUse", account.run, NetworkInterfaces=[device], MaxCount=2)


@needs("Subnet.get_available_subnet_ip")
def an_instance_without_a_wish_gets_an_address_that_no_interface_has(account: Account) -> None:
    account.interface(PrivateIpAddress="10.9.0.4")
    assert account.run(SubnetId=account.subnet)["PrivateIpAddress"] == "10.9.0.5"


@needs("Subnet.get_available_subnet_ip", "Subnet.request_ip")
def an_address_of_a_terminated_instance_is_free(account: Account) -> None:
    subnet = account.new_subnet(free=1)
    device = {"DeviceIndex": 0, "SubnetId": subnet, "DeleteOnTermination": True}
    for wish in ({}, {}, {"PrivateIpAddress": "10.9.1.14"}, {"PrivateIpAddress": "10.9.1.14"}):
        instance = account.run(NetworkInterfaces=[{**device, **wish}])
        assert instance["PrivateIpAddress"] == "10.9.1.14"
        account.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
        account.reaches(instance["InstanceId"], "terminated")


@needs("instances.random_private_ip")
def an_instance_without_a_subnet_gets_a_free_address_of_the_default_one(account: Account) -> None:
    made = account.run()
    subnet = account.ec2.describe_subnets(SubnetIds=[made["SubnetId"]])["Subnets"][0]
    assert subnet["DefaultForAz"]
    assert IPv4Address(made["PrivateIpAddress"]) in IPv4Network(subnet["CidrBlock"])


@needs("InstanceResponse.run_instances")
def a_protected_instance_is_terminated_only_when_the_protection_is_lifted(account: Account) -> None:
    instance = account.run(SubnetId=account.subnet, DisableApiTermination=True)["InstanceId"]
    account.reaches(instance, "running")
    refused("OperationNotPermitted", account.ec2.terminate_instances, InstanceIds=[instance])
    assert account.instance(instance)["State"]["Name"] == "running"
    account.ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": False})
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.reaches(instance, "terminated")


@needs("Instance.stop")
def a_stopping_instance_shuts_down(account: Account) -> None:
    instance = account.running()
    account.ec2.stop_instances(InstanceIds=[instance])
    account.reaches(instance, "stopped")
    assert account.machines.calls[-1] == ("shutdown", instance)


@needs("Instance.stop")
def a_terminated_instance_cannot_be_stopped(account: Account) -> None:
    instance = account.running()
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.reaches(instance, "terminated")
    refused("IncorrectInstanceState", account.ec2.stop_instances, InstanceIds=[instance])


@needs("Instance.start")
def a_starting_instance_boots(account: Account) -> None:
    instance = account.running()
    account.ec2.stop_instances(InstanceIds=[instance])
    account.reaches(instance, "stopped")
    account.ec2.start_instances(InstanceIds=[instance])
    account.reaches(instance, "running")
    assert [verb for verb, _ in account.machines.calls] == ["boot", "shutdown", "boot"]


@needs("Instance.start")
def a_terminated_instance_cannot_be_started(account: Account) -> None:
    instance = account.running()
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.reaches(instance, "terminated")
    refused("IncorrectInstanceState", account.ec2.start_instances, InstanceIds=[instance])


@needs("Instance.terminate")
def an_interface_outlives_its_instance(account: Account) -> None:
    eni = account.interface()["NetworkInterfaceId"]
    instance = account.running(eni)
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.reaches(instance, "terminated")
    assert ("delete", instance) in account.machines.calls
    left = account.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    assert left["Status"] == "available"
    assert "Attachment" not in left
    assert account.running(eni)


@needs("Instance.terminate")
def an_interface_that_came_with_its_instance_goes_with_it(account: Account) -> None:
    instance = account.running()
    enis = {eni["NetworkInterfaceId"] for eni in account.instance(instance)["NetworkInterfaces"]}
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.reaches(instance, "terminated")
    left = {eni["NetworkInterfaceId"] for eni in account.ec2.describe_network_interfaces()["NetworkInterfaces"]}
    assert len(enis) == 1
    assert not enis & left
    assert [verb for verb, _ in account.machines.calls] == ["boot", "delete", "changed"]


@needs("Instance.private_ip", "Instance.private_ip_address", "Instance.public_ip", "Instance.public_ip_address")
def a_terminated_instance_is_shown_without_addresses(account: Account) -> None:
    instance = account.running()
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.reaches(instance, "terminated")
    assert "PrivateIpAddress" not in account.instance(instance)


@needs("Instance.reboot")
def a_reboot_reaches_the_machine(account: Account) -> None:
    instance = account.running()
    account.ec2.reboot_instances(InstanceIds=[instance])
    assert account.machines.calls[-1] == ("reboot", instance)


@needs("General.get_console_output")
def the_console_is_the_machines(account: Account) -> None:
    instance = account.running()
    assert account.ec2.get_console_output(InstanceId=instance)["Output"] == f"console of {instance}"


# -- with and without ------------------------------------------------------------------------------------------


def short(name: str) -> str:
    return name.removeprefix("moto.ec2.models.").removeprefix("nat_gateways.")


@pytest.fixture
def open_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Account]]:
    """An account on moto with all corrections but the one that is named; afterwards moto is as it was."""
    monkeypatch.setattr(amis, "AMIS", images.amis())
    monkeypatch.setenv("MOTO_AMIS_PATH", "read already")  # else moto adds its own 1250, for each test
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():

        def make(without: str | None = None) -> Account:
            machines = Machines()
            for correction in corrections(machines):
                if short(correction.name) != without:
                    monkeypatch.setattr(correction.owner, correction.attribute, correction.replacement)
            return Account(machines)

        yield make


@pytest.mark.parametrize("scenario", dict.fromkeys(scenario for _, scenario in CASES), ids=lambda case: case.__name__)
def test_the_region_does_as_aws(scenario: Scenario, open_account: Callable[..., Account]) -> None:
    scenario(open_account())


@pytest.mark.parametrize(("name", "scenario"), CASES, ids=[f"{name}-{scenario.__name__}" for name, scenario in CASES])
def test_moto_still_needs_the_correction(name: str, scenario: Scenario, open_account: Callable[..., Account]) -> None:
    try:
        scenario(open_account(without=name))
    except (Exception, pytest.fail.Exception):
        return
    reason = f"moto does it by itself now ({scenario.__name__}): remove the correction of {name} in localregion/ec2"
    pytest.fail(reason, pytrace=False)


def test_every_correction_has_a_scenario() -> None:
    assert {short(correction.name) for correction in corrections(Machines())} == {name for name, _ in CASES}
