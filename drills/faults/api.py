"""The EC2 API is sick, for the balancers, while the one that holds the VIP loses its power."""

import time
from typing import Any

from drills.faults.fault import POWER_CUT, Fault, Scene, Step, after, before
from localregion.client import wait_until

_ASSIGN = "AssignPrivateIpAddresses"
#: Long enough to find the claim in the middle of its call.
_SLOW_MS = 1500


def _api(**faults: Any) -> Step:
    return before(lambda scene: scene.region.api(roles_only=True, **faults))


def _kill_claim(scene: Scene) -> None:
    """While its call is under way. systemd does not start a claim again; the reconcile timer does."""
    peer = scene.peer["instanceId"]
    active = ["systemctl", "is-active", "--quiet", "claim-vip.service"]
    wait_until(lambda: scene.region.exec(peer, active, check=False).returncode == 0, "the claim", 30, pause=0.02)
    time.sleep(0.3)
    scene.region.exec(peer, ["systemctl", "kill", "--signal=KILL", "claim-vip.service"])


FAULTS = (
    *(
        Fault(f"api-{name}", f"the power is cut; {what}", "holder", "moves", (_api(**faults), POWER_CUT), quick=quick)
        for name, what, faults, quick in (
            ("slow", "each call to EC2 takes 300 ms", {"latency_ms": 300}, True),
            ("slower", "each call to EC2 takes 2 s", {"latency_ms": 2000}, False),
            ("throttled", "EC2 throttles the first three calls", {"throttle_rate": 1, "times": 3}, False),
            ("failing", "the first three calls to EC2 fail", {"error_rate": 1, "times": 3}, False),
            ("reset", "EC2 resets the first two connections", {"reset_rate": 1, "times": 2}, False),
            ("hanging", "EC2 does not answer the first call", {"hang": True, "times": 1}, False),
            (
                "answer-lost",
                "EC2 moves the VIP and its answer is lost",
                {"lost_rate": 1, "actions": [_ASSIGN], "times": 1},
                False,
            ),
        )
    ),
    Fault(
        "claim-killed",
        "the power is cut; the other balancer's claim is killed half-way",
        "holder",
        "moves",
        (_api(latency_ms=_SLOW_MS), POWER_CUT, after(0, _kill_claim)),
    ),
)
