"""EC2 on moto, with moto's leniencies corrected around it.

Only what this project depends on is made strict; everything else is moto's. Error codes and messages are AWS's (EC2
API Reference, "Error codes"; messages as observed by users of the real service).
"""

import json
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Protocol

from localregion.model import Eni, Layout, Rule, SecurityGroup, Subnet, Vpc

ACCOUNT = "123456789012"
DEBIAN_OWNER = "136693071363"
_ARCHITECTURE = {"x86_64": ("x86_64", "amd64"), "aarch64": ("arm64", "arm64")}


class Hypervisor(Protocol):
    """What instances need of the machines' side; every call returns when it has happened."""

    def boot(self, instance_id: str) -> None: ...
    def shutdown(self, instance_id: str) -> None: ...
    def reboot(self, instance_id: str) -> None: ...
    def delete(self, instance_id: str) -> None: ...
    def console(self, instance_id: str) -> str: ...
    def changed(self) -> None:
        """The network has to follow a change that happened outside of a request."""


def write_amis(path: Path) -> None:
    """The one image that there is, as moto wants it in the file that MOTO_AMIS_PATH names."""
    architecture, debian = _ARCHITECTURE[platform.machine()]
    path.write_text(
        json.dumps(
            [
                {
                    "ami_id": "ami-0deb1a12deb1a12de",
                    "name": f"debian-12-{debian}-20250520-2118",
                    "description": "Debian 12 (20250520-2118), as the local region boots it",
                    "owner_id": DEBIAN_OWNER,
                    "public": True,
                    "virtualization_type": "hvm",
                    "architecture": architecture,
                    "state": "available",
                    "creation_date": "2025-05-20T21:19:00.000Z",
                    "platform": None,
                    "image_type": "machine",
                    "image_location": f"amazon/debian-12-{debian}-20250520-2118",
                    "hypervisor": "xen",
                    "root_device_type": "ebs",
                    "root_device_name": "/dev/xvda",
                    "sriov": "simple",
                }
            ]
        )
    )


def install(hypervisor: Hypervisor) -> None:
    """Correct moto's classes in place. Called once, before the first request; moto is imported here, not before."""
    from moto.ec2 import models

    _correct_interfaces(models)
    _correct_rules()
    _correct_instances(hypervisor)
    _correct_vpcs()


def backend(region: str) -> Any:
    from moto.ec2.models import ec2_backends

    return ec2_backends[ACCOUNT][region]


def _refuse(code: str, message: str) -> None:
    from moto.ec2.exceptions import EC2ClientError

    raise EC2ClientError(code, message)


# -- network interfaces ------------------------------------------------------------------------------------


def _holder(ec2: Any, vpc_id: str, address: str) -> Any | None:
    for eni in ec2.enis.values():
        if eni.vpc_id == vpc_id and any(a["PrivateIpAddress"] == address for a in eni.private_ip_addresses):
            return eni
    return None


def _check_place(subnet: Any, address: str) -> None:
    cidr = IPv4Network(subnet.cidr_block)
    try:
        place = IPv4Address(address)
    except ValueError:
        _refuse("InvalidParameterValue", f"invalid value for parameter address: {address}")
        return
    if place not in cidr:
        _refuse("InvalidParameterValue", "Address does not fall within the subnet's address range")
    if place in {*(cidr[i] for i in range(4)), cidr[-1]}:
        _refuse("InvalidParameterValue", "Address is in subnet's reserved address range")


