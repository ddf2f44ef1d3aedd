"""The one account, and its EC2 and IAM in moto."""

import threading
from typing import Any

from localregion.partition import partition

ACCOUNT = "123456789012"
#: Held by whoever changes what moto knows, or reads more than one thing of it: moto itself has no lock.
LOCK = threading.RLock()
_STATES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


def backend(region: str) -> Any:
    from moto.ec2.models import ec2_backends

    return ec2_backends[ACCOUNT][region]


def iam(region: str) -> Any:
    """That of the region's partition."""
    from moto.iam.models import iam_backends

    return iam_backends[ACCOUNT][partition(region).name]


def set_state(instance: Any, name: str) -> None:
    """Set the state of a moto instance by its name."""
    instance._state.name, instance._state.code = name, _STATES[name]
