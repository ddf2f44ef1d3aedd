"""VPCs, NAT gateways, endpoints and reservations in subnets."""

from typing import Any

from moto.ec2.models import EC2Backend, nat_gateways, vpcs
from moto.ec2.responses.subnets import Subnets

from localregion.ec2.correction import Correction, whole

_create_endpoint = EC2Backend.create_vpc_endpoint
_create_nat = EC2Backend.create_nat_gateway
_delete_nat = EC2Backend.delete_nat_gateway
_reserve = Subnets.create_subnet_cidr_reservation


def corrections() -> list[Correction]:
    return [
        Correction(EC2Backend, "create_vpc_endpoint", create_vpc_endpoint),
        Correction(EC2Backend, "create_nat_gateway", create_nat_gateway),
        Correction(EC2Backend, "delete_nat_gateway", delete_nat_gateway),
        # moto gives them any address; without one their interfaces get a free one of the subnet.
        Correction(nat_gateways, "random_private_ip", lambda: None),
        Correction(vpcs, "random_private_ip", lambda: None),
        Correction(Subnets, "create_subnet_cidr_reservation", create_subnet_cidr_reservation),
    ]


def create_vpc_endpoint(self: Any, *arguments: Any, **named: Any) -> Any:
    with whole(self):
        return _create_endpoint(self, *arguments, **named)


def create_nat_gateway(self: Any, *arguments: Any, **named: Any) -> Any:
    """Refused at once in a subnet without a free address; EC2 lets it fail a moment later, with the same code."""
    with whole(self):
        return _create_nat(self, *arguments, **named)


def delete_nat_gateway(self: Any, nat_gateway_id: str) -> Any:
    """With its interface and without its address, which moto leaves behind and in use."""
    nat = _delete_nat(self, nat_gateway_id)
    for eip in self.addresses:
        if eip.eni is nat._eni:
            eip.eni = eip.association_id = eip.instance = None
    self.enis.pop(nat._eni.id, None)
    return nat


def create_subnet_cidr_reservation(self: Any) -> Any:
    """With its description, which moto forgets."""
    result = _reserve(self)
    result.result["SubnetCidrReservation"].description = self._get_param("Description")
    return result
