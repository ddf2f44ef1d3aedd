"""The machines of a stack, as this one logs in to them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from settings.secret_names import SSH_KEY
from settings.topology import Access, Instances
from stackctl import configuration
from stackctl.project import NAME, StackError
from stackctl.pulumi import Pulumi
from stackctl.ssh import Host

SSH = 22
BASTION, MACHINE = "$mycat-ha:bastion:Bastion$", "$mycat-ha:machine:Machine$"
ELASTIC_IP = "aws:ec2/eip:Eip"
#: The commands whose output has a machine's host key (components/machine.py, components/bastion.py).
READY = "-ready"


def hosts(pulumi: Pulumi, role: str | None = None) -> dict[str, Host]:
    """Each machine by name, in the settings' order; with ``role`` only those that have it (`lb`, `mycat` ...).

    Raises StackError if one has no host key in the state, because `up` has never connected to it.
    """
    return of(*settings_and_state(pulumi), role)


def settings_and_state(pulumi: Pulumi) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """The settings' sections, decrypted, and the state's resources."""
    if not pulumi.stack.config_file.exists():
        configuration.recover(pulumi)
    listed = pulumi.read_json("config", "--show-secrets")
    config = {
        key.removeprefix(f"{NAME}:"): entry.get("objectValue", entry.get("value")) for key, entry in listed.items()
    }
    return config, pulumi.state().get("resources") or []


def of(config: Mapping[str, Any], resources: Iterable[Mapping[str, Any]], role: str | None = None) -> dict[str, Host]:
    """``config`` has the settings' sections, decrypted; ``resources`` are the state's."""
    found = {}
    for name, host in known(config, resources, role).items():
        if host is None:
            raise StackError(f"the state has no host key of {name}: `stackctl up` has to have connected to it before")
        found[name] = host
    return found


def known(
    config: Mapping[str, Any], resources: Iterable[Mapping[str, Any]], role: str | None = None
) -> dict[str, Host | None]:
    """As `of`, but None for a machine that has no host key in the state."""
    resources = list(resources)
    user, private_key = Instances.model_validate(config.get("instances") or {}).image.user, config["secrets"][SSH_KEY]
    access = Access.model_validate(config["access"])
    said = {
        resource["urn"].rpartition("::")[2].removesuffix(READY): (resource.get("outputs") or {}).get("stdout")
        for resource in resources
        if resource["urn"].endswith(READY) and MACHINE in resource["urn"]
    }
    via = None
    if access.bastion and access.bastion.host:
        given = access.bastion
        via = Host(str(given.host), given.port, given.user, private_key, given.host_key)
    elif access.bastion:
        via = _created(resources, user, private_key)
    found: dict[str, Host | None] = {}
    for machine in config["machines"]:
        name = machine["name"]
        if role and role not in machine["roles"]:
            continue
        facts = said.get(name)
        found[name] = facts and Host(machine["address"], SSH, user, private_key, json.loads(facts)["hostKey"], via)
    return found


def _created(resources: Iterable[Mapping[str, Any]], user: str, private_key: str) -> Host:
    address = key = None
    for resource in resources:
        outputs = resource.get("outputs") or {}
        if BASTION not in resource["urn"]:
            continue
        if resource["type"] == ELASTIC_IP:
            address = outputs.get("publicIp")
        elif resource["urn"].endswith(READY) and outputs.get("stdout"):
            key = " ".join(outputs["stdout"].split()[:2])
    if not address or not key:
        raise StackError("the state has no address or no host key of the bastion: `stackctl up` has to have made it")
    return Host(address, SSH, user, private_key, key)
