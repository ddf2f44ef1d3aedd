"""What an interrupted run leaves behind, put right before the next one: locks, half-done operations, a lost region."""

import json
import os
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from resource_types import RULE
from stackctl import adoption, inline_routes, inventory
from stackctl.adoption import Confirm
from stackctl.aws import backend_bucket, connect_stack
from stackctl.environment import Environment
from stackctl.inventory import Found
from stackctl.project import NAME, StackError, say
from stackctl.pulumi import Pulumi

#: The stack's tag that names the local region it was created in.
LOCAL_REGION = f"{NAME}:local-region"
PLUGINS = ("pulumi-resource-", "pulumi-language-")


def heal(pulumi: Pulumi, *, unlock: Confirm, remove: Confirm) -> bool:
    """Put right what an interrupted run or a lost region left. True if the state needs a refresh.

    ``unlock`` is asked before a lock of another machine is removed, ``remove`` before anything in the region is.
    """
    release_locks(pulumi, unlock)
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
    settled = adoption.settle_pending(pulumi, aws, found)
    settled |= adopt_inline_routes(pulumi)
    settled |= adoption.settle_strays(pulumi, aws, found, remove)
    if gone:
        say(f"gone from the region, so the state is refreshed: {', '.join(gone)}")
    return settled or bool(gone)


def release_locks(pulumi: Pulumi, unlock: Confirm) -> None:
    """Remove locks whose process has ended. State backends of files and in S3 tell; with others Pulumi's error stands.

    Raises StackError if the process that holds the lock is alive, or on another machine and ``unlock`` says no.
    """
    locks = list(_locks(pulumi))
    stack = pulumi.stack.name
    for place, lock in locks:
        if lock["hostname"] != socket.gethostname():
            said = (
                f"stack '{stack}' is locked by {lock['username']}@{lock['hostname']} (pid {lock['pid']}) "
                f"since {lock['timestamp']} ({place})"
            )
            # Whether that process lives cannot be seen from here.
            if not unlock(f"{said}. Is that run over, and may `pulumi cancel` remove its lock?"):
                raise StackError(f"{said}: wait for it; if that run is over, `stackctl heal {stack}` removes its lock")
        elif _is_pulumi(lock["pid"]):
            raise StackError(
                f"stack '{stack}' is being changed by another run (pid {lock['pid']}, since "
                f"{lock['timestamp']}): wait until it ends"
            )
    for _, lock in locks:
        by = f"{lock['username']}@{lock['hostname']}, pid {lock['pid']}, since {lock['timestamp']}"
        say(f"an earlier run was interrupted ({by}): removing its lock")
    if locks:
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


def _locks(pulumi: Pulumi) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each lock of the stack is, and what it says: pid, username, hostname, timestamp."""
    url = urlsplit(pulumi.environment.backend)
    folder = f".pulumi/locks/organization/{NAME}/{pulumi.stack.name}"
    if url.scheme == "file":
        for file in sorted((Path(unquote(url.path)).expanduser() / folder).glob("*.json")):
            yield str(file), json.loads(file.read_text())
    elif url.scheme == "s3":
        options = {key: values[-1] for key, values in parse_qs(url.query).items()}
        prefix = f"{unquote(url.path).strip('/')}/{folder}/".lstrip("/")
        with backend_bucket(pulumi.environment, options) as s3:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=url.netloc, Prefix=prefix):
                for item in page.get("Contents", ()):
                    body = s3.get_object(Bucket=url.netloc, Key=item["Key"])["Body"].read()
                    yield f"s3://{url.netloc}/{item['Key']}", json.loads(body)


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
