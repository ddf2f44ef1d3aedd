"""The programs that judge rendered configurations, on this machine, in namespaces that look like a machine's.

HAProxy and keepalived are built as on a machine, once, into the toolchain's cache; MariaDB is the distribution's.
"""

import os
import subprocess
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import certificates, haproxy, keepalived
from components.template import render
from constants import LIBRARY
from settings import Settings
from tests import example
from toolchain import builds
from toolchain.progress import ToolchainError

ROOT = Path(__file__).parents[2]
#: What a program says about a configuration, warnings included; empty if nothing, "status N" first if it refuses.
Judge = Callable[[str], str]
#: Mounts and network are this process's own: its /etc has what a load balancer's has, and nothing of the host's.
MACHINE = f"""
mount -t tmpfs tmpfs /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /usr/local/lib
for user in root:0 haproxy:990 mysql:991; do
    printf '%s:x:%s:%s::/nonexistent:/usr/sbin/nologin\\n' "${{user%:*}}" "${{user#*:}}" "${{user#*:}}" >>/etc/passwd
    printf '%s:x:%s:\\n' "${{user%:*}}" "${{user#*:}}" >>/etc/group
done
mkdir -p /etc/haproxy /run/haproxy
ip link set lo up
echo 'nameserver 127.0.0.1' >/etc/resolv.conf # nobody answers
echo 1 >/run/haproxy/servers # nothing is known of any
printf '%s' "$STATISTICS" >{haproxy.STATISTICS_BUNDLE}
install -d -m 0755 {LIBRARY}
install -m 0755 files/keepalived/check-haproxy files/keepalived/vrrp-notify files/haproxy/wait-for-server.lua {LIBRARY}
ip link add ens5 type veth peer name gateway
ip link set ens5 up
export STAGED=/run/staged
cat >"$STAGED"
exec bash -uo pipefail -c "$1" </dev/null
"""


def pinned(software: str) -> dict[str, dict[str, Any]]:
    """The archives that the committed stacks name, by version."""
    stacks = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "stacks").glob("*.yaml"))]
    archives = [stack["config"][f"mycat-ha:{software}"] for stack in stacks]
    return {archive["version"]: archive for archive in archives}


@cache
def built(software: str, version: str, packages: tuple[str, ...]) -> Path:
    archive = pinned(software)[version]
    source = builds.source(archive["url"], archive["sha256"])
    return builds.build(software, source, render(f"{software}/build.sh.j2"), packages)


def judge(validator: str) -> Judge:
    """``validator``: the command that a machine validates a staged file with, as in files/machine/install-file."""

    statistics = certificates.of_statistics(Settings.parse(example.settings(example.with_statistics_tls)), "test")
    assert statistics

    def run(text: str) -> str:
        own = ["unshare", "--mount", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        done = subprocess.run(
            [*own, "bash", "-euc", MACHINE, "bash", validator],
            cwd=ROOT,
            env={**os.environ, "STATISTICS": statistics.bundle},
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else f"status {done.returncode}: {done.stdout}"

    return run


@pytest.fixture(scope="session", params=sorted(pinned("haproxy")))
def haproxy_prefix(request: pytest.FixtureRequest) -> Path:
    """Where each version is that a committed stack names, or where its archive cannot be had, the distribution's of
    the same branch, with a warning that says so."""
    version: str = request.param
    try:
        prefix = built("haproxy", version, haproxy.PACKAGES)
    except ToolchainError as reason:
        branch = version.rpartition(".")[0]
        try:
            prefix = builds.distribution_haproxy(branch)
        except ToolchainError as none_at_all:
            pytest.skip(f"NOBODY JUDGES HAProxy {version}: {reason}; {none_at_all}")
        told = subprocess.run([prefix / "sbin/haproxy", "-v"], check=True, capture_output=True, text=True)
        judging = told.stdout.splitlines()[0]
        assert f"version {branch}." in judging
        warnings.warn(f"HAProxy {version} is judged by {judging}: {reason}", stacklevel=1)
    return prefix


@pytest.fixture(scope="session")
def judge_haproxy(haproxy_prefix: Path) -> Judge:
    return judge(render("haproxy/validate.sh.j2", prefix=haproxy_prefix))


@pytest.fixture(scope="session", params=sorted(pinned("keepalived")))
def judge_keepalived(request: pytest.FixtureRequest) -> Judge:
    prefix = built("keepalived", request.param, keepalived.PACKAGES)
    return judge(render("keepalived/validate.sh.j2", prefix=prefix))


@pytest.fixture(scope="session")
def judge_mariadb() -> Judge:
    group_tls = ROOT / "files/mariadb/group_tls.py"
    script = render("mariadb/validate.sh.j2", group_tls=f"python3 {group_tls}", tls="disabled", peers=[])
    return judge(f"PATH=$PATH:/usr/sbin\n{script}")
