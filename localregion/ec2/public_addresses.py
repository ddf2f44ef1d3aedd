"""Public addresses: out of the region's own range, where the network can deliver to them."""

from collections.abc import Callable, Iterator
from itertools import cycle, islice

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends, elastic_ip_addresses, elastic_network_interfaces

from localregion.ec2.account import ACCOUNT
from localregion.ec2.correction import Correction
from localregion.ec2.hypervisor import Hypervisor


def corrections(hypervisor: Hypervisor) -> list[Correction]:
    """moto draws Elastic IPs from 127.0.0.0/8 and assigned addresses from somebody's 54.214.0.0/16."""
    new = _allocator(hypervisor)
    return [
        Correction(elastic_ip_addresses, "random_ip", new),
        Correction(elastic_network_interfaces, "random_public_ip", new),
    ]


def _allocator(hypervisor: Hypervisor) -> Callable[[], str]:
    candidates: Iterator[str] | None = None

    def new() -> str:
        nonlocal candidates
        # Not in order of release: who still uses an address that was given up must not meet its next owner at once.
        candidates = candidates or cycle([str(address) for address in hypervisor.public_range.hosts()])
        used = {
            holder.public_ip
            for ec2 in ec2_backends[ACCOUNT].values()
            for holder in (*ec2.addresses, *ec2.enis.values())
        }
        for address in islice(candidates, hypervisor.public_range.num_addresses):  # each once
            if address not in used:
                return address
        raise EC2ClientError("AddressLimitExceeded", "The maximum number of addresses has been reached.")

    return new
