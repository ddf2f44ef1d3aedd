"""The state that the EC2 API describes, and that machines and network have to be in.

The API side (:mod:`localregion.ec2`) describes the region as plain values; the
network side (:mod:`localregion.network`) and the machine side
(:mod:`localregion.machine`) make the kernel match them. Neither knows the other.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network


@dataclass(frozen=True)
class Rule:
    """One security group rule. ``protocol`` is ``-1``, ``tcp``, ``udp``, ``icmp`` or an IANA protocol number."""

    protocol: str
    from_port: int | None = None  # ICMP: the type, -1 for all
    to_port: int | None = None  # ICMP: the code, -1 for all
    cidrs: tuple[IPv4Network, ...] = ()
    groups: tuple[str, ...] = ()  # ids of referenced security groups: every address of their members' ENIs


@dataclass(frozen=True)
class SecurityGroup:
    id: str
    ingress: tuple[Rule, ...]
    egress: tuple[Rule, ...]


@dataclass(frozen=True)
class Vpc:
    id: str
    cidr: IPv4Network

    @property
    def resolver(self) -> IPv4Address:
        """The name resolver, at the base address plus two, as on AWS."""
        return self.cidr.network_address + 2


@dataclass(frozen=True)
class Subnet:
    id: str
    vpc_id: str
    cidr: IPv4Network
    #: Its route table has 0.0.0.0/0 to the VPC's internet gateway: who has a public address is on the internet with it.
    internet: bool = False
    #: Its route table has 0.0.0.0/0 to a NAT gateway with this public address: everybody gets out, and is seen as that.
    #: Without either nobody gets out; the region's own services are outside too.
    nat: IPv4Address | None = None

    @property
    def router(self) -> IPv4Address:
        """The VPC router: the first host address of the subnet, as on AWS."""
        return self.cidr.network_address + 1


@dataclass(frozen=True)
class Eni:
    id: str
    mac: str
    subnet_id: str
    primary: IPv4Address
    addresses: frozenset[IPv4Address]  # the primary one included
    groups: tuple[str, ...]
    source_dest_check: bool = True
    public: IPv4Address | None = None  # of the primary address (EIP or assigned); only with an internet gateway
    instance_id: str | None = None  # None: attached to nothing, reachable nowhere but for an endpoint's
    #: Of a VPC endpoint of the EC2 API: the names that lead to it in its VPC.
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The whole network that the API describes at one moment."""

    vpcs: tuple[Vpc, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    enis: tuple[Eni, ...] = ()
    groups: tuple[SecurityGroup, ...] = ()


@dataclass(frozen=True)
class MachineSpec:
    """What a machine needs to boot; the rest it gets from the metadata service."""

    id: str  # i-...
    eni: Eni
    subnet: Subnet
    suite: str  # Debian's name for what its AMI has, such as bookworm
