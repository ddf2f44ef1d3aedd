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
import yaml

from toolchain import (
    aws_bridge,
    download,
    environment,
    golang,
    gomodule,
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

MYCAT = "Mycat-server-1.6.7.5-release-20200422133810-linux.tar.gz"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MYCAT_HA_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local stack's Mycat is asked for where nothing answers, unless a test says otherwise."""
    local_stack(tmp_path, monkeypatch, "http://127.0.0.1:1")


def local_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    file = tmp_path / "Pulumi.local.yaml"
    file.write_text(f"config:\n  mycat-ha:mycat:\n    version: 1.6.7.5\n    url: {address}/{MYCAT}\n    users: []\n")
    monkeypatch.setattr(mycat, "STACK", file)
    monkeypatch.delenv(mycat.SETTING, raising=False)


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


def test_what_nothing_has_used_for_two_weeks_is_removed(cache: Path) -> None:
    def age(folder: Path, seconds: float) -> None:
        os.utime(folder, (time.time() - seconds,) * 2)

    old, used, young = (store.obtain("tool", key, lambda part: (part / "whole").touch()) for key in "123")
    foreign = store.obtain("another-tool", "3.4", lambda part: None)
    for folder in (old, used, foreign):
        age(folder, store.UNUSED_SECONDS + 60)
    age(young, store.UNUSED_SECONDS - 60)
    store.obtain("tool", "2", lambda part: None)
    assert store.remove_unused() == ["another-tool-3.4", "tool-1"]
    assert sorted(path.name for path in (cache / "tools").iterdir()) == ["tool-2", "tool-3"]
    assert (used / "whole").exists()
    assert store.remove_unused() == []


def test_an_entry_that_is_used_while_it_is_removed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.obtain("tool", "1", lambda part: (part / "whole").touch())
    os.utime(folder, (0, 0))
    rename = Path.rename

    def used_just_before(path: Path, target: Path) -> Path:
        if path == folder:
            assert store.use(folder)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", used_just_before)
    assert store.remove_unused() == []
    assert (folder / "whole").exists()


def test_a_work_trees_environment_keeps_what_it_links_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "LOCAL", tmp_path / ".local")
    links = tmp_path / ".local" / "bin"
    monkeypatch.setattr(environment, "BIN", links)
    monkeypatch.setattr(plugins, "LOCAL", tmp_path / ".local")
    monkeypatch.setattr(venv, "path", lambda: tmp_path / "venv")
    monkeypatch.setattr(venv, "VENV", tmp_path / "clone")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / venv.DONE).touch()
    linked, other = (store.obtain("aws", key, lambda part: (part / "program").touch()) for key in "12")
    links.mkdir(parents=True)
    (links / "program").symlink_to(linked / "program")
    (links / "dangling").symlink_to(tmp_path / "gone" / "program")
    for folder in (linked, other):
        os.utime(folder, (0, 0))
    environment.environment()
    assert store.remove_unused() == [other.name]


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
    monkeypatch.setattr(venv, "VENV", tmp_path / "clone")
    for name in ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with pytest.raises(ToolchainError, match="python3 -m toolchain install"):
        environment.environment()
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / venv.DONE).touch()
    variables = environment.environment()
    assert "PYTHONDONTWRITEBYTECODE" not in variables
    assert variables["PATH"].split(os.pathsep)[:2] == [str(tmp_path / "venv/bin"), str(paths.BIN)]
    assert variables["PULUMI_BACKEND_URL"] == (tmp_path / ".local/state").as_uri()
    passphrase = Path(variables["PULUMI_CONFIG_PASSPHRASE_FILE"])
    assert stat.S_IMODE(passphrase.stat().st_mode) == 0o600
    assert len(passphrase.read_text()) >= 32
    assert environment.environment()["PULUMI_CONFIG_PASSPHRASE_FILE"] == str(passphrase)
    assert passphrase.read_text() == Path(variables["PULUMI_CONFIG_PASSPHRASE_FILE"]).read_text()
    assert (tmp_path / "clone").resolve() == tmp_path / "venv"


