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
    """The server of one VPC. ``directory`` keeps its list of machines and its leases."""

    def __init__(self, vpc: Vpc, namespace: str, directory: Path) -> None:
        self._vpc = vpc
        self._namespace = namespace
        self._hosts = directory / f"dhcp-{vpc.id}.hosts"
        self._leases = directory / f"dhcp-{vpc.id}.leases"
        self._ranges: list[IPv4Network] = []
        self._server: subprocess.Popen[bytes] | None = None

    def serve(self, subnets: Iterable[Subnet], enis: Iterable[Eni]) -> None:
        """Serve these subnets and interfaces from now on. Idempotent."""
        hosts = "".join(sorted(f"{eni.mac},{eni.primary},{LEASE}\n" for eni in enis))
        changed = not self._hosts.exists() or self._hosts.read_text() != hosts
        if changed:
            self._hosts.write_text(hosts)
        ranges = sorted(subnet.cidr for subnet in subnets)
        if ranges != self._ranges or (self._server and self._server.poll() is not None):
            self.stop()
            self._ranges = ranges
            self._server = self._start() if ranges else None
        elif changed and self._server:
            kill(self._server.pid, signal.SIGHUP)

    def _start(self) -> subprocess.Popen[bytes]:
        options = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file",
            "--log-facility=/dev/null",
            f"--dhcp-hostsfile={self._hosts}",
            f"--dhcp-leasefile={self._leases}",
            "--dhcp-ignore-clid",
            "--dhcp-authoritative",
            "--no-ping",
            f"--dhcp-option=option:dns-server,{self._vpc.resolver}",
            *(f"--dhcp-range={cidr[0]},static,{cidr.netmask},{LEASE}" for cidr in self._ranges),
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
