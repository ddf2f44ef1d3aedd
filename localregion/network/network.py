"""The network of one region."""

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

from localregion.kernel import CommandError, ip, ip_batch, nft, run
from localregion.model import Eni, Layout, Subnet, Vpc
from localregion.network import links, rules
from localregion.network.dhcp import Dhcp, kill_all
from localregion.network.links import NetworkError, eni_link, host_link, vpc_link
from localregion.network.outside import Attachment, Outside
from localregion.network.rules import Drop

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True)
class Host:
    """A test host beside the machines: a namespace with one address, on the host's file system."""

    name: str
    address: IPv4Address
    router: str  # namespace it is attached to


class Network:
    """Makes the kernel match a :class:`Layout`. Every name starts with ``mh-<region>-``; ``down`` removes by that."""

    def __init__(self, region: str, state: Path) -> None:
        self.prefix = f"mh-{region}-"
        self.backbone = f"{self.prefix}net"
        self._table = f"mh-{region}"
        self._state = state / "network.json"
        self._lock = threading.RLock()
        self._layout = self._in_force = Layout()
        self._outside = Outside(self.backbone)
        self._rules: dict[str, tuple[str, ...]] = {}  # VPC -> what its router has loaded
        self._routes: dict[str, dict[str, set[IPv4Address]]] = {}  # VPC -> link -> addresses
        self._dhcp: dict[str, Dhcp] = {}  # by VPC
        self._attached: dict[str, Eni] = {}  # link -> ENI as attached
        self._endpoints: dict[str, Eni] = {}  # by id
        self._drops: dict[str, Drop] = {}
        self._hosts: dict[str, Host] = {}
        self.index = 0

    # -- addresses of the region itself ---------------------------------------------------------------------

    @property
    def range(self) -> IPv4Network:
        """The uplink's range, out of the shared address space (RFC 6598)."""
        return IPv4Network((int(IPv4Address("100.64.0.0")) + 256 * self.index, 24))

    @property
    def public_range(self) -> IPv4Network:
        """Elastic IPs and other public addresses, out of what is kept for tests (RFC 2544): nobody's."""
        return IPv4Network((int(IPv4Address("198.18.0.0")) + 256 * self.index, 24))

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
        present = {link["ifname"] for link in json.loads(ip(None, "-j", "link", "show"))}
        self.index = next(i for i in range(256) if f"mh{i}up" not in present)
        before = _FORWARD.read_text().strip()
        self._state.write_text(json.dumps({"index": self.index, "ip_forward": before}))
        links.connect_backbone(self.backbone, self.uplink, self.range, self.deployer, self.public_range)
        ip(self.backbone, "address", "add", f"{self.endpoint}/32", "dev", "lo")
        _FORWARD.write_text("1")
        nft(None, rules.host_rules(self._table, self.uplink))
        self._apply_outside(())

    def down(self) -> None:
        """Remove everything that carries the region's prefix, also what a killed daemon left behind."""
        with self._lock:
            saved: dict[str, str] = {}
            with suppress(OSError, ValueError):
                saved = json.loads(self._state.read_text())
            run("nft", "delete", "table", "ip", self._table, check=False)
            for line in ip(None, "netns", "list", check=False).splitlines():
                name = line.split()[0]
                if name.startswith(self.prefix):
                    if name.startswith(self.namespace("vpc-")):
                        kill_all(name)
                    links.remove_namespace(name)
            if "index" in saved:
                ip(None, "link", "delete", f"mh{saved['index']}up", check=False)
            names = [link["ifname"] for link in json.loads(ip(None, "-j", "link", "show"))]
            others = [name for name in names if name.startswith("mh") and name.endswith("up")]
            if saved.get("ip_forward") == "0" and not others:
                _FORWARD.write_text("0")
            self._state.unlink(missing_ok=True)

    # -- the layout -----------------------------------------------------------------------------------------

    def namespace(self, vpc_id: str) -> str:
        return f"{self.prefix}{vpc_id}"

    def vpcs(self) -> set[str]:
        """The VPCs that have a router."""
        return set(self._rules)

    @property
    def layout(self) -> Layout:
        """What is in force, which the API may be ahead of."""
        return self._in_force

    @property
    def endpoints(self) -> dict[str, Eni]:
        """The interfaces of VPC endpoints, by id; each has a namespace, called as a machine's is."""
        return dict(self._endpoints)

    def names(self, vpc_id: str) -> dict[str, IPv4Address]:
        """What lies behind a name in this VPC and nowhere else."""
        return {name: eni.primary for eni, _ in rules.enis_of(self._layout, vpc_id) for name in eni.names}

    def apply(self, layout: Layout) -> None:
        """Make the network match ``layout``. Idempotent; calls run one after the other."""
        with self._lock:
            used = {vpc.id: vpc for vpc in layout.vpcs if self._used(vpc, layout)}
            present = set(self._rules)
            for vpc_id in present - used.keys():
                self._remove_vpc(vpc_id)
            both = rules.both(self._layout, layout)
            self._layout = layout
            for vpc_id in used.keys() - present:
                self._add_vpc(used[vpc_id])
            self._apply_outside(list(used.values()))
            self._apply_endpoints()
            for vpc in used.values():
                self._apply_dhcp(vpc)
                # While an address moves, answers of both machines are on their way, and none of them is to be lost.
                self._apply_rules(vpc, both)
                self._apply_routes(vpc)
                self._apply_rules(vpc, layout)
            self._in_force = layout

    @staticmethod
    def _used(vpc: Vpc, layout: Layout) -> bool:
        """The default VPC that every region starts with costs nothing until something stands in it."""
        subnets = {subnet.id for subnet in layout.subnets if subnet.vpc_id == vpc.id}
        return vpc.id in {s.vpc_id for s in layout.subnets if str(vpc.cidr) != "172.31.0.0/16"} or any(
            eni.subnet_id in subnets for eni in layout.enis
        )

    def _add_vpc(self, vpc: Vpc) -> None:
        """Wholly or not at all, so that the next try fails with the same error and not with a remnant of this one."""
        namespace = self.namespace(vpc.id)
        try:
            links.connect_vpc(namespace, self.backbone, vpc)
        except CommandError:
            links.remove(namespace, self.backbone, vpc_link(vpc.id))
            raise
        self._rules[vpc.id] = ()
        self._routes[vpc.id] = {}
        self._dhcp[vpc.id] = Dhcp(vpc, namespace, self._state.parent)

    def _remove_vpc(self, vpc_id: str) -> None:
        for attachment in self.attachments:
            if attachment.vpc.id == vpc_id:
                self._outside.detach(attachment.vpc, attachment.source, self.deployer, self.uplink)
        for host in [host for host in self._hosts.values() if host.router == self.namespace(vpc_id)]:
            self.remove_host(host.name)
        self._dhcp[vpc_id].stop()
        links.remove(self.namespace(vpc_id), self.backbone, vpc_link(vpc_id))
        del self._rules[vpc_id], self._routes[vpc_id], self._dhcp[vpc_id]

    def _apply_outside(self, vpcs: Sequence[Vpc]) -> None:
        public = {address: vpc.id for vpc in vpcs for address in rules.public_addresses(self._layout, vpc.id)}
        self._outside.apply(vpcs, public, self.public_range)

    def _apply_endpoints(self) -> None:
        """Each in a namespace of its own, so that it is reached, and its groups decide, as with a machine."""
        wanted = {
            eni.id: (vpc_id, eni, subnet)
            for vpc_id in self._rules
            for eni, subnet in rules.enis_of(self._layout, vpc_id)
            if eni.names
        }
        for eni_id in self._endpoints.keys() - wanted.keys():
            self.detach(eni_id, eni_id)
            del self._endpoints[eni_id]
        for eni_id in wanted.keys() - self._endpoints.keys():
            vpc_id, eni, subnet = wanted[eni_id]
            links.connect_endpoint(self.machine_namespace(eni_id), self.namespace(vpc_id), eni, subnet)
            self._endpoints[eni_id] = self._attached[eni_link(eni_id)] = eni

    def _apply_dhcp(self, vpc: Vpc) -> None:
        subnets = [subnet for subnet in self._layout.subnets if subnet.vpc_id == vpc.id]
        self._dhcp[vpc.id].serve(subnets, [eni for eni, _ in rules.enis_of(self._layout, vpc.id)])

    def _apply_routes(self, vpc: Vpc) -> None:
        """An address is where its ENI's machine is; it goes to the machine whether its system has it or not."""
        attached = {eni_link(eni.id): eni for eni, _ in rules.enis_of(self._layout, vpc.id)}
        attached = {link: eni for link, eni in attached.items() if link in self._attached}
        known = self._routes[vpc.id]
        held = {address for eni in attached.values() for address in eni.addresses}
        lines = []
        for link, addresses in list(known.items()):
            keep = attached[link].addresses if link in attached else frozenset()
            # One that moves is replaced below, in one step: it is never nowhere.
            lines += [f"route delete {address}/32 dev {link}" for address in addresses - keep - held]
            known[link] = addresses & keep
        ip_batch(self.namespace(vpc.id), lines, force=True)
        lines = []
        for link, eni in attached.items():
            have = known.setdefault(link, set())
            for address in sorted(eni.addresses - have, key=lambda a: a != eni.primary):
                via = "" if address == eni.primary else f"via {eni.primary} "
                lines.append(f"route replace {address}/32 {via}dev {link}{' onlink' if via else ''}")
            known[link] = set(eni.addresses)
        ip_batch(self.namespace(vpc.id), lines)

    def _apply_rules(self, vpc: Vpc, layout: Layout) -> None:
        attached = self._outside.sources(vpc.id)
        texts = (
            rules.vpc_rules(vpc, layout, self._drops.values(), attached),
            rules.nat_rules(vpc, layout, attached),
        )
        for text in texts:
            if text not in self._rules[vpc.id]:
                nft(self.namespace(vpc.id), text)
        self._rules[vpc.id] = texts

    # -- networks outside -----------------------------------------------------------------------------------

    @property
    def attachments(self) -> list[Attachment]:
        return self._outside.attachments

    def attach_network(self, vpc: Vpc, source: IPv4Network) -> None:
        """Let a network outside and a VPC use each other's private addresses. Raises NetworkError."""
        with self._lock:
            if vpc.id not in self._rules:
                raise NetworkError(f"{vpc.id} has no subnet yet: there is nothing to attach to")
            self._outside.attach(vpc, source, self.deployer, self.uplink, self.range[2])
            self.apply(self._layout)

    def detach_network(self, vpc: Vpc, source: IPv4Network) -> None:
        """Raises NetworkError if it is not attached."""
        with self._lock:
            self._outside.detach(vpc, source, self.deployer, self.uplink)
            if vpc.id in self._rules:
                self.apply(self._layout)

    # -- machines and hosts ---------------------------------------------------------------------------------

    def machine_namespace(self, instance_id: str) -> str:
        return f"{self.prefix}{instance_id}"

    def attach(self, instance_id: str, eni: Eni, subnet: Subnet) -> str:
        """A fresh namespace for a machine that boots, with its device ens5; returns the namespace's name."""
        with self._lock:
            namespace, link = self.machine_namespace(instance_id), eni_link(eni.id)
            links.connect_machine(namespace, self.namespace(subnet.vpc_id), eni, subnet)
            self._attached[link] = eni
            self._routes[subnet.vpc_id].pop(link, None)
            self.apply(self._layout)
            return namespace

    def detach(self, instance_id: str, eni_id: str) -> None:
        with self._lock:
            self._attached.pop(eni_link(eni_id), None)
            ip(None, "netns", "delete", self.machine_namespace(instance_id), check=False)
            for vpc_id, known in self._routes.items():
                if known.pop(eni_link(eni_id), None) is not None:
                    # The link goes with the namespace, a little later; nothing may be delivered meanwhile.
                    ip(self.namespace(vpc_id), "link", "delete", eni_link(eni_id), check=False)

    def cut(self, eni_id: str) -> None:
        """Take the link down: not a single packet gets out any more, no FIN and no RST."""
        with self._lock:
            for vpc_id, known in self._routes.items():
                if eni_link(eni_id) in known:
                    ip(self.namespace(vpc_id), "link", "set", eni_link(eni_id), "down", check=False)

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
            resolver = vpc.resolver if vpc else self.endpoint
            links.connect_host(self.host_namespace(name), router, name, where, resolver)
            self._hosts[name] = Host(name, where, router)

    def remove_host(self, name: str) -> None:
        with self._lock:
            host = self._hosts.pop(name, None)
            if host:
                links.remove(self.host_namespace(name), host.router, host_link(name))

    def host_namespace(self, name: str) -> str:
        return f"{self.prefix}h-{name}"

    @property
    def hosts(self) -> dict[str, Host]:
        return dict(self._hosts)

    # -- faults ---------------------------------------------------------------------------------------------

    def end(self, name: str) -> str:
        """The interface that stands for an ENI id, a host's name, or ``outside`` (all that is not in the VPC)."""
        if name.startswith("eni-"):
            return eni_link(name)
        if name == "outside":
            return links.UPLINK
        if name in self._hosts:
            return host_link(name)
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
