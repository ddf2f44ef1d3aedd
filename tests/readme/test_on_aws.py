"""README's section on AWS, command by command, where there is nothing but Pulumi and Python; the region plays AWS."""

import re
import resource
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import yaml

from localregion.client import Region
from stackctl import inventory
from tests.conftest import ROOT
from tests.stack.clients import Login, mariadb
from toolchain import mycat, plugins, sources
from toolchain.paths import BIN

Shell = Callable[[str], str]


def commands() -> list[str]:
    section = (ROOT / "README.md").read_text().split("\n## On AWS\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^( *)```console\n(.*?)^\1```$", section, re.MULTILINE | re.DOTALL)
    text = "".join(textwrap.dedent(block) for _, block in blocks)
    return re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed files, and what is changed in them here: what a clone of the commit would have."""
    clone = tmp_path_factory.mktemp("readme") / "mycat-ha"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    return clone


@pytest.fixture(scope="module")
def shell(region: Region, clone: Path) -> Shell:
    """Runs a command as a new user does, with Pulumi on PATH, logged in to a backend, and the region's credentials."""
    home = clone.parent / "home"
    programs = home / "bin"
    programs.mkdir(parents=True)
    for program in BIN.glob("pulumi*"):
        if not program.name.startswith("pulumi-resource-"):
            (programs / program.name).symlink_to(program.resolve())
    variables = {
        "HOME": str(home),
        "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PULUMI_HOME": str(home / ".pulumi"),  # Pulumi takes the home directory from /etc/passwd, not from HOME
        "PULUMI_BACKEND_URL": home.as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "of this test",
        "PULUMI_SKIP_CONFIRMATIONS": "true",
        **region.env(),
    }

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=clone,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-6000:]}"
        return done.stdout.strip()

    for name, version in plugins.VERSIONS.items():
        own = BIN / f"pulumi-resource-{name}"
        if own.is_symlink():  # `pulumi install` cannot download the official one here
            run(f"pulumi plugin install resource {name} {version} --file {own.resolve().parent}")
        elif own.exists():
            (home / name).mkdir()
            shutil.copy(own, home / name)
            run(f"pulumi plugin install resource {name} {version} --file {home / name}")
    return run


def edits(stack: str) -> Iterator[str]:
    """What a user edits in the stack's file, and what cannot be downloaded here."""
    yield "pulumi config rm --path mycat-ha:access.deployer"
    yield "pulumi config set --path mycat-ha:access.bastion.create true"
    yield "pulumi config set --path 'mycat-ha:access.bastion.cidrs[0]' 100.64.0.0/10"
    archive = mycat.install()
    yield f"pulumi config set --path mycat-ha:mycat.version {archive.version}"
    yield f"pulumi config set --path mycat-ha:mycat.archive {archive.path}"
    yield f"pulumi config set --path mycat-ha:mycat.sha256 {archive.sha256}"
    # HAProxy opens two files for each; a container without CAP_SYS_RESOURCE cannot be allowed more than it has.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    pinned = yaml.safe_load((ROOT / f"stacks/Pulumi.{stack}.yaml").read_text())["config"]
    if 2 * pinned["mycat-ha:haproxy"].get("maxConnections", 0) + 1000 > files:
        for key in ("maxConnections", "defaultMaxConnections"):
            yield f"pulumi config set --path mycat-ha:haproxy.{key} {(files - 1000) // 2}"
    for source in sources.SOURCES:
        program = source.name.partition("-")[0]
        if pinned[f"mycat-ha:{program}"]["sha256"] != source.sha256:
            version = source.name.removeprefix(f"{program}-").removesuffix(".tar.gz")
            yield f"pulumi config set --path mycat-ha:{program}.version {version}"
            yield f"pulumi config set --path mycat-ha:{program}.sha256 {source.sha256}"
        yield f"pulumi config set --path mycat-ha:{program}.archive {sources.folder() / source.name}"


@pytest.mark.parametrize(("name", "host"), [("staging", "10.30.0.200"), ("production", "10.40.0.200")])
def test_the_commands_lead_to_a_vip_that_answers_and_leave_nothing(
    region: Region, clone: Path, shell: Shell, aws: boto3.Session, name: str, host: str
) -> None:
    for key in ("deployer", "deployer.pub"):
        (clone / key).unlink(missing_ok=True)
    steps = [command.replace("staging", name) for command in commands()]
    preview = steps.index("pulumi preview\n")
    end = next(n for n, command in enumerate(steps) if command.startswith("pulumi config rm"))
    for command in (*steps[:preview], *edits(name)):
        shell(command)
    for command in steps[preview:end]:
        shell(command)

    vip = shell("pulumi stack output vip")
    region.add_host(f"{name}-client", host)
    for port, secret in ((3306, "database"), (3307, "mycat")):
        password = shell(f"pulumi config get --path mycat-ha:secrets.{secret}")
        at = Login(vip, port, "app", password, "app")
        assert mariadb(region, at, "SELECT 1", f"{name}-client") == "1"

    for command in steps[end:]:
        shell(command)
    assert inventory.scan(aws, name) == []
