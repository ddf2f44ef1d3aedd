"""Whether this machine reaches what a deployment connects to: said in seconds, not after Pulumi has waited for it."""

import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from resource_types import INSTANCE
from stackctl.aws import connect_stack
from stackctl.project import StackError, read_yaml, say
from stackctl.pulumi import Pulumi

SSH = 22
#: As long as Pulumi's command provider waits for one connection.
SECONDS = 5.0
ADDRESS = "aws:ec2/eip:Eip"
BASTION, MACHINE = "$mycat-ha:bastion:Bastion$", "$mycat-ha:machine:Machine$"


def look(pulumi: Pulumi) -> bool:
    """Say which machines are off, and what is there but does not answer; True if there was anything to say.

    Nothing is refused because of it: `up` itself may be what mends it.
    """
    resources = pulumi.state().get("resources") or []
    instances = {one["id"]: one for one in resources if one["type"] == INSTANCE and one.get("id")}
    if not instances:
        return False  # nothing has booted yet
    try:
        states = _states(connect_stack(pulumi).client("ec2"), list(instances))
    except (BotoCoreError, ClientError, StackError):
        return False  # this is not about the API; Pulumi will say
    problems = [
        f"{_name(instances[identifier])} ({identifier}) is switched off, and what has to run on it will fail after "
        f"minutes: `aws ec2 start-instances --instance-ids {identifier}`"
        for identifier, state in states.items()
        if state in ("stopping", "stopped")
    ]
    file = pulumi.stack.config_file
    access = (read_yaml(file).get("config", {}) if file.exists() else {}).get("mycat-ha:access") or {}
    running = {identifier for identifier, state in states.items() if state == "running"}
    with ThreadPoolExecutor() as pool:
        problems += filter(None, pool.map(dial, targets(access, resources, running)))
    for problem in problems:
        say(problem)
    return bool(problems)


def _states(ec2: Any, ids: list[str]) -> dict[str, str]:
    pages = ec2.get_paginator("describe_instances").paginate(Filters=[{"Name": "instance-id", "Values": ids}])
    return {
        instance["InstanceId"]: instance["State"]["Name"]
        for page in pages
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    }


@dataclass(frozen=True)
class Target:
    """What this machine connects to itself, and why it is likely that there is no answer."""

    name: str
    host: str
    likely: str
    port: int = SSH


def targets(access: Mapping[str, Any], resources: list[dict[str, Any]], running: set[str]) -> Iterator[Target]:
    """The bastion, if there is one, else every machine; of those that Pulumi made the ``running`` ones (ids).

    ``access`` is the settings' section, ``resources`` the state's.
    """
    bastion = access.get("bastion") or {}
    if bastion.get("host"):
        likely = (
            "it is switched off, it does not let in the address that this machine comes from, or `access.bastion` "
            "names another host"
        )
        yield Target("the bastion", str(bastion["host"]), likely, int(bastion.get("port", SSH)))
        return
    kind, output = (BASTION, "publicIp") if bastion else (MACHINE, "privateIp")
    instances = [one for one in resources if one["type"] == INSTANCE and one.get("id") in running]
    if not any(kind in one["urn"] for one in instances):
        return
    for resource in resources if bastion else instances:
        address = (resource.get("outputs") or {}).get(output)
        if kind not in resource["urn"] or not address:
            continue
        if not bastion:
            likely = "there is no route from here to its subnet (a VPN?), or `access.deployer` has not this address"
            yield Target(_name(resource), address, likely)
        elif resource["type"] == ADDRESS:
            likely = (
                "`access.bastion.cidrs` does not have the address that this machine comes from (on the internet that "
                "is its router's), or a firewall on the way keeps SSH in"
            )
            yield Target("the bastion", address, likely)


def dial(target: Target) -> str | None:
    """What is wrong, after SECONDS at most; None if it answers."""
    at = f"{target.host}, port {target.port}"
    try:
        socket.create_connection((target.host, target.port), SECONDS).close()
    except TimeoutError:
        return f"{target.name} does not answer at {at}, within {SECONDS:.0f} s; likely, {target.likely}"
    except ConnectionRefusedError:
        return f"{target.name} refuses at {at}: it is still booting, or its sshd does not run"
    except OSError as error:
        return f"{target.name} cannot be reached at {at} ({error}); likely, {target.likely}"
    return None


def _name(resource: Mapping[str, Any]) -> str:
    return str(resource["urn"]).rpartition("::")[2].removesuffix("-instance")
