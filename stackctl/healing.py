"""What an interrupted run leaves behind, put right before the next one: locks, half-done operations, a lost region."""

import json
import os
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from resource_types import RULE
from stackctl import inline_routes, inventory
from stackctl.aws import Clients, connect_stack
from stackctl.environment import Environment
from stackctl.inventory import Found
from stackctl.project import NAME, StackError, say
from stackctl.pulumi import Pulumi

#: The stack's tag that names the local region it was created in.
LOCAL_REGION = f"{NAME}:local-region"
PLUGINS = ("pulumi-resource-", "pulumi-language-")


def heal(pulumi: Pulumi) -> bool:
    """Put right what an interrupted run or a lost region left. True if the state needs a refresh."""
    release_locks(pulumi)
    end_orphans(pulumi.environment)
    state = pulumi.state()
    if not state.get("resources") and not state.get("pending_operations"):
        return False
    aws = connect_stack(pulumi)
    found = inventory.scan(aws, pulumi.stack.name)
    gone, there = vanished(state, found)
    region = pulumi.environment.local_region
    if gone and not there and region and pulumi.tags().get(LOCAL_REGION) == region:
        say(f"the local region '{region}' was restarted: nothing of stack '{pulumi.stack.name}' exists any more")
        forget_resources(pulumi)
        return False
    settled = settle_pending(pulumi, aws, found)
    settled |= adopt_inline_routes(pulumi)
    if gone:
        say(f"gone from the region, so the state is refreshed: {', '.join(gone)}")
    return settled or bool(gone)


def release_locks(pulumi: Pulumi) -> None:
    """Remove locks whose process has ended. Only a state backend of files tells; with others Pulumi's own error stands.

    Raises StackError if the process that holds the lock is alive.
    """
    locks = [(file, json.loads(file.read_text())) for file in _locks(pulumi)]
    for file, lock in locks:
        if lock["hostname"] != socket.gethostname():
            raise StackError(
                f"stack '{pulumi.stack.name}' is locked by {lock['username']}@{lock['hostname']} (pid {lock['pid']}) "
                f"since {lock['timestamp']}: wait for it, or remove {file} if that run is over"
            )
        if _is_pulumi(lock["pid"]):
            raise StackError(
                f"stack '{pulumi.stack.name}' is being changed by another run (pid {lock['pid']}, since "
                f"{lock['timestamp']}): wait until it ends"
            )
    if locks:
        say(f"an earlier run was interrupted (pid {locks[0][1]['pid']}): removing its lock")
        pulumi.read("cancel", "--yes")


def end_orphans(environment: Environment) -> None:
    """End provider and language processes of a backend whose Pulumi is gone: killed, it leaves them behind.

    One of them may still be creating something.
    """
    mine = f"PULUMI_BACKEND_URL={environment.backend}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")[:3]
            plugin = any(Path(os.fsdecode(part)).name.startswith(PLUGINS) for part in arguments)
            if not plugin or mine not in (process / "environ").read_bytes().split(b"\0"):
                continue
            pid = int(process.name)
            if not any(_is_pulumi(ancestor) for ancestor in _ancestors(pid)):
                say(f"ending {process.name}, which an earlier run left behind ({Path(os.fsdecode(arguments[0])).name})")
                os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended meanwhile, or is somebody else's
            continue


