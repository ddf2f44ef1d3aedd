"""How long a hook takes from the decision to EC2's yes: claim-vip, and one that calls the AWS command line."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

from drills.stack import Stack
from localregion.client import Region, RegionError

#: What each call to EC2 takes while this is measured, in milliseconds.
LATENCY_MS = 100
#: Seconds.
_PATIENCE = 60
_ACCEPTED = "EC2 has assigned"  # what files/vip/claim-vip says
_ENVIRONMENT = """
. /etc/mycat-ha/vip.env
. /var/lib/mycat-ha/vip/credentials
printf '%s\\n' "$ENI" "$KEY" "$SECRET" "$TOKEN"
"""


@dataclass(frozen=True)
class Calls:
    """Seconds from the start of a hook's program until EC2 has accepted its call, a value for each run."""

    claim_vip: tuple[float, ...]
    aws_cli: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Of the medians: claim-vip's to the command line's."""
        return median(self.claim_vip) / median(self.aws_cli)


def measure(region: Region, stack: Stack, runs: int) -> Calls:
    """By turns, on the balancer that holds the VIP, so that nothing moves: EC2 takes the call all the same.

    The command line runs on this computer, with the balancer's credentials in its environment: it has not to fetch them
    first, as it would have to on a machine. Raises RegionError if a call is refused.
    """
    holder = stack.machine(stack.holder(region))
    region.api(latency_ms=LATENCY_MS, roles_only=True)
    try:
        found = [(_claim_vip(region, holder["instanceId"]), _aws_cli(region, stack, holder)) for _ in range(runs)]
    finally:
        region.clear_faults()
    return Calls(tuple(ours for ours, _ in found), tuple(theirs for _, theirs in found))


def _claim_vip(region: Region, machine: str) -> float:
    """The whole claim is waited for: it looks for some seconds more whether the VIP stays."""
    command = ["timeout", str(_PATIENCE), "/usr/local/lib/mycat-ha/claim-vip", "claim"]
    process = region.popen(machine, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    started, accepted, said = time.monotonic(), None, []
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            said.append(line)
            if accepted is None and _ACCEPTED in line:
                accepted = time.monotonic()
    if process.wait() or accepted is None:
        raise RegionError(f"claim-vip has not claimed the VIP: {''.join(said)}")
    return accepted - started


def _aws_cli(region: Region, stack: Stack, holder: dict[str, str]) -> float:
    """The usual two calls: which interface is this machine's, and take the address to it."""
    values = region.exec(holder["instanceId"], ["bash", "-c", _ENVIRONMENT]).stdout.splitlines()
    expected, key, secret, token = values
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | region.env()
    environment |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}

    def aws(*words: str) -> str:
        command = [sys.executable, "-m", "awscli", "ec2", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        if done.returncode:
            raise RegionError(f"aws ec2 {words[0]}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    started = time.monotonic()
    mine = f"Name=addresses.private-ip-address,Values={holder['address']}"
    query = "NetworkInterfaces[0].NetworkInterfaceId"
    eni = aws("describe-network-interfaces", "--filters", mine, "--query", query, "--output", "text")
    if eni != expected:  # two VPCs of a region may have the same addresses
        raise RegionError(f"{holder['address']} is {eni}'s, not {expected}'s: measure with one stack of this range")
    take = ("--network-interface-id", eni, "--private-ip-addresses", stack.vip, "--allow-reassignment")
    aws("assign-private-ip-addresses", *take)
    return time.monotonic() - started
