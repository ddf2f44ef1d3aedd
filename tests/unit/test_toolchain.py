"""The toolchain: what is found, checked, cached and said, without building anything."""

import functools
import hashlib
import http.server
import io
import os
import platform
import stat
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolchain import (
    download,
    environment,
    golang,
    jdbc,
    lint,
    mycat,
    paths,
    plugins,
    pulumi_cli,
    sources,
    store,
    system,
    venv,
)
from toolchain.progress import ToolchainError, run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MYCAT_HA_CACHE", str(folder))
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web site on loopback: its address and its folder."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert paths.cache() == cache
    monkeypatch.delenv("MYCAT_HA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/xdg")
    assert paths.cache() == Path("/var/tmp/xdg/mycat-ha")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.cache() == Path("/home/someone/.cache/mycat-ha")


def test_digest_follows_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "a").write_text("x")
    first = paths.digest(folder, "flags")
    assert paths.digest(folder, "flags") == first
    assert paths.digest(folder, "other flags") != first
    (folder / "a").rename(folder / "b")
    renamed = paths.digest(folder, "flags")
    (folder / "b").write_text("y")
    assert len({first, renamed, paths.digest(folder, "flags")}) == 3


def test_an_interrupted_build_leaves_nothing(cache: Path) -> None:
    def interrupted(part: Path) -> None:
        (part / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.obtain("tool", "1", interrupted)
    assert list((cache / "tools").iterdir()) == []
    killed = cache / "tools" / ".tool-killed.part"
    killed.mkdir()
    made = store.obtain("tool", "1", lambda part: (part / "whole").touch())
    assert made == cache / "tools" / "tool-1"
    assert [path.name for path in (cache / "tools").iterdir()] == ["tool-1"]
    assert store.obtain("tool", "1", interrupted) == made, "what is there is not made again"


def test_two_that_want_the_same_build_it_once() -> None:
    made = []

    def slow(part: Path) -> None:
        made.append(part)
        time.sleep(0.3)

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda _: store.obtain("tool", "2", slow), range(4)))
    assert len(made) == 1
    assert len(set(results)) == 1


def test_a_download_with_another_sum_is_refused(site: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = site
    (folder / "archive.tar.gz").write_bytes(b"content")
    target = tmp_path / "archive.tar.gz"
    with pytest.raises(ToolchainError, match=r"its sha256 is ed7002b.*expected 0000"):
        download.fetch(f"{address}/archive.tar.gz", target, "0" * 64)
    assert not list(tmp_path.glob("*archive*"))
    download.fetch(f"{address}/archive.tar.gz", target, hashlib.sha256(b"content").hexdigest())
    assert target.read_bytes() == b"content"
    with pytest.raises(ToolchainError, match="not found"):
        download.fetch(f"{address}/absent", tmp_path / "absent", "0" * 64)


def test_whether_something_answers(site: tuple[str, Path]) -> None:
    address, _ = site
    assert download.unreachable(f"{address}/absent") == "", "an answer, if only that it is not there"
    assert "Connection refused" in download.unreachable("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("found", "enough"),
    [((3, 259, 0), True), ((3, 300, 1), True), ((3, 258, 9), False), ((4, 0, 0), False), ((), False)],
)
def test_which_cli_is_new_enough(found: tuple[int, ...], enough: bool) -> None:
    assert pulumi_cli.new_enough(found) is enough


def test_cli_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(folder))
    assert pulumi_cli.on_path() is None
    program(folder / "pulumi", "echo v3.100.0")
    program(folder / "pulumi-language-python", "")
    assert pulumi_cli.on_path() is None
    program(folder / "pulumi", "echo v3.400.1")
    assert pulumi_cli.on_path() == folder
    (folder / "pulumi-language-python").unlink()
    assert pulumi_cli.on_path() is None, "without its language host it is of no use"


