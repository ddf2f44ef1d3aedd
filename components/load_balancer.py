"""A load balancer: HAProxy, keepalived, and the hook that moves the virtual IP to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components import haproxy, keepalived
from components.claim import Claim, ClaimArgs
from components.haproxy import Haproxy, HaproxyArgs
from components.interface import Interface
from components.keepalived import Keepalived, KeepalivedArgs
from components.machine import Machine
from components.source_build import SourceBuild, SourceBuildArgs
from components.virtual_ip import VirtualIp
from settings import services, topology
from settings.base import SourceArchive


@dataclass
class LoadBalancerArgs:
    machine: Machine
    interface: Interface
    subnet_id: pulumi.Input[str]
    virtual_ip: VirtualIp
    vip: topology.VirtualIp
    #: The interfaces of the load balancers of higher priority.
    better: Sequence[Interface]
    #: Whether the VPC has an endpoint of the EC2 API.
    has_ec2_endpoint: bool
    haproxy: SourceArchive
    haproxy_cfg: pulumi.Input[str]
    #: Key and certificate (PEM) of the statistics pages; None: no TLS.
    statistics_bundle: pulumi.Input[str] | None
    keepalived: services.Keepalived
    keepalived_conf: pulumi.Input[str]
    #: What has to work before anything that runs here is changed: the databases, the load balancer before this one.
    after: Sequence[pulumi.Resource] = ()


class LoadBalancer(pulumi.ComponentResource):
    """Load balancers change one after the other, each healthy before the next is touched; only builds need not wait."""

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:load_balancer:LoadBalancer", name, {}, opts)
        machine = args.machine
        child = pulumi.ResourceOptions(parent=self)
        haproxy_build = SourceBuild(
            f"{machine.name}-haproxy", SourceBuildArgs(machine, "haproxy", args.haproxy, haproxy.PACKAGES), child
        )
        keepalived_build = SourceBuild(
            f"{machine.name}-keepalived",
            SourceBuildArgs(machine, "keepalived", args.keepalived, keepalived.PACKAGES),
            child,
        )

        running = Haproxy(
            f"{name}-haproxy",
            HaproxyArgs(machine, haproxy_build, args.haproxy_cfg, args.statistics_bundle),
            pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        claim = Claim(
            f"{name}-vip",
            ClaimArgs(
                machine,
                args.interface,
                args.subnet_id,
                args.virtual_ip,
                args.vip,
                args.better,
                has_endpoint=args.has_ec2_endpoint,
            ),
            child,
        )
        self.running = Keepalived(
            f"{name}-keepalived",
            KeepalivedArgs(
                machine, keepalived_build, args.keepalived_conf, running, claim, args.keepalived.startup_delay
            ),
            pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        ).running
        self.register_outputs({})
