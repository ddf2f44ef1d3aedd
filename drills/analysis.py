"""What a run's observations say: downtime as a client sees it, and what became of every write."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median


@dataclass(frozen=True)
class Attempt:
    """One thing that a probe tried; times by CLOCK_MONOTONIC in seconds. ``by``: the balancer that it came through, as
    the database saw it (reads only)."""

    kind: str
    n: int
    start: float
    end: float
    error: str | None
    by: str | None = None


#: Seconds from which an attempt that succeeds in the end counts as held up all the same.
SLOW = 0.5


@dataclass(frozen=True)
class Outage:
    """What one kind of client saw of a fault. Times are seconds.

    ``downtime``: from the fault until nothing was wrong any more, the end of the last attempt that was held up,
    or of the first success among the attempts that began after the last one that failed, whichever is later; without
    any of these, the longest gap. ``gap``: the longest time without a success that reaches beyond the fault.

    ``back``, of the attempts begun after the fault: until the end of the first from which on none failed or was held
    up; 0 if that is so of all. ``first``: until the end of the first that succeeded, whatever came later. ``in_flight``
    and ``in_flight_failed``: those that had begun before the fault and had not ended; ``in_flight_longest``: until the
    last of them knew.
    """

    kind: str
    downtime: float
    gap: float
    failures: int
    attempts: int
    back: float
    first: float
    in_flight: int
    in_flight_failed: int
    in_flight_longest: float


def outage(attempts: Iterable[Attempt], kind: str, fault: float) -> Outage:
    """Raises ValueError if no attempt that began after the fault has succeeded."""
    mine = sorted((a for a in attempts if a.kind == kind), key=lambda a: a.end)
    after = [a for a in mine if a.end > fault]
    successes = [a for a in after if a.error is None]
    failures = [a for a in after if a.error is not None]
    later = sorted((a for a in after if a.start > fault), key=lambda a: a.start)
    if not any(a.error is None for a in later):
        raise ValueError(f"no {kind} succeeded after the fault")
    before = [a.end for a in mine if a.end <= fault and a.error is None]
    times = [before[-1] if before else fault, *(a.end for a in successes)]
    gap = max(next_ - one for one, next_ in pairwise(times))
    ends = [a.end for a in successes if a.end - max(a.start, fault) > SLOW]
    if failures:
        # The start of the last attempt that failed: its end only tells how long it was waited for.
        last = max(a.start for a in failures)
        ends.append(min((a.end for a in successes if a.start > last), default=successes[-1].end))
    in_flight = [a for a in after if a.start <= fault]
    return Outage(
        kind=kind,
        downtime=max(ends) - fault if ends else gap,
        gap=gap,
        failures=len(failures),
        attempts=len(after),
        back=_back(later, fault),
        first=min(a.end for a in later if a.error is None) - fault,
        in_flight=len(in_flight),
        in_flight_failed=sum(1 for a in in_flight if a.error is not None),
        in_flight_longest=max((a.end - fault for a in in_flight), default=0.0),
    )


def _back(later: Sequence[Attempt], fault: float) -> float:
    """``later`` in the order of their beginnings. What ends them, the probe's own end, is no failure of the service."""
    bad = [n for n, a in enumerate(later) if a.error is not None or a.end - a.start > SLOW]
    if not bad:
        return 0.0
    good = later[bad[-1] + 1 :]
    return (good[0].end if good else later[-1].end) - fault


@dataclass(frozen=True)
class Turn:
    """New connections were answered through another balancer than before. ``left``: the last answer through the one
    before; ``seen``: the first through this one (``by``). CLOCK_MONOTONIC, seconds."""

    by: str
    left: float
    seen: float


def turns(attempts: Iterable[Attempt]) -> list[Turn]:
    """Each time the answering balancer has changed for sure: by an attempt that began after the last answer through
    the one before. Attempts that overlap prove no order."""
    found: list[Turn] = []
    last: Attempt | None = None
    for attempt in sorted((a for a in attempts if a.by and a.error is None), key=lambda a: a.end):
        if last is None or attempt.by == last.by:
            last = attempt
        elif attempt.start > last.end:
            found.append(Turn(str(attempt.by), last.end, attempt.end))
            last = attempt
    return found


def two_holders(seen: Sequence[Turn], moves: int) -> float:
    """Seconds in which two balancers answered by turns, although the VIP has moved ``moves`` times only; 0 if each turn
    is one of the VIP's."""
    return seen[-1].seen - seen[0].left if len(seen) > moves else 0.0


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
    """All moments by CLOCK_MONOTONIC.

    Raises ValueError if the client had no success after the effect, or if the moments are not in this order, as in a
    planned stop, in which the VIP moves first and VRRP follows.
    """
    if not fault <= master <= answered <= in_force:
        raise ValueError("the VIP has moved otherwise than by a failover")
    first = min((a.end for a in attempts if a.error is None and a.end > in_force), default=None)
    if first is None:
        raise ValueError("nothing succeeded after the VIP had moved")
    return Parts(master - fault, answered - master, in_force - answered, first - in_force)


@dataclass(frozen=True)
class Ledger:
    """Every write, by what its client was told and what the databases have.

    ``lost``: acknowledged and not there, on one database or on several. ``unknown``: not acknowledged but there (the
    answer was lost, not the row).
    """

    acknowledged: int
    lost: tuple[int, ...]
    unknown: tuple[int, ...]


def ledger(attempts: Iterable[Attempt], present: Mapping[str, Iterable[int]]) -> Ledger:
    """``present``: what each database has, by its name."""
    acknowledged = {a.n for a in attempts if a.kind == "write" and a.error is None}
    there = [set(rows) for rows in present.values()]
    everywhere, somewhere = set.intersection(*there), set.union(*there)
    lost, unknown = acknowledged - everywhere, somewhere - acknowledged
    return Ledger(len(acknowledged), tuple(sorted(lost)), tuple(sorted(unknown)))


@dataclass(frozen=True)
class Spread:
    """Of several runs. ``p99`` is one of the values (nearest rank): of fewer than 100 runs the largest."""

    min: float
    median: float
    p99: float
    max: float


def spread(values: Sequence[float]) -> Spread:
    ordered = sorted(values)
    return Spread(ordered[0], median(ordered), ordered[math.ceil(0.99 * len(ordered)) - 1], ordered[-1])


@dataclass(frozen=True)
class Floor:
    """What no failover of a dead holder can be faster than: the adverts that VRRP waits for, with the skew of the one
    that takes over (RFC 9568, 6.1), one call to EC2, and its effect. Seconds."""

    advert: float
    priority: int
    effect: float

    def total(self, call: float) -> float:
        """``call``: how long the call to EC2 takes."""
        return 3 * self.advert + (256 - self.priority) / 256 * self.advert + call + self.effect
