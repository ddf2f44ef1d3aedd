"""The whole: machines by role, the virtual IP in front of them, the databases behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws
from pulumi_command import remote

from components import certificates, haproxy, keepalived, mycat_files, reach, rolling
from components.backup import Backup, BackupArgs, BackupRole, BackupRoleArgs
from components.bastion import Bastion, BastionArgs
from components.database import Database, DatabaseArgs, MycatUser
from components.ec2_endpoint import Ec2Endpoint, Ec2EndpointArgs
from components.firewall import Firewall
from components.health import Health, HealthArgs
from components.interface import Interface, InterfaceArgs
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.machine import Machine, MachineArgs
from components.mycat import Mycat, MycatArgs
from components.network import Network
from components.virtual_ip import VirtualIp, VirtualIpArgs
from resource_types import is_protected
from settings import MachineSettings, Role, Settings


@dataclass
class ClusterArgs:
    settings: Settings
    network: Network
    firewall: Firewall


class Cluster(pulumi.ComponentResource):
    """Interfaces, a machine on each, and the VIP that the load balancers claim for theirs.

    The databases come up first, then one Mycat after the other, then one load balancer after the other.

    The one component that gets all settings: it hands each of the others its sections and its secrets.
    """

    #: The bastion, if one is created.
    bastion: Bastion | None = None
    #: The certificate (PEM) that clients verify the databases' by, with `database.tls`.
    database_authority: str | None = None
    #: And the statistics pages', with `haproxy.statistics.tls`.
    statistics_authority: str | None = None
    #: What the deployer connects to.
    reached: list[reach.Target]

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:cluster:Cluster", name, {}, opts)
        self._settings = settings = args.settings
        self._child = pulumi.ResourceOptions(parent=self)
        balancers = settings.of_role(Role.LB)

        self.interfaces = {
            machine.name: Interface(
                machine.name,
                InterfaceArgs(
                    subnet_id=args.network.subnet_id,
                    address=str(machine.address),
                    security_groups=args.firewall.groups_of(machine),
                ),
                self._child,
            )
            for machine in settings.machines
        }
        virtual_ip = VirtualIp(
            f"{name}-vip",
            VirtualIpArgs(
                address=str(settings.vip.address),
                subnet_id=args.network.subnet_id,
                interfaces=[self.interfaces[balancer.name] for balancer in balancers],
                permissions_boundary=settings.vip.permissions_boundary,
            ),
            self._child,
        )
        self._ec2_endpoint = self._endpoint(args)
        backup_role = self._backup_role(f"{name}-backup", virtual_ip)
        self.machines = self._boot(name, args, virtual_ip, backup_role)
        self.reached = self._reached()

        ready: list[pulumi.Resource] = []
        proxy_protocol = settings.haproxy.mysql.proxy_protocol
        if databases := settings.of_role(Role.MYSQL):
            tier = self._database(f"{name}-database", databases)
            ready = [*tier.ready]
            self._backups(databases, backup_role, after=tier.ready)
            # A database refuses what it does not believe: before the first load balancer says who asks ...
            if proxy_protocol:
                ready += tier.believe([balancer.address for balancer in balancers])
        there = ready
        for node in databases:
            if Role.MYCAT not in node.roles:
                ready = [*ready, self._health(node, after=there).listening]
        statistics = certificates.of_statistics(settings, pulumi.get_stack())
        self.statistics_authority = statistics.authority if statistics else None
        before = ready
        for node in settings.of_role(Role.MYCAT):
            mycat = self._mycat(node, after=before)
            before = [self._health(node, after=[mycat.applied], triggers=[mycat.version]).listening]
            ready = [*ready, *before]
        for balancer in balancers:
            bundle = pulumi.Output.secret(statistics.bundle) if statistics else None
            ready = [self._load_balancer(balancer, args.network, virtual_ip, bundle, after=ready).running]
        # ... until none does any more. Not always: what a load balancer passes on without a word is the client's.
        if databases and not proxy_protocol:
            tier.believe([], after=ready)
        self.register_outputs({})

    def _endpoint(self, args: ClusterArgs) -> list[pulumi.Resource]:
        """What the load balancers' probe of the EC2 API waits for."""
        group = args.firewall.ec2_endpoint
        if group is None:
            return []
        network = args.network
        return [Ec2Endpoint("ec2-endpoint", Ec2EndpointArgs(network.vpc_id, network.subnet_id, group.id), self._child)]

    def _backup_role(self, name: str, virtual_ip: VirtualIp) -> BackupRole | None:
        databases, backup = self._settings.of_role(Role.MYSQL), self._settings.database.backup
        if backup is None:
            return None
        shared = any(Role.LB in node.roles for node in databases)
        prefix = backup.place(pulumi.get_stack())
        role_name = virtual_ip.role_name if shared else None
        return BackupRole(name, BackupRoleArgs(backup, prefix, role_name), self._child)

    def _backups(
        self, nodes: Sequence[MachineSettings], role: BackupRole | None, *, after: Sequence[pulumi.Resource]
    ) -> None:
        names = [node.name for node in nodes]
        for node in nodes:
            args = BackupArgs(self.machines[node.name], role, names, after)
            Backup(f"{node.name}-backup", args, self._child)

    def _boot(
        self, name: str, args: ClusterArgs, virtual_ip: VirtualIp, backup_role: BackupRole | None
    ) -> dict[str, Machine]:
        settings = self._settings
        image = settings.instances.image
        ami = aws.ec2.get_ami(
            most_recent=True,
            owners=[image.owner],
            filters=[
                aws.ec2.GetAmiFilterArgs(name="name", values=[image.name]),
                aws.ec2.GetAmiFilterArgs(name="virtualization-type", values=["hvm"]),
            ],
        )
        protected = is_protected(settings.tags)
        key = aws.ec2.KeyPair(f"{name}-key", public_key=settings.access.ssh_public_key, opts=self._child)
        proxy = self._proxy(name, args, ami.id, key.key_name)
        types = [machine.instance_type or settings.instances.instance_type for machine in settings.machines]
        retyped = rolling.retyped(settings.machines, types)
        made: dict[str, Machine] = {}
        # Those that go on running do their part before one is stopped, and each of the others after its change.
        for number, machine in sorted(enumerate(settings.machines), key=lambda each: each[1].name in retyped):
            others = [other.in_service for other in made.values()] if machine.name in retyped else []
            made[machine.name] = Machine(
                machine.name,
                MachineArgs(
                    address=str(machine.address),
                    instance_type=types[number],
                    instance_types=",".join(types),
                    after=others,
                    instances=settings.instances,
                    interface=self.interfaces[machine.name],
                    ami=ami.id,
                    key_name=key.key_name,
                    private_key=self._secret("sshPrivateKey"),
                    proxy=proxy,
                    upgrade_hour=number % 24,
                    instance_profile=_profile(machine, virtual_ip, backup_role),
                    keep_running=protected,
                    # Its interface needs no protection of its own: EC2 deletes none that an instance uses.
                    holds_data=protected and Role.MYSQL in machine.roles,
                ),
                self._child,
            )
        return made

    def _proxy(
        self, name: str, args: ClusterArgs, ami: pulumi.Input[str], key_name: pulumi.Input[str]
    ) -> remote.ProxyConnectionArgs | None:
        """The way to the machines: a bastion that is made here, one that exists, or none."""
        settings, private_key = self._settings, self._secret("sshPrivateKey")
        bastion = settings.access.bastion
        if bastion is None:
            return None
        if args.firewall.bastion is None or args.network.public_subnet_id is None:
            return remote.ProxyConnectionArgs(
                host=str(bastion.host),
                port=bastion.port,
                user=bastion.user,
                host_key=bastion.host_key,
                private_key=private_key,
            )
        self.bastion = Bastion(
            f"{name}-bastion",
            BastionArgs(
                subnet_id=args.network.public_subnet_id,
                security_group=args.firewall.bastion.id,
                instance_type=bastion.instance_type,
                instances=settings.instances,
                ami=ami,
                key_name=key_name,
                private_key=private_key,
                keep_running=is_protected(settings.tags),
            ),
            self._child,
        )
        return self.bastion.proxy

    def _reached(self) -> list[reach.Target]:
        """What the deployer connects to itself: the bastion, if there is one, else every machine."""
        bastion = self._settings.access.bastion
        if self.bastion:
            likely = (
                "`access.bastion.cidrs` does not have the address that this machine comes from (on the internet that "
                "is its router's), or a firewall on the way keeps SSH in"
            )
            return [reach.Target("the bastion", self.bastion.address, likely, made=self.bastion.instance_id)]
        if bastion and bastion.host:
            likely = (
                "it is switched off, it does not let in the address that this machine comes from, or `access.bastion` "
                "names another host"
            )
            return [reach.Target("the bastion", bastion.host, likely, bastion.port)]
        likely = "there is no route from here to its subnet (a VPN?), or `access.deployer` has not this address"
        return [
            reach.Target(name, machine.address, likely, made=machine.instance_id)
            for name, machine in self.machines.items()
        ]

    def _database(self, name: str, nodes: Sequence[MachineSettings]) -> Database:
        settings, mycat = self._settings, self._settings.mycat
        identity = certificates.identity(settings, pulumi.get_stack())
        group = certificates.group_bundle(settings, pulumi.get_stack())
        self.database_authority = identity.authority if identity else None
        return Database(
            name,
            DatabaseArgs(
                machines=[self.machines[node.name] for node in nodes],
                balancers=[machine.address for machine in settings.of_role(Role.LB)],
                cluster=f"{pulumi.get_project()}-{pulumi.get_stack()}",
                database=settings.database,
                max_connections=settings.max_connections(),
                password=self._secret("database"),
                user_passwords={user.name: self._secret(user.secret) for user in settings.database.users},
                health_password=self._secret("health"),
                mycat=MycatUser(
                    mycat.database_user, self._secret("mycatDatabase"), mycat_files.backends(settings).databases
                )
                if mycat and not mycat.external
                else None,
                tls_bundle=pulumi.Output.secret(identity.bundle) if identity else None,
                group_bundle=pulumi.Output.secret(group) if group else None,
            ),
            self._child,
        )

    def _mycat(self, node: MachineSettings, *, after: Sequence[pulumi.Resource]) -> Mycat:
        settings = self._settings
        assert settings.mycat is not None  # the settings' checks: no machine has the role without the section
        files = pulumi.Output.secret(mycat_files.configuration(settings, node))
        return Mycat(
            f"{node.name}-mycat",
            MycatArgs(self.machines[node.name], settings.mycat, settings.sql_execute_timeout(), files, after=after),
            self._child,
        )

    def _health(
        self, node: MachineSettings, *, after: Sequence[pulumi.Resource], triggers: Sequence[pulumi.Input[str]] = ()
    ) -> Health:
        return Health(
            f"{node.name}-health",
            HealthArgs(
                self.machines[node.name],
                node.roles,
                self._secret("health"),
                tls=self._settings.database.tls is not None,
                notice=haproxy.notice(self._settings.haproxy),
                after=after,
                triggers=triggers,
            ),
            self._child,
        )

    def _load_balancer(
        self,
        node: MachineSettings,
        network: Network,
        virtual_ip: VirtualIp,
        statistics_bundle: pulumi.Input[str] | None,
        *,
        after: Sequence[pulumi.Resource],
    ) -> LoadBalancer:
        settings, machine = self._settings, self.machines[node.name]
        better = [other for other in settings.of_role(Role.LB) if settings.priority(other) > settings.priority(node)]
        return LoadBalancer(
            node.name,
            LoadBalancerArgs(
                machine=machine,
                interface=self.interfaces[node.name],
                subnet_id=network.subnet_id,
                virtual_ip=virtual_ip,
                vip=settings.vip,
                better=[self.interfaces[other.name] for other in better],
                has_ec2_endpoint=settings.network.ec2_endpoint,
                haproxy=settings.haproxy,
                haproxy_cfg=self._secret("statistics").apply(lambda password: haproxy_cfg(settings, node, password)),
                statistics_bundle=statistics_bundle,
                keepalived=settings.keepalived,
                keepalived_conf=pulumi.Output.all(machine.device, settings.secret("vrrp")).apply(
                    lambda known: keepalived_conf(settings, node, *known)
                ),
                after=after,
            ),
            pulumi.ResourceOptions(parent=self, depends_on=self._ec2_endpoint),
        )

    def _secret(self, name: str) -> pulumi.Output[str]:
        """A secret that the settings' checks demand of this stack."""
        return pulumi.Output.secret(self._settings.secrets[name].get_secret_value())

    def describe(self, machine: MachineSettings) -> dict[str, Any]:
        """A machine as the stack's outputs name it."""
        return {
            "name": machine.name,
            "roles": [str(role) for role in machine.roles],
            "address": str(machine.address),
            "instanceId": self.machines[machine.name].instance_id,
            "eniId": self.interfaces[machine.name].id,
        }


