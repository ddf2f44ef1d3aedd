"""What the region has of a stack and its state has not, after a lost answer or a killed run: adopted, or removed."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from stackctl import inventory
from stackctl.aws import Clients
from stackctl.inventory import Found
from stackctl.project import NAME, StackError, say
from stackctl.pulumi import Pulumi

#: Asks whether to do something. Where nobody can be asked it answers for itself.
Confirm = Callable[[str], bool]
#: What stands in a preview for what only the region will know (pulumi/pulumi: sdk/go/common/resource/plugin/rpc.go).
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
#: The input that is the id, of kinds whose id is a name: Pulumi makes one up for each preview.
NAMED_BY_ID = {"key pair": "keyName", "role": "name", "instance profile": "name"}


def settle_pending(pulumi: Pulumi, aws: Clients, found: Sequence[Found]) -> bool:
    """Settle operations that an interrupted run began: adopt what it did create, forget what it did not.

    True if there were any; the state then needs a refresh, which reads what the adopted resources look like. (Pulumi's
    own `refresh --import-pending-creates` drops them, as of 3.259.)
    """
    exported = json.loads(pulumi.read("stack", "export"))
    deployment = exported["deployment"]
    pending = deployment.pop("pending_operations", None) or []
    if not pending:
        return False
    resources = deployment.get("resources") or []
    known = {resource["urn"] for resource in resources}
    creating = [
        operation["resource"]
        for operation in pending
        if operation["type"] == "creating" and operation["resource"]["urn"] not in known
    ]
    strays = unknown(found, inventory.parts(aws, found, _subnets([*resources, *creating])), resources)
    adopted = matches(pulumi.stack.name, creating, strays)
    say(f"an earlier run was interrupted during {len(pending)} operations:")
    for operation in pending:
        resource = operation["resource"]
        item = adopted.get(resource["urn"])
        if item:
            # What it depends on was there before it, so the end of the list is a right place.
            resources.append(adopt(aws, resource, item))
        did = f": adopted as {item.id}" if item else ""
        say(f"  {operation['type']} {resource['urn'].rpartition('::')[2]} ({resource['type']}){did}")
    deployment["resources"] = resources
    pulumi.read("stack", "import", stdin=json.dumps(exported))
    return True


def settle_strays(pulumi: Pulumi, aws: Clients, found: Sequence[Found], confirm: Confirm) -> bool:
    """Adopt what the region has and the state has not, if the program declares it; else remove it if that is safe.

    A creating call whose answer is lost is repeated by AWS's SDK. Some calls then make a second one, and the state
    knows the second; others are refused because the first one is there, and the state knows none. True if the state
    now needs a refresh.
    """
    exported = json.loads(pulumi.read("stack", "export"))
    resources = exported["deployment"].get("resources") or []
    strays = unknown(found, inventory.parts(aws, found, _subnets(resources)), resources)
    tagged = [item for item in strays if item.kind in inventory.TYPES.values()]
    # What has no tag may be anybody's, such as the routes of a VPN.
    if not tagged and (not strays or _succeeded(pulumi)):
        return False
    adopted = {}
    for resource, item in _declared(pulumi, resources, strays):
        resources.append(adopt(aws, resource, item))
        adopted[item] = resource["urn"].rpartition("::")[2]
    if adopted:
        pulumi.read("stack", "import", stdin=json.dumps(exported))
        for item, name in adopted.items():
            say(f"{item.kind} {item.id} was there, but not in the state: adopted as {name}")
    remove(aws, pulumi.stack.name, [item for item in tagged if item not in adopted], confirm)
    return bool(adopted)


def unknown(found: Iterable[Found], parts: Iterable[Found], resources: Iterable[Mapping[str, Any]]) -> list[Found]:
    """What of it is not in a state's ``resources``. Without volumes: those are their instances'."""
    known = {(_kind(resource["type"]), resource.get("id")) for resource in resources}
    return [item for item in (*found, *parts) if (item.kind, item.id) not in known and item.kind != "volume"]


def matches(stack: str, resources: Iterable[Mapping[str, Any]], strays: Iterable[Found]) -> dict[str, Found]:
    """By URN, which of ``strays`` each resource is: its Name tag tells, or what it is a part of."""
    by_name: dict[tuple[str | None, str], Found] = {(item.kind, item.name): item for item in strays}
    found = {}
    for resource in resources:
        kind, name = _kind(resource["type"]), f"{NAME}-{stack}-{resource['urn'].rpartition('::')[2]}"
        if resource["type"] in inventory.PARTS:
            inputs = resource.get("inputs") or {}
            name = " ".join(str(inputs.get(key)) for key in inventory.PARTS[resource["type"]][1])
        if item := by_name.get((kind, name)):
            found[resource["urn"]] = item
    return found


def _declared(
    pulumi: Pulumi, resources: Sequence[Mapping[str, Any]], strays: Sequence[Found]
) -> Iterator[tuple[dict[str, Any], Found]]:
    """Those of ``strays`` that the program declares and the state has not, as they would stand in the state."""
    say(f"the region has what the state has not, so the program is asked: {', '.join(item.id for item in strays)}")
    try:
        steps = pulumi.read_json("preview")["steps"]
    except StackError as error:
        say(f"  it does not say: {error}")
        return
    creating = [step["newState"] for step in steps if step["op"] == "create"]
    known = {resource["urn"] for resource in resources}
    found = matches(pulumi.stack.name, creating, strays)
    for resource in creating:
        item = found.get(resource["urn"])
        needed = {resource.get("parent"), *resource.get("dependencies", ())} - {None}
        if item and needed <= known and UNKNOWN not in json.dumps([resource["inputs"], resource.get("provider")]):
            known.add(resource["urn"])
            # Where in the program it stands is for people who look at the preview.
            yield {key: resource[key] for key in resource.keys() - {"sourcePosition", "stackTrace"}}, item


def _succeeded(pulumi: Pulumi) -> bool:
    """Whether the last `up` that has ended did what it had to."""
    runs = pulumi.read_json("stack", "history", "--page-size", "20")
    return next((run["result"] == "succeeded" for run in runs if run["kind"] == "update"), False)


def adopt(aws: Clients, resource: Mapping[str, Any], item: Found) -> dict[str, Any]:
    """``resource`` as the state has it once it is ``item``, to be completed by a refresh."""
    inputs = {**(resource.get("inputs") or {})}
    if item.kind == "security group":
        _close(aws, item.id)
    if (key := NAMED_BY_ID.get(item.kind)) in inputs:
        inputs[key] = item.id
    return {**resource, "inputs": inputs, "id": item.id, "outputs": {**inputs, "id": item.id}}


def _close(aws: Clients, group: str) -> None:
    """Take away AWS's own rule of every new group, which lets everything out.

    The provider does it right after the creation, and never looks again.
    """
    everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    with suppress(ClientError):  # it is gone already
        aws.client("ec2").revoke_security_group_egress(GroupId=group, IpPermissions=[everything])


def remove(aws: Clients, stack: str, strays: Sequence[Found], confirm: Confirm) -> None:
    """Remove what the program does not declare, if it cannot hold data and nothing uses it (AWS refuses otherwise)."""
    for item in (item for item in strays if item.kind in inventory.KEPT):
        say(f"{item.kind} {item.id} ({item.name}) is not the program's, and stays because it may hold data")
    order = [kind.name for kind in inventory.KINDS]  # what is in something comes before it
    empty = sorted(
        (item for item in strays if item.kind not in inventory.KEPT),
        key=lambda item: order.index(item.kind) if item.kind in order else -1,
    )
    if not empty:
        return
    say("made twice, or not the program's any more, without data:")
    for item in empty:
        say(f"  {item.kind} {item.id} ({item.name})")
    if not confirm("Remove them? AWS refuses what is in use."):
        say(f"left as they are; `stackctl heal {stack}` asks, and removes them")
        return
    for item in empty:
        refused = inventory.remove(aws, item)
        say(f"  {item.kind} {item.id}: {f'stays: {refused}' if refused else 'removed'}")


def _subnets(resources: Iterable[Mapping[str, Any]]) -> set[str]:
    """Those that something stands in; one that existed before the stack has no tag of it."""
    return {
        str(inputs["subnetId"]) for resource in resources if (inputs := resource.get("inputs") or {}).get("subnetId")
    }


def _kind(type_: str) -> str | None:
    return inventory.PARTS[type_][0] if type_ in inventory.PARTS else inventory.TYPES.get(type_)
