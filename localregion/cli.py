"""The region on the command line: ``python -m localregion [--name NAME] COMMAND``."""

import json
import shlex
import subprocess
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from localregion.client import Region, RegionError
from localregion.effects import EFFECT_DELAY_MS
from localregion.iam import IAM_DELAY_MS

app = typer.Typer(no_args_is_help=True, help="An AWS region in one machine.", add_completion=False)
fault = typer.Typer(no_args_is_help=True, help="Break something while it runs.")
app.add_typer(fault, name="fault")
console = Console()
_region = Region()
#: Columns for a table that is as wide as its text. rich's own default, where there is no terminal, cuts it at 80.
_UNCUT = 1000

Machine = Annotated[str, typer.Argument(help="NAME or STACK/NAME, an instance id, or one of its addresses")]


@app.callback()
def main(name: Annotated[str, typer.Option(help="Which region; several can run beside each other")] = "local") -> None:
    global _region
    _region = Region(name)


@app.command()
def start() -> None:
    """Start the region; does nothing if it runs."""
    _region.start(console.print)
    status = _region.status()
    console.print(f"local region '{_region.name}': {status['endpoint']} ({status['region']})")


@app.command()
def stop() -> None:
    """End the region and everything in it."""
    _region.stop()
    console.print(f"local region '{_region.name}': stopped, nothing is left")


@app.command()
def status() -> None:
    """What there is, as JSON."""
    print(json.dumps(_region.status(), indent=2))


@app.command()
def env() -> None:
    """Shell lines that point AWS's SDKs, and Pulumi, to the region."""
    for name, value in _region.env().items():
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def ps() -> None:
    """The machines."""
    table = Table("instance", "name", "state", "power", "addresses")
    for machine in _region.machines():
        power = "on" if machine["powered"] else "off"
        table.add_row(machine["id"], machine["name"], machine["state"], power, " ".join(machine["addresses"]))
    Console(width=_UNCUT).print(table)


@app.command("calls")
def list_calls() -> None:
    """What was asked of the API since the region's start: by whom, through which SDK, which action of IAM."""
    table = Table("role", "SDK", "action")
    for call in _region.calls():
        table.add_row(call["role"] or "administrator", call["sdk"], call["action"])
    Console(width=_UNCUT).print(table)


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    target: Annotated[str, typer.Argument(help="NAME or STACK/NAME of a machine, its id or address, or a test host")],
    argv: list[str],
) -> None:
    """Run a command as root on a machine or test host."""
    sys.exit(_region.popen(target, argv).wait())


@app.command()
def host(name: str, address: str) -> None:
    """Add a test host with an address of its own."""
    _region.add_host(name, address)


Vpc = Annotated[str | None, typer.Argument(help="VPC id, or the stack that it belongs to; the only one if left out")]
Source = Annotated[
    str | None, typer.Option("--from", metavar="CIDR", help="A network outside, instead of this machine")
]


@app.command()
def attach(vpc: Vpc = None, source: Source = None) -> None:
    """Attach this machine to a VPC, as an administrator's VPN does: its private addresses can be used from here."""
    vpc_id, cidr, network = _region.attach(vpc, source=source)
    console.print(f"{network} is attached to {vpc_id} ({cidr})")


@app.command()
def detach(vpc: Vpc = None, source: Source = None) -> None:
    """End an attachment."""
    vpc_id, cidr, network = _region.detach(vpc, source=source)
    console.print(f"{network} is no longer attached to {vpc_id} ({cidr})")


@app.command("console")
def show_console(machine: Machine) -> None:
    """What a machine has written to its console."""
    print(_region.console(machine))


@fault.command()
def power_cut(machine: Machine) -> None:
    """Cut a machine's power."""
    _region.power_cut(machine)


@fault.command()
def power_on(machine: Machine) -> None:
    _region.power_on(machine)


@fault.command()
def freeze(machine: Machine) -> None:
    """Stop every process of a machine, and its network."""
    _region.freeze(machine)


@fault.command()
def thaw(machine: Machine) -> None:
    _region.thaw(machine)


@fault.command()
def drop(
    a: str,
    b: Annotated[
        str | None, typer.Argument(help="Everybody if left out; `outside` is all that is not in the VPC")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="tcp, udp, icmp, or a number such as 112")] = None,
    port: int | None = None,
    one_way: Annotated[bool, typer.Option("--one-way", help="Only from the first to the second")] = False,
) -> None:
    """Lose packets between two machines or hosts; prints the fault's id."""
    print(_region.drop(a, b, protocol=protocol, port=port, both=not one_way))


@fault.command()
def api(
    latency_ms: float = 0,
    jitter_ms: float = 0,
    error_rate: float = 0,
    throttle_rate: float = 0,
    reset_rate: Annotated[float, typer.Option(help="Reset the connection before the call takes effect")] = 0,
    lost_rate: Annotated[float, typer.Option(help="Give no answer after the call took effect")] = 0,
    hang: bool = False,
    effect_delay_ms: float = EFFECT_DELAY_MS,
    iam_delay_ms: float = IAM_DELAY_MS,
    action: Annotated[
        list[str] | None, typer.Option(help="Only these actions; S3's as its API names them: UploadPart")
    ] = None,
    roles_only: bool = False,
    times: Annotated[int | None, typer.Option(help="End after so many requests that it struck")] = None,
) -> None:
    """What is wrong with the API; what is left out is right again."""
    faults: dict[str, Any] = {
        "latency_ms": latency_ms,
        "jitter_ms": jitter_ms,
        "error_rate": error_rate,
        "throttle_rate": throttle_rate,
        "reset_rate": reset_rate,
        "lost_rate": lost_rate,
        "hang": hang,
        "effect_delay_ms": effect_delay_ms,
        "iam_delay_ms": iam_delay_ms,
        "actions": action,
        "roles_only": roles_only,
        "times": times,
    }
    print(json.dumps(_region.api(**faults)))


@fault.command()
def imds(machine: Machine, up: Annotated[bool, typer.Option("--up")] = False) -> None:
    """Take a machine's metadata service away, or give it back."""
    _region.imds(machine, down=not up)


@fault.command()
def clear() -> None:
    """End every fault (a machine without power stays so)."""
    _region.clear_faults()


def run() -> None:
    try:
        app()
    except (RegionError, TimeoutError, subprocess.TimeoutExpired) as error:
        Console(stderr=True).print(f"[red]localregion:[/red] {error}", highlight=False)
        sys.exit(1)
