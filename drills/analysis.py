"""What a run's observations say: downtime as a client sees it, and what became of every write."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median


@dataclass(frozen=True)
class Attempt:
    """One thing that a probe tried; times by CLOCK_MONOTONIC in seconds."""

    kind: str
    n: int
    start: float
    end: float
    error: str | None


#: Seconds from which an attempt that succeeds in the end counts as held up all the same.
SLOW = 0.5


@dataclass(frozen=True)
class Outage:
    """What one kind of client saw of a fault.

    ``downtime``: from the fault until nothing was wrong any more, the end of the last attempt that was held up,
    or of the first success among the attempts that began after the last one that failed, whichever is later; without
    any of these, the longest gap. ``gap``: the longest time without a success that reaches beyond the fault.
    """

    kind: str
    downtime: float
    gap: float
    failures: int
    attempts: int


def outage(attempts: Iterable[Attempt], kind: str, fault: float) -> Outage:
    """Raises ValueError if the client had no success after the fault."""
    mine = sorted((a for a in attempts if a.kind == kind), key=lambda a: a.end)
    after = [a for a in mine if a.end > fault]
    successes = [a for a in after if a.error is None]
    failures = [a for a in after if a.error is not None]
    if not successes:
        raise ValueError(f"no {kind} succeeded after the fault")
    before = [a.end for a in mine if a.end <= fault and a.error is None]
    times = [before[-1] if before else fault, *(a.end for a in successes)]
    gap = max(later - earlier for earlier, later in pairwise(times))
    ends = [a.end for a in successes if a.end - max(a.start, fault) > SLOW]
    if failures:
        # The start of the last attempt that failed: its end only tells how long it was waited for.
        last = max(a.start for a in failures)
        ends.append(min((a.end for a in successes if a.start > last), default=successes[-1].end))
    return Outage(kind, max(ends) - fault if ends else gap, gap, len(failures), len(after))


@dataclass(frozen=True)
class Parts:
    """Where the time between a fault and the first answer went, in seconds; each part begins where the one before ends.

    ``detection``: until VRRP has a new master. ``call``: until the EC2 API has moved the VIP. ``effect``: until the
    network delivers to the new master. ``answer``: until a client got an answer.
    """

    detection: float
    call: float
    effect: float
    answer: float

    @property
    def total(self) -> float:
        return self.detection + self.call + self.effect + self.answer


def parts(attempts: Iterable[Attempt], fault: float, master: float, answered: float, in_force: float) -> Parts:
    """All moments by CLOCK_MONOTONIC. Raises ValueError if the client had no success after the effect."""
    first = min((a.end for a in attempts if a.error is None and a.end > in_force), default=None)
    if first is None:
        raise ValueError("nothing succeeded after the VIP had moved")
    return Parts(master - fault, answered - master, in_force - answered, first - in_force)


@dataclass(frozen=True)
class Ledger:
    """Every write, by what its client was told and what the database has.

    ``lost``: acknowledged and not there. ``unknown``: not acknowledged but there (the answer was lost, not the row).
    """

    acknowledged: int
    lost: tuple[int, ...]
    unknown: tuple[int, ...]


def ledger(attempts: Iterable[Attempt], present: Iterable[int]) -> Ledger:
    acknowledged = {a.n for a in attempts if a.kind == "write" and a.error is None}
    there = set(present)
    return Ledger(len(acknowledged), tuple(sorted(acknowledged - there)), tuple(sorted(there - acknowledged)))


def spread(values: Sequence[float]) -> str:
    """``min/median/max`` in seconds."""
    return f"{min(values):.2f}/{median(values):.2f}/{max(values):.2f} s"