def test_official_cli_download(site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address, folder = site
    monkeypatch.setattr(pulumi_cli, "ARCHIVES", address)
    monkeypatch.setattr(pulumi_cli, "RELEASE", address)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    name = f"pulumi-v{pulumi_cli.VERSION}-linux-x64.tar.gz"
    with tarfile.open(folder / name, "w:gz") as archive:
        for member in (*pulumi_cli.PROGRAMS, "pulumi-language-nodejs"):
            content = b"#!/bin/sh\necho v3.259.0\n"
            info = tarfile.TarInfo(f"pulumi/{member}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    total = download.sha256(folder / name)
    sums = folder / f"pulumi-{pulumi_cli.VERSION}-checksums.txt"
    sums.write_text(f"{'0' * 64}  {name}\n")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(ToolchainError, match="sha256"):
        store.obtain("pulumi-download", pulumi_cli.VERSION, pulumi_cli._download)
    sums.write_text(f"{total}  {name}\n{'1' * 64}  another-file\n")

    def no_go() -> str:
        raise AssertionError("nothing has to be built")

    made = pulumi_cli.install(no_go)
    assert sorted(path.name for path in made.iterdir()) == sorted(pulumi_cli.PROGRAMS)
    assert pulumi_cli.version(str(made / "pulumi")) == (3, 259, 0)


def test_go_version(tmp_path: Path) -> None:
    assert golang.version(str(program(tmp_path / "go", "echo go version go1.26.8 linux/amd64"))) == (1, 26, 8)
    assert golang.version(str(tmp_path / "absent")) == ()
    assert (1, 25, 9) < golang.MINIMUM <= (1, 26, 0)


def test_a_command_that_fails_shows_its_last_lines() -> None:
    with pytest.raises(ToolchainError, match=r"(?s)part: doing: .* exited with 3:\nline 36\n.*line 60") as raised:
        run("part", "doing", ["sh", "-c", 'i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo "line $i"; done; exit 3'])
    assert "line 35\n" not in str(raised.value)


def test_a_command_has_no_terminal_and_no_input() -> None:
    assert run("part", "doing", ["sh", "-c", "cat; test -t 0 || echo none"]) == "none\n"


def test_sources_fall_back_to_the_distribution(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    content = b"an archive"
    source = sources.Source("http://127.0.0.1:1/tool-1.tar.gz", hashlib.sha256(content).hexdigest(), "trixie", "tool")
    asked = []

    def distribution(wanted: sources.Source, destination: Path) -> None:
        asked.append(wanted)
        destination.write_bytes(content)

    monkeypatch.setattr(sources, "SOURCES", (source,))
    monkeypatch.setattr(sources, "_from_distribution", distribution)
    sources.install()
    sources.install()
    assert asked == [source], "what is there and right is not fetched again"
    (cache / "sources" / "tool-1.tar.gz").write_bytes(b"damaged")
    sources.install()
    assert asked == [source, source]


def test_missing_packages_are_named_for_those_who_are_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "missing", lambda commands, also: ["nftables", "debootstrap"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ToolchainError, match="apt-get install --no-install-recommends nftables debootstrap"):
        system.install()


def test_a_jdbc_driver_of_another_sum_is_not_used(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def maven(part: str, doing: str, argv: Sequence[str], *, cwd: Path) -> str:
        (cwd / jdbc.NAME).write_bytes(b"another")
        return ""

    monkeypatch.setattr(jdbc, "run", maven)
    with pytest.raises(ToolchainError, match=rf"expected {jdbc.SHA256}; not used"):
        jdbc.install()
    assert not jdbc.path().exists()


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "LOCAL", tmp_path / ".local")
    monkeypatch.setattr(plugins, "LOCAL", tmp_path / ".local")
    monkeypatch.setattr(venv, "path", lambda: tmp_path / "venv")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "inherited")
    with pytest.raises(ToolchainError, match="python3 -m toolchain install"):
        environment.environment()
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / venv.DONE).touch()
    variables = environment.environment()
    assert variables["PATH"].split(os.pathsep)[:2] == [str(tmp_path / "venv/bin"), str(paths.BIN)]
    assert variables["PULUMI_BACKEND_URL"] == (tmp_path / ".local/state").as_uri()
    assert "PULUMI_CONFIG_PASSPHRASE" not in variables
    passphrase = Path(variables["PULUMI_CONFIG_PASSPHRASE_FILE"])
    assert stat.S_IMODE(passphrase.stat().st_mode) == 0o600
    assert len(passphrase.read_text()) >= 32
    assert environment.environment()["PULUMI_CONFIG_PASSPHRASE_FILE"] == str(passphrase)
    assert passphrase.read_text() == Path(variables["PULUMI_CONFIG_PASSPHRASE_FILE"]).read_text()


def test_every_locked_package_has_hashes() -> None:
    lines = paths.LOCK.read_text().splitlines()
    pinned = [index for index, line in enumerate(lines) if "==" in line and not line.startswith((" ", "#"))]
    assert len(pinned) > 50
    for index in pinned:
        assert "--hash=sha256:" in lines[index + 1], lines[index]
    assert not any("://" in line for line in lines), "where packages come from is the machine's own affair"


def test_the_lock_has_what_the_program_was_written_for() -> None:
    locked = paths.LOCK.read_text()
    assert f"\npulumi=={pulumi_cli.VERSION} " in locked
    for name, version in plugins.VERSIONS.items():
        assert f"\npulumi-{name}=={version} " in locked


def test_shell_scripts_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    program(tmp_path / "script", "true")
    (tmp_path / "library.sh").touch()
    (tmp_path / "template.sh.j2").write_text("#!/bin/sh\n")
    (tmp_path / "text").write_text("a text\n")
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    found = sorted(path.name for path in files if lint._is_shell(Path(path.name)))
    assert found == ["library.sh", "script"]


def test_a_real_mycat_is_taken_by_one_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "Mycat-server-1.6.7.5-release-20200422133810-linux.tar.gz"
    monkeypatch.setenv(mycat.SETTING, str(archive))
    with pytest.raises(ToolchainError, match=rf"MYCAT_ARCHIVE={archive} is not a file"):
        mycat.install()
    archive.write_bytes(b"content")
    found = mycat.install()
    assert found == mycat.Archive(archive, hashlib.sha256(b"content").hexdigest(), "1.6.7.5", stand_in=False)
    assert f"Mycat from {archive}" in capfd.readouterr().err


def test_a_stand_in_for_mycat_is_built_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compiler = 'while [ "$1" != -d ]; do shift; done; echo class >"$2/MycatStartup.class"'
    program(tmp_path / "bin" / "javac", compiler)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv(mycat.SETTING, raising=False)
    first = mycat.install()
    assert first.stand_in
    assert first.path.is_relative_to(cache / "tools")
    assert "NOT MYCAT but a stand-in for it" in capfd.readouterr().err
    with tarfile.open(first.path) as archive:
        names = set(archive.getnames())
    assert {f"mycat/{folder}" for folder in mycat.FOLDERS} < names
    assert f"mycat/lib/Mycat-server-{mycat.VERSION}-standin.jar" in names

    monkeypatch.setenv("MYCAT_HA_CACHE", str(tmp_path / "another"))
    again = mycat.archive()
    assert again.path.name == first.path.name
    assert again.sha256 == first.sha256, "the same source makes the same archive"


def test_the_stand_in_gets_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(mycat.SETTING, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(system, "install", asked.append)
    with pytest.raises(ToolchainError, match="no javac on PATH"):
        mycat.archive()
    assert asked == [{"javac": "openjdk-17-jdk-headless"}]
