"""keepalived on a load balancer: VRRP over unicast, a check of HAProxy, and what calls the hook."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import pulumi

from components.claim import Claim
from components.haproxy import Haproxy
from components.machine import Machine
from components.source_build import SourceBuild
from components.template import render, verbatim
from settings import services

#: Debian packages that the build needs.
PACKAGES = ("build-essential", "pkg-config", "libssl-dev", "libnl-3-dev", "libnl-genl-3-dev")


@dataclass
class KeepalivedArgs:
    machine: Machine
    build: SourceBuild
    #: keepalived.conf; a secret where it holds the VRRP password.
    configuration: pulumi.Input[str]
    haproxy: Haproxy
    claim: Claim
    #: Seconds in which keepalived only listens.
    startup_delay: float


def configuration(
    name: str,
    address: IPv4Address,
    *,
    device: str,
    priority: int,
    peers: Sequence[IPv4Address],
    vip: IPv4Address,
    keepalived: services.Keepalived,
    vrrp_password: str | None,
) -> str:
    """keepalived.conf of the load balancer ``name``; it holds the VRRP password where the mode uses one."""
    return render(
        "keepalived/keepalived.conf.j2",
        name=name,
        address=address,
        device=device,
        priority=priority,
        peers=peers,
        vip=vip,
        keepalived=keepalived,
        vrrp_password=vrrp_password,
    )


class Keepalived(pulumi.ComponentResource):
    """keepalived running; it starts only after HAProxy answers and the hook's probe has succeeded."""

    def __init__(self, name: str, args: KeepalivedArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:keepalived:Keepalived", name, {}, opts)
        machine = args.machine
        child = pulumi.ResourceOptions(parent=self)
        scripts = [
            machine.program(f"{name}-{script}", f"keepalived/{script}", opts=child)
            for script in ("vrrp-notify", "check-haproxy")
        ]
        config = machine.file(
            f"{name}-config",
            "/etc/keepalived/keepalived.conf",
            args.configuration,
            mode="0600",
            validate=args.build.prefix.apply(lambda prefix: render("keepalived/validate.sh.j2", prefix=prefix)),
            apply="systemctl is-active --quiet keepalived || exit 0; systemctl reload keepalived",
            gate="systemctl is-enabled -q keepalived || exit 0; sleep 1; systemctl is-active -q keepalived",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*scripts, *args.claim.files]),
        )
        unit_content = verbatim("keepalived/keepalived.service")
        unit = machine.file(
            f"{name}-unit",
            "/etc/systemd/system/keepalived.service",
            unit_content,
            apply="systemctl daemon-reload",
            # The unit's watchdog waits for the sign of life that the configuration asks for.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[config]),
        )
        self.running = machine.run(
            f"{name}-start",
            args.build.prefix.apply(
                lambda prefix: render(
                    "keepalived/start.sh.j2", prefix=prefix, seconds=math.ceil(args.startup_delay) + 60
                )
            ),
            triggers=[hashlib.sha256(unit_content.encode()).hexdigest()],
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[unit, config, args.haproxy.running, args.claim.probed]
            ),
        )
        self.register_outputs({})
