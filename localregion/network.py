"""The region's network: a router namespace for each VPC, one veth pair for each machine, nothing else in between.

In a VPC's namespace every address of an attached ENI is a /32 route to that machine, so an address is reachable only
where the API says it is; a gratuitous ARP changes nothing. Security groups are nftables rules on the same router.
"""

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

from localregion.kernel import CommandError, ip, ip_batch, nft, run, sysctl
from localregion.model import Eni, Layout, Rule, SecurityGroup, Subnet, Vpc

METADATA = IPv4Address("169.254.169.254")
#: The two ends of every link between routers; they never leave their link.
_INNER, _OUTER = "169.254.1.1", "169.254.1.2"
#: A router's end of the link to a test host: another address, since a router cannot route by one of its own.
_BESIDE = "169.254.1.3"
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True)
class Drop:
    """A fault: packets from ``a`` to ``b`` (``both``: and back) vanish. Ends are links; ``b`` None is everybody."""

    id: str
    a: str
    b: str | None
    protocol: str | None = None
    port: int | None = None
    both: bool = True


@dataclass(frozen=True)
class Host:
    """A test host beside the machines: a namespace with one address, on the host's file system."""

    name: str
    address: IPv4Address
    router: str  # namespace it is attached to


class NetworkError(RuntimeError):
    """The network cannot be made as asked; the message says why."""


def veth(eni_id: str) -> str:
    """The VPC side's name of an ENI's link (15 characters at the most)."""
    return f"e-{eni_id[-12:]}"


