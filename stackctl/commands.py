"""The commands. `python -m stackctl --help` lists them; they run behind `python3 -m toolchain exec --`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from rich.table import Table

from stackctl import configuration, healing, inventory, protection, region, teststack
from stackctl.inventory import Found
from stackctl.project import NAME, Stack, StackError, console, output, read_yaml, say, sources
from stackctl.pulumi import Pulumi, now, stack_names
from toolchain import mycat
from toolchain.paths import ROOT
from toolchain.progress import ToolchainError

LEFTOVERS = 3  # exit code: the stack was destroyed, but the region still has something of it
#: What a preview depends on, besides the stack's own settings.
PROGRAM = frozenset(
    {"__main__.py", "constants.py", "Pulumi.yaml", "components", "settings", "templates", "files", "requirements.lock"}
)
BACKEND = "MYCAT_HA_BACKEND_URL"
LOCAL_REGION = f"{NAME}:local-region"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

StackName = Annotated[str, typer.Argument(metavar="STACK", help="the stack's name")]
PulumiArguments = Annotated[
    list[str] | None, typer.Argument(metavar="[-- PULUMI OPTIONS]", help="passed on to Pulumi, such as -- --diff")
]
RegionEnv = Annotated[
    str | None,
    typer.Option("--region-env", metavar="NAME", envvar="MYCAT_HA_REGION", help="use the local region of this name"),
]
Archives = Annotated[
    Path | None,
    typer.Option(
        "--archives",
        metavar="DIR",
        exists=True,
        file_okay=False,
        resolve_path=True,
        help="upload source archives from this folder, instead of a download by each machine; "
        "with --region-env the toolchain's",
    ),
]
Really = Annotated[str | None, typer.Option("--really-destroy", metavar="STACK", help="destroy a protected stack")]


def main() -> int:
    """Run the command of this process's arguments; the exit code."""
    # `toolchain exec` points Pulumi at the work tree's own state; this is how to share one, e.g. s3://BUCKET.
    if shared := os.environ.get(BACKEND):
        os.environ["PULUMI_BACKEND_URL"] = shared
    try:
        return app(standalone_mode=False) or 0
    except (StackError, ToolchainError) as error:
        console.print(f"error: {error}", markup=False)
        return 1
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # click's usage errors
            console.print(f"error: {error.format_message()}", markup=False)
            return 2
        raise


@app.command()
def up(
    stack: StackName, extra: PulumiArguments = None, region_env: RegionEnv = None, archives: Archives = None
) -> None:
    """Complete the stack's settings, put right what an interrupted run left, and run `pulumi up`."""
    pulumi = _open(stack, region_env)
    raise typer.Exit(_up(pulumi, region_env, archives, extra))


@app.command()
def preview(
    stack: StackName, extra: PulumiArguments = None, region_env: RegionEnv = None, archives: Archives = None
) -> None:
    """Complete the stack's settings and run `pulumi preview`. Changes nothing in the region."""
    pulumi = _open(stack, region_env)
    configuration.prepare(pulumi, _archives(archives, region_env), _mycat(region_env))
    raise typer.Exit(pulumi.stream("preview", *(extra or ())))


@app.command()
def refresh(stack: StackName, extra: PulumiArguments = None, region_env: RegionEnv = None) -> None:
    """Put right what an interrupted run left, and run `pulumi refresh`."""
    pulumi = _existing(stack, region_env)
    _heal(pulumi, region_env)
    raise typer.Exit(pulumi.stream("refresh", "--yes", *(extra or ())))


@app.command()
def heal(stack: StackName, region_env: RegionEnv = None) -> None:
    """Put right what an interrupted run left: locks, half-done operations, resources that are gone."""
    pulumi = _open(stack, region_env)
    if pulumi.exists() and _heal(pulumi, region_env):
        raise typer.Exit(pulumi.stream("refresh", "--yes", "--skip-preview"))


