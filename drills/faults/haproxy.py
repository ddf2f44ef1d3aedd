"""HAProxy on the balancer that holds the VIP."""

from drills.faults.fault import Fault, shell

_KILL = "pkill --signal KILL --exact haproxy"

FAULTS = (
    Fault("haproxy-kill", "HAProxy is killed once", "holder", "stays", (shell(_KILL),), quick=True),
    Fault(
        "haproxy-hang",
        "HAProxy is there and does nothing",
        "holder",
        "stays",
        (shell("pkill --signal STOP --exact haproxy", "pkill --signal CONT --exact haproxy || true"),),
        quick=True,
    ),
    Fault(
        "haproxy-gone",
        "HAProxy is killed and cannot be started again",
        "holder",
        "moves",
        (
            shell(
                f"chmod 0 $(readlink -f /opt/haproxy/current)/sbin/haproxy; {_KILL}",
                # The check does the rest; a start from here as well would be killed by it half-way.
                "chmod 755 $(readlink -f /opt/haproxy/current)/sbin/haproxy",
            ),
        ),
        quick=True,
    ),
)
