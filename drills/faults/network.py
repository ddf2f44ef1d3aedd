"""Packets are lost, and a balancer's network is meddled with."""

import time
from collections.abc import Callable, Iterable, Sequence

from drills.faults.fault import CLEAR, POWER_CUT, Fault, Machine, Scene, Step, after, before, shell
from localregion.client import wait_until
from stackctl.aws import connect
from stackctl.environment import environment

#: From, to: instance ids, or OUTSIDE.
End = tuple[str, str]
#: What the region calls all that is not in the VPC: the EC2 API is there.
OUTSIDE = "outside"
#: Seconds: longer than vip.reconcileInterval.
_RECONCILED = 60


def cut(
    ends: Callable[[Scene], Iterable[End]], *, protocol: str | None = None, port: int | None = None, both: bool = True
) -> Step:
    """Packets from the first to the second are lost, and with ``both`` back."""

    def do(scene: Scene, _machines: Sequence[Machine]) -> float:
        moment = time.monotonic()
        for a, b in ends(scene):
            scene.region.drop(a, b, protocol=protocol, port=port, both=both)
        return moment

    return Step(do)


def _to_databases(scene: Scene) -> list[End]:
    """On other machines: its own database is no packet's way."""
    databases = [m["instanceId"] for m in scene.stack.of_role("mysql") if m != scene.holder]
    return [(scene.holder["instanceId"], database) for database in databases]


def _without_api(scene: Scene) -> None:
    scene.region.drop(scene.peer["instanceId"], OUTSIDE)


def _moved_by_hand(scene: Scene, _machines: Sequence[Machine]) -> float:
    """EC2 moves the VIP to the other balancer, which is not master; the fault lasts until it is back."""
    clients = connect(environment(scene.region.name), None)
    moment = time.monotonic()
    clients.client("ec2").assign_private_ip_addresses(
        NetworkInterfaceId=scene.peer["eniId"], PrivateIpAddresses=[scene.stack.vip], AllowReassignment=True
    )
    wait_until(lambda: scene.stack.holder(scene.region) == scene.holder["name"], "the VIP to come back", _RECONCILED)
    return moment


def _delete_address(scene: Scene, machines: Sequence[Machine]) -> float:
    vip = f"{scene.stack.vip}/32"
    script = f"ip address delete {vip} dev $(ip -4 -oneline address show to {vip} | cut -d' ' -f2)"
    return float(shell(script).do(scene, machines) or 0)


FAULTS = (
    Fault(
        "databases-unreachable",
        "it cannot reach databases on other machines for 20 s",
        "holder",
        "stays",
        (cut(_to_databases, protocol="tcp", port=3306), after(20), CLEAR),
    ),
    Fault(
        "api-unreachable",
        "the power is cut; the other balancer cannot reach the EC2 API for 10 s",
        "holder",
        "moves",
        (before(_without_api), POWER_CUT, after(10), CLEAR),
    ),
    Fault(
        "metadata-down",
        "the power is cut; the other balancer's metadata service does not answer",
        "holder",
        "moves",
        (before(lambda scene: scene.region.imds(scene.peer["instanceId"])), POWER_CUT),
    ),
    Fault(
        "vip-moved-by-hand",
        "EC2 is told to move the VIP to the other balancer",
        "holder",
        "comes back",
        (Step(_moved_by_hand),),
        quick=True,
    ),
    Fault("vip-deleted", "the VIP is deleted from its network device", "holder", "may move", (Step(_delete_address),)),
    Fault(
        "networkd-restart",
        "systemd-networkd is restarted",
        "holder",
        "stays",
        (shell("systemctl restart systemd-networkd"), after(5)),
    ),
)
