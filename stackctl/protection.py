"""Which stacks must not be destroyed by mistake, by a schedule, or by a flag that somebody typed from memory."""

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from resource_types import INSTANCE, PROTECTED_TAG, is_protected
from stackctl.aws import connect_stack
from stackctl.project import NAME, StackError, read_yaml, say
from stackctl.pulumi import Pulumi

ALWAYS = frozenset({"staging", "production"})
MARK = PROTECTED_TAG


def reason(pulumi: Pulumi, state: Mapping[str, Any] | None = None) -> str | None:
    """Why the stack is protected, or None if it is not."""
    stack = pulumi.stack
    if stack.name in ALWAYS:
        return f"every stack named {stack.name} is"
    if _marked(pulumi.tags()):
        return f"its stack tag {MARK} says so"
    for file in (stack.source, stack.generated):
        if file.exists() and _marked(read_yaml(file).get("config", {}).get(f"{NAME}:tags")):
            return f"the tag {MARK} in {file.name} says so"
    for resource in (state or pulumi.state()).get("resources") or ():
        if resource.get("protect") or _marked((resource.get("inputs") or {}).get("tags")):
            return f"its resource {resource['urn'].rpartition('::')[2]} is marked as protected"
    return None


def check(pulumi: Pulumi, really: str | None) -> None:
    """Raise StackError if the stack is protected and ``really`` does not spell out its name."""
    name = pulumi.stack.name
    if really is not None and really != name:
        raise StackError(f"--really-destroy names '{really}', but the stack to destroy is '{name}'; nothing was done")
    why = reason(pulumi)
    if why and really != name:
        raise StackError(
            f"stack '{name}' is protected: {why}. Nothing was done. If it really is to go: --really-destroy {name}"
        )


def lift(pulumi: Pulumi) -> None:
    """Take Pulumi's protection, and EC2's against termination, from everything in the state.

    Raises StackError if EC2 refuses.
    """
    resources = pulumi.state().get("resources") or ()
    if any(resource.get("protect") for resource in resources):
        pulumi.read("state", "unprotect", "--all", "--yes")
    guarded = [
        str(resource["id"])
        for resource in resources
        if resource["type"] == INSTANCE and resource.get("id") and resource["inputs"].get("disableApiTermination")
    ]
    if not guarded:
        return
    ec2 = connect_stack(pulumi).client("ec2")
    for instance in guarded:
        try:
            ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": False})
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] == "InvalidInstanceID.NotFound":
                continue
            raise StackError(f"cannot take the protection against termination from {instance}: {error}") from None
    say(f"no longer protected against termination: {', '.join(guarded)}")


def _marked(tags: Any) -> bool:
    return isinstance(tags, Mapping) and is_protected(tags)
