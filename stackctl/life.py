"""A stack's life: preview, up, refresh, heal, destroy. Each works on AWS or on a local region alike."""

import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from stackctl import configuration, healing, inventory, protection
from stackctl.adoption import Confirm
from stackctl.aws import connect_stack
from stackctl.environment import NotRunningError, environment
from stackctl.project import Stack, StackError, output, say, sources
from stackctl.pulumi import Pulumi
from toolchain import mycat

#: Exit code: the stack was destroyed, but the region still has something of it.
LEFTOVERS_FOUND = 3


def pulumi_of(stack: str, local_region: str | None = None) -> Pulumi:
    """Raises NotRunningError if there is no such local region."""
    return Pulumi(Stack(stack), environment(local_region))


def existing(stack: str, local_region: str | None = None) -> Pulumi:
    """Raises StackError if the backend has no such stack."""
    pulumi = pulumi_of(stack, local_region)
    if not pulumi.exists():
        raise StackError(f"there is no stack '{stack}' in {pulumi.environment.backend or 'the backend'}")
    return pulumi


def prepare(pulumi: Pulumi, archives: Path | None) -> None:
    """Complete the stack's settings. In a local region archives and Mycat are the toolchain's, unless given."""
    local = pulumi.environment.local_region is not None
    configuration.prepare(
        pulumi,
        archives or (sources() if local else None),
        mycat.archive if local else None,  # anywhere else what the settings name is what runs
    )


def _let_in(pulumi: Pulumi) -> None:
    """Raises StackError, in a sentence and before anything is done, if AWS does not take the credentials."""
    if pulumi.environment.local_region is None:
        connect_stack(pulumi)


def _no(question: str) -> bool:
    """The answer of commands that do something else in the first place."""
    del question
    return False


def _yes(question: str) -> bool:
    say(f"{question} yes")
    return True


def _ask(question: str) -> bool:
    if sys.stdin.isatty():
        return typer.confirm(question, err=True)
    say(f"{question} There is nobody to ask; `--yes` says yes.")
    return False


def confirmation(*, yes: bool) -> Confirm:
    """Asks, unless ``yes`` is the answer to everything."""
    return _yes if yes else _ask


def preview(pulumi: Pulumi, archives: Path | None, options: Sequence[str]) -> int:
    """Pulumi's exit code."""
    _let_in(pulumi)
    prepare(pulumi, archives)
    return pulumi.stream("preview", *options)


def up(pulumi: Pulumi, archives: Path | None, options: Sequence[str] = ()) -> int:
    """Pulumi's exit code."""
    _let_in(pulumi)
    prepare(pulumi, archives)
    region = pulumi.environment.local_region
    if region and pulumi.tags().get(healing.LOCAL_REGION) != region:
        pulumi.tag(healing.LOCAL_REGION, region)
    refresh_first = healing.heal(pulumi, unlock=_no, remove=_no)
    code = pulumi.stream("up", "--yes", *(["--refresh"] if refresh_first else []), *options)
    if code == 0:
        file = pulumi.stack.config_file
        shown = file.relative_to(pulumi.stack.root) if file.is_relative_to(pulumi.stack.root) else file
        say(f"by hand: pulumi up --stack {pulumi.stack.name} --config-file {shown}")
    return code


def refresh(pulumi: Pulumi, options: Sequence[str]) -> int:
    """Pulumi's exit code."""
    healing.heal(pulumi, unlock=_no, remove=_no)
    return pulumi.stream("refresh", "--yes", *options)


def heal(pulumi: Pulumi, *, yes: bool = False) -> int:
    """Exit code 0 if there was nothing to refresh, else Pulumi's. ``yes`` is the answer to what it would ask."""
    confirm = confirmation(yes=yes)
    if pulumi.exists() and healing.heal(pulumi, unlock=confirm, remove=confirm):
        return pulumi.stream("refresh", "--yes", "--skip-preview")
    return 0


def destroy_unless_protected(stack: str, local_region: str | None, really: str | None) -> int:
    """Destroy a stack, also one whose local region is gone. ``really`` names it if it is protected."""
    pulumi = pulumi_of(stack)
    if not pulumi.exists():
        say(f"there is no stack '{stack}'; nothing to destroy")
        return 0
    protection.check(pulumi, really)
    try:
        there = pulumi_of(stack, local_region)
    except NotRunningError:
        if pulumi.tags().get(healing.LOCAL_REGION) != local_region:
            raise
        say(f"the local region '{local_region}' is gone, and all machines of stack '{stack}' with it")
        healing.release_locks(pulumi, _no)
        healing.end_orphans(pulumi.environment)
        healing.forget_resources(pulumi)
        _remove(pulumi)
        return 0
    return destroy(there, lift=really is not None)


def destroy(pulumi: Pulumi, *, lift: bool = False) -> int:
    """Exit code 0: nothing is left. Instances may be running, stopped, or missing.

    ``lift`` takes the protection from what is protected, which is refused otherwise.
    """
    refresh_first = healing.heal(pulumi, unlock=_no, remove=_yes)
    if lift:
        protection.lift(pulumi)
    arguments = ["destroy", "--yes", "--skip-preview", "--continue-on-error"]
    code = pulumi.stream(*arguments, *(["--refresh"] if refresh_first else []))
    if code != 0:
        say(
            f"not everything of stack '{pulumi.stack.name}' could be destroyed; "
            "once more, with the region's own view of it"
        )
        code = pulumi.stream(*arguments, "--refresh")
    left = leftovers(pulumi)
    if code == 0 and left == 0:
        _remove(pulumi)
    return code or left


def leftovers(pulumi: Pulumi) -> int:
    """List what the region has of the stack; exit code 0 if that is nothing."""
    stack = pulumi.stack.name
    found = inventory.scan(connect_stack(pulumi), stack)
    if not found:
        say(f"the region has nothing that is tagged with stack '{stack}'")
        return 0
    say(f"left of stack '{stack}':")
    table = Table("kind", "id", "name", box=None)
    for item in found:
        table.add_row(item.kind, item.id, item.name)
    output.print(table)
    return LEFTOVERS_FOUND


def _remove(pulumi: Pulumi) -> None:
    stack = pulumi.stack
    pulumi.remove()
    for file in (stack.generated, stack.key, stack.key.with_suffix(".pub")):
        file.unlink(missing_ok=True)
    say(f"stack '{stack.name}' is destroyed and removed")
