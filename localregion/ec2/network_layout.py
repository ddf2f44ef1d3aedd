"""The network that the API describes, as values that :mod:`localregion.network` understands."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from localregion.model import Eni, Layout, Rule, SecurityGroup, Subnet, Vpc
from localregion.partition import partition


def layout(ec2: Any) -> Layout:
    """The network as the API describes it at this moment."""
    vpcs = tuple(Vpc(vpc.id, IPv4Network(vpc.cidr_block)) for vpc in ec2.vpcs.values())
    elastic = {address.eni.id: address.public_ip for address in list(ec2.addresses) if address.eni}
    subnets = tuple(
        Subnet(
            subnet.id,
            subnet.vpc_id,
            IPv4Network(subnet.cidr_block),
            internet=_has_internet(ec2, subnet),
            nat=_nat_address(ec2, subnet, elastic),
        )
        for zone in ec2.subnets.values()
        for subnet in zone.values()
    )
    endpoints = {
        eni: endpoint for endpoint in list(ec2.vpc_end_points.values()) for eni in endpoint.network_interface_ids
    }
    enis = tuple(
        Eni(
            id=eni.id,
            mac=eni.mac_address,
            subnet_id=eni.subnet.id,
            primary=IPv4Address(eni.private_ip_address),
            addresses=frozenset(IPv4Address(a["PrivateIpAddress"]) for a in eni.private_ip_addresses),
            # moto does not give an endpoint's groups to its interface.
            groups=tuple(sorted(endpoints[eni.id].security_group_ids if eni.id in endpoints else _groups(eni))),
            source_dest_check=str(eni.source_dest_check).lower() == "true",
            public=_public_address(ec2, eni, elastic),
            instance_id=eni.instance.id if eni.instance else None,
            names=_names(ec2, endpoints[eni.id]) if eni.id in endpoints else (),
        )
        for eni in list(ec2.enis.values())
    )
    groups = tuple(
        SecurityGroup(group.id, tuple(_rules(group.ingress_rules)), tuple(_rules(group.egress_rules)))
        for vpc_groups in ec2.groups.values()
        for group in list(vpc_groups.values())
    )
    return Layout(vpcs, subnets, enis, groups)


def _groups(eni: Any) -> list[str]:
    return [group.id for group in eni.group_set]


def _names(ec2: Any, endpoint: Any) -> tuple[str, ...]:
    """Of the EC2 API's endpoint: its private name in the VPC, if it has that. Others answer nothing here."""
    if endpoint.service_name.rpartition(".")[2] != "ec2" or not endpoint.private_dns_enabled:
        return ()
    return (api_name(ec2.region_name),)


def api_name(region: str) -> str:
    """The EC2 API's host name (AWS General Reference, "Amazon EC2 endpoints and quotas")."""
    return f"ec2.{region}.{partition(region).domain}"


def _rules(rules: Any) -> Iterator[Rule]:
    for rule in rules:
        cidr = rule.ip_range.get("CidrIp")
        group = rule.source_group.get("GroupId")
        if cidr or group:
            yield Rule(
                protocol=rule.ip_protocol,
                from_port=rule.from_port,
                to_port=rule.to_port,
                cidrs=(IPv4Network(cidr, strict=False),) if cidr else (),
                groups=(group,) if group else (),
            )


def _public_address(ec2: Any, eni: Any, elastic: Mapping[str, str]) -> IPv4Address | None:
    """An Elastic IP, or one that came with the instance; moto leaves the former on an interface that it has left."""
    if eni.id in elastic:
        return IPv4Address(elastic[eni.id])
    assigned = eni.public_ip and not any(address.public_ip == eni.public_ip for address in list(ec2.addresses))
    return IPv4Address(eni.public_ip) if assigned else None


def _has_internet(ec2: Any, subnet: Any) -> bool:
    route = _default_route(ec2, subnet)
    gateway = route.gateway if route else None
    attached = getattr(gateway, "vpc", None)
    return attached is not None and attached.id == subnet.vpc_id


def _nat_address(ec2: Any, subnet: Any, elastic: Mapping[str, str]) -> IPv4Address | None:
    """Of the NAT gateway that the subnet's route leads to; it needs a way to the internet itself."""
    route = _default_route(ec2, subnet)
    nat = route.nat_gateway if route else None
    if nat is None or nat.state != "available" or nat._eni.id not in elastic:
        return None
    return IPv4Address(elastic[nat._eni.id]) if _has_internet(ec2, nat._eni.subnet) else None


def _default_route(ec2: Any, subnet: Any) -> Any | None:
    tables = [table for table in ec2.route_tables.values() if table.vpc_id == subnet.vpc_id]
    own = [table for table in tables if subnet.id in table._associations.values()]
    main = [table for table in tables if table.main_association_id]
    routes = (route for table in own or main for route in table.routes)
    return next((route for route in routes if route.destination_cidr_block == "0.0.0.0/0"), None)
