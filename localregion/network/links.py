"""Network namespaces and the veth pairs between them."""

import shutil
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from localregion.kernel import ip, ip_batch, sysctl
from localregion.model import Eni, Subnet, Vpc

#: ``ip netns exec`` shows a program the files of its namespace's folder in place of those in /etc (ip-netns(8)).
FILES = Path("/etc/netns")
METADATA = IPv4Address("169.254.169.254")
#: The two ends of every link between routers; they never leave their link.
_INNER, _OUTER = "169.254.1.1", "169.254.1.2"
#: A router's end of the link to a test host: another address, since a router cannot route by one of its own.
_BESIDE = "169.254.1.3"
#: The name of a router's link to what is outside of it.
UPLINK = "uplink"


class NetworkError(RuntimeError):
    """The network cannot be made as requested; the message says why."""


def eni_link(eni_id: str) -> str:
    """The router's end of an ENI's link (names of links have 15 characters at the most)."""
    return f"e-{eni_id[-12:]}"


def vpc_link(vpc_id: str) -> str:
    """The backbone's end of a VPC's link."""
    return f"v-{vpc_id[-12:]}"


def host_link(name: str) -> str:
    """The router's end of a test host's link."""
    return f"h-{name}"[:15]


def make_router(namespace: str) -> None:
    ip(None, "netns", "add", namespace)
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


def connect_backbone(
    namespace: str, uplink: str, addresses: IPv4Network, deployer: IPv4Address, public: IPv4Network
) -> None:
    """The first router, with the host (``deployer``) at the other end of its uplink; it has all public addresses."""
    make_router(namespace)
    ip(None, "link", "add", uplink, "type", "veth", "peer", "name", UPLINK, "netns", namespace)
    ip(None, "address", "add", f"{deployer}/24", "dev", uplink)
    ip(None, "link", "set", uplink, "up")
    ip_batch(
        namespace,
        [
            f"address add {addresses[2]}/24 dev {UPLINK}",
            f"link set {UPLINK} up",
            f"route add default via {deployer}",
            f"route add blackhole {public}",
        ],
    )
    ip(None, "route", "add", str(public), "via", str(addresses[2]), "dev", uplink)


def connect_vpc(namespace: str, backbone: str, vpc: Vpc) -> None:
    """A VPC's router, on a link to the backbone."""
    link, cidr = vpc_link(vpc.id), vpc.cidr
    make_router(namespace)
    ip(backbone, "link", "add", link, "type", "veth", "peer", "name", UPLINK, "netns", namespace)
    ip_batch(
        namespace,
        [
            f"address add {_INNER}/32 dev {UPLINK}",
            f"address add {METADATA}/32 dev lo",
            f"address add {vpc.resolver}/32 dev lo",
            f"link set {UPLINK} up",
            f"route add default via {_OUTER} dev {UPLINK} onlink",
            # What no ENI holds is nowhere, and nobody answers ARP for it.
            f"route add blackhole {cidr}",
        ],
    )
    ip_batch(backbone, [f"address add {_OUTER}/32 dev {link}", f"link set {link} up"])


def route_to_vpc(destination: str, vpc_id: str) -> str:
    """The backbone's route, as a line of ``ip -batch``."""
    return f"route replace {destination} via {_INNER} dev {vpc_link(vpc_id)} onlink"


def connect_machine(namespace: str, router: str, eni: Eni, subnet: Subnet) -> None:
    """A machine's namespace with its device ens5, which the machine itself sets up."""
    link = eni_link(eni.id)
    pair = f"link add {link} type veth peer name ens5 address {eni.mac} netns {namespace}"
    ip(None, "netns", "add", namespace)
    ip(router, *pair.split())
    ip_batch(router, [f"address add {subnet.router}/32 dev {link}", f"link set {link} up", _no_delay(link)])
    # As the initramfs of Debian's EC2 image does, so that nothing waits for it.
    sysctl(namespace, ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)


def connect_endpoint(namespace: str, router: str, eni: Eni, subnet: Subnet) -> None:
    """The namespace in which a VPC endpoint answers at its interface's address."""
    connect_machine(namespace, router, eni, subnet)
    ip_batch(
        namespace,
        [
            f"address add {eni.primary}/32 dev ens5",
            "link set ens5 up",
            f"route add default via {subnet.router} dev ens5 onlink",
        ],
    )


def connect_host(namespace: str, router: str, name: str, address: IPv4Address, resolver: IPv4Address) -> None:
    """A test host's namespace with its device eth0, and its name resolver."""
    link = host_link(name)
    # This computer's own may be out of reach from there: whatever looks up a client's name would wait for it.
    configuration = FILES / namespace
    configuration.mkdir(parents=True, exist_ok=True)
    (configuration / "resolv.conf").write_text(f"nameserver {resolver}\n")
    ip(None, "netns", "add", namespace)
    ip(router, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    ip_batch(
        router,
        [
            f"address add {_BESIDE}/32 dev {link}",
            f"link set {link} up",
            f"route replace {address}/32 dev {link}",
            _no_delay(link),
        ],
    )
    ip_batch(
        namespace,
        [
            "link set lo up",
            f"address add {address}/32 dev eth0",
            "link set eth0 up",
            f"route add default via {_BESIDE} dev eth0 onlink",
        ],
    )


def remove(namespace: str, router: str, link: str) -> None:
    """Whatever is left of a namespace and of its link to a router."""
    ip(router, "link", "delete", link, check=False)
    remove_namespace(namespace)


def remove_namespace(namespace: str) -> None:
    """With the files that it has."""
    ip(None, "netns", "delete", namespace, check=False)
    shutil.rmtree(FILES / namespace, ignore_errors=True)
    with suppress(OSError):  # others' are there, or it never was
        FILES.rmdir()


def _no_delay(link: str) -> str:
    """The random delay of up to 0.8 s before each proxied ARP answer is for shared media."""
    return f"ntable change name arp_cache dev {link} proxy_delay 0"
