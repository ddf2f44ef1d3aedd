"""Machines, the subnet they stand in, and who may talk to them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from constants import LONGEST_DRAIN
from settings.base import IPv4Address, IPv4Network, Name, PolicyArn, Port, Seconds, Section, Url


class Role(StrEnum):
    """What a machine does: load balancer, Mycat, database, or web server (which is the user's to set up)."""

    LB = "lb"
    MYCAT = "mycat"
    MYSQL = "mysql"
    WEB = "web"


Ranges = Annotated[tuple[IPv4Network, ...], Field(min_length=1)]


class Attachment(Section):
    """A network elsewhere to which the VPC is connected, by a transit gateway or a peering."""

    id: Annotated[str, StringConstraints(pattern=r"^(tgw|pcx)-[0-9a-f]+$")]
    """The transit gateway (`tgw-...`), to which the VPC has been attached, or the peering connection (`pcx-...`), which
    the other side has accepted. Both are made outside of this project; the machines' subnet gets a route."""
    destinations: Ranges
    """The ranges that are reached through it."""

    @property
    def is_transit_gateway(self) -> bool:
        return self.id.startswith("tgw-")


class Network(Section):
    """The subnet of all machines: created in a VPC of its own (`vpcCidr`), or an existing one (`subnetId`)."""

    subnet_cidr: IPv4Network
    """The range of the subnet of all machines and of the VIP, from /16 to /28. AWS keeps its first four addresses and
    its last one."""
    vpc_cidr: IPv4Network | None = None
    """The range of the VPC to create. Not with `subnetId`."""
    nat_subnet_cidr: IPv4Network | None = None
    """The public subnet of the NAT gateway through which machines reach package archives and the EC2 API, inside
    `vpcCidr`. Not with `subnetId`."""
    availability_zone: Annotated[str, StringConstraints(pattern=r"^[a-z]$")] = "a"
    """Letter of the availability zone in the stack's region. A secondary address, so the VIP, cannot leave its zone."""
    subnet_id: Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]+$")] | None = None
    """An existing subnet to use. Its route table must lead to package archives and to the EC2 API. Default: one is
    created in a VPC of its own."""
    ec2_endpoint: bool = False
    """Whether to create an interface endpoint of the EC2 API in the subnet, so that a failover needs no NAT gateway.
    AWS charges for it by the hour. The API's own name leads to it in the whole VPC, so it is not for an existing one
    (`subnetId`): have its owner make an endpoint, and name it in `vip.ec2Endpoint`."""
    attachments: tuple[Attachment, ...] = ()
    """Networks elsewhere that the machines' subnet has routes to. Routes that others add to its route table stay as
    they are. Not with `subnetId`."""

    @model_validator(mode="after")
    def _created_or_adopted(self) -> Self:
        if self.subnet_id is not None:
            if self.ec2_endpoint:
                raise ValueError(
                    "ec2Endpoint: would lead the EC2 API's name elsewhere for everybody in the VPC of subnetId; "
                    "have its owner make an endpoint, and name it in vip.ec2Endpoint"
                )
            if self.attachments:
                raise ValueError("attachments: the routes of an existing subnet (subnetId) belong to its owner")
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
        destinations = [range_ for attachment in self.attachments for range_ in attachment.destinations]
        for index, destination in enumerate(destinations):
            if destination.prefixlen == 0:
                raise ValueError("attachments: 0.0.0.0/0 is the NAT gateway's route; name the ranges elsewhere")
            if destination.overlaps(self.vpc_cidr):
                raise ValueError(f"attachments: {destination} overlaps with vpcCidr {self.vpc_cidr}, which is local")
            if destination in destinations[:index]:
                raise ValueError(f"attachments: {destination} is named twice; a range has one route")
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
    """A machine: an EC2 instance with a network interface of its own, which keeps its address when it is replaced."""

    name: Name
    """Its name in the stack: in other settings, in HAProxy's configuration and in its tag `Name`."""
    address: IPv4Address
    """Its private address, in `network.subnetCidr`."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    """What runs on it."""
    priority: Annotated[int, Field(ge=1, le=254)] | None = None
    """VRRP priority of a load balancer: the highest one that lives holds the VIP first; one that returns does not take
    it back. Default: 150, 100, 90, 80 and so on, in the order of the machines; the first two are the recipe's."""
    instance_type: str | None = None
    """EC2 instance type. Default: `instances.instanceType`."""


class Image(Section):
    """The AMI, looked up by owner and name: the newest one when a machine is created. Running machines stay."""

    owner: Annotated[str, StringConstraints(pattern=r"^(\d{12}|amazon|self)$")] = "136693071363"
    """The account that publishes it, `amazon` or `self`. The default is Debian's outside of China and GovCloud."""
    name: str = "debian-12-amd64-*"
    """Its name, with `*` for what changes from one release to the next."""
    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]*$")] = "admin"
    """The user that the image lets in over SSH, who may use sudo."""


class Instances(Section):
    """What all machines have in common."""

    image: Image = Image()
    """The AMI."""
    instance_type: str = "t3.small"
    """EC2 instance type. The default has 2 vCPU and 2 GiB, which a balancer, a Mycat and a small database fit into."""
    volume_gib: Annotated[int, Field(ge=8, le=16384)] = 20
    """Size of the root volume, in GiB."""
    boot_timeout: Seconds = 300
    """Seconds that a new machine may take until it answers over SSH; EC2 needs less than a minute, bare metal longer.
    After them the deployment fails with the address and the port that it tried; where connections are refused, it does
    so earlier, after two minutes of the default."""


