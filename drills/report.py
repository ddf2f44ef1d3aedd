"""Results for people to look at: tables, pictures, a page for the browser, and the same as JSON."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from drills.analysis import Outage, Spread, spread
from drills.calls import Calls
from drills.drill import KINDS, Result
from drills.faults import FAULTS
from drills.suite import Outcome

mpl.use("Agg")
LANES = 40  # attempts of a kind beside each other: they overlap while they are held up
NAMES = {
    "connect": "new connection",
    "read": "new connection with a read",
    "write": "write (acknowledged)",
    "session": "kept session",
    "mycat": "new connection with a read by Mycat",
}
PARTS = {
    "detection": "detection (VRRP)",
    "call": "API call",
    "effect": "effect",
    "answer": "first answer",
    "total": "all",
}
#: What is asked of each kind of client: the words, and the figure of an outage.
FIGURES: Mapping[str, tuple[str, Callable[[Outage], float]]] = {
    "back": ("begun after it: service is back", lambda outage: outage.back),
    "first": ("begun after it: first success", lambda outage: outage.first),
    "in_flight": ("in flight: the last one knew", lambda outage: outage.in_flight_longest),
    "downtime": ("both: downtime", lambda outage: outage.downtime),
    "gap": ("longest gap", lambda outage: outage.gap),
}
#: Of connections begun after the fault.
AFTER = ("first", "back")
#: In tables with a row for each fault: the figure and the kind of client.
SHORT: Mapping[tuple[str, str], str] = {
    ("back", "connect"): "new connections: back",
    ("downtime", "write"): "write: downtime",
    ("downtime", "session"): "kept session: downtime",
}


@dataclass(frozen=True)
class Compared:
    """A figure's medians over the runs, in seconds, of the stack and of the one that it is compared with."""

    stack: float
    against: float

    @property
    def ratio(self) -> float | None:
        """None: the other one had nothing of it."""
        return self.stack / self.against if self.against else None


def show(result: Result, console: Console) -> None:
    """The timeline of one drill, and what the client saw."""
    timeline = Table("after the fault", "what", title=f"{result.fault} on {result.machine}", title_justify="left")
    rows = [(0.0, f"{result.machine}: fault"), *result.events]
    rows += [(outage.downtime, f"client: {NAMES[kind]} works again") for kind, outage in result.outages.items()]
    for at, what in sorted(rows):
        timeline.add_row(f"{at:7.3f} s", what)
    console.print(timeline)
    show_parts([result], console)
    summary = Table("client", "downtime", "longest gap", "in flight, failed", "begun after it: back", "failed attempts")
    for kind, outage in result.outages.items():
        summary.add_row(
            NAMES[kind],
            f"{outage.downtime:.2f} s",
            f"{outage.gap:.2f} s",
            f"{outage.in_flight}, {outage.in_flight_failed}",
            f"{outage.back:.2f} s",
            f"{outage.failures} of {outage.attempts}",
        )
    console.print(summary)
    ledger = result.ledger
    console.print(
        f"acknowledged writes: {ledger.acknowledged}, lost: [bold]{len(ledger.lost)}[/bold], "
        f"without an answer but stored: {len(ledger.unknown)}"
    )
    for broken in result.broken:
        console.print(f"[red]did not hold:[/red] {broken}", highlight=False)


def show_parts(results: Sequence[Result], console: Console) -> None:
    """From the fault to the first answer, a row for each failover, and their median."""
    found = [(result, result.parts) for result in results if result.parts]
    if not found:
        return
    table = Table("the VIP", *PARTS.values(), title="from the fault to the first answer", title_justify="left")
    for result, parts in found:
        table.add_row(f"{result.machine} to {result.moved_to}", *(f"{getattr(parts, part):.3f} s" for part in PARTS))
    if len(found) > 1:
        table.add_section()
        medians = (median(getattr(parts, part) for _, parts in found) for part in PARTS)
        table.add_row("median", *(f"{seconds:.3f} s" for seconds in medians))
    console.print(table)


def figures(results: Sequence[Result], figure: str) -> dict[str, Spread]:
    """Of each kind of client that has recovered, over the runs."""
    of = FIGURES[figure][1]
    found = {kind: [of(result.outages[kind]) for result in results if kind in result.outages] for kind in KINDS}
    return {kind: spread(values) for kind, values in found.items() if values}


