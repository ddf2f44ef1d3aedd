"""The whole: machines by role, the virtual IP in front of them, the databases behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components.database import Database, DatabaseArgs
from components.firewall import Firewall
from components.health import Health, HealthArgs
from components.interface import Interface, InterfaceArgs
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.machine import Machine, MachineArgs
from components.mycat import Mycat, MycatArgs
from components.network import Network
from components.virtual_ip import VirtualIp, VirtualIpArgs
from settings import MachineSettings, Role, Settings


@dataclass
class ClusterArgs:
    settings: Settings
    network: Network
    firewall: Firewall


class Cluster(pulumi.ComponentResource):
    """Interfaces, the VIP on the first balancer's, a machine on each; databases, then Mycats and balancers in a row."""

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
                    floating=[str(settings.vip.address)] if machine is balancers[0] else [],
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
            ),
            self._child,
        )
        self.machines = self._boot(name, virtual_ip)

        ready: list[pulumi.Resource] = []
        if databases := settings.of_role(Role.MYSQL):
            tier = Database(
                f"{name}-database",
                DatabaseArgs(settings, [(node, self.machines[node.name]) for node in databases]),
                self._child,
            )
            ready = [*tier.ready]
        for node in databases:
            if Role.MYCAT not in node.roles:
                ready.append(self._health(node, after=tier.ready).listening)
        before = ready
        for node in settings.of_role(Role.MYCAT):
            mycat = Mycat(
                f"{node.name}-mycat", MycatArgs(settings, self.machines[node.name], node, after=before), self._child
            )
            before = [self._health(node, after=[mycat.applied], triggers=[mycat.version]).listening]
            ready = [*ready, *before]

        for balancer in balancers:
            running = LoadBalancer(
                balancer.name,
                LoadBalancerArgs(
                    settings,
                    self.machines[balancer.name],
                    balancer,
                    self.interfaces[balancer.name],
                    args.network.subnet_id,
                    virtual_ip,
                    after=ready,
                ),
                self._child,
            ).running
            ready = [running]
        self.register_outputs({})

    def _health(
        self,
        machine: MachineSettings,
        *,
        after: Sequence[pulumi.Resource],
        triggers: Sequence[pulumi.Input[str]] = (),
    ) -> Health:
        return Health(
            f"{machine.name}-health",
            HealthArgs(self._settings, self.machines[machine.name], machine, after=after, triggers=triggers),
            self._child,
        )

    def _boot(self, name: str, virtual_ip: VirtualIp) -> dict[str, Machine]:
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
        key = aws.ec2.KeyPair(f"{name}-key", public_key=settings.access.ssh_public_key, opts=self._child)
        return {
            machine.name: Machine(
                machine.name,
                MachineArgs(
                    settings=settings,
                    machine=machine,
                    interface=self.interfaces[machine.name],
                    ami=ami.id,
                    key_name=key.key_name,
                    instance_profile=virtual_ip.instance_profile if Role.LB in machine.roles else None,
                ),
                self._child,
            )
            for machine in settings.machines
        }

    def describe(self, machine: MachineSettings) -> dict[str, Any]:
        return {
            "name": machine.name,
            "roles": [str(role) for role in machine.roles],
            "address": str(machine.address),
            "instanceId": self.machines[machine.name].instance_id,
            "eniId": self.interfaces[machine.name].id,
        }
