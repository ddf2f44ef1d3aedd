"""What a pull request changes in the files of a stack's machines, as a comment on it."""

import difflib
import re
from collections.abc import Mapping

from stackctl.rendering import Files, shown

#: A longer difference is collapsed. Lines, with those around that do not differ.
LONG = 20
#: What GitHub takes is 65536 characters; the rest is for what stands around the differences.
ROOM = 60_000


def comment(stack: str, base: Files | None, head: Files) -> str:
    """Markdown. Its first line is always the same for a stack, so that the comment of an earlier push is found.

    A file that differs in the same way on several machines is shown once. ``base`` None: it could not be rendered.
    """
    lines = [f"<!-- mycat-ha: files on the machines of {stack} -->", f"### Files on the machines of `{stack}`", ""]
    if base is None:
        return "\n".join([*lines, "The base could not be rendered (see the job's log), so nothing is compared.", ""])
    for words, these, others in (("is new", head, base), ("goes", base, head)):
        lines += [f"- Machine `{name}` {words}: {len(these[name])} files." for name in these if name not in others]
    differences = _differences(base, head)
    if not differences:
        return "\n".join([*lines, "No file changes on any machine that stays.", ""])
    room, left_out = ROOM, []
    for (path, difference), machines in differences.items():
        block = _block(path, difference, machines)
        room -= len(block)
        if room < 0:
            left_out.append(f"`{shown(path)}`")
        else:
            lines += [block, ""]
    if left_out:
        lines += [f"Too long to be shown here: {', '.join(left_out)}. `stackctl render {stack}` has all of them.", ""]
    return "\n".join(lines)


def _differences(base: Files, head: Files) -> Mapping[tuple[str, tuple[str, ...]], list[str]]:
    """The machines by path and difference, in the order of the machines."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for machine in head:
        if machine not in base:
            continue
        old, new = base[machine], head[machine]
        for path in sorted(old.keys() | new.keys()):
            lines = difflib.unified_diff(
                old.get(path, "").splitlines(), new.get(path, "").splitlines(), n=2, lineterm=""
            )
            if difference := tuple(lines)[2:]:  # without the two files' names
                found.setdefault((path, difference), []).append(machine)
    return found


def _block(path: str, difference: tuple[str, ...], machines: list[str]) -> str:
    added, removed = (sum(line.startswith(sign) for line in difference) for sign in "+-")
    where, count = ", ".join(machines), f"+{added} -{removed}"
    body = "\n".join(difference)
    # Longer than any run of backticks in it, or it would end there.
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", body))])
    code = f"{fence}diff\n{body}\n{fence}"
    if len(difference) <= LONG:
        return f"**`{shown(path)}`** on {where} ({count})\n{code}"
    return f"<details><summary><code>{shown(path)}</code> on {where} ({count})</summary>\n\n{code}\n</details>"
