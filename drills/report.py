"""Results for people to look at: a timeline picture, tables, and the same as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from drills.analysis import spread
from drills.drill import Result

mpl.use("Agg")
LANES = 40  # two seconds of attempts, one each 50 ms
NAMES = {"read": "new connection with a read", "write": "write (acknowledged)", "session": "kept session"}

PARTS = {
    "detection": "detection (VRRP)",
    "call": "API call",
    "effect": "effect",
    "answer": "first answer",
    "total": "all",
}


def show(result: Result, console: Console) -> None:
    """The timeline of one drill, and what the client saw."""
    timeline = Table("after the fault", "what", title=f"{result.fault} on {result.machine}", title_justify="left")
    rows = [(0.0, f"{result.machine}: fault"), *result.events]
    for kind, name in NAMES.items():
        if kind in result.outages:
            rows.append((result.outages[kind].downtime, f"client: {name} works again"))
    for at, what in sorted(rows):
        timeline.add_row(f"{at:7.3f} s", what)
    console.print(timeline)
    show_parts([result], console)
    summary = Table("client", "downtime", "longest gap", "failed attempts", "attempts")
    for kind, outage in result.outages.items():
        summary.add_row(
            NAMES[kind], f"{outage.downtime:.2f} s", f"{outage.gap:.2f} s", str(outage.failures), str(outage.attempts)
        )
    console.print(summary)
    ledger = result.ledger
    console.print(
        f"acknowledged writes: {ledger.acknowledged}, lost: [bold]{len(ledger.lost)}[/bold], "
        f"without an answer but stored: {len(ledger.unknown)}"
    )


def show_parts(results: Sequence[Result], console: Console) -> None:
    """From the fault to the first answer, a row for each drill in which the VIP has moved, and their median."""
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


def show_all(results: Sequence[Result], console: Console) -> None:
    table = Table("client", "downtime min/median/max", "longest gap min/median/max", title=f"{len(results)} drills")
    for kind, name in NAMES.items():
        outages = [result.outages[kind] for result in results]
        table.add_row(name, spread([o.downtime for o in outages]), spread([o.gap for o in outages]))
    console.print(table)
    show_parts(results, console)
    acknowledged = sum(result.ledger.acknowledged for result in results)
    lost = sum(len(result.ledger.lost) for result in results)
    console.print(f"acknowledged writes: {acknowledged}, lost: [bold]{lost}[/bold]")
    console.print(
        "downtime: from the fault until no attempt fails or is held up for more than half a second any more; "
        "longest gap: the longest time without a success that reaches beyond the fault"
    )


def write(results: Sequence[Result], directory: Path) -> None:
    """``results.json`` and one ``timeline-N.png`` for each drill."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps([result.summary() for result in results], indent=2))
    for number, result in enumerate(results, 1):
        picture(result, directory / f"timeline-{number}.png")


def picture(result: Result, path: Path) -> None:
    """Every attempt as a line from its beginning to its end, green if it succeeded; the failover's events above."""
    from matplotlib import pyplot as plt  # noqa: PLC0415  (after the backend is chosen)

    figure, axes = plt.subplots(figsize=(11, 5.5))
    kinds = list(NAMES)
    end = max(outage.downtime for outage in result.outages.values()) + 1.5
    for attempt in result.attempts:
        start, stop = attempt.start - result.moment, attempt.end - result.moment
        if stop < -1 or start > end:
            continue
        # Attempts overlap while they are held up: each goes one lane further up, and starts again from below.
        place = kinds.index(attempt.kind) + (attempt.n % LANES - (LANES - 1) / 2) * 0.7 / LANES
        colour = "tab:green" if attempt.error is None else "tab:red"
        axes.plot([start, max(stop, start + 0.01)], [place, place], color=colour, linewidth=1.2, solid_capstyle="butt")
    axes.axvline(0, color="black", linewidth=1.2)
    axes.text(0, len(kinds) - 0.35, f" {result.machine}: {result.fault}", fontsize=8, va="bottom")
    for place, (at, what) in enumerate(event for event in result.events if event[0] < end):
        axes.axvline(at, color="tab:blue", linewidth=0.8, linestyle=":")
        axes.text(at, len(kinds) - 0.1 + 0.22 * (place % 5), f" {at:.2f} s {what}"[:80], fontsize=7, color="tab:blue")
    axes.set_yticks(range(len(kinds)), [NAMES[kind] for kind in kinds])
    axes.set_ylim(-0.6, len(kinds) + 1.2)
    axes.set_xlim(-1, end)
    axes.set_xlabel("seconds after the fault (green: succeeded, red: failed)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
