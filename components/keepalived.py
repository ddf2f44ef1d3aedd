"""keepalived on a load balancer: VRRP over unicast, a health check, and the hook's trigger."""

import hashlib
from dataclasses import dataclass

import pulumi

from components.claim import Claim
from components.haproxy import Haproxy
from components.machine import Machine
from components.source_build import SourceBuild
from components.template import render, verbatim
from constants import LIBRARY
from settings import MachineSettings, Role, Settings

PACKAGES = ("build-essential", "pkg-config", "libssl-dev", "libnl-3-dev", "libnl-genl-3-dev")


@dataclass
class KeepalivedArgs:
    settings: Settings
    machine: Machine
    machine_settings: MachineSettings
    build: SourceBuild
    haproxy: Haproxy
    claim: Claim


def configuration(settings: Settings, machine: MachineSettings, device: str) -> str:
    """keepalived.conf of ``machine``; holds the PASS secret in seed mode."""
    vrrp = settings.secrets.get("vrrp")
    return render(
        "keepalived/keepalived.conf.j2",
        settings=settings,
        machine=machine,
        device=device,
        peers=[peer for peer in settings.of_role(Role.LB) if peer.name != machine.name],
        vrrp_password=vrrp.get_secret_value() if vrrp else None,
    )


class Keepalived(pulumi.ComponentResource):
    """keepalived running; it starts only after HAProxy answers and the hook has been proven to work."""

    def __init__(self, name: str, args: KeepalivedArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:keepalived:Keepalived", name, {}, opts)
        machine = args.machine
        child = pulumi.ResourceOptions(parent=self)
        scripts = [
            machine.file(
                f"{name}-{script}",
                f"{LIBRARY}/{script}",
                verbatim(f"keepalived/{script}"),
                mode="0755",
                validate='bash -n "$STAGED"',
                opts=child,
            )
            for script in ("vrrp-notify", "check-haproxy")
        ]
        unit_content = verbatim("keepalived/keepalived.service")
        unit = machine.file(
            f"{name}-unit",
            "/etc/systemd/system/keepalived.service",
            unit_content,
            apply="systemctl daemon-reload",
            opts=child,
        )
        config = machine.file(
            f"{name}-config",
            "/etc/keepalived/keepalived.conf",
            pulumi.Output.secret(
                machine.device.apply(lambda device: configuration(args.settings, args.machine_settings, device))
            ),
            mode="0600",
            validate=args.build.prefix.apply(lambda prefix: render("keepalived/validate.sh.j2", prefix=prefix)),
            apply="systemctl is-active --quiet keepalived || exit 0; systemctl reload keepalived",
            gate="systemctl is-enabled -q keepalived || exit 0; sleep 1; systemctl is-active -q keepalived",
            opts=pulumi.ResourceOptions(parent=self, depends_on=scripts),
        )
        self.running = machine.run(
            f"{name}-start",
            args.build.prefix.apply(lambda prefix: render("keepalived/start.sh.j2", prefix=prefix)),
            triggers=[hashlib.sha256(unit_content.encode()).hexdigest()],
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[unit, config, args.haproxy.running, args.claim.proven]
            ),
        )
        self.register_outputs({})
