"""The commands. `python -m stackctl --help` lists them; they run behind `python3 -m toolchain exec --`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stackctl import backups as kept
from stackctl import changes, life, listing, recovery, rendering, status_tables, sweep, teststack
from stackctl import status as condition
from stackctl import switchover as planned
from stackctl.project import Stack, StackError, console, output
from toolchain.progress import ToolchainError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

database = typer.Typer(help="The stack's own databases.", no_args_is_help=True)
app.add_typer(database, name="database")

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
Yes = Annotated[bool, typer.Option("--yes", help="without asking, do what is shown")]
Really = Annotated[str | None, typer.Option("--really-destroy", metavar="STACK", help="destroy a protected stack")]


def main() -> int:
    """Run the command of this process's arguments; the exit code."""
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
    raise typer.Exit(life.up(life.pulumi_of(stack, region_env), archives, extra or ()))


@app.command()
def preview(
    stack: StackName, extra: PulumiArguments = None, region_env: RegionEnv = None, archives: Archives = None
) -> None:
    """Complete the stack's settings and run `pulumi preview`. Changes nothing in the region."""
    raise typer.Exit(life.preview(life.pulumi_of(stack, region_env), archives, extra or ()))


@app.command()
def refresh(stack: StackName, extra: PulumiArguments = None, region_env: RegionEnv = None) -> None:
    """Put right what an interrupted run left, and run `pulumi refresh`."""
    raise typer.Exit(life.refresh(life.existing(stack, region_env), extra or ()))


@app.command()
def heal(
    stack: StackName,
    region_env: RegionEnv = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="without asking, remove the lock of another machine's run, and what was made twice"),
    ] = False,
) -> None:
    """Put right what an interrupted run or a lost answer left: locks, half-done operations, resources that are gone,
    that the state does not know, or that were made twice.
    """
    raise typer.Exit(life.heal(life.pulumi_of(stack, region_env), yes=yes))


@app.command()
def switchover(
    stack: StackName,
    machine: Annotated[
        str | None, typer.Argument(metavar="[MACHINE]", help="the new holder, if not the next balancer that is fit")
    ] = None,
    wait: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=3600,
            help="seconds that sessions have to end before they are ended, if not the setting vip.drain",
        ),
    ] = None,
    region_env: RegionEnv = None,
) -> None:
    """Move the VIP to another balancer without a failed new connection (exit code 4: refused, nothing was changed)."""
    raise typer.Exit(planned.switchover(life.existing(stack, region_env), machine, wait))


@app.command()
def status(
    stack: StackName,
    as_json: Annotated[bool, typer.Option("--json", help="for programs: docs/stacks.md describes it")] = False,
    region_env: RegionEnv = None,
) -> None:
    """Who holds the VIP, and how every load balancer, database and Mycat is, as they say themselves. Changes nothing.

    Exit code 0: the stack is whole; 1: something is wrong; 2: it could not be asked (no such stack, no credentials).
    """
    try:
        found = condition.status(life.existing(stack, region_env))
    except StackError as error:
        console.print(f"error: {error}", markup=False)
        raise typer.Exit(condition.UNASKED) from None
    if as_json:
        sys.stdout.write(condition.as_json(found))
    else:
        status_tables.show(found, output)
    raise typer.Exit(0 if found.whole else condition.WRONG)


@database.command()
def recover(
    stack: StackName,
    given_up: Annotated[
        list[str] | None,
        typer.Option(
            "--given-up",
            metavar="NODE",
            help="this machine's data are lost, or will be thrown away before it starts again (repeatable)",
        ),
    ] = None,
    yes: Yes = False,
    region_env: RegionEnv = None,
) -> None:
    """Bring databases back that are all stopped, or wait for a node that never returns: shows what each has, says what
    would be lost, asks, and has the right one form the cluster.

    Exit code 0: all that are not given up are synced; 4: refused, nothing was changed; 1: failed half-way.
    """
    confirm = life.confirmation(yes=yes)
    raise typer.Exit(recovery.recover(life.existing(stack, region_env), given_up or (), confirm))


From = Annotated[
    str | None,
    typer.Option("--from", metavar="PREFIX", help="of another stack, which database.backup.readPrefixes has to name"),
]


@database.command()
def backup(stack: StackName, region_env: RegionEnv = None) -> None:
    """Make a backup now, as the schedule does (setting database.backup)."""
    raise typer.Exit(kept.backup(life.existing(stack, region_env)))


