"""The kinds of fault: how each is done to the machine that holds the VIP, and how it is undone."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from localregion.client import Region


@dataclass(frozen=True)
class Fault:
    """``inject`` returns the moment of the fault by CLOCK_MONOTONIC. ``moves`` says whether the VIP has to move."""

    name: str
    what: str
    moves: bool
    inject: Callable[[Region, str], float]
    heal: Callable[[Region, str], None]


def _shell(script: str) -> Callable[[Region, str], float]:
    def inject(region: Region, machine: str) -> float:
        moment = time.monotonic()
        region.exec(machine, ["bash", "-c", script])
        return moment

    return inject


def _mend(script: str) -> Callable[[Region, str], None]:
    def heal(region: Region, machine: str) -> None:
        region.exec(machine, ["bash", "-c", script])

    return heal


_KILL = "pkill --signal KILL --exact haproxy"
FAULTS = {
    fault.name: fault
    for fault in (
        Fault("power-cut", "the power is cut", True, Region.power_cut, Region.power_on),
        Fault("freeze", "every process is stopped, and the network", True, Region.freeze, Region.thaw),
        Fault("haproxy-kill", "HAProxy is killed once", False, _shell(_KILL), _mend("true")),
        Fault(
            "haproxy-hang",
            "HAProxy is there and does nothing",
            False,
            _shell("pkill --signal STOP --exact haproxy"),
            _mend("pkill --signal CONT --exact haproxy || true"),
        ),
        Fault(
            "haproxy-gone",
            "HAProxy is killed and cannot be started again",
            True,
            _shell(f"chmod 0 $(readlink -f /opt/haproxy/current)/sbin/haproxy; {_KILL}"),
            # The check does the rest; a start from here as well would be killed by it half-way.
            _mend("chmod 755 $(readlink -f /opt/haproxy/current)/sbin/haproxy"),
        ),
        Fault(
            "keepalived-kill",
            "keepalived is killed once",
            False,
            _shell("pkill --signal KILL --exact keepalived"),
            _mend("true"),
        ),
    )
}
