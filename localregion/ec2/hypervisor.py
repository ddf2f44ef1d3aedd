"""What the API needs of the machines and their network."""

from ipaddress import IPv4Network
from typing import Protocol


class Hypervisor(Protocol):
    """Every call returns when it has happened."""

    @property
    def public_range(self) -> IPv4Network:
        """Where public addresses come from."""

    def boot(self, instance_id: str) -> None: ...
    def shutdown(self, instance_id: str) -> None: ...
    def reboot(self, instance_id: str) -> None: ...
    def delete(self, instance_id: str) -> None: ...
    def console(self, instance_id: str) -> str: ...
    def changed(self) -> None:
        """The network has to follow a change that happened outside of a request."""
