"""Every correction of moto."""

from localregion.ec2 import instances, interfaces, public_addresses, security_groups, vpcs
from localregion.ec2.correction import Correction
from localregion.ec2.hypervisor import Hypervisor


def corrections(hypervisor: Hypervisor) -> list[Correction]:
    return [
        *interfaces.corrections(),
        *security_groups.corrections(),
        *vpcs.corrections(),
        *instances.corrections(hypervisor),
        *public_addresses.corrections(hypervisor),
    ]
