"""``python -m drills``: watch a failover, or measure many."""

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from drills import calls, report
from drills.drill import Result, drill
from drills.faults import FAULTS
from drills.stack import Stack
from drills.suite import Outcome, chosen
from drills.suite import suite as run_suite
from localregion.client import Region, RegionError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Failover drills on the local region.")
console = Console()

StackName = Annotated[str, typer.Option("--stack", help="The stack under test")]
ReportDirectory = Annotated[
    Path | None, typer.Option("--report", help="Where to write report.html, results.json and pictures")
]
RegionName = Annotated[str, typer.Option("--region", help="The local region that it stands in")]


def _say(text: str) -> None:
    console.print(f"[dim]drill:[/dim] {text}")


@app.command()
def demo(stack_name: StackName = "local", region_name: RegionName = "local") -> None:
    """Cut the power of the machine that holds the VIP, while a client writes."""
    region, stack = Region(region_name), Stack.read(stack_name)
    result = drill(region, stack, FAULTS["power-cut"], _say)
    report.show(result, console)
    picture = Path(".local/failover.png")
    report.picture(result, picture)
    console.print(f"picture: {picture}")
    more = _mycat(stack)
    console.print(
        f"""
To connect (passwords: python3 -m toolchain exec -- pulumi stack output --show-secrets --stack {stack.name}):
  databases    mariadb --host={stack.vip} --port={stack.port} --user={stack.user} --password {stack.schema}{more}
               from a client host: python3 -m toolchain exec -- python -m localregion exec drill -- mariadb ...
  statistics   {stack.statistics_url}   user {stack.statistics_user}
  machines     python3 -m toolchain exec -- python -m localregion ps
  again        python3 -m toolchain exec -- python -m drills run power-cut
  undo         make down""",
        highlight=False,
    )
    if result.broken:
        raise SystemExit(1)


def _mycat(stack: Stack) -> str:
    if stack.mycat_port is None:
        return ""
    where = f"--host={stack.vip} --port={stack.mycat_port} --user={stack.mycat_user}"
    return f"\n  Mycat        mariadb {where} --password {stack.mycat_schema}"


@app.command()
def run(
    kind: Annotated[str, typer.Argument(help=", ".join(FAULTS))],
    runs: Annotated[int, typer.Option(min=1, max=100)] = 1,
    directory: ReportDirectory = None,
    stack_name: StackName = "local",
    region_name: RegionName = "local",
) -> None:
    """Run one kind of fault several times, and show each drill."""
    _suite([kind], False, runs, directory, stack_name, region_name, each=True)


class Set(StrEnum):
    quick = "quick"
    all = "all"


@app.command()
def suite(
    kinds: Annotated[list[str] | None, typer.Argument(metavar="[FAULT]...", help=", ".join(FAULTS))] = None,
    which: Annotated[Set, typer.Option("--set", help="Which ones, if none is named")] = Set.quick,
    runs: Annotated[int, typer.Option(min=1, max=100)] = 1,
    directory: ReportDirectory = None,
    stack_name: StackName = "local",
    region_name: RegionName = "local",
    against: Annotated[
        str | None,
        typer.Option(help="Another stack of the region: each drill there as well, in turns; the report compares"),
    ] = None,
    claims: Annotated[
        int, typer.Option(min=0, max=100, help="Measure so many claims, and as many by the AWS command line")
    ] = 0,
) -> None:
    """Run many kinds of fault, each several times, and write a report. Exit status 1: something did not hold."""
    _suite(
        kinds or [],
        which is Set.quick,
        runs,
        directory,
        stack_name,
        region_name,
        each=False,
        against_name=against,
        claims=claims,
    )


@app.command()
def faults() -> None:
    """The kinds of fault."""
    table = Table("fault", "at", "what", "the VIP", "set")
    for fault in FAULTS.values():
        table.add_row(fault.name, fault.on, fault.what, fault.vip, "quick" if fault.quick else "")
    console.print(table)


def _suite(
    names: list[str],
    quick: bool,
    runs: int,
    directory: Path | None,
    stack_name: str,
    region_name: str,
    *,
    each: bool,
    against_name: str | None = None,
    claims: int = 0,
) -> None:
    # A stop by another process is an interrupt as well: what is broken is mended first, and the report written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = chosen(names, quick)
    region, stack = Region(region_name), Stack.read(stack_name)
    stacks = [stack, *([Stack.read(against_name)] if against_name else [])]
    outcomes: list[Outcome] = []
    against: list[Outcome] = []
    measured = None
    try:
        if claims:
            _say(f"{claims} claims, and as many by the AWS command line, at {calls.LATENCY_MS} ms a call to EC2")
            measured = calls.measure(region, stack, claims)
        for of, outcome in run_suite(region, stacks, found, runs, _say):
            (outcomes if of is stack else against).append(outcome)
            if each and isinstance(outcome, Result):
                report.show(outcome, console)
    finally:
        if outcomes:
            report.show_all(outcomes, console)
            report.show_parts([one for one in outcomes if isinstance(one, Result)], console)
        if against_name and against:
            report.show_against(outcomes, against_name, against, console)
        if measured:
            report.show_calls(measured, console)
        if outcomes and directory:
            report.write(outcomes, directory, against_name=against_name, against=against, calls=measured)
            console.print(f"report: {directory}/report.html")
    if any(outcome.broken for outcome in outcomes):
        raise SystemExit(1)


def main() -> None:
    try:
        app()
    except (RegionError, RuntimeError, TimeoutError, LookupError) as error:
        Console(stderr=True).print(f"[red]drills:[/red] {error}", highlight=False)
        sys.exit(1)
