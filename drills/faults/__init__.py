"""The kinds of fault. A new one is an entry in the module of what it strikes."""

from drills.faults import api, database, haproxy, keepalived, machine, network
from drills.faults.fault import Fault, Scene

__all__ = ["FAULTS", "Fault", "Scene"]

#: By name, in the order of reports.
FAULTS = {
    fault.name: fault for module in (machine, haproxy, keepalived, network, api, database) for fault in module.FAULTS
}
