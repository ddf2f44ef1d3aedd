"""The hook on a load balancer that moves the virtual IP: VRRP decides, the EC2 API moves."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.config_file import BASH_SYNTAX
from components.interface import Interface
from components.machine import Machine
from components.template import render, verbatim
from components.virtual_ip import VirtualIp
from constants import LIBRARY
from settings import topology

#: A validation: refuses a staged script that nothing on the machine can run, and a shell's that it cannot read.
INTERPRETER = r"""
read -r first <"$STAGED"
read -r program _ <<<"${first#\#!}"
[ -x "$program" ] || { echo "there is no $program here, which the first line names"; exit 1; }
case $program in */bash | */sh) "$program" -n "$STAGED" ;; esac
"""


@dataclass
class ClaimArgs:
    machine: Machine
    interface: Interface
    subnet_id: pulumi.Input[str]
    virtual_ip: VirtualIp
    vip: topology.VirtualIp
    #: Those of the load balancers of higher priority.
    better: Sequence[Interface]
    #: Whether the VPC has an endpoint of the EC2 API.
    has_endpoint: bool


def ec2_endpoint(vip: topology.VirtualIp, region: str, dns_suffix: str, *, in_vpc: bool) -> str:
    """The EC2 API as the machines reach it: as set, else where the deployer's own SDK is sent, else the region's.

    Where the deployer is sent may be outside of the VPC; the endpoint ``in_vpc`` has the region's own name there.
    Source: AWS SDKs Reference Guide, "Service-specific endpoints".
    """
    own = f"https://ec2.{region}.{dns_suffix}"
    elsewhere = None if in_vpc else os.environ.get("AWS_ENDPOINT_URL_EC2") or os.environ.get("AWS_ENDPOINT_URL")
    return (vip.ec2_endpoint or elsewhere or own).rstrip("/")


class Claim(pulumi.ComponentResource):
    """The hook, the timer that repairs what it missed, and a probe that makes `up` fail if the hook could not work."""

    def __init__(self, name: str, args: ClaimArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:claim:Claim", name, {}, opts)
        machine, vip = args.machine, args.vip
        child = pulumi.ResourceOptions(parent=self)
        region, dns_suffix = aws.get_region().region, aws.get_partition().dns_suffix
        environment = pulumi.Output.all(
            eni=args.interface.id,
            subnet=args.subnet_id,
            role=args.virtual_ip.role_name,
            better=[interface.id for interface in args.better],
        ).apply(
            lambda known: render(
                "vip/vip.env.j2",
                vip=vip.address,
                drain=vip.drain,
                region=region,
                endpoint=ec2_endpoint(vip, region, dns_suffix, in_vpc=args.has_endpoint),
                notify=vip.notify is not None,
                **known,
            )
        )

        programs = {"hook": "claim-vip", "state": "vrrp-state", "switchover": "switch-vip"}
        units = {
            "service": ("claim-vip.service", verbatim("vip/claim-vip.service")),
            "reconcile-service": ("reconcile-vip.service", verbatim("vip/reconcile-vip.service")),
            "reconcile-timer": (
                "reconcile-vip.timer",
                render("vip/reconcile-vip.timer.j2", interval=vip.reconcile_interval),
            ),
        }
        notify = self._notify(name, machine, vip.script())
        self.files = [
            machine.file(
                f"{name}-environment",
                "/etc/mycat-ha/vip.env",
                environment,
                validate=BASH_SYNTAX,
                # It says whether there is a script.
                opts=pulumi.ResourceOptions(parent=self, depends_on=notify),
            ),
            *(machine.program(f"{name}-{part}", f"vip/{program}", opts=child) for part, program in programs.items()),
            *(
                machine.file(
                    f"{name}-{part}",
                    f"/etc/systemd/system/{unit}",
                    content,
                    apply="systemctl daemon-reload",
                    opts=child,
                )
                for part, (unit, content) in units.items()
            ),
        ]
        self.probed = machine.run(
            f"{name}-probe",
            f"{LIBRARY}/claim-vip probe",
            # The same name leads elsewhere with an endpoint in the VPC.
            triggers=[environment, "by the VPC's endpoint" if args.has_endpoint else "by the region's endpoint"],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*self.files, args.virtual_ip]),
        )
        self.register_outputs({})

    def _notify(self, name: str, machine: Machine, script: str | None) -> list[pulumi.Resource]:
        """The user's own script and its unit. They stay where a stack no longer has one, and nobody starts them."""
        if script is None:
            return []
        child = pulumi.ResourceOptions(parent=self)
        return [
            machine.file(
                f"{name}-notify", "/etc/mycat-ha/after-claim", script, mode="0700", validate=INTERPRETER, opts=child
            ),
            machine.file(
                f"{name}-notify-service",
                "/etc/systemd/system/after-claim.service",
                verbatim("vip/after-claim.service"),
                apply="systemctl daemon-reload",
                opts=child,
            ),
        ]
