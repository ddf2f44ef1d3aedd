"""DHCP for the machines of a VPC: dnsmasq in its router's namespace.

An ENI's primary address is leased by its MAC address, as by AWS: a secondary address is nobody's lease.
"""

import signal
import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Network
from pathlib import Path

from localregion.kernel import NAMESPACES, kill, run
from localregion.model import Eni, Subnet, Vpc

LEASE = "1h"  # AWS's


class Dhcp:
    """The server of one VPC, with a list of its interfaces in ``directory``."""

    def __init__(self, vpc: Vpc, namespace: str, directory: Path) -> None:
        self._vpc = vpc
        self._namespace = namespace
        self._hosts = directory / f"dhcp-{vpc.id}"
        self._served: tuple[list[IPv4Network], list[str]] = ([], [])
        self._server: subprocess.Popen[bytes] | None = None

    def serve(self, subnets: Iterable[Subnet], enis: Iterable[Eni]) -> None:
        """Serve these subnets and interfaces from now on. Idempotent."""
        wanted = sorted(s.cidr for s in subnets), sorted(f"{eni.mac},{eni.primary},{LEASE}" for eni in enis)
        if wanted != self._served:
            # Anew, without leases: those of a deleted interface would keep its address from the next one that has it.
            self.stop()
            self._served = wanted
            self._hosts.write_text("\n".join(wanted[1]) + "\n")
            self._server = self._start(wanted[0]) if wanted[0] else None

    def _start(self, ranges: Iterable[IPv4Network]) -> subprocess.Popen[bytes]:
        options = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file",
            "--log-facility=/dev/null",
            f"--dhcp-hostsfile={self._hosts}",
            "--leasefile-ro",
            "--dhcp-authoritative",  # a lease that it does not know is renewed
            "--dhcp-ignore-clid",
            "--no-ping",
            f"--dhcp-option=option:dns-server,{self._vpc.resolver}",
            *(f"--dhcp-range={cidr[0]},static,{cidr.netmask},{LEASE}" for cidr in ranges),
            "--port=0",  # no DNS
        ]
        return subprocess.Popen(
            ["nsenter", f"--net={NAMESPACES / self._namespace}", "dnsmasq", *options],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        if self._server:
            kill(self._server.pid, signal.SIGTERM)
            self._server.wait()
            self._server = None


def kill_all(namespace: str) -> None:
    """End what serves in a router's namespace, also that of a daemon that was killed."""
    for pid in run("ip", "netns", "pids", namespace, check=False).split():
        kill(int(pid), signal.SIGKILL)