@pytest.mark.parametrize("passphrase", ["PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"])
def test_a_backend_and_a_passphrase_that_are_set_stay(
    passphrase: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "LOCAL", tmp_path / ".local")
    monkeypatch.setattr(plugins, "LOCAL", tmp_path / ".local")
    monkeypatch.setattr(venv, "path", lambda: tmp_path)
    monkeypatch.setattr(venv, "VENV", tmp_path / "clone")
    (tmp_path / venv.DONE).touch()
    mine = {"PULUMI_BACKEND_URL": "s3://state", passphrase: ""}
    for name in ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    variables = environment.environment()
    assert {name: value for name, value in variables.items() if name in mine or "PASSPHRASE" in name} == mine
    monkeypatch.setenv("PULUMI_BACKEND_URL", "")  # as a workflow passes a variable that nobody has set
    assert environment.environment()["PULUMI_BACKEND_URL"] == (tmp_path / ".local/state").as_uri()


def test_pulumis_virtual_environment_is_the_toolchains_unless_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(venv, "VENV", tmp_path / "clone")
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        venv.link(tmp_path / name)
        assert (tmp_path / "clone").readlink() == tmp_path / name
    (tmp_path / "clone").unlink()
    (tmp_path / "clone").mkdir()  # by `pulumi install`
    venv.link(tmp_path / "new")
    assert not (tmp_path / "clone").is_symlink()


def test_the_program_runs_on_the_packages_that_it_was_tested_with() -> None:
    """requirements.txt, which `pulumi install` reads, is a part of requirements.lock and written from the same list."""

    def pinned(file: Path) -> dict[str, str]:
        # What only another Python or system needs has a marker, and is not in the lock, which is for this one.
        lines = [line for line in file.read_text().splitlines() if "==" in line and not line.startswith((" ", "#"))]
        return dict(line.rstrip(" \\").split("==") for line in lines if ";" not in line)

    program, everything = pinned(paths.ROOT / "requirements.txt"), pinned(paths.LOCK)
    assert {"pulumi", "pulumi-aws", "pulumi-command", "jinja2", "pydantic", "pyyaml"} <= program.keys()
    assert program.items() <= everything.items()
    assert not {"pytest", "moto", "boto3"} & program.keys()


@pytest.mark.parametrize(("file", "least"), [("requirements.lock", 50), ("requirements.txt", 20)])
def test_every_locked_package_has_hashes(file: str, least: int) -> None:
    lines = (paths.ROOT / file).read_text().splitlines()
    pinned = [index for index, line in enumerate(lines) if "==" in line and not line.startswith((" ", "#"))]
    assert len(pinned) > least
    for index in pinned:
        assert "--hash=sha256:" in lines[index + 1], lines[index]
    assert not any("://" in line for line in lines), "where packages come from is the machine's own affair"


def test_pulumis_version_is_the_locked_packages() -> None:
    """requirements.in says it; what cannot follow from it by itself, because Go pins sums beside it, is held to it."""
    wanted = dict(
        line.split("==") for line in (paths.ROOT / "requirements.in").read_text().splitlines() if "==" in line
    )
    assert {
        "pulumi": pulumi_cli.VERSION,
        **{f"pulumi-{name}": version for name, version in plugins.VERSIONS.items()},
    } == wanted
    module = (pulumi_cli.CLI_MODULE / "go.mod").read_text()
    assert f"github.com/pulumi/pulumi/pkg/v3 v{pulumi_cli.VERSION} " in module
    assert f"provider.version={wanted['pulumi-aws']}" in aws_bridge.FLAGS[-1]


def test_a_lock_without_the_package_is_refused() -> None:
    with pytest.raises(ToolchainError, match=r"requirements\.lock has no nothing-like-it: run `make lock`"):
        venv.locked_version("nothing-like-it")


SERVICE = """package {name}

func (p *servicePackage) SDKResources(ctx context.Context) []*inttypes.ServicePackageSDKResource {{
	return []*inttypes.ServicePackageSDKResource{{
		{{
			Factory:  resourceOne,
			TypeName: "aws_{name}_one",
		}},
	}}
}}
"""
NAMES = ("backup", "net", "role", "store")


