"""keepalived on the balancer that holds the VIP, and what the balancers hear of each other."""

import time
from collections.abc import Sequence

from drills.faults.fault import CLEAR, Fault, Machine, Scene, Step, after, shell
from drills.faults.network import End, cut

_KILL = "pkill --signal KILL --exact keepalived"
_VRRP = "112"  # IP's number for it


def _to_peer(scene: Scene) -> list[End]:
    return [(scene.holder["instanceId"], scene.peer["instanceId"])]


def _to_holder(scene: Scene) -> list[End]:
    return [(scene.peer["instanceId"], scene.holder["instanceId"])]


def _kill_peers(scene: Scene) -> None:
    scene.region.exec(scene.peer["instanceId"], ["bash", "-c", _KILL])


def _change(option: str, value: str) -> Step:
    """As `up` does after a change of the settings: each balancer's file, and a reload, one after the other."""

    def each(scene: Scene, expression: str) -> float:
        script = f"sed --in-place '{expression}' /etc/keepalived/keepalived.conf && systemctl reload keepalived"
        moment = time.monotonic()
        for balancer in scene.machines("balancers"):
            scene.region.exec(balancer["instanceId"], ["bash", "-c", script])
            time.sleep(3)
        return moment

    def undo(scene: Scene, _machines: Sequence[Machine]) -> None:
        each(scene, f"s/{option} .* # was /{option} /")

    return Step(lambda scene, _machines: each(scene, f"s/{option} /{option} {value} # was /"), undo)


FAULTS = (
    # Its peer may have taken over before systemd has started it again, or not.
    Fault(
        "keepalived-kill",
        "keepalived is killed once",
        "holder",
        "may move",
        (shell(_KILL),),
        quick=True,
    ),
    Fault(
        "keepalived-hang",
        "keepalived is there and does nothing",
        "holder",
        "moves",
        (shell("pkill --signal STOP --exact keepalived", "pkill --signal CONT --exact keepalived || true"),),
    ),
    Fault(
        "keepalived-stop",
        "keepalived is stopped",
        "holder",
        "moves",
        (shell("systemctl stop keepalived", "systemctl start keepalived"),),
        quick=True,
    ),
    # Two masters: the new one claims the VIP, and may take it back once; the one of higher priority each time
    # (docs/failover.md, "Two masters").
    Fault(
        "vrrp-cut",
        "the balancers do not hear each other for 20 s",
        "balancers",
        "may move",
        (cut(_to_peer, protocol=_VRRP), after(20), CLEAR),
        moves=4,
        quick=True,
    ),
    Fault(
        "vrrp-deaf-standby",
        "it does not hear the holder for 20 s",
        "other balancer",
        "may move",
        (cut(_to_peer, protocol=_VRRP, both=False), after(20), CLEAR),
        moves=4,
    ),
    Fault(
        "vrrp-deaf-holder",
        "it does not hear the other balancer for 20 s",
        "holder",
        "stays",
        (cut(_to_holder, protocol=_VRRP, both=False), after(20), CLEAR),
    ),
    # The first one's keepalived has just been started again, and listens.
    Fault(
        "keepalived-kill-both",
        "keepalived is killed once, and 0.9 s later on the other balancer",
        "holder",
        "may move",
        (shell(_KILL), after(0.9, _kill_peers)),
        moves=4,
    ),
    Fault(
        "router-id-change",
        "keepalived gets another virtualRouterId, one balancer after the other",
        "balancers",
        "may move",
        (_change("virtual_router_id", "7"),),
        moves=4,
    ),
    Fault(
        "advert-change",
        "keepalived gets another advertInterval (1 s), one balancer after the other",
        "balancers",
        "stays",
        (_change("advert_int", "1"),),
    ),
)