@database.command()
def backups(
    stack: StackName,
    prefix: From = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    region_env: RegionEnv = None,
) -> None:
    """The backups that there are, newest first, and what came of the last trial with each."""
    raise typer.Exit(kept.backups(life.existing(stack, region_env), prefix, as_json=as_json))


@database.command()
def restore(
    stack: StackName,
    identifier: Annotated[
        str | None, typer.Argument(metavar="[BACKUP]", help="as `backups` shows it, if not the newest one")
    ] = None,
    prefix: From = None,
    yes: Yes = False,
    region_env: RegionEnv = None,
) -> None:
    """Put a backup in the place of what the databases have: all of them stop, and what was written since is gone (and
    kept aside on the machines). The stack's users get the passwords that its settings have now.

    Exit code 0: restored, and all databases are synced; 4: refused, nothing was changed; 1: failed half-way.
    """
    confirm = life.confirmation(yes=yes)
    raise typer.Exit(kept.restore(life.existing(stack, region_env), identifier, prefix, confirm))


@app.command()
def outputs(
    stack: StackName, show_secrets: Annotated[bool, typer.Option("--show-secrets", help="in plain text")] = False
) -> None:
    """The stack's outputs as JSON."""
    sys.stdout.write(life.existing(stack).outputs(show_secrets=show_secrets))


@app.command()
def destroy(stack: StackName, region_env: RegionEnv = None, really_destroy: Really = None) -> None:
    """Destroy the stack, remove it, and list what the region still has of it (exit code 3 if anything)."""
    raise typer.Exit(life.destroy_unless_protected(stack, region_env, really_destroy))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="the stack is named test-NAME")],
    cidr: Annotated[
        str,
        typer.Option(
            help="address range of the test stack's VPC, such as 10.77.1.0/24; with --subnet-id a free part of that one"
        ),
    ],
    owner: Annotated[str, typer.Option(help="who to ask about it")],
    origin: Annotated[str, typer.Option("--from", metavar="STACK", help="whose settings to copy")] = "local",
    subnet_id: Annotated[
        str | None, typer.Option(metavar="ID", help="stand in this existing subnet, instead of a VPC of its own")
    ] = None,
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
    code = teststack.create(
        name,
        cidr,
        owner,
        origin=origin,
        subnet_id=subnet_id,
        expires=expires,
        assignments=settings or (),
        secrets_provider=secrets_provider,
        local_region=region_env,
        archives=archives,
    )
    raise typer.Exit(code)


@app.command("list")
def list_stacks(
    everything: Annotated[bool, typer.Option("--all", help="the project's other stacks as well")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Test stacks with owner, age, expiry, and whether they are protected."""
    found = listing.stacks(everything=everything)
    if as_json:
        sys.stdout.write(json.dumps([asdict(stack) for stack in found], indent=2) + "\n")
    else:
        output.print(listing.table(found))


@app.command("sweep")
def sweep_stacks(region_env: RegionEnv = None) -> None:
    """Destroy the test stacks that have expired; all other stacks are left alone."""
    sweep.sweep(region_env)


@app.command()
def leftovers(stack: StackName, region_env: RegionEnv = None) -> None:
    """List everything in the region that carries the stack's tag (exit code 3 if anything)."""
    raise typer.Exit(life.leftovers(life.pulumi_of(stack, region_env)))


@app.command()
def render(
    stack: StackName,
    machine: Annotated[str | None, typer.Argument(metavar="[MACHINE]", help="only this machine's")] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", file_okay=False, help="write them to this folder, which is new or empty"),
    ] = None,
) -> None:
    """Show every file of every machine as the stack's settings make it, secrets by name. Connects to nothing."""
    files = rendering.render(Stack(stack), machine)
    if to:
        rendering.write(files, to)
    else:
        sys.stdout.write(rendering.text(files))


@app.command("changes")
def rendered_changes(
    stack: StackName,
    base: Annotated[Path, typer.Argument(help="what `render --to` wrote for the base of a pull request")],
    head: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="and for its head")],
) -> None:
    """What differs between two folders that `render` has written, as a comment on a pull request (Markdown)."""
    sys.stdout.write(changes.comment(stack, rendering.read(base) if base.exists() else None, rendering.read(head)))


@app.command()
def concerned(base: Annotated[str, typer.Argument(help="the commit to compare with")]) -> None:
    """The AWS stacks that the commits since BASE may change, as a JSON list for a workflow's matrix."""
    sys.stdout.write(json.dumps(listing.concerned(base)) + "\n")