def show_all(outcomes: Sequence[Outcome], console: Console) -> None:
    """A row for each fault: medians, and the largest value if there are several runs."""
    table = Table("fault", "runs", "new connections back", "write", "kept session", "moves", "lost", "verdict")
    for name, some in by_fault(outcomes).items():
        results = [one for one in some if isinstance(one, Result)]
        downtime, back = figures(results, "downtime"), figures(results, "back")
        table.add_row(
            name,
            str(len(some)),
            *(
                _short(found.get(kind))
                for found, kind in ((back, "connect"), (downtime, "write"), (downtime, "session"))
            ),
            "/".join(str(result.moves) for result in results),
            str(sum(len(result.ledger.lost) for result in results)),
            "held" if not any(one.broken for one in some) else "[red]broken[/red]",
        )
    console.print(table)
    for outcome in outcomes:
        for broken in outcome.broken:
            console.print(f"[red]{outcome.fault}:[/red] {broken}", highlight=False)


def compared(outcomes: Sequence[Outcome], against: Sequence[Outcome]) -> dict[str, dict[str, dict[str, Compared]]]:
    """By fault, figure and kind of client, where both stacks have recovered."""
    others = by_fault(against)
    found: dict[str, dict[str, dict[str, Compared]]] = {}
    for name, some in by_fault(outcomes).items():
        ours, theirs = ([one for one in these if isinstance(one, Result)] for these in (some, others.get(name, [])))
        if ours and theirs:
            found[name] = {figure: _compared(figures(ours, figure), figures(theirs, figure)) for figure in FIGURES}
    return found


def _compared(ours: Mapping[str, Spread], theirs: Mapping[str, Spread]) -> dict[str, Compared]:
    return {kind: Compared(ours[kind].median, theirs[kind].median) for kind in ours if kind in theirs}


def show_against(outcomes: Sequence[Outcome], name: str, against: Sequence[Outcome], console: Console) -> None:
    """Medians of the stack's and of the other's, and the ratio, a row for each fault."""
    table = Table("fault", *SHORT.values(), title=f"this stack / {name}", title_justify="left")
    for fault, found in compared(outcomes, against).items():
        table.add_row(fault, *(_against(found[figure].get(kind)) for figure, kind in SHORT))
    console.print(table)
    for outcome in against:
        for broken in outcome.broken:
            console.print(f"{name}, {outcome.fault}: {broken}", highlight=False)


def _against(found: Compared | None) -> str:
    if found is None:
        return "-"
    return f"{found.stack:.2f} s / {found.against:.2f} s" + ("" if found.ratio is None else f" = {found.ratio:.2f}")


def show_calls(calls: Calls, console: Console) -> None:
    """Medians, and the ratio."""
    ours, theirs = median(calls.claim_vip), median(calls.aws_cli)
    console.print(
        f"from the decision to EC2's yes, median of {len(calls.claim_vip)}: claim-vip {ours:.3f} s, "
        f"the AWS command line {theirs:.3f} s, ratio {calls.ratio:.3f}"
    )


def _short(found: Spread | None) -> str:
    if found is None:
        return "-"
    return f"{found.median:.2f} s" + (f" (max {found.max:.2f})" if found.max > found.median else "")