@app.command()
def outputs(
    stack: StackName, show_secrets: Annotated[bool, typer.Option("--show-secrets", help="in plain text")] = False
) -> None:
    """The stack's outputs as JSON."""
    arguments = ["--show-secrets"] if show_secrets else []
    sys.stdout.write(_existing(stack, None).read("stack", "output", "--json", *arguments))


@app.command()
def destroy(stack: StackName, region_env: RegionEnv = None, really_destroy: Really = None) -> None:
    """Destroy the stack, remove it, and list what the region still has of it (exit code 3 if anything)."""
    pulumi = Pulumi(Stack(stack))
    if not pulumi.exists():
        say(f"there is no stack '{stack}'; nothing to destroy")
        return
    protection.check(pulumi, really_destroy)
    if region_env:
        try:
            pulumi = _open(stack, region_env)
        except region.NotRunningError:
            if pulumi.tags().get(LOCAL_REGION) != region_env:
                raise
            say(f"the local region '{region_env}' is gone, and all machines of stack '{stack}' with it")
            healing.release_locks(pulumi)
            healing.end_orphans()
            healing.forget_resources(pulumi)
            _remove(pulumi)
            return
    raise typer.Exit(_destroy(pulumi, region_env))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="the stack is named test-NAME")],
    cidr: Annotated[str, typer.Option(help="address range of the test stack's VPC, such as 10.77.1.0/24")],
    owner: Annotated[str, typer.Option(help="who to ask about it")],
    origin: Annotated[str, typer.Option("--from", metavar="STACK", help="whose settings to copy")] = "local",
    expires: Annotated[str, typer.Option(help="how long it lives: 30m, 8h, 2d")] = "8h",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting, such as vip.address=10.77.1.9")
    ] = None,
    secrets_provider: Annotated[
        str | None, typer.Option(metavar="URL", help="what encrypts its secrets, if not what the copied stack uses")
    ] = None,
    region_env: RegionEnv = None,
    archives: Archives = None,
) -> None:
    """Create a test stack, or bring it up to date and give it a new expiry."""
    stack = Stack(teststack.stack_name(name))
    source = Stack(origin)
    if not source.source.exists():
        raise StackError(f"--from {origin}: there is no stacks/{source.source.name}")
    try:
        target = IPv4Network(cidr)
    except ValueError as error:
        raise StackError(f"--cidr {cidr}: {error}") from None
    born, until = now(), now() + teststack.lifetime(expires)
    pulumi = _open(stack.name, region_env)
    exists = pulumi.exists()
    if exists:
        tags = pulumi.tags()
        born = teststack.parse_timestamp(tags.get(teststack.CREATED)) or born
        if not stack.generated.exists():
            configuration.recover(pulumi)
    marks = {
        teststack.OWNER: teststack.owner_tag(owner),
        teststack.CREATED: teststack.timestamp(born),
        teststack.EXPIRES: teststack.timestamp(until),
    }
    wanted = teststack.derive(read_yaml(source.source), target, marks)
    if secrets_provider:
        wanted["secretsprovider"] = secrets_provider
    for setting in settings or ():
        teststack.assign(wanted, setting)
    earlier = read_yaml(stack.generated) if stack.generated.exists() else {}
    configuration.write_settings(stack, configuration.complete(wanted, earlier, None))
    configuration.prepare(pulumi, _archives(archives, region_env), _mycat(region_env))
    # On the stack before anything of it exists: a sweep must be able to tell even if `up` never gets far.
    for key, value in marks.items():
        pulumi.tag(key, value)
    code = _up(pulumi, region_env, archives, None)
    say(f"stack {stack.name} belongs to {owner} and expires at {marks[teststack.EXPIRES]}")
    raise typer.Exit(code)


