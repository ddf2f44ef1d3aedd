"""Which connections are allowed: one security group per role, one rule resource per permission."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from constants import HAPROXY_PEERS_PORT, MYCAT_PORT, MYSQL_PORT, SERVICE_HEALTH_PORT
from settings import MachineSettings, Role
from settings.http import Http
from settings.mycat import Mycat
from settings.services import Database, Haproxy, Mail
from settings.topology import Access, Bastion

#: Galera's ports: group communication, incremental state transfer, state snapshot transfer.
GALERA_PORTS = (("tcp", 4567), ("udp", 4567), ("tcp", 4568), ("tcp", 4444))
VRRP = "112"  # IANA protocol number; a rule for it has no ports


@dataclass
class FirewallArgs:
    vpc_id: pulumi.Input[str]
    machines: Sequence[MachineSettings]
    access: Access
    haproxy: Haproxy
    database: Database
    mycat: Mycat | None
    #: Address and port of each database server behind the machines of role mycat.
    mycat_databases: Sequence[tuple[str, int]]
    http: Http | None
    mail: Mail | None
    #: Whether the EC2 API has an endpoint in the VPC.
    ec2_endpoint: bool


class Firewall(pulumi.ComponentResource):
    """Security groups for the machines. Groups refer to each other, so no rule has to follow an address.

    Outbound traffic is limited as well: package archives and the EC2 API (80, 443), and what the roles need of each
    other. DNS, time and metadata services of AWS are link-local and not subject to security groups.
    """

    #: The group of a bastion that is created.
    bastion: aws.ec2.SecurityGroup | None = None
    #: The group of an endpoint of the EC2 API that is created.
    ec2_endpoint: aws.ec2.SecurityGroup | None = None

    def __init__(self, name: str, args: FirewallArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:firewall:Firewall", name, {}, opts)
        self._name = name
        self._vpc_id = args.vpc_id
        roles = sorted({role for machine in args.machines for role in machine.roles})
        self._base = self._group("machine", "Every machine: SSH from the deployer, packages and the EC2 API")
        self._groups = {role: self._group(role, f"Machines of role {role}") for role in roles}

        self._machine_rules(args.access)
        if args.access.bastion and args.access.bastion.create:
            self.bastion = self._group("bastion", "Bastion: SSH from the deployer, and on to the machines")
            self._bastion_rules(self.bastion, args.access.bastion)
        if Role.LB in self._groups:
            self._balancer_rules(args)
        if args.ec2_endpoint:
            self.ec2_endpoint = self._group("ec2-endpoint", "EC2 API in the VPC: HTTPS from load balancers")
            self._between(
                self._groups[Role.LB], self.ec2_endpoint, "ec2-endpoint", "EC2 API from load balancers", port=443
            )
        if Role.MYCAT in self._groups:
            self._mycat_rules(args)
        if Role.MYSQL in self._groups:
            self._database_rules()
        self.register_outputs({})

    @property
    def group_ids(self) -> dict[str, pulumi.Output[str]]:
        """By role; `machine` is every machine's."""
        others = {"bastion": self.bastion, "ec2Endpoint": self.ec2_endpoint}
        made = {name: group.id for name, group in others.items() if group}
        return {"machine": self._base.id, **made, **{str(role): group.id for role, group in self._groups.items()}}

    def groups_of(self, machine: MachineSettings) -> list[pulumi.Output[str]]:
        return [self._base.id, *(self._groups[role].id for role in machine.roles)]

    def _machine_rules(self, access: Access) -> None:
        for cidr in access.deployer:
            self._from_range(self._base, "ssh-from-deployer", "SSH from the deployer", 22, str(cidr))
        if access.bastion and access.bastion.address:
            self._from_range(self._base, "ssh-from-bastion", "SSH from the bastion", 22, f"{access.bastion.address}/32")
        for port in (80, 443):
            self._to_range(self._base, f"web-{port}", "Package archives and the EC2 API", port, "0.0.0.0/0")

    def _bastion_rules(self, group: aws.ec2.SecurityGroup, bastion: Bastion) -> None:
        for cidr in bastion.cidrs:
            self._from_range(group, "ssh-to-bastion", "SSH to the bastion", 22, str(cidr))
        self._between(group, self._base, "bastion-ssh", "SSH from the bastion to the machines", port=22)
        for port in (80, 443):
            self._to_range(group, "bastion-updates", "Security updates of the bastion", port, "0.0.0.0/0")

    def _balancer_rules(self, args: FirewallArgs) -> None:
        lb = self._groups[Role.LB]
        haproxy = args.haproxy
        for cidr in args.access.clients:
            self._from_range(lb, "mysql-from-clients", "MySQL from clients", haproxy.mysql.port, str(cidr))
            if haproxy.mysql.read_port:
                self._from_range(lb, "read-from-clients", "Reads from clients", haproxy.mysql.read_port, str(cidr))
            if args.mycat:
                self._from_range(lb, "mycat-from-clients", "Mycat from clients", haproxy.mycat.port, str(cidr))
        for cidr in args.access.administrators:
            self._from_range(
                lb,
                "statistics-from-administrators",
                "Statistics from administrators",
                haproxy.statistics.port,
                str(cidr),
            )
        self._between(lb, lb, "vrrp", "VRRP between load balancers", protocol=VRRP, port=None)
        if haproxy.mysql.single_writer:
            self._between(lb, lb, "peers", "Which database writes, between load balancers", port=HAPROXY_PEERS_PORT)
        if Role.MYSQL in self._groups:
            mysql = self._groups[Role.MYSQL]
            self._between(lb, mysql, "mysql", "MySQL from load balancers", port=MYSQL_PORT)
            self._between(lb, mysql, "health", "Database health checks from load balancers", port=SERVICE_HEALTH_PORT)
        self._external_database_rules(args.database)
        if args.mycat:
            check_port = args.mycat.external_check_port
            for mycat in args.mycat.external:
                target = f"{mycat.address}/32"
                self._to_range(lb, mycat.name, f"External Mycat {mycat.name}", mycat.port, target)
                if check_port:
                    self._to_range(
                        lb, f"{mycat.name}-health", f"Health checks of external Mycat {mycat.name}", check_port, target
                    )
        if args.mail:
            self._to_range(lb, "smtp", "Notification mail", args.mail.smtp_port, f"{args.mail.smtp_server}/32")
        if args.http:
            self._http_rules(args.http, args.access)

    def _external_database_rules(self, database: Database) -> None:
        lb = self._groups[Role.LB]
        checks = {check.port for check in (database.external_writer_check, database.external_reader_check) if check}
        own, others = set(), set()
        for server in database.external:
            if server.address:
                self._to_range(lb, server.name, f"External database {server.name}", server.port, f"{server.address}/32")
                own.add((f"{server.address}/32", server.port))
                others |= {(f"{server.address}/32", port) for port in checks}
            ports = {server.port, *checks}
            others |= {(str(cidr), port) for cidr in server.within for port in ports}
            if server.security_group:
                others |= {(server.security_group, port) for port in ports}
        # Several may be in one place; EC2 refuses the same rule twice.
        for place, port in sorted(others - own):
            self._to_range(lb, "databases", "External databases and their health checks", port, place)

    def _http_rules(self, http: Http, access: Access) -> None:
        lb = self._groups[Role.LB]
        for cidr in access.clients:
            self._from_range(lb, "http-from-clients", "HTTP from clients", http.port, str(cidr))
        for cidr in access.administrators:
            self._from_range(
                lb, "http-health-from-administrators", "HTTP health from monitors", http.health_check_port, str(cidr)
            )
            self._from_range(
                lb, "http-statistics-from-administrators", "HTTP statistics", http.statistics.port, str(cidr)
            )
        backends = http.backends.values()
        for port in sorted({backend.port for backend in backends if backend.machines}):
            self._between(lb, self._groups[Role.WEB], "http", "HTTP from load balancers", port=port)
        # A server may stand in several backends; EC2 refuses the same rule twice.
        for address, port in sorted({(s.address, s.port) for backend in backends for s in backend.external}):
            self._to_range(lb, "http", "External web server", port, f"{address}/32")

    def _mycat_rules(self, args: FirewallArgs) -> None:
        lb, mycat = self._groups[Role.LB], self._groups[Role.MYCAT]
        self._between(lb, mycat, "mycat", "Mycat from load balancers", port=MYCAT_PORT)
        self._between(lb, mycat, "mycat-health", "Mycat health checks from load balancers", port=SERVICE_HEALTH_PORT)
        if Role.MYSQL in self._groups:
            self._between(mycat, self._groups[Role.MYSQL], "mysql-mycat", "MySQL from Mycat", port=MYSQL_PORT)
        own = {str(machine.address) for machine in args.machines if Role.MYSQL in machine.roles}
        for address, port in args.mycat_databases:
            if address not in own:
                self._to_range(mycat, "data-host", "External database behind Mycat", port, f"{address}/32")

    def _database_rules(self) -> None:
        mysql = self._groups[Role.MYSQL]
        for protocol, port in GALERA_PORTS:
            self._between(mysql, mysql, f"galera-{protocol}", "Galera between databases", protocol=protocol, port=port)
        self._between(mysql, mysql, "galera-health", "Whether a database has a cluster", port=SERVICE_HEALTH_PORT)

    def _group(self, suffix: str, description: str) -> aws.ec2.SecurityGroup:
        return aws.ec2.SecurityGroup(
            f"{self._name}-{suffix}",
            description=description,
            vpc_id=self._vpc_id,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _from_range(self, group: aws.ec2.SecurityGroup, rule: str, description: str, port: int, cidr: str) -> None:
        aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-{rule}-{port}-{cidr}",
            security_group_id=group.id,
            description=description,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            cidr_ipv4=cidr,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _to_range(self, group: aws.ec2.SecurityGroup, rule: str, description: str, port: int, place: str) -> None:
        """``place``: a range, or the id of a security group that is not the stack's."""
        is_group = place.startswith("sg-")
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-to-{rule}-{port}-{place}",
            security_group_id=group.id,
            description=description,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            cidr_ipv4=None if is_group else place,
            referenced_security_group_id=place if is_group else None,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _between(
        self,
        source: aws.ec2.SecurityGroup,
        target: aws.ec2.SecurityGroup,
        rule: str,
        description: str,
        *,
        port: int | None,
        protocol: str = "tcp",
    ) -> None:
        """Both halves of one permission: ``source`` may send it, ``target`` may receive it."""
        suffix = f"{rule}-{port}" if port else rule
        aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-{suffix}-in",
            security_group_id=target.id,
            referenced_security_group_id=source.id,
            description=description,
            ip_protocol=protocol,
            from_port=port,
            to_port=port,
            opts=pulumi.ResourceOptions(parent=self),
        )
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-{suffix}-out",
            security_group_id=source.id,
            referenced_security_group_id=target.id,
            description=description,
            ip_protocol=protocol,
            from_port=port,
            to_port=port,
            opts=pulumi.ResourceOptions(parent=self),
        )
