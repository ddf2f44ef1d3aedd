"""Says in seconds that the deployer cannot reach what it deploys to, with the address and the port that it tried.

The command provider says it only when it gives up, minutes later.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.remote import DIAL_SECONDS
from components.tagging import own_filters
from settings import MachineSettings

SSH = 22
#: Seconds after which no answer from a machine is no longer its boot.
BOOT_SECONDS = 45.0


@dataclass(frozen=True)
class Target:
    """What the deployer itself connects to."""

    name: str
    host: pulumi.Input[str]
    #: Why it is likely that there is no answer.
    likely: str
    port: int = SSH
    #: The instance's id, which is known when there is one.
    made: pulumi.Input[str] = ""


def watch(targets: Sequence[Target]) -> None:
    """Say during `up` which targets do not answer. A preview need not be run where they can be reached.

    Nothing is refused because of it: `up` itself may be what mends it.
    """
    if pulumi.runtime.is_dry_run():
        return
    for target in targets:
        known = pulumi.Output.all(target, target.host, target.made)
        _: pulumi.Output[bool] = known.apply(lambda values: _wait(values[0], values[1]))


def say_what_is_off(machines: Sequence[MachineSettings]) -> None:
    """Warn of this stack's instances that are switched off, in previews, too."""
    names = {str(machine.address): machine.name for machine in machines}
    filters = [aws.ec2.GetInstancesFilterArgs(name=name, values=[value]) for name, value in own_filters().items()]
    off = aws.ec2.get_instances(filters=filters, instance_state_names=["stopping", "stopped"])
    for identifier, address in zip(off.ids, off.private_ips, strict=True):
        pulumi.log.warn(
            f"{names.get(address, address)} ({identifier}) is switched off, and what has to run on it will fail after "
            f"minutes: `aws ec2 start-instances --instance-ids {identifier}`"
        )


async def _wait(target: Target, host: str) -> bool:
    """Until it answers, or it is clear that this is not a boot: whether it answers."""
    ends, told = time.monotonic() + BOOT_SECONDS, False
    while (problem := await dial(target, host)) and time.monotonic() < ends:
        if not told:
            pulumi.log.info(f"{problem}. A new machine boots for up to a minute.")
            told = True
        await asyncio.sleep(1)
    if problem:
        pulumi.log.warn(f"{problem}; likely, {target.likely}")
    return problem is None


async def dial(target: Target, host: str) -> str | None:
    """What is wrong, after DIAL_SECONDS at most; None if it answers."""
    at = f"{host}, port {target.port}"
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, target.port), DIAL_SECONDS)
    except TimeoutError:
        return f"{target.name} does not answer at {at}, within {DIAL_SECONDS} s"
    except ConnectionRefusedError:
        return f"{target.name} refuses at {at}: it is still booting, or its sshd does not run"
    except OSError as error:
        return f"{target.name} cannot be reached at {at} ({error})"
    writer.close()
    return None
