"""The script that builds from a source archive, run here with its folders elsewhere."""

import hashlib
import subprocess
import tarfile
from pathlib import Path

from components.template import render
from settings.base import SourceArchive


def _run(folder: Path, commands: str) -> "subprocess.CompletedProcess[str]":
    archive = folder / "tool.tar.gz.uploaded" / "archive"
    archive.parent.mkdir(exist_ok=True)
    if not archive.exists():
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(__file__, "tool-1/source")
    source = {"version": "1", "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), "archive": str(archive)}
    script = render(
        "source_build/build.sh.j2",
        software="tool",
        source=SourceArchive.model_validate({**source, "url": "http://192.0.2.1/tool-1.tar.gz"}),
        archive=folder / "tool.tar.gz",
        digest="d",
        build=commands,
        packages=(),
    )
    for path in ("/opt/", "/var/log/", "/var/lock", "/var/cache/", "/var/tmp/"):
        script = script.replace(path, f"{folder}{path}")
    (folder / "var/log/mycat-ha").mkdir(parents=True, exist_ok=True)
    (folder / "var/tmp").mkdir(parents=True, exist_ok=True)
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=False)


def _complete(folder: Path) -> list[Path]:
    return list(folder.glob("opt/tool/*/.complete"))


def test_a_build_is_made_once(tmp_path: Path) -> None:
    commands = f"""test -f source
install -D source "$PREFIX/bin/tool"
cat >>{tmp_path}/times <<'HERE'
built
HERE
"""
    first, second = _run(tmp_path, commands), _run(tmp_path, commands)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert first.stdout == second.stdout
    assert (Path(first.stdout.strip()) / "bin/tool").is_file()
    assert (tmp_path / "times").read_text() == "built\n"


def test_a_command_that_fails_ends_the_build(tmp_path: Path) -> None:
    """Also one that is not the last, whatever those after it would do."""
    done = _run(tmp_path, 'echo compiling\nfalse\nmkdir -p "$PREFIX"\necho installed anyway\n')
    assert done.returncode == 1
    assert "building tool 1 failed (status 1)" in done.stderr
    assert "compiling" in done.stderr
    assert "installed anyway" not in done.stderr
    assert _complete(tmp_path) == []
    assert _run(tmp_path, 'mkdir -p "$PREFIX"\n').returncode == 0  # and the next try builds again
    assert len(_complete(tmp_path)) == 1
