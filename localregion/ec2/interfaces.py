"""Network interfaces and their addresses: an address belongs to one interface, and lies in its subnet."""

from collections.abc import Container, Iterator
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces

from localregion.ec2.correction import Correction, refuse

_RESERVED = 4  # of a subnet, by AWS: its first four addresses, and its last one
_create = EC2Backend.create_network_interface
_delete = EC2Backend.delete_network_interface
_get_filter_value = NetworkInterface.get_filter_value


class SubnetFullError(EC2ClientError):  # type: ignore[misc]
    """Fewer addresses of the subnet are free than the call needs."""

    def __init__(self, subnet_id: str) -> None:
        message = "The specified subnet does not have enough free addresses to satisfy the request."
        super().__init__("InsufficientFreeAddressesInSubnet", message)
        self.subnet_id = subnet_id


def corrections() -> list[Correction]:
    return [
        Correction(EC2Backend, "create_network_interface", create_network_interface),
        Correction(EC2Backend, "delete_network_interface", delete_network_interface),
        Correction(EC2Backend, "unassign_private_ip_addresses", unassign_private_ip_addresses),
        Correction(ElasticNetworkInterfaces, "assign_private_ip_addresses", assign_private_ip_addresses),
        Correction(NetworkInterface, "get_filter_value", get_filter_value),
    ]


def create_network_interface(
    self: Any,
    subnet: Any,
    private_ip_address: str | None,
    private_ip_addresses: list[dict[str, Any]] | None = None,
    *args: Any,
    secondary_ips_count: Any = None,
    **kwargs: Any,
) -> Any:
    subnet = self.get_subnet(subnet) if isinstance(subnet, str) else subnet
    listed = {a["PrivateIpAddress"]: str(a.get("Primary", False)).lower() == "true" for a in private_ip_addresses or []}
    if private_ip_address:
        listed[private_ip_address] = True
    for address in listed:
        _check_place(subnet, address)
        if _holder(self, subnet.vpc_id, address):
            refuse("InvalidIPAddress.InUse", f"Address {address} is in use.")
    # moto picks at random, reserved and used addresses included.
    count = int(secondary_ips_count or 0)
    if True not in listed.values():
        first, *chosen = _choose(self, subnet, 1 + count, but=listed)
        listed[first] = True
    else:
        chosen = _choose(self, subnet, count, but=listed)
    addresses = [
        {"Primary": primary, "PrivateIpAddress": address}
        for address, primary in sorted(listed.items(), key=lambda item: not item[1])
    ]
    addresses += [{"Primary": False, "PrivateIpAddress": address} for address in chosen]
    return _create(self, subnet, addresses[0]["PrivateIpAddress"], addresses, *args, **kwargs)


def delete_network_interface(self: Any, eni_id: str) -> None:
    eni = self.get_network_interface(eni_id)
    if eni.instance is not None:
        refuse("InvalidParameterValue", f"Network interface '{eni_id}' is currently in use.")
    _delete(self, eni_id)


def assign_private_ip_addresses(self: Any) -> Any:
    """The action's response. moto's backend is not told of AllowReassignment, so the whole action is replaced."""
    eni_id = self._get_param("NetworkInterfaceId")
    assigned = _assign(
        self.ec2_backend,
        eni_id,
        list(self._get_param("PrivateIpAddresses", [])),
        count=self._get_int_param("SecondaryPrivateIpAddressCount", 0) or 0,
        allow_reassignment=str(self._get_param("AllowReassignment", False)).lower() == "true",
    )
    return ActionResult(
        {
            "NetworkInterfaceId": eni_id,
            "AssignedPrivateIpAddresses": [{"PrivateIpAddress": address} for address in assigned],
            "Return": True,
        }
    )


def unassign_private_ip_addresses(self: Any, eni_id: str, private_ip_address: Any = None) -> Any:
    eni = self.get_network_interface(eni_id)
    held = {a["PrivateIpAddress"] for a in eni.private_ip_addresses}
    for address in private_ip_address or []:
        if address not in held or address == eni.private_ip_address:
            refuse(
                "InvalidParameterValue",
                "Some of the specified addresses are not assigned to interface or are primary addresses",
            )
    eni.private_ip_addresses = [
        a for a in eni.private_ip_addresses if a["PrivateIpAddress"] not in (private_ip_address or [])
    ]
    return eni


def get_filter_value(self: Any, filter_name: str, method_name: str | None = None) -> Any:
    if filter_name == "addresses.private-ip-address":  # moto knows the primary one only
        return [address["PrivateIpAddress"] for address in self.private_ip_addresses]
    return _get_filter_value(self, filter_name, method_name)


def _assign(ec2: Any, eni_id: str, addresses: list[str], *, count: int, allow_reassignment: bool) -> list[str]:
    eni = ec2.get_network_interface(eni_id)
    if addresses and count:
        refuse(
            "InvalidParameterCombination",
            "The parameters privateIpAddresses and secondaryPrivateIpAddressCount cannot be used together",
        )
    own = {a["PrivateIpAddress"] for a in eni.private_ip_addresses}
    denied, sources = [], {}
    for address in addresses:
        _check_place(eni.subnet, address)
        holder = _holder(ec2, eni.vpc_id, address)
        if holder is None or holder is eni:
            continue
        if address == holder.private_ip_address or not allow_reassignment:
            denied.append(address)
        sources[address] = holder
    if denied:
        refuse("InvalidParameterValue", f"[{', '.join(denied)}] assigned, but move is not allowed.")
    for address, holder in sources.items():
        holder.private_ip_addresses = [a for a in holder.private_ip_addresses if a["PrivateIpAddress"] != address]
    addresses += _choose(ec2, eni.subnet, count)
    eni.private_ip_addresses = [
        *eni.private_ip_addresses,
        *({"Primary": False, "PrivateIpAddress": a} for a in addresses if a not in own),
    ]
    return addresses


def _holder(ec2: Any, vpc_id: str, address: str) -> Any | None:
    """The interface that has the address."""
    for eni in ec2.enis.values():
        if eni.vpc_id == vpc_id and any(a["PrivateIpAddress"] == address for a in eni.private_ip_addresses):
            return eni
    return None


def _choose(ec2: Any, subnet: Any, count: int, but: Container[str] = ()) -> list[str]:
    """Free addresses of the subnet, and none of ``but``."""
    chosen = list(islice((a for a in _free_addresses(ec2, subnet) if a not in but), count))
    if len(chosen) < count:
        raise SubnetFullError(subnet.id)
    return chosen


def _free_addresses(ec2: Any, subnet: Any) -> Iterator[str]:
    """Those that EC2 would choose itself: in nobody's use, in no reservation; the lowest first."""
    reservations = [IPv4Network(reservation.cidr) for reservation in subnet._cidr_reservations]
    for candidate in list(IPv4Network(subnet.cidr_block).hosts())[_RESERVED - 1 :]:
        kept = any(candidate in cidr for cidr in reservations)
        if not kept and not _holder(ec2, subnet.vpc_id, str(candidate)):
            yield str(candidate)


def _check_place(subnet: Any, address: str) -> None:
    cidr = IPv4Network(subnet.cidr_block)
    try:
        place = IPv4Address(address)
    except ValueError:
        refuse("InvalidParameterValue", f"invalid value for parameter address: {address}")
        return
    if place not in cidr:
        refuse("InvalidParameterValue", "Address does not fall within the subnet's address range")
    if place in {*(cidr[i] for i in range(_RESERVED)), cidr[-1]}:
        refuse("InvalidParameterValue", "Address is in subnet's reserved address range")
