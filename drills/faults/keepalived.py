"""keepalived on the balancer that holds the VIP, and what the balancers hear of each other."""

from drills.faults.fault import CLEAR, Fault, Scene, after, shell
from drills.faults.network import End, cut

_VRRP = "112"  # IP's number for it


def _to_peer(scene: Scene) -> list[End]:
    return [(scene.holder["instanceId"], scene.peer["instanceId"])]


def _to_holder(scene: Scene) -> list[End]:
    return [(scene.peer["instanceId"], scene.holder["instanceId"])]


FAULTS = (
    # Its peer may have taken over before systemd has started it again, or not.
    Fault(
        "keepalived-kill",
        "keepalived is killed once",
        "holder",
        "may move",
        (shell("pkill --signal KILL --exact keepalived"),),
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
)