class Network:
    """Makes the kernel match a :class:`Layout`. Every name starts with ``mh-<region>-``; ``down`` removes by that."""

    def __init__(self, region: str, state: Path) -> None:
        self.region = region
        self.prefix = f"mh-{region}-"
        self.backbone = f"{self.prefix}net"
        self._state = state / "network.json"
        self._lock = threading.RLock()
        self._layout = Layout()
        self._rules: dict[str, str] = {}
        self._routes: dict[str, dict[str, set[IPv4Address]]] = {}  # VPC -> link -> addresses
        self._attached: dict[str, Eni] = {}  # link -> ENI as attached
        self._drops: dict[str, Drop] = {}
        self._hosts: dict[str, Host] = {}
        self.index = 0

    # -- addresses of the region itself ---------------------------------------------------------------------

    @property
    def range(self) -> IPv4Network:
        """The uplink's range, out of the shared address space (RFC 6598)."""
        return IPv4Network((int(IPv4Address("100.64.0.0")) + 256 * self.index, 24))

    @property
    def deployer(self) -> IPv4Address:
        return self.range[1]

    @property
    def endpoint(self) -> IPv4Address:
        return self.range[10]

    @property
    def uplink(self) -> str:
        return f"mh{self.index}up"

    # -- up and down ----------------------------------------------------------------------------------------

    def up(self) -> None:
        """The backbone: the uplink to the host, the address of the AWS endpoint, a way out for machines."""
        links = {link["ifname"] for link in json.loads(ip(None, "-j", "link", "show"))}
        self.index = next(i for i in range(256) if f"mh{i}up" not in links)
        before = _FORWARD.read_text().strip()
        self._state.write_text(json.dumps({"index": self.index, "ip_forward": before}))
        ip(None, "netns", "add", self.backbone)
        ip(None, "link", "add", self.uplink, "type", "veth", "peer", "name", "uplink", "netns", self.backbone)
        ip(None, "address", "add", f"{self.deployer}/24", "dev", self.uplink)
        ip(None, "link", "set", self.uplink, "up")
        self._router(self.backbone)
        ip_batch(
            self.backbone,
            [
                f"address add {self.range[2]}/24 dev uplink",
                f"address add {self.endpoint}/32 dev lo",
                "link set uplink up",
                f"route add default via {self.deployer}",
            ],
        )
        _FORWARD.write_text("1")
        nft(None, self._host_rules())
        self._backbone_rules()

    def _host_rules(self) -> str:
        table = f"mh-{self.region}"
        return f"""
table ip {table} {{
    chain forward {{
        type filter hook forward priority -1; policy accept;
        iifname "{self.uplink}" oifname != "{self.uplink}" ct mark set 0x6d68
        oifname "{self.uplink}" ct state new ct mark != 0x6d68 drop
        tcp flags syn tcp option maxseg size set rt mtu
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ct mark 0x6d68 oifname != "{self.uplink}" masquerade
    }}
}}
"""

    def _router(self, namespace: str) -> None:
        sysctl(
            namespace,
            ipv4__ip_forward=1,
            ipv4__conf__all__rp_filter=0,
            ipv4__conf__default__rp_filter=0,
            ipv4__conf__all__send_redirects=0,
            ipv4__conf__default__send_redirects=0,
            ipv4__conf__default__proxy_arp=1,
        )
        ip(namespace, "link", "set", "lo", "up")

    def down(self) -> None:
        """Remove everything that carries the region's prefix, also what a killed daemon left behind."""
        with self._lock:
            saved: dict[str, str] = {}
            with suppress(OSError, ValueError):
                saved = json.loads(self._state.read_text())
            run("nft", "delete", "table", "ip", f"mh-{self.region}", check=False)
            for line in ip(None, "netns", "list", check=False).splitlines():
                name = line.split()[0]
                if name.startswith(self.prefix):
                    ip(None, "netns", "delete", name, check=False)
            if "index" in saved:
                ip(None, "link", "delete", f"mh{saved['index']}up", check=False)
            others = [
                x
                for x in json.loads(ip(None, "-j", "link", "show"))
                if x["ifname"].endswith("up") and x["ifname"].startswith("mh")
            ]
            if saved.get("ip_forward") == "0" and not others:
                _FORWARD.write_text("0")
            self._state.unlink(missing_ok=True)

    # -- the layout -----------------------------------------------------------------------------------------

    def namespace(self, vpc_id: str) -> str:
        return f"{self.prefix}{vpc_id}"

    def vpcs(self) -> set[str]:
        """The VPCs that have a router."""
        return set(self._rules)

    def apply(self, layout: Layout) -> None:
        """Make the network match ``layout``. Idempotent; calls run one after the other."""
        with self._lock:
            wanted = {vpc.id: vpc for vpc in layout.vpcs if self._used(vpc, layout)}
            present = set(self._rules)
            for vpc_id in present - wanted.keys():
                self._remove_vpc(vpc_id)
            self._layout = layout
            for vpc_id in wanted.keys() - present:
                self._add_vpc(wanted[vpc_id])
            for vpc in wanted.values():
                self._apply_routes(vpc)
                self._apply_rules(vpc)

    @staticmethod
    def _used(vpc: Vpc, layout: Layout) -> bool:
        """The default VPC that every region starts with costs nothing until something stands in it."""
        subnets = {subnet.id for subnet in layout.subnets if subnet.vpc_id == vpc.id}
        return vpc.id in {s.vpc_id for s in layout.subnets if str(vpc.cidr) != "172.31.0.0/16"} or any(
            eni.subnet_id in subnets for eni in layout.enis
        )

    def _add_vpc(self, vpc: Vpc) -> None:
        """Wholly or not at all, so that what went wrong is said again when it is tried again."""
        try:
            self._connect_vpc(vpc)
        except (CommandError, NetworkError):
            ip(self.backbone, "link", "delete", f"v-{vpc.id[-12:]}", check=False)
            ip(None, "netns", "delete", self.namespace(vpc.id), check=False)
            raise
        self._rules[vpc.id] = ""
        self._routes[vpc.id] = {}
        self._backbone_rules()

    def _connect_vpc(self, vpc: Vpc) -> None:
        namespace = self.namespace(vpc.id)
        link = f"v-{vpc.id[-12:]}"
        ip(None, "netns", "add", namespace)
        self._router(namespace)
        ip(self.backbone, "link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", namespace)
        ip_batch(
            namespace,
            [
                f"address add {_INNER}/32 dev uplink",
                f"address add {METADATA}/32 dev lo",
                "link set uplink up",
                f"route add default via {_OUTER} dev uplink onlink",
                # What no ENI holds is nowhere, and nobody answers ARP for it.
                f"route add blackhole {vpc.cidr}",
            ],
        )
        ip_batch(
            self.backbone,
            [
                f"address add {_OUTER}/32 dev {link}",
                f"link set {link} up",
                f"route add {vpc.cidr} via {_INNER} dev {link} onlink",
            ],
        )
        try:
            ip(None, "route", "add", str(vpc.cidr), "via", str(self.range[2]), "dev", self.uplink)
        except CommandError as error:
            raise NetworkError(
                f"this machine has a route for {vpc.cidr} already: choose another range ({error})"
            ) from error

    def _remove_vpc(self, vpc_id: str) -> None:
        vpc = next((vpc for vpc in self._layout.vpcs if vpc.id == vpc_id), None)
        if vpc:
            ip(None, "route", "delete", str(vpc.cidr), "dev", self.uplink, check=False)
        for host in [host for host in self._hosts.values() if host.router == self.namespace(vpc_id)]:
            self.remove_host(host.name)
        ip(self.backbone, "link", "delete", f"v-{vpc_id[-12:]}", check=False)
        ip(None, "netns", "delete", self.namespace(vpc_id), check=False)
        del self._rules[vpc_id], self._routes[vpc_id]
        self._backbone_rules()

    def _enis(self, vpc_id: str) -> Iterator[tuple[Eni, Subnet]]:
        subnets = {subnet.id: subnet for subnet in self._layout.subnets if subnet.vpc_id == vpc_id}
        return ((eni, subnets[eni.subnet_id]) for eni in self._layout.enis if eni.subnet_id in subnets)

    def _apply_routes(self, vpc: Vpc) -> None:
        """An address is where its ENI's machine is; it goes to the machine whether its system has it or not."""
        wanted = {veth(eni.id): eni for eni, _ in self._enis(vpc.id) if veth(eni.id) in self._attached}
        known = self._routes[vpc.id]
        lines = []
        for link, addresses in list(known.items()):
            keep = wanted[link].addresses if link in wanted else frozenset()
            gone = addresses - keep
            lines += [f"route delete {address}/32 dev {link}" for address in gone]
            known[link] = addresses - gone
        ip_batch(self.namespace(vpc.id), lines, force=True)
        lines = []
        for link, eni in wanted.items():
            have = known.setdefault(link, set())
            for address in sorted(eni.addresses - have, key=lambda a: a != eni.primary):
                via = "" if address == eni.primary else f"via {eni.primary} "
                lines.append(f"route replace {address}/32 {via}dev {link}{' onlink' if via else ''}")
            known[link] = set(eni.addresses)
        ip_batch(self.namespace(vpc.id), lines)

    def _apply_rules(self, vpc: Vpc) -> None:
        text = self._vpc_rules(vpc)
        if text != self._rules[vpc.id]:
            nft(self.namespace(vpc.id), "add table ip vpc\ndelete table ip vpc\n" + text)
            self._rules[vpc.id] = text

    def _vpc_rules(self, vpc: Vpc) -> str:
        enis = list(self._enis(vpc.id))
        groups = {group.id: group for group in self._layout.groups}
        members: dict[str, set[IPv4Address]] = {}
        for eni, _ in enis:
            for group in eni.groups:
                members.setdefault(group, set()).update(eni.addresses)
        checks, faults, ways, chains = [], [], [], []
        for eni, subnet in enis:
            link = veth(eni.id)
            if eni.source_dest_check:
                checks.append(f'iifname "{link}" ip saddr != {_set(eni.addresses)} drop')
            ways.append(f'iifname "{link}" jump out_{link}')
            if not (subnet.default_route == "nat" or (subnet.default_route == "igw" and eni.public)):
                ways.append(f'iifname "{link}" oifname "uplink" drop')
            own = [groups[group] for group in eni.groups if group in groups]
            chains.append(_chain(f"out_{link}", _resolver_rules("return") + _matches(own, "egress", members, "return")))
            chains.append(_chain(f"in_{link}", _matches(own, "ingress", members, "accept")))
        entries = [f'oifname "{veth(eni.id)}" jump in_{veth(eni.id)}' for eni, _ in enis]
        faults = [line for drop in self._drops.values() for line in _drop_rules(drop)]
        return "\n".join(
            [
                "table ip vpc {",
                *chains,
                _chain(
                    "source",
                    [
                        "type filter hook prerouting priority -150; policy accept;",
                        f'iifname "uplink" ip saddr {vpc.cidr} drop',
                        *checks,
                    ],
                ),
                _chain(
                    "forward",
                    [
                        "type filter hook forward priority 0; policy accept;",
                        *faults,
                        "ct state established,related accept",
                        "ct state invalid drop",
                        *ways,
                        *entries,
                    ],
                ),
                "}",
            ]
        )

    def _backbone_rules(self) -> None:
        """VPCs do not see each other."""
        links = [f'"v-{vpc_id[-12:]}"' for vpc_id in self._rules]
        rules = ["type filter hook forward priority 0; policy accept;"]
        if links:
            rules.append(f"iifname {{ {', '.join(links)} }} oifname {{ {', '.join(links)} }} drop")
        nft(
            self.backbone,
            "add table ip backbone\ndelete table ip backbone\ntable ip backbone {\n" + _chain("forward", rules) + "\n}",
        )

    # -- machines and hosts ---------------------------------------------------------------------------------

    def machine_namespace(self, instance_id: str) -> str:
        return f"{self.prefix}{instance_id}"

    def attach(self, instance_id: str, eni: Eni, subnet: Subnet) -> str:
        """A fresh namespace for a machine that boots, with its device ens5; returns the namespace's name."""
        with self._lock:
            namespace, link, router = self.machine_namespace(instance_id), veth(eni.id), self.namespace(subnet.vpc_id)
            ip(None, "netns", "add", namespace)
            ip(
                router,
                "link",
                "add",
                link,
                "type",
                "veth",
                "peer",
                "name",
                "ens5",
                "address",
                eni.mac,
                "netns",
                namespace,
            )
            ip_batch(router, [f"address add {subnet.router}/32 dev {link}", f"link set {link} up", _no_delay(link)])
            ip_batch(
                namespace,
                [
                    "link set lo up",
                    f"address add {eni.primary}/{subnet.cidr.prefixlen} broadcast + dev ens5",
                    "link set ens5 up",
                    f"route add default via {subnet.router} dev ens5",
                ],
            )
            self._attached[link] = eni
            self._routes[subnet.vpc_id].pop(link, None)
            self.apply(self._layout)
            return namespace

    def detach(self, instance_id: str, eni_id: str) -> None:
        with self._lock:
            self._attached.pop(veth(eni_id), None)
            ip(None, "netns", "delete", self.machine_namespace(instance_id), check=False)
            for vpc_id, known in self._routes.items():
                if known.pop(veth(eni_id), None) is not None:
                    # The link goes with the namespace, a little later; nothing may be delivered meanwhile.
                    ip(self.namespace(vpc_id), "link", "delete", veth(eni_id), check=False)

    def cut(self, eni_id: str) -> None:
        """Pull the cable: not a single packet gets out any more, no FIN and no RST."""
        with self._lock:
            for vpc_id, known in self._routes.items():
                if veth(eni_id) in known:
                    ip(self.namespace(vpc_id), "link", "set", veth(eni_id), "down", check=False)

    def add_host(self, name: str, address: str) -> None:
        """A test host: inside the VPC whose range has the address, else behind the region's backbone."""
        with self._lock:
            where = ip_address(address)
            assert isinstance(where, IPv4Address)
            vpc = next((vpc for vpc in self._layout.vpcs if where in vpc.cidr and vpc.id in self._rules), None)
            router = self.namespace(vpc.id) if vpc else self.backbone
            known = self._hosts.get(name)
            if known == Host(name, where, router):
                return
            if known:
                self.remove_host(name)
            holder = next((eni.id for eni in self._layout.enis if where in eni.addresses), None)
            if holder:
                raise NetworkError(f"{address} belongs to {holder}")
            namespace, link = f"{self.prefix}h-{name}", f"h-{name}"[:15]
            ip(None, "netns", "add", namespace)
            ip(router, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            ip_batch(
                router,
                [
                    f"address add {_BESIDE}/32 dev {link}",
                    f"link set {link} up",
                    f"route replace {where}/32 dev {link}",
                    _no_delay(link),
                ],
            )
            ip_batch(
                namespace,
                [
                    "link set lo up",
                    f"address add {where}/32 dev eth0",
                    "link set eth0 up",
                    f"route add default via {_BESIDE} dev eth0 onlink",
                ],
            )
            self._hosts[name] = Host(name, where, router)

    def remove_host(self, name: str) -> None:
        with self._lock:
            host = self._hosts.pop(name, None)
            if host:
                ip(host.router, "link", "delete", f"h-{name}"[:15], check=False)
                ip(None, "netns", "delete", f"{self.prefix}h-{name}", check=False)

    @property
    def hosts(self) -> dict[str, Host]:
        return dict(self._hosts)

    # -- faults ---------------------------------------------------------------------------------------------

    def end(self, name: str) -> str:
        """The interface that stands for an ENI id, a host's name, or ``outside`` (all that is not in the VPC)."""
        if name.startswith("eni-"):
            return veth(name)
        if name == "outside":
            return "uplink"
        if name in self._hosts:
            return f"h-{name}"[:15]
        raise NetworkError(f"nothing here is called {name}")

    def drop(self, drop: Drop) -> None:
        with self._lock:
            self._drops[drop.id] = replace(drop, a=self.end(drop.a), b=self.end(drop.b) if drop.b else None)
            self.apply(self._layout)

    def undrop(self, fault_id: str | None = None) -> None:
        """End one fault, or all."""
        with self._lock:
            for known in [fault_id] if fault_id else list(self._drops):
                self._drops.pop(known, None)
            self.apply(self._layout)


def _no_delay(link: str) -> str:
    """The random delay of up to 0.8 s before each proxied ARP answer is for shared media."""
    return f"ntable change name arp_cache dev {link} proxy_delay 0"


def _set(values: Iterable[IPv4Address | IPv4Network]) -> str:
    return "{ " + ", ".join(str(value) for value in sorted(values)) + " }"


def _chain(name: str, lines: Iterable[str]) -> str:
    return f"    chain {name} {{\n" + "".join(f"        {line}\n" for line in lines) + "    }"


def _resolver_rules(verdict: str) -> list[str]:
    """The VPC's name resolver is not subject to security groups."""
    return [f"udp dport 53 {verdict}", f"tcp dport 53 {verdict}"]


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