@app.command("list")
def list_stacks(
    everything: Annotated[bool, typer.Option("--all", help="the project's other stacks as well")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Test stacks with owner, age, expiry, and whether they are protected."""
    rows = [_describe(name) for name in stack_names() if everything or name.startswith(teststack.PREFIX)]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    table = Table("stack", "owner", "age", "expires", "protected", box=None)
    for row in rows:
        left = teststack.parse_timestamp(row["expires"])
        shown = "" if left is None else f"in {_span(left)}" if not row["expired"] else f"EXPIRED {_span(left)} ago"
        born = teststack.parse_timestamp(row["created"])
        table.add_row(row["name"], row["owner"] or "", _span(born) if born else "", shown, row["protected"] or "no")
    output.print(table)


@app.command()
def sweep(region_env: RegionEnv = None) -> None:
    """Destroy the test stacks that have expired; all other stacks are left alone."""
    failed = []
    for name in stack_names():
        if not name.startswith(teststack.PREFIX):
            continue
        row = _describe(name)
        if not row["expired"]:
            continue
        if row["protected"]:
            say(f"stack {name} expired at {row['expires']} but is protected: {row['protected']}; left alone")
            continue
        say(f"stack {name} of {row['owner']} expired at {row['expires']}: destroying it")
        try:
            code = _destroy(_open(name, region_env), region_env)
        except StackError as error:
            console.print(f"error: {error}", markup=False)
            code = 1
        if code != 0:
            failed.append(name)
    if failed:
        raise StackError(f"not completely destroyed: {', '.join(failed)}")


@app.command()
def leftovers(stack: StackName, region_env: RegionEnv = None) -> None:
    """List everything in the region that carries the stack's tag (exit code 3 if anything)."""
    pulumi = _open(stack, region_env)
    raise typer.Exit(_report(stack, inventory.scan(_session(pulumi), stack)))


@app.command()
def concerned(base: Annotated[str, typer.Argument(help="the commit to compare with")]) -> None:
    """The AWS stacks that the commits since BASE may change, as a JSON list for a workflow's matrix."""
    changed = subprocess.run(
        ["git", "diff", "--name-only", "-z", f"{base}...HEAD"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if changed.returncode != 0:
        raise StackError(f"cannot compare with {base}: {changed.stderr.strip()}")
    sys.stdout.write(json.dumps(stacks_of(changed.stdout.split("\0"))) + "\n")


def stacks_of(files: Iterable[str]) -> list[str]:
    """The stacks, other than the local one, whose settings are among ``files``; all of them if the program is."""
    stacks = {f"stacks/Pulumi.{name}.yaml": name for name in sorted(protection.ALWAYS)}
    changed = [Path(file) for file in files if file]
    if any(file.parts[0] in PROGRAM for file in changed):
        return list(stacks.values())
    return [stacks[str(file)] for file in changed if str(file) in stacks]


def _open(stack: str, region_env: str | None) -> Pulumi:
    if region_env:
        variables = region.environment(region_env)
        # For Pulumi and for boto3 alike. Nothing of the user's own account may win over it or leak into it.
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(variables)
    return Pulumi(Stack(stack))


def _existing(stack: str, region_env: str | None) -> Pulumi:
    pulumi = _open(stack, region_env)
    if not pulumi.exists():
        raise StackError(f"there is no stack '{stack}' in {os.environ.get('PULUMI_BACKEND_URL', 'the backend')}")
    return pulumi


def _archives(archives: Path | None, region_env: str | None) -> Path | None:
    return archives or (sources() if region_env else None)


def _mycat(region_env: str | None) -> Callable[[], mycat.Archive] | None:
    """The toolchain's, for a local region only: anywhere else what the settings name is what runs."""
    return mycat.archive if region_env else None


def _up(pulumi: Pulumi, region_env: str | None, archives: Path | None, extra: list[str] | None) -> int:
    configuration.prepare(pulumi, _archives(archives, region_env), _mycat(region_env))
    if region_env and pulumi.tags().get(LOCAL_REGION) != region_env:
        pulumi.tag(LOCAL_REGION, region_env)
    refresh_first = _heal(pulumi, region_env)
    code = pulumi.stream("up", "--yes", *(["--refresh"] if refresh_first else []), *(extra or ()))
    if code == 0:
        file = pulumi.stack.config_file
        shown = file.relative_to(pulumi.stack.root) if file.is_relative_to(pulumi.stack.root) else file
        say(f"by hand: pulumi up --stack {pulumi.stack.name} --config-file {shown}")
    return code


def _heal(pulumi: Pulumi, region_env: str | None) -> bool:
    """Put right what an interrupted run or a lost region left. True if the state needs a refresh."""
    healing.release_locks(pulumi)
    healing.end_orphans()
    state = pulumi.state()
    if not state.get("resources") and not state.get("pending_operations"):
        return False
    aws = _session(pulumi)
    found = inventory.scan(aws, pulumi.stack.name)
    gone, there = healing.vanished(state, found)
    if gone and not there and region_env and pulumi.tags().get(LOCAL_REGION) == region_env:
        say(f"the local region '{region_env}' was restarted: nothing of stack '{pulumi.stack.name}' exists any more")
        healing.forget_resources(pulumi)
        return False
    settled = healing.settle_pending(pulumi, aws, found)
    if gone:
        say(f"gone from the region, so the state is refreshed: {', '.join(gone)}")
    return settled or bool(gone)


def _destroy(pulumi: Pulumi, region_env: str | None) -> int:
    """Exit code 0: nothing is left. Instances may be running, stopped, or missing."""
    stack = pulumi.stack.name
    refresh_first = _heal(pulumi, region_env)
    arguments = ["destroy", "--yes", "--skip-preview", "--continue-on-error"]
    code = pulumi.stream(*arguments, *(["--refresh"] if refresh_first else []))
    if code != 0:
        say(f"not everything of stack '{stack}' could be destroyed; once more, with the region's own view of it")
        code = pulumi.stream(*arguments, "--refresh")
    left = _report(stack, inventory.scan(_session(pulumi), stack))
    if code == 0 and left == 0:
        _remove(pulumi)
    return code or left


def _remove(pulumi: Pulumi) -> None:
    stack = pulumi.stack
    # Without --preserve-config Pulumi deletes the committed settings as well.
    pulumi.read("stack", "rm", "--yes", "--preserve-config")
    for file in (stack.generated, stack.key, stack.key.with_suffix(".pub")):
        file.unlink(missing_ok=True)
    say(f"stack '{stack.name}' is destroyed and removed")


def _session(pulumi: Pulumi) -> boto3.Session:
    file = pulumi.stack.config_file
    configured = read_yaml(file).get("config", {}).get("aws:region") if file.exists() else None
    if configured is None and pulumi.exists():
        configured = _region_of(pulumi.state())
    return inventory.session(configured)


def _region_of(state: dict[str, Any]) -> str | None:
    """The region of the state's AWS provider, for a stack whose settings are not here."""
    for resource in state.get("resources") or ():
        if resource["type"] == "pulumi:providers:aws":
            return (resource.get("inputs") or {}).get("region")
    return None


def _report(stack: str, found: list[Found]) -> int:
    if not found:
        say(f"the region has nothing that is tagged with stack '{stack}'")
        return 0
    say(f"left of stack '{stack}':")
    table = Table("kind", "id", "name", box=None)
    for item in found:
        table.add_row(item.kind, item.id, item.name)
    output.print(table)
    return LEFTOVERS


def _describe(name: str) -> dict[str, Any]:
    pulumi = Pulumi(Stack(name))
    tags = pulumi.tags()
    until = teststack.parse_timestamp(tags.get(teststack.EXPIRES))
    return {
        "name": name,
        "owner": tags.get(teststack.OWNER),
        "created": tags.get(teststack.CREATED),
        "expires": tags.get(teststack.EXPIRES),
        "expired": until is not None and until <= now(),
        "protected": protection.reason(pulumi),
    }


def _span(moment: datetime) -> str:
    """How far away, in words short enough for a table."""
    minutes = round(abs((moment - now()).total_seconds()) / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
