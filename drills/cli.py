"""``python -m drills``: watch a failover, or measure several."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from drills import report
from drills.drill import drill
from drills.faults import FAULTS
from drills.stack import Stack
from localregion.client import Region, RegionError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Failover drills on the local region.")
console = Console()

StackName = Annotated[str, typer.Option("--stack", help="The stack under test")]
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
    if result.ledger.lost:
        raise SystemExit(f"{len(result.ledger.lost)} acknowledged writes were lost")


def _mycat(stack: Stack) -> str:
    if stack.mycat_port is None:
        return ""
    where = f"--host={stack.vip} --port={stack.mycat_port} --user={stack.mycat_user}"
    return f"\n  Mycat        mariadb {where} --password {stack.mycat_schema}"


@app.command()
def run(
    kind: Annotated[str, typer.Argument(help=", ".join(FAULTS))],
    runs: Annotated[int, typer.Option(min=1, max=100)] = 1,
    directory: Annotated[Path | None, typer.Option("--report", help="Where to write results.json and pictures")] = None,
    stack_name: StackName = "local",
    region_name: RegionName = "local",
) -> None:
    """Run one kind of fault several times, on whichever machine holds the VIP."""
    if kind not in FAULTS:
        raise SystemExit(f"no fault is called {kind}; there are: {', '.join(FAULTS)}")
    region, stack = Region(region_name), Stack.read(stack_name)
    results = []
    for number in range(1, runs + 1):
        _say(f"drill {number} of {runs}")
        results.append(drill(region, stack, FAULTS[kind], _say))
        report.show(results[-1], console)
    report.show_all(results, console)
    if directory:
        report.write(results, directory)
        console.print(f"report: {directory}")
    if any(result.ledger.lost for result in results):
        raise SystemExit("acknowledged writes were lost")


def main() -> None:
    try:
        app()
    except (RegionError, RuntimeError, TimeoutError) as error:
        Console(stderr=True).print(f"[red]drills:[/red] {error}", highlight=False)
        sys.exit(1)
