"""The comment on a pull request that says which lines of which file change on which machine."""

from pathlib import Path

import pytest

from stackctl import changes, cli, rendering

CFG = "etc/haproxy/haproxy.cfg"
OLD = "defaults\n    timeout client 60000ms\n    timeout server 60000ms\n"
NEW = OLD.replace("client 60000ms", "client 300000ms")


def body(base: rendering.Files | None, head: rendering.Files) -> str:
    """Below the first line and the heading."""
    return changes.comment("staging", base, head).split("\n\n", 1)[1].strip()


def test_the_same_change_on_several_machines_is_shown_once() -> None:
    base = {name: {CFG: OLD, "etc/same": "x\n"} for name in ("node1", "node2", "node3")}
    head = {"node1": {CFG: NEW, "etc/same": "x\n"}, "node2": {CFG: NEW, "etc/same": "x\n"}, "node3": base["node3"]}
    assert body(base, head) == (
        "**`/etc/haproxy/haproxy.cfg`** on node1, node2 (+1 -1)\n"
        "```diff\n@@ -1,3 +1,3 @@\n defaults\n"
        "-    timeout client 60000ms\n+    timeout client 300000ms\n     timeout server 60000ms\n```"
    )


def test_different_changes_of_a_file_are_shown_apart() -> None:
    base = {"node1": {CFG: OLD}, "node2": {CFG: OLD}}
    text = body(base, {"node1": {CFG: NEW}, "node2": {CFG: OLD + "    retries 1\n"}})
    assert "on node1 (+1 -1)" in text
    assert "on node2 (+1 -0)" in text


def test_no_change_is_one_sentence() -> None:
    files = {"node1": {CFG: OLD}}
    assert body(files, files) == "No file changes on any machine that stays."


def test_a_file_that_comes_or_goes_is_a_change() -> None:
    assert "+one\n" in body({"node1": {CFG: OLD}}, {"node1": {CFG: OLD, "etc/new": "one\n"}})
    text = body({"node1": {"stdin/mariadb-users": "one\n", CFG: OLD}}, {"node1": {CFG: OLD}})
    assert text.startswith("**`stdin/mariadb-users`** on node1 (+0 -1)")


def test_machines_that_come_or_go_are_counted_and_not_shown() -> None:
    text = body({"node1": {CFG: OLD}, "node2": {CFG: OLD}}, {"node1": {CFG: OLD}, "node3": {CFG: OLD, "etc/a": "a"}})
    assert text.startswith("- Machine `node3` is new: 2 files.\n- Machine `node2` goes: 1 files.\n")
    assert "defaults" not in text


def test_what_is_long_is_collapsed() -> None:
    lines = "".join(f"line {number}\n" for number in range(changes.LONG))
    text = body({"node1": {CFG: OLD}}, {"node1": {CFG: OLD + lines}})
    assert text.startswith(
        f"<details><summary><code>/{CFG}</code> on node1 (+{changes.LONG} -0)</summary>\n\n```diff\n"
    )
    assert text.endswith("```\n</details>")


def test_a_file_cannot_end_its_own_block() -> None:
    text = body({"node1": {"etc/a": "a\n"}}, {"node1": {"etc/a": "a\n```\n@everybody\n````\n"}})
    assert "\n`````diff\n" in text
    assert text.endswith("\n`````")


def test_it_fits_into_a_comment_and_says_what_it_leaves_out() -> None:
    base = {"node1": {f"etc/{name}": "" for name in "abc"}}
    head = {"node1": {"etc/a": "x\n", "etc/b": "y" * 70_000, "etc/c": "z\n"}}
    text = changes.comment("staging", base, head)
    assert len(text) < 65_536
    assert "+x\n" in text
    assert "yyy" not in text
    assert "Too long to be shown here: `/etc/b`" in text


def test_a_base_that_cannot_be_rendered_is_said() -> None:
    assert body(None, {"node1": {CFG: NEW}}).startswith("The base could not be rendered")


def test_the_first_line_is_the_stacks_and_always_the_same() -> None:
    """The workflow finds the comment of an earlier push by it."""
    texts = [
        changes.comment(stack, base, {"node1": {CFG: NEW}})
        for stack in ("staging", "production")
        for base in (None, {}, {"node1": {CFG: OLD}})
    ]
    assert len({text.splitlines()[0] for text in texts[:3]}) == 1
    assert len({text.splitlines()[0] for text in texts}) == 2


def test_the_command_compares_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rendering.write({"node1": {CFG: OLD}}, tmp_path / "base")
    rendering.write({"node1": {CFG: NEW}}, tmp_path / "head")
    for base, expected in (("base", "+    timeout client 300000ms"), ("missing", "could not be rendered")):
        monkeypatch.setattr(
            "sys.argv", ["stackctl", "changes", "staging", str(tmp_path / base), str(tmp_path / "head")]
        )
        assert cli.main() == 0
        assert expected in capsys.readouterr().out