def by_fault(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """In the catalogue's order."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.fault, []).append(outcome)
    return {name: found[name] for name in FAULTS if name in found}


def write(
    outcomes: Sequence[Outcome],
    directory: Path,
    *,
    against_name: str | None = None,
    against: Sequence[Outcome] = (),
    calls: Calls | None = None,
) -> None:
    """``report.html``, ``results.json``, and the pictures that the page has, as files."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).replace(microsecond=0)
    faults = [_of_fault(name, some, directory) for name, some in by_fault(outcomes).items()]
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    found = {
        "at": now.isoformat(),
        "faults": {fault["name"]: fault["figures"] for fault in faults},
        "drills": _summaries(outcomes),
    }
    comparison = compared(outcomes, against)
    if against_name:
        found["against"] = {
            "stack": against_name,
            "faults": {
                fault: {
                    figure: {kind: asdict(one) | {"ratio": one.ratio} for kind, one in kinds.items()}
                    for figure, kinds in of.items()
                }
                for fault, of in comparison.items()
            },
            "drills": _summaries(against),
        }
    if calls:
        found["calls"] = {
            "claim_vip": asdict(spread(calls.claim_vip)),
            "aws_cli": asdict(spread(calls.aws_cli)),
            "ratio": calls.ratio,
        }
    (directory / "results.json").write_text(json.dumps(found, indent=2))
    pictures = {}
    if results:
        overview(outcomes, directory / "overview.png")
        pictures["overview"] = _embedded(directory / "overview.png")
    if any(result.parts for result in results):
        parts_picture(results, directory / "parts.png")
        pictures["parts"] = _embedded(directory / "parts.png")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        at=now,
        faults=faults,
        pictures=pictures,
        names=NAMES,
        figures={name: words for name, (words, _) in FIGURES.items()},
        parts=PARTS,
        against_name=against_name,
        against_broken=[(one.fault, what) for one in against for what in one.broken],
        comparison=comparison,
        short=SHORT,
        calls=found.get("calls"),
        drills=len(outcomes),
        broken=sum(1 for outcome in outcomes if outcome.broken),
        acknowledged=sum(result.ledger.acknowledged for result in results),
        lost=sum(len(result.ledger.lost) for result in results),
        two_holders=sum(result.two_holders for result in results),
    )
    (directory / "report.html").write_text(page)


def _summaries(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [one.summary() if isinstance(one, Result) else asdict(one) for one in outcomes]


def _of_fault(name: str, outcomes: Sequence[Outcome], directory: Path) -> dict[str, Any]:
    """What the page and the JSON's summary say of the drills of one fault."""
    fault = FAULTS[name]
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    with_parts = [(result.parts, result.floor) for result in results if result.parts]
    parts = {part: spread([getattr(found, part) for found, _ in with_parts]) for part in PARTS} if with_parts else {}
    floors = [floor.total(found.call) for found, floor in with_parts if floor]
    slowest = max(results, key=_length, default=None)
    shown = None
    for number, result in enumerate(results, 1):
        path = directory / f"{name}-{number}.png"
        picture(result, path)
        if result is slowest:
            shown = {"number": number, "result": result, "picture": _embedded(path)}
    return {
        "name": name,
        "fault": fault,
        "runs": len(outcomes),
        "results": results,
        "broken": [f"run {n}: {what}" for n, outcome in enumerate(outcomes, 1) for what in outcome.broken],
        "slowest": shown,
        "acknowledged": sum(result.ledger.acknowledged for result in results),
        "lost": sum(len(result.ledger.lost) for result in results),
        "unknown": sum(len(result.ledger.unknown) for result in results),
        "figures": {
            "runs": len(outcomes),
            "broken": sum(1 for outcome in outcomes if outcome.broken),
            "acknowledged": sum(result.ledger.acknowledged for result in results),
            "lost": sum(len(result.ledger.lost) for result in results),
            "two_holders": sum(result.two_holders for result in results),
            "moves": [result.moves for result in results],
            "clients": {
                figure: {kind: asdict(found) for kind, found in figures(results, figure).items()} for figure in FIGURES
            },
            "parts": {part: asdict(found) for part, found in parts.items()},
            "floor": median(floors) if floors else None,
            "floor_ratio": {figure: _floor_ratio(results, figure) for figure in AFTER},
        },
    }


def _floor_ratio(results: Sequence[Result], figure: str) -> float | None:
    """Of the runs that were a failover: this figure of new connections, to the floor of the same run; the median."""
    of = FIGURES[figure][1]
    found = [
        of(result.outages["connect"]) / result.floor.total(result.parts.call)
        for result in results
        if result.parts and result.floor and "connect" in result.outages
    ]
    return median(found) if found else None


def _length(result: Result) -> float:
    return max(outage.downtime for outage in result.outages.values())


def _embedded(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def overview(outcomes: Sequence[Outcome], path: Path) -> None:
    """A row for each fault: what clients saw of it in each run, on a logarithmic scale of seconds."""
    from matplotlib import pyplot as plt  # noqa: PLC0415  (after the backend is chosen)

    rows = list(by_fault(outcomes))[::-1]
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    figure, axes = plt.subplots(figsize=(11, 1.2 + 0.3 * len(rows)))
    nothing = 0.01
    marks = (
        ("connect", "back", "|", "tab:blue", "new connections: back"),
        ("write", "downtime", "x", "tab:red", "write: downtime"),
        ("session", "downtime", ".", "tab:green", "kept session: downtime"),
    )
    for kind, name, marker, colour, words in marks:
        of = FIGURES[name][1]
        points = [(max(of(r.outages[kind]), nothing), rows.index(r.fault)) for r in results if kind in r.outages]
        if points:
            axes.scatter([x for x, _ in points], [y for _, y in points], marker=marker, color=colour, label=words, s=40)
    axes.set_xscale("log")
    axes.set_xlim(nothing * 0.8, None)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s" if value > nothing else "none")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="both", linewidth=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1 + 0.9 / len(rows)), ncols=3, frameon=False, fontsize=8)
    _save(plt, figure, axes, path)


def parts_picture(results: Sequence[Result], path: Path) -> None:
    """Each fault with a failover: the medians of its parts after each other, and the floor."""
    from matplotlib import pyplot as plt  # noqa: PLC0415

    found = by_fault(result for result in results if result.parts)
    rows = list(found)[::-1]
    figure, axes = plt.subplots(figsize=(11, 1.4 + 0.3 * len(rows)))
    for place, name in enumerate(rows):
        some = [(r.parts, r.floor) for r in found[name] if isinstance(r, Result) and r.parts]
        left = 0.0
        for colour, part in zip(("tab:blue", "tab:orange", "tab:purple", "tab:green"), PARTS, strict=False):
            width = median(getattr(parts, part) for parts, _ in some)
            axes.barh(place, width, left=left, color=colour, height=0.6, label=PARTS[part] if place == 0 else None)
            left += width
        if floors := [floor.total(parts.call) for parts, floor in some if floor]:
            at, words = median(floors), "floor" if place == 0 else None
            axes.plot([at, at], [place - 0.4, place + 0.4], color="black", linewidth=1.5, label=words)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("seconds after the fault")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1 + 0.9 / len(rows)), ncols=5, frameon=False, fontsize=8)
    _save(plt, figure, axes, path)


