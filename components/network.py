"""The subnet that all machines stand in: one of our own with a NAT gateway, or one that exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import pulumi
import pulumi_aws as aws

from components.tagging import name_tag, own_filters
from resource_types import STACK_TAG
from settings import MachineSettings, SettingsError, topology

ANYWHERE = "0.0.0.0/0"


@dataclass
class NetworkArgs:
    network: topology.Network
    #: Their addresses and the VIP have to be free in a subnet that exists already.
    machines: Sequence[MachineSettings]
    vip: IPv4Address


class Network(pulumi.ComponentResource):
    """A VPC with a private subnet for the machines and a public one for NAT gateway and bastion; or an existing subnet.

    Machines have no public address. They reach package archives and the EC2 API through the NAT gateway (or, in an
    existing subnet, through whatever that subnet's route table has).
    """

    vpc_id: pulumi.Output[str]
    subnet_id: pulumi.Output[str]
    #: The subnet of the NAT gateway, with a route to the internet; None where the machines' subnet existed already.
    public_subnet_id: pulumi.Output[str] | None = None
    #: The machines' route table; None in a subnet that existed already, whose routes are its owner's.
    route_table_id: pulumi.Output[str] | None = None

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:network:Network", name, {}, opts)
        refuse_changed_addresses(args.machines)
        if args.network.subnet_id:
            self._adopt(args)
        else:
            self._create(name, args.network)
        self.register_outputs({"vpcId": self.vpc_id, "subnetId": self.subnet_id})

    def _create(self, name: str, network: topology.Network) -> None:
        child = pulumi.ResourceOptions(parent=self)
        zone = f"{aws.get_region().region}{network.availability_zone}"
        vpc = aws.ec2.Vpc(f"{name}-vpc", cidr_block=str(network.vpc_cidr), enable_dns_hostnames=True, opts=child)
        gateway = aws.ec2.InternetGateway(f"{name}-internet", vpc_id=vpc.id, opts=child)

        public = aws.ec2.Subnet(
            f"{name}-nat-subnet",
            vpc_id=vpc.id,
            cidr_block=str(network.nat_subnet_cidr),
            availability_zone=zone,
            opts=child,
        )
        public_routes = aws.ec2.RouteTable(f"{name}-nat-routes", vpc_id=vpc.id, opts=child)
        public_route = aws.ec2.Route(
            f"{name}-nat-default-route",
            route_table_id=public_routes.id,
            destination_cidr_block=ANYWHERE,
            gateway_id=gateway.id,
            opts=child,
        )
        public_association = aws.ec2.RouteTableAssociation(
            f"{name}-nat-routes-of-subnet", subnet_id=public.id, route_table_id=public_routes.id, opts=child
        )
        address = aws.ec2.Eip(f"{name}-nat-address", domain="vpc", opts=child)
        nat = aws.ec2.NatGateway(
            f"{name}-nat",
            subnet_id=public.id,
            allocation_id=address.allocation_id,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[public_route, public_association]),
        )

        subnet = aws.ec2.Subnet(
            f"{name}-subnet", vpc_id=vpc.id, cidr_block=str(network.subnet_cidr), availability_zone=zone, opts=child
        )
        routes = aws.ec2.RouteTable(f"{name}-routes", vpc_id=vpc.id, opts=child)
        # Each route is a resource of its own: a table with routes of its own removes those that others add to it,
        # such as the ones of a VPN.
        default = aws.ec2.Route(
            f"{name}-default-route",
            route_table_id=routes.id,
            destination_cidr_block=ANYWHERE,
            nat_gateway_id=nat.id,
            opts=child,
        )
        attached = [
            aws.ec2.Route(
                f"{name}-route-{destination}",
                route_table_id=routes.id,
                destination_cidr_block=str(destination),
                transit_gateway_id=attachment.id if attachment.is_transit_gateway else None,
                vpc_peering_connection_id=None if attachment.is_transit_gateway else attachment.id,
                opts=child,
            )
            for attachment in network.attachments
            for destination in attachment.destinations
        ]
        association = aws.ec2.RouteTableAssociation(
            f"{name}-routes-of-subnet", subnet_id=subnet.id, route_table_id=routes.id, opts=child
        )
        self.vpc_id = vpc.id
        self.route_table_id = routes.id
        ready = [public_association.id, public_route.id]
        self.public_subnet_id = pulumi.Output.all(public.id, *ready).apply(lambda ids: str(ids[0]))
        # Not before its routes: a machine that boots without a way out fails its package installation.
        ready = [association.id, default.id, *(route.id for route in attached)]
        self.subnet_id = pulumi.Output.all(subnet.id, *ready).apply(lambda ids: str(ids[0]))

    def _adopt(self, args: NetworkArgs) -> None:
        network = args.network
        subnet = aws.ec2.get_subnet(id=network.subnet_id)
        if subnet.cidr_block != str(network.subnet_cidr):
            raise SettingsError(
                f"mycat-ha:network.subnetCidr: {network.subnet_id} has {subnet.cidr_block}, not {network.subnet_cidr}"
            )
        addresses = {f"machines[{i}].address": machine.address for i, machine in enumerate(args.machines)}
        refuse_taken_addresses({**addresses, "vip.address": args.vip}, subnet.id)
        self.vpc_id = pulumi.Output.from_input(subnet.vpc_id)
        self.subnet_id = pulumi.Output.from_input(subnet.id)


def refuse_taken_addresses(addresses: Mapping[str, IPv4Address], subnet_id: str) -> None:
    """Raise SettingsError if an address, given by its settings key, is on an interface that this stack did not make."""
    for key, address in addresses.items():
        holder = {"subnet-id": subnet_id, "addresses.private-ip-address": str(address)}
        foreign = _interfaces(holder) - _interfaces({**holder, f"tag:{STACK_TAG}": pulumi.get_stack()})
        if foreign:
            raise SettingsError(
                f"mycat-ha:{key}: {address} is taken by {', '.join(sorted(foreign))}, which is not this stack's; "
                "choose a free address"
            )


def refuse_changed_addresses(machines: Sequence[MachineSettings]) -> None:
    """Raise SettingsError if a machine that exists has another address, or another name, than the settings say.

    An interface keeps the primary address that it was made with, while all files on all machines follow the settings.
    """
    mine = own_filters()
    if not _interfaces(mine):
        return
    for i, machine in enumerate(machines):
        named = _interfaces({**mine, "tag:Name": name_tag(f"{machine.name}-eni")})
        holders = _interfaces({**mine, "addresses.private-ip-address": str(machine.address)})
        if named - holders:
            raise SettingsError(
                f"mycat-ha:machines[{i}].address: {machine.name} exists with another address than {machine.address} "
                f"({', '.join(named)}), and keeps it for life; write that one, or remove the machine, `up`, and add it "
                "again with the new one"
            )
        if holders - named:
            raise SettingsError(
                f"mycat-ha:machines[{i}].name: {machine.address} is the address of another machine of this stack "
                f"({', '.join(holders)}), and a machine keeps its name; write that one, or remove the machine, `up`, "
                f"and add {machine.name}"
            )


def _interfaces(filters: Mapping[str, str]) -> set[str]:
    found = aws.ec2.get_network_interfaces(
        filters=[aws.ec2.GetNetworkInterfacesFilterArgs(name=name, values=[value]) for name, value in filters.items()]
    )
    return set(found.ids)
