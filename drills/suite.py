"""Many drills, one after the other. One that fails does not stop the others."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drills.drill import Result, Say, drill
from drills.faults import FAULTS, Fault
from drills.stack import Stack
from localregion.client import Region


@dataclass(frozen=True)
class Failure:
    """A drill that has no result: the client did not recover, or the stack was not whole before it or after it."""

    fault: str
    error: str

    @property
    def broken(self) -> list[str]:
        return [self.error]


Outcome = Result | Failure


def chosen(names: Sequence[str], quick: bool) -> list[Fault]:
    """By their names, else the quick set or all. Raises LookupError."""
    if unknown := [name for name in names if name not in FAULTS]:
        raise LookupError(f"no fault is called {', '.join(unknown)}; there are: {', '.join(FAULTS)}")
    if names:
        return [FAULTS[name] for name in dict.fromkeys(names)]
    return [fault for fault in FAULTS.values() if fault.quick or not quick]


def suite(
    region: Region, stacks: Sequence[Stack], faults: Sequence[Fault], runs: int, say: Say
) -> Iterator[tuple[Stack, Outcome]]:
    """Round by round, each fault once in a round, on one stack after the other."""
    drills = [(number, fault, stack) for number in range(1, runs + 1) for fault in faults for stack in stacks]
    begun = time.monotonic()
    for place, (number, fault, stack) in enumerate(drills, 1):
        minutes = (time.monotonic() - begun) / 60
        at = f"{fault.on} of {stack.name}" if len(stacks) > 1 else fault.on
        say(f"{place} of {len(drills)}, {minutes:.0f} min: {fault.name} ({at}: {fault.what}), round {number}")
        outcome: Outcome
        try:
            outcome = drill(region, stack, fault, say)
        except Exception as error:
            outcome = Failure(fault.name, f"{error}" or type(error).__name__)
        say(f"{fault.name}: {'; '.join(outcome.broken) or 'all that had to hold has held'}")
        yield stack, outcome