@pytest.fixture
def provider(tmp_path: Path) -> Path:
    """A module like the provider's: `net` and `role` use each other's API, `backup` is nobody's, `store` is conns'."""
    module = tmp_path / "module"
    for name in ("names", "version", "xpprovider", "internal/conns", "internal/provider/sdkv2"):
        (module / name).mkdir(parents=True)
    (module / "go.mod").write_text("module provider\n")
    (module / "go.sum").touch()
    for name in NAMES:
        folder = module / aws_bridge.SERVICES / name
        folder.mkdir(parents=True)
        (folder / "service_package_gen.go").write_text(SERVICE.format(name=name))
        (folder / "one.go").write_text(f"conn := meta.{name.capitalize()}Client(ctx)\n")
        (folder / "one_test.go").write_text(
            f'import "{aws_bridge.MODULE}/internal/service/backup"\nmeta.BackupClient(ctx)\n'
        )
    (module / aws_bridge.SERVICES / "net" / "two.go").write_text(
        f'import tfrole "{aws_bridge.MODULE}/internal/service/role"\n'
    )
    imports = "".join(f'\t"{aws_bridge.MODULE}/internal/service/{name}"\n' for name in NAMES)
    entries = "".join(f"\t\t{name}.ServicePackage(ctx),\n" for name in NAMES)
    (module / aws_bridge.PACKAGES_LIST).write_text(
        f"package sdkv2\n\nimport (\n{imports})\n\nfunc f() {{\n\tv := list{{\n{entries}\t}}\n}}\n"
    )
    sdk = "github.com/aws/aws-sdk-go-v2/service"
    imports = "".join(f'\t"{sdk}/{name}"\n' for name in (*NAMES, "s3"))
    methods = "".join(
        f"func (c *AWSClient) {name}Client(ctx context.Context) *{name.lower()}.Client {{\n\treturn nil\n}}\n\n"
        for name in (*(name.capitalize() for name in NAMES), "S3")
    )
    (module / aws_bridge.CLIENTS_LIST).write_text(f'package conns\n\nimport (\n\t"context"\n{imports})\n\n{methods}')
    return module


def test_the_providers_packages_follow_from_the_mapped_types(provider: Path) -> None:
    source = (
        'var resources = map[string][2]string{\n\t"aws_net_one": {"ec2", "One"}, "aws_role_one": {"iam", "One"},\n}'
    )
    types = aws_bridge.mapped_types(source)
    assert types == {"aws_net_one", "aws_role_one"}
    assert aws_bridge.service_packages(provider, types) == {"net", "role"}
    with pytest.raises(ToolchainError, match="none registers aws_absent"):
        aws_bridge.service_packages(provider, {*types, "aws_absent"})
    assert "aws_instance" in aws_bridge.mapped_types((aws_bridge.BRIDGE / "provider" / "provider.go").read_text())


