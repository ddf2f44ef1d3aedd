"""Is a stack whole? Its machines are asked over SSH, all at once, and EC2 who has the VIP. Nothing is changed."""

import asyncio
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from constants import SERVICE_HEALTH_PORT
from stackctl import diagnosis, reports, ssh
from stackctl.aws import Clients, connect_stack
from stackctl.diagnosis import Status
from stackctl.hosts import known, settings_and_state
from stackctl.project import StackError
from stackctl.pulumi import Pulumi
from stackctl.reports import Holding, Machine
from stackctl.ssh import Host, SshError

#: Exit codes, besides 0 for a stack that is whole: something is wrong; it could not be asked.
WRONG, UNASKED = 1, 2
#: Seconds for a machine, from the connection to its answer.
SECONDS = 15.0
#: What runs on the machines.
REPORT = Path(__file__).with_name("machine_report.py")
#: EC2 has no longer than the machines.
PATIENCE = Config(connect_timeout=3, read_timeout=4, retries={"total_max_attempts": 2, "mode": "standard"})
STACK = "pulumi:pulumi:Stack"


def status(pulumi: Pulumi) -> Status:
    """Raises StackError if nobody could be asked: no settings, no state, no credentials."""
    config, resources = settings_and_state(pulumi)
    clients = connect_stack(pulumi)
    try:
        hosts, vip = known(config, resources), str(config["vip"]["address"])
    except (KeyError, ValidationError) as error:
        raise StackError(
            f"the stack's settings are not complete; `stackctl preview` says what is wrong: {error}"
        ) from None
    return asyncio.run(_status(pulumi.stack.name, clients, vip, config["machines"], hosts, _subnet(resources)))


def as_json(status: Status) -> str:
    return json.dumps(asdict(status), indent=2) + "\n"


async def _status(
    stack: str,
    clients: Clients,
    vip: str,
    machines: Sequence[Mapping[str, Any]],
    hosts: Mapping[str, Host | None],
    subnet: str | None,
) -> Status:
    holding, found = await asyncio.gather(
        asyncio.to_thread(_holding, clients, vip, subnet, machines),
        asyncio.gather(*(ask(one, hosts[one["name"]], vip) for one in machines)),
    )
    return diagnosis.status(stack, vip, holding, found, datetime.now(UTC))


def report_command(roles: Sequence[str], address: str, vip: str) -> list[str]:
    """What runs on a machine with REPORT as its standard input."""
    question = {"roles": roles, "vip": vip, "address": address, "healthPort": SERVICE_HEALTH_PORT}
    # -I: nothing but this program, whatever is in the folder that it starts in.
    return ["python3", "-I", "-", json.dumps(question)]


async def ask(settings: Mapping[str, Any], host: Host | None, vip: str) -> Machine:
    """What it says of its roles; ``settings`` are its name, address and roles."""
    name, address, roles = settings["name"], str(settings["address"]), tuple(settings["roles"])
    if host is None:
        return Machine(name, address, roles, "the state has no host key of it: `stackctl up` has never connected to it")
    command = f"exec {shlex.join(report_command(roles, address, vip))}"
    try:
        said = await ssh.run(host, command, stdin=REPORT.read_text(encoding="utf-8"), timeout=SECONDS)
    except SshError as error:
        return Machine(name, address, roles, str(error))
    return reports.machine(name, address, roles, said)


def _subnet(resources: Iterable[Mapping[str, Any]]) -> str | None:
    """That of the machines, by the stack's outputs: addresses are only unique within it."""
    for resource in resources:
        if resource["type"] == STACK:
            found = (resource.get("outputs") or {}).get("subnetId")
            return str(found) if found else None
    return None


def _holding(clients: Clients, vip: str, subnet: str | None, machines: Iterable[Mapping[str, Any]]) -> Holding:
    if subnet is None:
        return Holding(None, None, "the state does not say in which subnet: `stackctl up` has never succeeded")
    filters = [
        {"Name": "addresses.private-ip-address", "Values": [vip]},
        {"Name": "subnet-id", "Values": [subnet]},
    ]
    try:
        described = clients.client("ec2", config=PATIENCE).describe_network_interfaces(Filters=filters)
    except (BotoCoreError, ClientError) as error:
        return Holding(None, None, str(error))
    names = {str(machine["address"]): machine["name"] for machine in machines}
    return reports.holding(vip, subnet, described["NetworkInterfaces"], names)