def _correct_interfaces(models: Any) -> None:
    from moto.core.responses import ActionResult
    from moto.ec2.models import elastic_network_interfaces as model
    from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces

    ec2_class = models.EC2Backend
    create, delete = ec2_class.create_network_interface, ec2_class.delete_network_interface

    def create_network_interface(
        self: Any, subnet: Any, private_ip_address: Any, private_ip_addresses: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        subnet = self.get_subnet(subnet) if isinstance(subnet, str) else subnet
        wanted = [private_ip_address] if isinstance(private_ip_address, str) and private_ip_address else []
        wanted += [a if isinstance(a, str) else a["PrivateIpAddress"] for a in private_ip_addresses or []]
        for address in wanted:
            _check_place(subnet, address)
            if _holder(self, subnet.vpc_id, address):
                _refuse("InvalidIPAddress.InUse", f"Address {address} is in use.")
        if not wanted:
            # moto picks at random, reserved and used addresses included.
            reserved = [IPv4Network(r.cidr) for r in subnet._cidr_reservations]
            for candidate in list(IPv4Network(subnet.cidr_block).hosts())[3:]:
                kept = any(candidate in cidr for cidr in reserved)
                if not kept and not _holder(self, subnet.vpc_id, str(candidate)):
                    private_ip_address = str(candidate)
                    break
        for address in private_ip_addresses or []:
            if isinstance(address, dict):
                address["Primary"] = str(address.get("Primary", False)).lower() == "true"
        return create(self, subnet, private_ip_address, private_ip_addresses, *args, **kwargs)

    def delete_network_interface(self: Any, eni_id: str) -> None:
        eni = self.get_network_interface(eni_id)
        if eni.instance is not None:
            _refuse("InvalidParameterValue", f"Network interface '{eni_id}' is currently in use.")
        delete(self, eni_id)

    def assign(self: Any, eni_id: str, addresses: list[str], *, count: int, allow_reassignment: bool) -> list[str]:
        eni = self.get_network_interface(eni_id)
        if addresses and count:
            _refuse(
                "InvalidParameterCombination",
                "The parameters privateIpAddresses and secondaryPrivateIpAddressCount cannot be used together",
            )
        own = {a["PrivateIpAddress"] for a in eni.private_ip_addresses}
        denied, sources = [], {}
        for address in addresses:
            _check_place(eni.subnet, address)
            holder = _holder(self, eni.vpc_id, address)
            if holder is None or holder is eni:
                continue
            if address == holder.private_ip_address or not allow_reassignment:
                denied.append(address)
            sources[address] = holder
        if denied:
            _refuse("InvalidParameterValue", f"[{', '.join(denied)}] assigned, but move is not allowed.")
        for address, holder in sources.items():
            holder.private_ip_addresses = [a for a in holder.private_ip_addresses if a["PrivateIpAddress"] != address]
        candidates = (str(a) for a in list(IPv4Network(eni.subnet.cidr_block).hosts())[3:])
        while count > 0:
            address = next(candidates)
            if not _holder(self, eni.vpc_id, address):
                addresses.append(address)
                count -= 1
        eni.private_ip_addresses = [
            *eni.private_ip_addresses,
            *({"Primary": False, "PrivateIpAddress": a} for a in addresses if a not in own),
        ]
        return addresses

    def assign_response(self: Any) -> Any:
        eni_id = self._get_param("NetworkInterfaceId")
        assigned = assign(
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
                _refuse(
                    "InvalidParameterValue",
                    "Some of the specified addresses are not assigned to interface or are primary addresses",
                )
        eni.private_ip_addresses = [
            a for a in eni.private_ip_addresses if a["PrivateIpAddress"] not in (private_ip_address or [])
        ]
        return eni

    original_filter = model.NetworkInterface.get_filter_value

    def get_filter_value(self: Any, filter_name: str, method_name: str | None = None) -> Any:
        if filter_name == "addresses.private-ip-address":  # moto knows the primary one only
            return [address["PrivateIpAddress"] for address in self.private_ip_addresses]
        if filter_name == "mac-address":
            return self.mac_address
        if filter_name == "status":
            return self.status
        return original_filter(self, filter_name, method_name)

    ec2_class.create_network_interface = create_network_interface
    ec2_class.delete_network_interface = delete_network_interface
    ec2_class.unassign_private_ip_addresses = unassign_private_ip_addresses
    ElasticNetworkInterfaces.assign_private_ip_addresses = assign_response
    model.NetworkInterface.get_filter_value = get_filter_value


# -- security groups ---------------------------------------------------------------------------------------


def _correct_rules() -> None:
    from moto.ec2.models import EC2Backend
    from moto.ec2.models import security_groups as model

    initialise = model.SecurityGroupRule.__init__
    delete = EC2Backend.delete_security_group

    def create_rule(
        self: Any, ec2: Any, ip_protocol: str, group_id: str, from_port: Any, to_port: Any, *rest: Any, **kw: Any
    ) -> None:
        """Protocols other than TCP, UDP and ICMP have no ports; EC2 ignores those that are given."""
        numbered = str(ip_protocol).isdigit() and str(ip_protocol) not in {"1", "6", "17", "58"}
        if numbered:
            from_port = to_port = -1
        elif str(ip_protocol) != "-1" and (from_port is None or to_port is None):
            _refuse("MissingParameter", "The request must contain the parameter fromPort and toPort")
        initialise(self, ec2, ip_protocol, group_id, from_port, to_port, *rest, **kw)
        if numbered:
            self.from_port = self.to_port = None

    def description(self: Any) -> Any:
        return self.ip_range.get("Description") or self.source_group.get("Description")

    def delete_security_group(self: Any, name: str | None = None, group_id: str | None = None) -> None:
        for eni in self.enis.values():
            if group_id in {group.id for group in eni._group_set}:
                _refuse("DependencyViolation", f"resource {group_id} has a dependent object")
        for groups in self.groups.values():
            for group in groups.values():
                for rule in [*group.ingress_rules, *group.egress_rules]:
                    if group.id != group_id and rule.source_group.get("GroupId") == group_id:
                        _refuse("DependencyViolation", f"resource {group_id} has a dependent object")
        delete(self, name, group_id)

    model.SecurityGroupRule.__init__ = create_rule
    model.SecurityGroupRule.description = property(description)
    EC2Backend.delete_security_group = delete_security_group


# -- VPCs --------------------------------------------------------------------------------------------------


def _correct_vpcs() -> None:
    from moto.ec2.models import (
        EC2Backend,
        nat_gateways,
    )
    from moto.ec2.responses.subnets import Subnets

    create, delete_nat = EC2Backend.create_vpc, EC2Backend.delete_nat_gateway

    def delete_nat_gateway(self: Any, nat_gateway_id: str) -> Any:
        """With its interface and without its address, which moto leaves behind and in use."""
        nat = delete_nat(self, nat_gateway_id)
        for eip in self.addresses:
            if eip.eni is nat._eni:
                eip.eni = eip.association_id = eip.instance = None
        self.enis.pop(nat._eni.id, None)
        return nat

    def create_vpc(self: Any, cidr_block: str, *args: Any, **kwargs: Any) -> Any:
        with suppress(ValueError):
            for vpc in self.vpcs.values():
                if IPv4Network(cidr_block, strict=False).overlaps(IPv4Network(vpc.cidr_block)):
                    _refuse(
                        "VpcLimitExceeded",
                        f"{cidr_block} overlaps with {vpc.id} ({vpc.cidr_block}): in the local region, unlike on AWS, "
                        "all VPCs are reached from one machine and need ranges of their own",
                    )
        return create(self, cidr_block, *args, **kwargs)

    reserve = Subnets.create_subnet_cidr_reservation

    def create_subnet_cidr_reservation(self: Any) -> Any:
        """With its description, which moto forgets."""
        result = reserve(self)
        result.result["SubnetCidrReservation"].description = self._get_param("Description")
        return result

    Subnets.create_subnet_cidr_reservation = create_subnet_cidr_reservation
    # moto gives a NAT gateway an address out of nowhere; without one its interface gets a free one of the subnet.
    nat_gateways.random_private_ip = lambda: None
    EC2Backend.create_vpc = create_vpc
    EC2Backend.delete_nat_gateway = delete_nat_gateway


# -- instances ---------------------------------------------------------------------------------------------

_STATES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


def set_state(instance: Any, name: str) -> None:
    instance._state.name, instance._state.code = name, _STATES[name]


def _correct_instances(hypervisor: Hypervisor) -> None:
    from moto.core.responses import ActionResult
    from moto.core.utils import utcnow
    from moto.ec2.models import EC2Backend
    from moto.ec2.models import instances as model
    from moto.ec2.responses.general import General
    from moto.ec2.utils import Base64EncodedString

    run = EC2Backend.run_instances
    instance_class = model.Instance
    start, stop, terminate = instance_class.start, instance_class.stop, instance_class.terminate

    def later(work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()

    def boot(instance: Any) -> None:
        try:
            hypervisor.boot(instance.id)
        except Exception as error:
            set_state(instance, "stopped")
            instance._reason = f"Server.InternalError: {error}"
            raise
        set_state(instance, "running")

    def run_instances(self: Any, image_id: str, *args: Any, **kwargs: Any) -> Any:
        if not self.describe_images(ami_ids=[image_id]):
            _refuse("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
        if kwargs.get("key_name") and kwargs["key_name"] not in self.key_pairs:
            _refuse("InvalidKeyPair.NotFound", f"The key pair '{kwargs['key_name']}' does not exist")
        for nic in kwargs.get("nics") or []:
            if nic.get("NetworkInterfaceId"):
                eni = self.get_network_interface(nic["NetworkInterfaceId"])
                if eni.instance is not None:
                    _refuse("InvalidNetworkInterface.InUse", f"Interface: [{eni.id}] in use.")
        reservation = run(self, image_id, *args, **kwargs)
        for instance in reservation.instances:
            set_state(instance, "pending")
            instance._placement.zone = instance.nics[0].subnet.availability_zone
            later(lambda instance=instance: boot(instance))  # type: ignore[misc]
        return reservation

    def start_instance(self: Any) -> Any:
        if self._state.name not in {"stopped", "running"}:
            _refuse(
                "IncorrectInstanceState",
                f"The instance '{self.id}' is not in a state from which it can be started.",
            )
        if self._state.name == "running":
            return model.InstanceState("running", 16)
        previous = start(self)
        set_state(self, "pending")
        later(lambda: boot(self))
        return previous

    def stop_instance(self: Any) -> Any:
        if self._state.name in {"terminated", "shutting-down"}:
            _refuse(
                "IncorrectInstanceState", f"This instance '{self.id}' is not in a state from which it can be stopped."
            )
        if self._state.name == "stopped":
            return model.InstanceState("stopped", 80)
        previous = stop(self)
        set_state(self, "stopping")

        def work() -> None:
            hypervisor.shutdown(self.id)
            set_state(self, "stopped")

        later(work)
        return previous

    def terminate_instance(self: Any) -> Any:
        if self._state.name in {"terminated", "shutting-down"}:
            return model.InstanceState(self._state.name, self._state.code)
        interfaces = list(self.nics.values())
        doomed = [eni for eni in interfaces if eni.delete_on_termination]
        for eni in doomed:
            eni.delete_on_termination = False  # moto would delete it before the machine is gone
        previous = terminate(self)
        set_state(self, "shutting-down")

        def work() -> None:
            hypervisor.delete(self.id)
            for eni in interfaces:
                if eni.instance is self:
                    self.detach_eni(eni)
            for eni in doomed:
                self.ec2_backend.delete_network_interface(eni.id)
            set_state(self, "terminated")
            hypervisor.changed()

        later(work)
        return previous

    def reboot_instance(self: Any) -> None:
        hypervisor.reboot(self.id)

    def console(self: Any) -> Any:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        text = hypervisor.console(instance.id)[-65536:]
        return ActionResult(
            {
                "InstanceId": instance.id,
                "Timestamp": utcnow(),
                "Output": Base64EncodedString.from_raw_string(text),
            }
        )

    def first(attribute: str, otherwise: Any = None) -> property:
        """Of the first interface; a terminated instance has none any more."""
        return property(lambda self: getattr(self.nics[0], attribute) if 0 in self.nics else otherwise)

    for name in ("private_ip", "private_ip_address"):
        setattr(instance_class, name, first("private_ip_address"))
    for name in ("public_ip", "public_ip_address"):
        setattr(instance_class, name, first("public_ip"))

    def private_dns_name(self: Any) -> str:
        return f"ip-{self.private_ip.replace('.', '-')}.{self.region_name}.compute.internal" if self.private_ip else ""

    instance_class.private_dns_name = property(private_dns_name)
    instance_class.start = start_instance
    instance_class.stop = stop_instance
    instance_class.terminate = terminate_instance
    instance_class.reboot = reboot_instance
    EC2Backend.run_instances = run_instances
    General.get_console_output = console


# -- what the network has to look like ---------------------------------------------------------------------


def layout(ec2: Any) -> Layout:
    """The network as the API describes it at this moment."""
    vpcs = tuple(Vpc(vpc.id, IPv4Network(vpc.cidr_block)) for vpc in ec2.vpcs.values())
    subnets = tuple(
        Subnet(subnet.id, subnet.vpc_id, IPv4Network(subnet.cidr_block), _default_route(ec2, subnet))
        for zone in ec2.subnets.values()
        for subnet in zone.values()
    )
    enis = tuple(
        Eni(
            id=eni.id,
            mac=eni.mac_address,
            subnet_id=eni.subnet.id,
            primary=IPv4Address(eni.private_ip_address),
            addresses=frozenset(IPv4Address(a["PrivateIpAddress"]) for a in eni.private_ip_addresses),
            groups=tuple(sorted(group.id for group in eni.group_set)),
            source_dest_check=str(eni.source_dest_check).lower() == "true",
            public=bool(eni.public_ip),
            instance_id=eni.instance.id if eni.instance else None,
        )
        for eni in list(ec2.enis.values())
    )
    groups = tuple(
        SecurityGroup(group.id, tuple(_rules(group.ingress_rules)), tuple(_rules(group.egress_rules)))
        for vpc_groups in ec2.groups.values()
        for group in list(vpc_groups.values())
    )
    return Layout(vpcs, subnets, enis, groups)


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


def _default_route(ec2: Any, subnet: Any) -> str | None:
    tables = [table for table in ec2.route_tables.values() if table.vpc_id == subnet.vpc_id]
    own = [table for table in tables if subnet.id in table._associations.values()]
    main = [table for table in tables if table.main_association_id]
    for table in own or main:
        for route in table.routes:
            if route.destination_cidr_block == "0.0.0.0/0":
                if route.nat_gateway is not None:
                    return "nat" if route.nat_gateway.state == "available" else None
                if route.gateway is not None:
                    return "igw"
    return None