def _profile(
    machine: MachineSettings, virtual_ip: VirtualIp, backup_role: BackupRole | None
) -> pulumi.Input[str] | None:
    if Role.LB in machine.roles:
        return virtual_ip.instance_profile
    return backup_role.instance_profile if backup_role and Role.MYSQL in machine.roles else None


def haproxy_cfg(settings: Settings, node: MachineSettings, statistics_password: str) -> str:
    """haproxy.cfg of the load balancer ``node``."""
    return haproxy.configuration(
        node.name,
        vip=settings.vip.address,
        haproxy=settings.haproxy,
        mysql_silence=settings.silence(settings.haproxy.mysql),
        mycat_silence=settings.silence(settings.haproxy.mycat),
        mycat_sessions=settings.mycat_sessions(),
        statistics_password=statistics_password,
        machines=settings.machines,
        database=settings.database,
        mycat=settings.mycat,
        http=settings.http,
    )


def keepalived_conf(settings: Settings, node: MachineSettings, device: str, vrrp_password: str | None = None) -> str:
    """keepalived.conf of the load balancer ``node``, whose network device is ``device``."""
    return keepalived.configuration(
        node.name,
        node.address,
        device=device,
        priority=settings.priority(node),
        peers=[peer.address for peer in settings.of_role(Role.LB) if peer.name != node.name],
        vip=settings.vip.address,
        keepalived=settings.keepalived,
        vrrp_password=vrrp_password,
    )