class Bastion(Section):
    """A host through which `pulumi up` connects to the machines: one to create, or one that exists."""

    create: bool = False
    """Whether to create one: a small machine with a public address in the public subnet, which forwards SSH to the
    machines and does nothing else. Needs `cidrs` and `network.vpcCidr`."""
    cidrs: tuple[IPv4Network, ...] = ()
    """From where its SSH port may be opened, as public addresses: your office's, your runners'. Of a created one."""
    open_to_everybody: bool = False
    """Has to be true if `cidrs` has 0.0.0.0/0."""
    instance_type: str = "t3.micro"
    """EC2 instance type of a created one. The default has 1 GiB; each of the commands of one `pulumi up` keeps a
    connection of its own open, which takes about 2 MiB."""
    host: str | None = None
    """Of an existing one: its name or address, as the deployer reaches it."""
    port: Port = 22
    """Its SSH port."""
    user: str = "admin"
    """The user to log in as, with the same key as on the machines. Of a created one it is the image's."""
    host_key: str | None = None
    """Its public host key (`ssh-ed25519 AAAA...`). Without it, whoever answers at `host` is taken for the bastion. A
    created one's is learned at the first connection, and demanded from then on."""
    address: IPv4Address | None = None
    """Its address as the machines see it; they let it in to SSH."""

    @model_validator(mode="after")
    def _created_or_existing(self) -> Self:
        if not self.create:
            for key in ("cidrs", "open_to_everybody", "instance_type"):
                if key in self.model_fields_set:
                    raise ValueError(f"{to_camel(key)}: only of a bastion to create (create: true)")
            if self.host is None or self.address is None:
                raise ValueError("give host and address of an existing bastion, or create: true and cidrs")
            return self
        for key in ("host", "port", "user", "host_key", "address"):
            if key in self.model_fields_set:
                raise ValueError(f"{to_camel(key)}: only of an existing bastion; this one is created (create: true)")
        if not self.cidrs:
            raise ValueError("cidrs: name the ranges from which it is used; nobody could connect to it")
        if not self.open_to_everybody and any(cidr.prefixlen == 0 for cidr in self.cidrs):
            raise ValueError(
                "cidrs: 0.0.0.0/0 opens its SSH port to everybody; name the ranges that need it, "
                "or say so once more with openToEverybody: true"
            )
        return self


class Access(Section):
    """Who may reach what. Ranges in CIDR notation, as the machines see them."""

    clients: Ranges
    """May open the ports of the databases, of Mycat and of HTTP on the VIP."""
    administrators: Ranges
    """May open the statistics pages and the HTTP health check of the load balancers."""
    deployer: tuple[IPv4Network, ...] = ()
    """From where `pulumi up` connects over SSH; an existing bastion's own address is let in besides. Not with a bastion
    that is created, which is then the only way."""
    bastion: Bastion | None = None
    """The way of `pulumi up` to the machines. Default: it connects to them directly."""
    ssh_public_key: Annotated[str, StringConstraints(pattern=r"^(ssh-|ecdsa-)\S+ \S+")]
    """The public half of `secrets.sshPrivateKey`. `stackctl` generates both if both are missing."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if not self.deployer and self.bastion is None:
            raise ValueError("give deployer ranges or a bastion: without either nothing can configure the machines")
        if self.deployer and self.bastion and self.bastion.create:
            raise ValueError(
                "deployer: the created bastion is the only way to the machines; its ranges are bastion.cidrs"
            )
        for key in ("clients", "administrators", "deployer"):
            if any(cidr.prefixlen == 0 for cidr in getattr(self, key)):
                raise ValueError(f"{key}: 0.0.0.0/0 would open the port to everybody; name the ranges that need it")
        return self


class VirtualIp(Section):
    """The virtual IP: a secondary address of the network interface of the load balancer that is VRRP's master."""

    address: IPv4Address
    """The address, in `network.subnetCidr`, of no machine."""
    ec2_endpoint: Url | None = None
    """The EC2 API as the load balancers reach it, for example a VPC interface endpoint. Default: with
    `network.ec2Endpoint` the region's own; without, `AWS_ENDPOINT_URL_EC2` or `AWS_ENDPOINT_URL` of the deployer, else
    the region's own."""
    permissions_boundary: PolicyArn | None = None
    """ARN of the IAM policy that bounds what the load balancers' role may do, whatever its own policy says; see
    `.github/policies/boundary.json`. Default: none."""
    notify: str | None = None
    """A script of yours, a file on the machine that runs `pulumi up`. A load balancer runs it as root after each claim
    of the address, for a minute at most (docs/failover.md). Default: none."""
    reconcile_interval: Seconds = 15
    """Seconds between checks, on each balancer, that the network and VRRP agree on who holds the address."""
    drain: Annotated[int, Field(ge=0, le=LONGEST_DRAIN)] = 10
    """Seconds that the sessions of the moment have to end by themselves before the address is moved on purpose: by
    `stackctl switchover`, and when the balancer that holds it is shut down, rebooted, or stopped for another instance
    type. Those that are left are then ended. At most 120: EC2 cuts the power of a machine that takes minutes."""

    def script(self) -> str | None:
        """The text of the script of ``notify``. Raises OSError or ValueError if it cannot be one."""
        if self.notify is None:
            return None
        text = Path(self.notify).expanduser().read_text(encoding="utf-8")
        if not text.startswith("#!/"):
            raise ValueError("has to begin with #! and the path of what runs it, such as #!/bin/sh")
        return text