def picture(result: Result, path: Path) -> None:
    """Every attempt as a line from its beginning to its end, green if it succeeded; the failover's events above."""
    from matplotlib import pyplot as plt  # noqa: PLC0415

    kinds = [kind for kind in KINDS if kind in result.outages]
    figure, axes = plt.subplots(figsize=(11, 1.9 + 0.9 * len(kinds)))
    end = _length(result) + 1.5
    for colour, failed in (("tab:green", False), ("tab:red", True)):
        places, starts, stops = [], [], []
        for attempt in result.attempts:
            start, stop = attempt.start - result.moment, attempt.end - result.moment
            if stop < -1 or start > end or attempt.kind not in kinds or (attempt.error is not None) is not failed:
                continue
            # Attempts overlap while they are held up: each goes one lane further up, and starts again from below.
            places.append(kinds.index(attempt.kind) + (attempt.n % LANES - (LANES - 1) / 2) * 0.7 / LANES)
            starts.append(start)
            stops.append(max(stop, start + 0.01))
        axes.hlines(places, starts, stops, color=colour, linewidth=1.2)
    axes.axvline(0, color="black", linewidth=1.2)
    axes.text(0, len(kinds) - 0.35, f" {result.machine}: {result.fault}", fontsize=8, va="bottom")
    for place, (at, what) in enumerate(event for event in result.events if event[0] < end):
        axes.axvline(at, color="tab:blue", linewidth=0.8, linestyle=":")
        axes.text(at, len(kinds) - 0.1 + 0.22 * (place % 5), f" {at:.2f} s {what}"[:80], fontsize=7, color="tab:blue")
    axes.set_yticks(range(len(kinds)), [NAMES[kind] for kind in kinds])
    axes.set_ylim(-0.6, len(kinds) + 1.2)
    axes.set_xlim(-1, end)
    axes.set_xlabel("seconds after the fault (green: succeeded, red: failed)")
    _save(plt, figure, axes, path)


def _save(plt: Any, figure: Any, axes: Any, path: Path) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
