"""The region's network: a router namespace for each VPC, one veth pair for each machine, nothing else in between.

In a VPC's namespace every address of an attached ENI is a /32 route to that machine, so an address is reachable only
where the API says it is; a gratuitous ARP changes nothing. Security groups are nftables rules on the same router.

``links`` makes namespaces and veth pairs, ``rules`` writes nftables rules (security groups, source checks, faults),
``network`` holds the state and the routes, and makes the kernel match what the API describes.
"""

from localregion.network.links import METADATA, NetworkError
from localregion.network.network import Host, Network
from localregion.network.rules import Drop

__all__ = ["METADATA", "Drop", "Host", "Network", "NetworkError"]
