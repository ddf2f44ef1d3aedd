"""nftables rules of the routers: security groups, source/destination check, ways out, and lost packets."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from localregion.model import Eni, Layout, Rule, SecurityGroup, Subnet, Vpc
from localregion.network.links import UPLINK, eni_link, vpc_link


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


def backbone_rules(vpc_ids: Iterable[str]) -> str:
    """VPCs do not see each other."""
    links = ", ".join(f'"{vpc_link(vpc_id)}"' for vpc_id in vpc_ids)
    rules = ["type filter hook forward priority 0; policy accept;"]
    if links:
        rules.append(f"iifname {{ {links} }} oifname {{ {links} }} drop")
    return _replace("backbone", [_chain("forward", rules)])


def vpc_rules(vpc: Vpc, layout: Layout, drops: Iterable[Drop]) -> str:
    """Everything that a VPC's router drops."""
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
        if not (subnet.default_route == "nat" or (subnet.default_route == "igw" and eni.public)):
            ways_out.append(f'iifname "{link}" oifname "{UPLINK}" drop')
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