def settle_pending(pulumi: Pulumi, aws: Clients, found: Iterable[Found]) -> bool:
    """Settle operations that an interrupted run began: adopt what it did create, forget what it did not.

    True if there were any; the state then needs a refresh, which reads what the adopted resources look like. (Pulumi's
    own `refresh --import-pending-creates` drops them, as of 3.259.)
    """
    exported = json.loads(pulumi.read("stack", "export"))
    deployment = exported["deployment"]
    pending = deployment.pop("pending_operations", None) or []
    if not pending:
        return False
    adopted = adoptions(pulumi.stack.name, pending, found) | _reservations(aws, pending)
    say(f"an earlier run was interrupted during {len(pending)} operations:")
    for operation in pending:
        resource = operation["resource"]
        identifier = adopted.get(resource["urn"])
        if identifier:
            # What it depends on was there before it, so the end of the list is a right place.
            outputs = {**resource.get("inputs", {}), "id": identifier}
            deployment["resources"].append({**resource, "id": identifier, "outputs": outputs})
        did = f": adopted as {identifier}" if identifier else ""
        say(f"  {operation['type']} {resource['urn'].rpartition('::')[2]} ({resource['type']}){did}")
    pulumi.read("stack", "import", stdin=json.dumps(exported))
    return True


def adopt_inline_routes(pulumi: Pulumi) -> bool:
    """True if there were any; the state then needs a refresh."""
    exported = json.loads(pulumi.read("stack", "export"))
    resources = exported["deployment"].get("resources") or []
    if not (adopted := list(inline_routes.routes(resources))):
        return False
    say(f"routes that were part of their table are resources now: {', '.join(route['id'] for route in adopted)}")
    resources.extend(adopted)
    pulumi.read("stack", "import", stdin=json.dumps(exported))
    return True


def adoptions(stack: str, pending: Iterable[Mapping[str, Any]], found: Iterable[Found]) -> dict[str, str]:
    """URN to id of each pending creation that has a resource in the region: the Name tag tells which."""
    by_name = {(item.kind, item.name): item.id for item in found}
    adopted = {}
    for operation in pending:
        resource = operation["resource"]
        kind = inventory.TYPES.get(resource["type"])
        name = f"{NAME}-{stack}-{resource['urn'].rpartition('::')[2]}"
        if operation["type"] == "creating" and kind and (kind, name) in by_name:
            adopted[resource["urn"]] = by_name[kind, name]
    return adopted


def _reservations(aws: Clients, pending: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    adopted = {}
    for resource in (operation["resource"] for operation in pending if operation["type"] == "creating"):
        if resource["type"] == "aws:ec2/subnetCidrReservation:SubnetCidrReservation":
            inputs = resource["inputs"]
            identifier = inventory.reservation(aws, inputs["subnetId"], inputs["cidrBlock"])
            if identifier:
                adopted[resource["urn"]] = identifier
    return adopted


def vanished(state: Mapping[str, Any], found: Iterable[Found]) -> tuple[Sequence[str], int]:
    """Ids that the state has and the region has not, and how many of the state's ids it has."""
    there = {item.id for item in found}
    known = [
        str(resource["id"])
        for resource in state.get("resources") or ()
        # A rule without its group is impossible, and there are many of them.
        if inventory.TYPES.get(resource["type"], RULE) != RULE and resource.get("id") and not resource.get("external")
    ]
    gone = [identifier for identifier in known if identifier not in there]
    return gone, len(known) - len(gone)


def forget_resources(pulumi: Pulumi) -> None:
    """Make the stack an empty one; its settings and its history stay. Nothing in any region is touched."""
    exported = json.loads(pulumi.read("stack", "export"))
    exported["deployment"]["resources"] = []
    exported["deployment"].pop("pending_operations", None)
    pulumi.read("stack", "import", "--force", stdin=json.dumps(exported))


def _locks(pulumi: Pulumi) -> list[Path]:
    backend = pulumi.environment.backend
    if not backend.startswith("file://"):
        return []
    folder = Path(unquote(urlsplit(backend).path)).expanduser()
    return sorted((folder / ".pulumi" / "locks" / "organization" / NAME / pulumi.stack.name).glob("*.json"))


def _is_pulumi(pid: int) -> bool:
    """Whether a living process of that number is a Pulumi; after a reboot the number may be anybody's."""
    try:
        program = Path(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115 - the target need not exist any more
    except OSError:
        return False
    return program.name.removesuffix(" (deleted)") == "pulumi"


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        # The field after the name in parentheses, which may hold anything, and the state: proc(5), stat.
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid
