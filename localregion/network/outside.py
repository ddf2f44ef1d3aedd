"""What lies outside of the VPCs: public addresses, which everybody reaches, and networks that were attached."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from localregion.kernel import ip, ip_batch, nft
from localregion.model import Vpc
from localregion.network import links, rules
from localregion.network.links import NetworkError


@dataclass(frozen=True)
class Attachment:
    """A network that uses a VPC's private addresses, and the VPC its: as by a VPN whose routes are propagated."""

    vpc: Vpc
    source: IPv4Network


class Outside:
    """The backbone and the host's routes, made to match what is public and what is attached."""

    def __init__(self, backbone: str) -> None:
        self._backbone = backbone
        self._public: dict[IPv4Address, str] = {}  # address -> VPC
        self._attachments: list[Attachment] = []
        self._rules = ""

    @property
    def attachments(self) -> list[Attachment]:
        return list(self._attachments)

    def sources(self, vpc_id: str) -> list[IPv4Network]:
        """The networks that are attached to a VPC."""
        return list(collapse_addresses(a.source for a in self._attachments if a.vpc.id == vpc_id))

    # -- what the API describes -----------------------------------------------------------------------------

    def apply(self, vpcs: Sequence[Vpc], public: dict[IPv4Address, str], public_range: IPv4Network) -> None:
        """Deliver public addresses to their VPCs, and let nothing else in but what is attached."""
        gone = [address for address, vpc_id in self._public.items() if public.get(address) != vpc_id]
        ip_batch(self._backbone, [f"route delete {address}/32" for address in gone], force=True)
        new = [(address, vpc_id) for address, vpc_id in public.items() if self._public.get(address) != vpc_id]
        ip_batch(self._backbone, [links.route_to_vpc(f"{address}/32", vpc_id) for address, vpc_id in new])
        self._public = dict(public)
        text = rules.backbone_rules(vpcs, public_range, [(a.vpc, a.source) for a in self._attachments])
        if text != self._rules:
            nft(self._backbone, text)
            self._rules = text

    # -- attachments ----------------------------------------------------------------------------------------

    def attach(self, vpc: Vpc, source: IPv4Network, host: IPv4Address, uplink: str, via: IPv4Address) -> None:
        """Idempotent. ``host`` is this machine's own address: attaching it takes a route of its own.

        Raises NetworkError if the VPC's range is in use.
        """
        attachment = Attachment(vpc, source)
        if attachment in self._attachments:
            return
        for other in self._attachments:
            if other.vpc.id != vpc.id and other.vpc.cidr.overlaps(vpc.cidr):
                raise NetworkError(
                    f"{vpc.id} ({vpc.cidr}) overlaps with {other.vpc.id} ({other.vpc.cidr}), which {other.source} is "
                    "attached to: of two such VPCs only one can be attached at a time; detach the other one first"
                )
        if host in source:
            _check_host(vpc.cidr)
            ip(None, "route", "add", str(vpc.cidr), "via", str(via), "dev", uplink)
        ip_batch(self._backbone, [links.route_to_vpc(str(vpc.cidr), vpc.id)])
        self._attachments.append(attachment)

    def detach(self, vpc: Vpc, source: IPv4Network, host: IPv4Address, uplink: str) -> None:
        """Raises NetworkError if it is not attached."""
        attachment = Attachment(vpc, source)
        if attachment not in self._attachments:
            raise NetworkError(f"{source} is not attached to {vpc.id}")
        self._attachments.remove(attachment)
        if not any(host in other for other in self.sources(vpc.id)):
            ip(None, "route", "delete", str(vpc.cidr), "dev", uplink, check=False)
        if not self.sources(vpc.id):
            ip(self._backbone, "route", "delete", str(vpc.cidr), check=False)


def _check_host(cidr: IPv4Network) -> None:
    for route in json.loads(ip(None, "-j", "-4", "route", "show")):
        if route["dst"] != "default" and IPv4Network(route["dst"]).overlaps(cidr):
            raise NetworkError(
                f"this machine has a route for {route['dst']} by {route.get('dev', 'nothing')} already, which overlaps "
                f"with {cidr}: it cannot be attached to that VPC"
            )
