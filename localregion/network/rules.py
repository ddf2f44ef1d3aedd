"""nftables rules of the routers: security groups, source/destination check, ways out, and lost packets."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from localregion.model import Eni, Layout, Rule, SecurityGroup, Subnet, Vpc
from localregion.network.links import UPLINK, eni_link, host_link, vpc_link


@dataclass(frozen=True)
class Drop:
    """A fault: packets from ``a`` to ``b`` (``both``: and back) vanish. Ends are links; ``b`` None is everybody."""

    id: str
    a: str
    b: str | None
    protocol: str | None = None
    port: int | None = None
    both: bool = True


def enis_of(layout: Layout, vpc_id: str) -> Iterator[tuple[Eni, Subnet]]:
    subnets = {subnet.id: subnet for subnet in layout.subnets if subnet.vpc_id == vpc_id}
    return ((eni, subnets[eni.subnet_id]) for eni in layout.enis if eni.subnet_id in subnets)


def both(before: Layout, after: Layout) -> Layout:
    """``after``, in which every interface still has the addresses of ``before`` as well."""
    known = {eni.id: eni.addresses for eni in before.enis}
    enis = (replace(eni, addresses=eni.addresses | known.get(eni.id, frozenset())) for eni in after.enis)
    return replace(after, enis=tuple(enis))


def host_rules(table: str, uplink: str) -> str:
    """The machine that the region runs on lets the region out, and nothing from elsewhere in."""
    return f"""
table ip {table} {{
    chain forward {{
        type filter hook forward priority -1; policy accept;
        iifname "{uplink}" oifname != "{uplink}" ct mark set 0x6d68
        oifname "{uplink}" ct state new ct mark != 0x6d68 drop
        tcp flags syn tcp option maxseg size set rt mtu
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ct mark 0x6d68 oifname != "{uplink}" masquerade
    }}
}}
"""


def backbone_rules(vpcs: Sequence[Vpc], public: IPv4Network, attachments: Iterable[tuple[Vpc, IPv4Network]]) -> str:
    """Into a VPC go answers, packets to public addresses, and what comes from a network that is attached to it.

    Nobody further out knows a VPC's private addresses.
    """
    rules = ["type filter hook forward priority 0; policy accept;", "ct state established,related accept"]
    rules += [
        f'oifname "{vpc_link(vpc.id)}" ip saddr {source} ip daddr {vpc.cidr} accept' for vpc, source in attachments
    ]
    rules += [f'oifname "{vpc_link(vpc.id)}" ip daddr != {public} drop' for vpc in vpcs]
    if vpcs:
        rules.append(f'oifname "{UPLINK}" ip daddr {_set(collapse_addresses(vpc.cidr for vpc in vpcs))} drop')
    return _replace("backbone", [_chain("forward", rules)])


def public_addresses(layout: Layout, vpc_id: str) -> dict[IPv4Address, IPv4Address]:
    """Private address by public one, as the VPC's internet gateway translates them."""
    return {eni.public: eni.primary for eni, subnet in enis_of(layout, vpc_id) if eni.public and subnet.internet}


def nat_rules(vpc: Vpc, layout: Layout, attached: Sequence[IPv4Network]) -> str:
    """The internet gateway (one public address for one private one) and NAT gateways (one for a subnet)."""
    public = public_addresses(layout, vpc.id)
    into = ["type nat hook prerouting priority dstnat; policy accept;"]
    into += [f'iifname "{UPLINK}" ip daddr {address} dnat to {private}' for address, private in public.items()]
    out = ["type nat hook postrouting priority srcnat; policy accept;"]
    if attached:
        out.append(f'oifname "{UPLINK}" ip daddr {_set(attached)} accept')
    out += [f'oifname "{UPLINK}" ip saddr {private} snat to {address}' for address, private in public.items()]
    for subnet in layout.subnets:
        if subnet.vpc_id == vpc.id and subnet.nat:
            out.append(f'oifname "{UPLINK}" ip saddr {subnet.cidr} snat to {subnet.nat}')
    return _replace("nat", [_chain("into", into), _chain("out", out)])


