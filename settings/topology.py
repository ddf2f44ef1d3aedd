"""Machines, the subnet they stand in, and who may talk to them."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from settings.base import IPv4Address, IPv4Network, Name, Port, Seconds, Section, Url


class Role(StrEnum):
    LB = "lb"
    MYCAT = "mycat"
    MYSQL = "mysql"
    WEB = "web"


class Network(Section):
    """The subnet of all machines: created in a VPC of its own (``vpcCidr``), or an existing one (``subnetId``)."""

    subnet_cidr: IPv4Network
    vpc_cidr: IPv4Network | None = None
    #: The public subnet of the NAT gateway through which machines reach package archives and the EC2 API.
    nat_subnet_cidr: IPv4Network | None = None
    #: Letter of the availability zone in the stack's region. A secondary address cannot leave its zone.
    availability_zone: Annotated[str, StringConstraints(pattern=r"^[a-z]$")] = "a"
    subnet_id: Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]+$")] | None = None

    @model_validator(mode="after")
    def _created_or_adopted(self) -> Self:
        if self.subnet_id is not None:
            if self.vpc_cidr or self.nat_subnet_cidr:
                raise ValueError("subnetId adopts an existing subnet: leave out vpcCidr and natSubnetCidr")
            return self
        if self.vpc_cidr is None or self.nat_subnet_cidr is None:
            raise ValueError("give vpcCidr and natSubnetCidr to create a VPC, or subnetId to use an existing subnet")
        for key, cidr in (("subnetCidr", self.subnet_cidr), ("natSubnetCidr", self.nat_subnet_cidr)):
            if not cidr.subnet_of(self.vpc_cidr):
                raise ValueError(f"{key} {cidr} is not inside vpcCidr {self.vpc_cidr}")
            if not 16 <= cidr.prefixlen <= 28:
                raise ValueError(f"{key} {cidr}: AWS allows subnets from /16 to /28")
        if self.subnet_cidr.overlaps(self.nat_subnet_cidr):
            raise ValueError(f"subnetCidr {self.subnet_cidr} and natSubnetCidr {self.nat_subnet_cidr} overlap")
        return self

    def refusal(self, address: IPv4Address) -> str | None:
        """Why ``address`` cannot be given to a network interface of the subnet, or None if it can.

        AWS keeps the first four addresses and the last one of every subnet (VPC User Guide, "Subnet sizing").
        """
        cidr = self.subnet_cidr
        if address not in cidr:
            return f"{address} is not in the subnet {cidr}"
        if address in {*(cidr[i] for i in range(4)), cidr[-1]}:
            return f"{address} is one of the five addresses that AWS reserves in {cidr}"
        return None


class MachineSettings(Section):
    name: Name
    address: IPv4Address
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    #: VRRP priority of a load balancer; the default counts down from 150 in steps of 50, 100, 50 as in the seed.
    priority: Annotated[int, Field(ge=1, le=254)] | None = None
    instance_type: str | None = None


class Image(Section):
    """The AMI, looked up by owner and name; the newest one wins when the stack is created."""

    owner: Annotated[str, StringConstraints(pattern=r"^(\d{12}|amazon|self)$")] = "136693071363"
    name: str = "debian-12-amd64-*"
    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]*$")] = "admin"


class Instances(Section):
    """What all machines have in common."""

    image: Image = Image()
    instance_type: str = "t3.small"
    volume_gib: Annotated[int, Field(ge=8, le=16384)] = 20
    #: How long a new machine may take until it answers over SSH.
    boot_timeout: Seconds = 600


class Bastion(Section):
    host: str
    port: Port = 22
    user: str = "admin"
    host_key: str | None = None
    #: The bastion's address as the machines see it.
    address: IPv4Address


Ranges = Annotated[tuple[IPv4Network, ...], Field(min_length=1)]


class Access(Section):
    """Who may reach what. Ranges in CIDR notation, as the machines see them."""

    clients: Ranges
    administrators: Ranges
    #: From where `pulumi up` connects over SSH; a bastion's own address comes on top of it.
    deployer: tuple[IPv4Network, ...] = ()
    bastion: Bastion | None = None
    ssh_public_key: Annotated[str, StringConstraints(pattern=r"^(ssh-|ecdsa-)\S+ \S+")]

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if not self.deployer and self.bastion is None:
            raise ValueError("give deployer ranges or a bastion: without either nothing can configure the machines")
        for key in ("clients", "administrators", "deployer"):
            if any(cidr.prefixlen == 0 for cidr in getattr(self, key)):
                raise ValueError(f"{key}: 0.0.0.0/0 would open the port to everybody; name the ranges that need it")
        return self


class VirtualIp(Section):
    address: IPv4Address
    #: The EC2 API as the load balancers reach it, e.g. a VPC endpoint. Default: the deployer's own
    #: AWS_ENDPOINT_URL_EC2 or AWS_ENDPOINT_URL, else https://ec2.REGION.amazonaws.com.
    ec2_endpoint: Url | None = None
    #: How often each balancer checks that the network and VRRP agree (seconds).
    reconcile_interval: Seconds = 15
