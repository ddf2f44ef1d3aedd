"""A planned move of the VIP: the new holder serves it before EC2 moves the address, and VRRP follows.

What the steps do stands in files/vip/switch-vip.
"""

import asyncio
import time
from collections.abc import Mapping

from constants import LIBRARY, LONGEST_DRAIN
from stackctl import ssh
from stackctl.hosts import hosts
from stackctl.project import StackError, say
from stackctl.pulumi import Pulumi
from stackctl.ssh import Host, SshError

#: Exit code: refused, and everything is as it was.
REFUSED = 4
#: Seconds for each step, but for what it waits for the clients.
SECONDS = 30.0


class RefusedError(StackError):
    """Nothing was changed; the text says why."""


def switchover(pulumi: Pulumi, machine: str | None, wait: int | None = None) -> int:
    """Move the VIP to ``machine``, or to the first other balancer that is fit. The exit code.

    Sessions have ``wait`` seconds to end by themselves before, or what the setting `vip.drain` gives them. Raises
    StackError if it failed half-way: the stack is then as it was, or becomes whole by itself, and the text says which.
    """
    balancers = hosts(pulumi, "lb")
    try:
        asyncio.run(_switch(balancers, machine, wait))
    except RefusedError as refused:
        say(f"refused, and nothing was changed: {refused}")
        return REFUSED
    return 0


async def _do(host: Host, what: str, seconds: float = SECONDS) -> str:
    return (await ssh.run(host, f"{LIBRARY}/switch-vip {what}", timeout=seconds)).strip()


async def _state(host: Host) -> str:
    try:
        return await _do(host, "state")
    except SshError as error:
        return str(error)


async def _switch(balancers: Mapping[str, Host], machine: str | None, wait: int | None) -> None:
    if machine is not None and machine not in balancers:
        raise RefusedError(f"{machine} is not a balancer; those are {', '.join(balancers)}")
    states = dict(zip(balancers, await asyncio.gather(*map(_state, balancers.values())), strict=True))
    masters = [name for name, state in states.items() if state == "master"]
    if len(masters) != 1:
        shown = "; ".join(f"{name}: {state}" for name, state in states.items())
        raise RefusedError(f"there is not exactly one master, which would hand over ({shown})")
    holder = masters[0]
    target = await _fit(balancers, [machine] if machine else [name for name in balancers if name != holder])
    await _move(balancers, holder, target, wait)


async def _fit(balancers: Mapping[str, Host], names: list[str]) -> str:
    """The first that is fit. Raises RefusedError with what each one lacks."""
    lacks = []
    for name in names:
        try:
            await _do(balancers[name], "fit")
        except SshError as error:
            lacks.append(f"{name} is not fit: {error}")
        else:
            return name
    raise RefusedError("; ".join(lacks) or "there is no other balancer")


async def _move(balancers: Mapping[str, Host], holder: str, target: str, wait: int | None) -> None:
    old, new = balancers[holder], balancers[target]
    began = last = time.monotonic()

    def step(name: str, lines: str, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        for line in lines.splitlines():
            say(f"  {name}: {line}")
        say(f"{text} ({now - last:.1f} s)")
        last = now

    say(f"from {holder} to {target}")
    yielding = False
    try:
        if wait != 0:
            drain, longest = ("drain", LONGEST_DRAIN) if wait is None else (f"drain {wait}", wait)
            step(holder, await _do(old, drain, SECONDS + longest), "sessions had their time to end")
        step(holder, await _do(old, "lend"), f"{holder} lets the VIP go")
        step(target, await _do(new, "take"), f"{target} has the VIP")
        yielding = True
        step(holder, await _do(old, "yield"), f"{holder} has yielded, and ended its sessions")
        step(target, await _do(new, "arrived"), f"{target} is master")
    except (SshError, asyncio.CancelledError) as error:
        then = "VRRP and the balancers' timers bring it in order" if yielding else await _back(old, holder, new, target)
        raise StackError(f"the switchover failed: {str(error) or 'interrupted'}; {then}") from None
    say(f"the VIP has moved from {holder} to {target} in {time.monotonic() - began:.1f} s")


async def _back(old: Host, holder: str, new: Host, target: str) -> str:
    """How things are after it."""
    try:
        for line in (await _do(old, "reclaim")).splitlines():
            say(f"  {holder}: {line}")
    except SshError as error:
        return f"{holder} could not take the VIP back, and tries again within a minute: {error}"
    try:
        await _do(new, "away")
    except SshError as error:
        say(f"  {target} is left to put away by itself what it has prepared: {error}")
    return f"{holder} has the VIP"