def vpc_rules(vpc: Vpc, layout: Layout, drops: Iterable[Drop], attached: Sequence[IPv4Network]) -> str:
    """Everything that a VPC's router drops."""
    # Networks that are attached are reached without a way to the internet.
    elsewhere = f'oifname "{UPLINK}" {f"ip daddr != {_set(attached)} " if attached else ""}'
    enis = list(enis_of(layout, vpc.id))
    groups = {group.id: group for group in layout.groups}
    members: dict[str, set[IPv4Address]] = {}
    for eni, _ in enis:
        for group in eni.groups:
            members.setdefault(group, set()).update(eni.addresses)
    source_checks, ways_out, entries, chains = [], [], [], []
    for eni, subnet in enis:
        link = eni_link(eni.id)
        if eni.source_dest_check:
            source_checks.append(f'iifname "{link}" ip saddr != {_set(eni.addresses)} drop')
        ways_out.append(f'iifname "{link}" jump out_{link}')
        if not subnet.nat:
            public = f"ip saddr != {eni.primary} " if subnet.internet and eni.public else ""
            ways_out.append(f'iifname "{link}" {elsewhere}{public}drop')
        entries.append(f'oifname "{link}" jump in_{link}')
        own = [groups[group] for group in eni.groups if group in groups]
        chains.append(_chain(f"out_{link}", _matches(own, "egress", members, "return")))
        chains.append(_chain(f"in_{link}", _matches(own, "ingress", members, "accept")))
    source = [
        "type filter hook prerouting priority -150; policy accept;",
        f'iifname "{UPLINK}" ip saddr {vpc.cidr} drop',
        "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",  # a machine without an address asks for one
        *source_checks,
    ]
    forward = [
        "type filter hook forward priority 0; policy accept;",
        *(line for drop in drops for line in _drop_rules(drop)),
        "ct state established,related accept",
        "ct state invalid drop",
        *ways_out,
        f'iifname "{host_link("*")}" {elsewhere}drop',
        *entries,
    ]
    return _replace("vpc", [*chains, _chain("source", source), _chain("forward", forward)])


def _replace(table: str, chains: Iterable[str]) -> str:
    """Put a new table in the place of an old one, if there is one, in one transaction."""
    return "\n".join([f"add table ip {table}", f"delete table ip {table}", f"table ip {table} {{", *chains, "}"]) + "\n"


def _set(values: Iterable[IPv4Address | IPv4Network]) -> str:
    return "{ " + ", ".join(str(value) for value in sorted(values)) + " }"


def _chain(name: str, lines: Iterable[str]) -> str:
    return f"    chain {name} {{\n" + "".join(f"        {line}\n" for line in lines) + "    }"


def _matches(
    groups: Iterable[SecurityGroup], direction: str, members: dict[str, set[IPv4Address]], verdict: str
) -> list[str]:
    """nftables lines for the rules of all groups; what none of them allows is dropped."""
    side = "saddr" if direction == "ingress" else "daddr"
    lines = []
    for group in groups:
        for rule in getattr(group, direction):
            peers: list[str] = [str(cidr) for cidr in rule.cidrs]
            for referenced in rule.groups:
                peers += [str(address) for address in sorted(members.get(referenced, ()))]
            for peer in dict.fromkeys(peers):
                everywhere = peer == "0.0.0.0/0"
                lines.append(f"{'' if everywhere else f'ip {side} {peer} '}{_protocol(rule)}{verdict}")
    return [*lines, "drop"]


def _protocol(rule: Rule) -> str:
    if rule.protocol == "-1":
        return ""
    if rule.protocol in {"tcp", "udp"}:
        return f"{rule.protocol} dport {rule.from_port}-{rule.to_port} "
    if rule.protocol == "icmp":
        kind = "" if rule.from_port in {None, -1} else f"icmp type {rule.from_port} "
        code = "" if rule.to_port in {None, -1} else f"icmp code {rule.to_port} "
        return f"ip protocol icmp {kind}{code}"
    return f"ip protocol {rule.protocol} "


def _drop_rules(drop: Drop) -> Iterator[str]:
    protocol = f"ip protocol {drop.protocol} " if drop.protocol and not drop.port else ""
    port = f"{drop.protocol or 'tcp'} dport {drop.port} " if drop.port else ""
    back = f"{drop.protocol or 'tcp'} sport {drop.port} " if drop.port else ""
    to = f'oifname "{drop.b}" ' if drop.b else ""
    yield f'iifname "{drop.a}" {to}{protocol}{port}drop'
    if drop.both:
        of = f'iifname "{drop.b}" ' if drop.b else ""
        yield f'{of}oifname "{drop.a}" {protocol}{back}drop'
        if port:
            yield f'{of}oifname "{drop.a}" {port}drop'
            yield f'iifname "{drop.a}" {to}{back}drop'