def test_the_reduced_provider_has_what_its_packages_use(provider: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    gomodule.link_tree(provider, copy, aws_bridge.PARTS)
    before = {name: (provider / name).read_text() for name in (aws_bridge.PACKAGES_LIST, aws_bridge.CLIENTS_LIST)}
    assert aws_bridge.reduce(copy, {"aws_net_one"}) == {"net"}
    packages = (copy / aws_bridge.PACKAGES_LIST).read_text()
    assert [name for name in NAMES if f"service/{name}" in packages] == ["net"]
    assert [name for name in NAMES if f"{name}.ServicePackage(ctx)" in packages] == ["net"]
    clients = (copy / aws_bridge.CLIENTS_LIST).read_text()
    found = [name for name in (*NAMES, "s3") if f"service/{name}" in clients]
    assert found == ["net", "role", "s3"], "role is what net imports, s3 what the list's own package calls"
    assert [name for name in (*NAMES, "s3") if f"*{name}.Client {{" in clients] == found
    assert '"context"' in clients
    for name, text in before.items():
        assert (provider / name).read_text() == text, "the original is Go's cache: nothing is written through a link"


@pytest.mark.parametrize(
    ("name", "old", "new", "refusal"),
    [
        (aws_bridge.PACKAGES_LIST, "\t\tnet.ServicePackage(ctx),", "\t\tnet.New(),", "does not name net"),
        (aws_bridge.PACKAGES_LIST, "internal/service/net", "service/net", "does not name net"),
        (aws_bridge.CLIENTS_LIST, "(c *AWSClient)", "(client *AWSClient)", "has no S3Client"),
        (aws_bridge.SERVICES / "net" / "service_package_gen.go", "TypeName:", "Type:", "none registers aws_net_one"),
    ],
)
def test_an_unexpected_provider_is_refused(provider: Path, name: Path, old: str, new: str, refusal: str) -> None:
    text = (provider / name).read_text()
    assert old in text
    (provider / name).write_text(text.replace(old, new))
    with pytest.raises(ToolchainError, match=f"not as expected: .* {refusal}.*go.mod"):
        aws_bridge.reduce(provider, {"aws_net_one"})


def test_a_provider_without_its_lists_is_refused(provider: Path, tmp_path: Path) -> None:
    (provider / aws_bridge.CLIENTS_LIST).unlink()
    with pytest.raises(ToolchainError, match=r"awsclient_gen\.go is not there"):
        aws_bridge.reduce(provider, {"aws_net_one"})
    (provider / "go.sum").unlink()
    with pytest.raises(ToolchainError, match=r"go\.sum is not there"):
        gomodule.link_tree(provider, tmp_path / "copy", aws_bridge.PARTS)


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


def mycat_archive(file: Path, content: bytes) -> str:
    """A tar archive of Mycat's shape; its SHA-256."""
    with tarfile.open(file, "w:gz") as archive:
        info = tarfile.TarInfo("mycat/version.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return download.sha256(file)


def test_the_local_stacks_mycat_is_downloaded_and_its_sum_pinned(
    site: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address, folder = site
    local_stack(tmp_path, monkeypatch, address)
    total = mycat_archive(folder / MYCAT, b"first")
    made = mycat.install()
    assert made == mycat.Archive(cache / "mycat" / MYCAT, total, "1.6.7.5", stand_in=False)
    said = capfd.readouterr().err
    assert total in said
    assert f"download {address}/{MYCAT} on another machine" in said
    assert f"Mycat from {made.path}" in said
    pin = cache / "mycat" / f"{MYCAT}.sha256"
    assert pin.read_text() == f"{total}  {MYCAT}\n"

    other = mycat_archive(folder / MYCAT, b"another")
    assert mycat.install() == made, "what is there is not fetched again"
    assert "on another machine" not in capfd.readouterr().err
    made.path.write_bytes(b"damaged")
    with pytest.raises(ToolchainError, match="is damaged"):
        mycat.archive()
    with pytest.raises(ToolchainError, match=rf"is {other}, but it was {total} .* not used.*remove {pin}"):
        mycat.install()
    assert made.path.read_bytes() == b"damaged"
    pin.unlink()
    assert mycat.install().sha256 == other


@pytest.mark.parametrize("content", [b"<html>not here</html>", None], ids=["a page", "half an archive"])
def test_what_is_not_mycat_is_not_pinned(
    site: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    content: bytes | None,
) -> None:
    address, folder = site
    local_stack(tmp_path, monkeypatch, address)
    mycat_archive(folder / MYCAT, os.urandom(20000))
    (folder / MYCAT).write_bytes(content or (folder / MYCAT).read_bytes()[:10000])
    with pytest.raises(download.UnavailableError, match="not a whole tar archive of Mycat"):
        mycat.download(f"{address}/{MYCAT}")
    assert list((cache / "mycat").iterdir()) == []


def test_the_release_is_the_one_in_the_local_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    text = mycat.STACK.read_text()
    assert mycat.release(text) == yaml.safe_load(text)["config"]["mycat-ha:mycat"]["url"]
    with pytest.raises(ToolchainError, match="has no mycat-ha:mycat with a url"):
        mycat.release("config:\n  mycat-ha:mycat:\n    version: 1\n  mycat-ha:other:\n    url: x\n")
