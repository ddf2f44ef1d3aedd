"""EC2 on moto, made as strict as AWS.

Only what this project depends on is corrected; everything else is moto's. Error codes and messages are AWS's (EC2
API Reference, "Error codes"; messages as observed by users of the real service). tests/unit/test_moto_corrections.py
shows for each correction that moto still needs it.

Importing this package does not import moto, because moto reads its environment (``MOTO_AMIS_PATH``) when it is
imported; :func:`install` does.
"""

from localregion.ec2.account import ACCOUNT, LOCK, backend, iam, set_state
from localregion.ec2.hypervisor import Hypervisor
from localregion.ec2.images import publish_images, suite, write_amis
from localregion.ec2.network_layout import api_name, layout

__all__ = [
    "ACCOUNT",
    "LOCK",
    "Hypervisor",
    "api_name",
    "backend",
    "iam",
    "install",
    "layout",
    "publish_images",
    "set_state",
    "suite",
    "write_amis",
]


def install(hypervisor: Hypervisor) -> None:
    """Correct moto's classes in place. Called once, before the first request."""
    from localregion.ec2.corrections import corrections

    for correction in corrections(hypervisor):
        setattr(correction.owner, correction.attribute, correction.replacement)
