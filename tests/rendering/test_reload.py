"""A reload that HAProxy cannot carry out is one that fails: files/haproxy/reload-haproxy before a real HAProxy."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localregion.client import wait_until
from tests.rendering.test_names import NAME, NameServer, name_server

__all__ = ["name_server"]

RELOAD = Path(__file__).parents[2] / "files/haproxy/reload-haproxy"
CONFIGURATION = """
global
    maxconn 100
    stats socket {folder}/admin.sock level admin
    server-state-file {folder}/servers
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend test
    bind unix@{folder}/test.sock
"""
NAMED = f"""
resolvers machine
    nameserver test 127.0.0.1:PORT
backend named
    load-server-state-from-file global
    server one {NAME}:3306 resolvers machine resolve-prefer ipv4 init-addr last,none
"""
#: A machine that does not let even root have more open files than this.
LIMITED = ("prlimit", "--nofile=1000:1000")
UNPRIVILEGED = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
Reload = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def reload(haproxy_prefix: Path, tmp_path: Path) -> Iterator[Reload]:
    """Reload with this configuration."""
    if "distribution" in str(haproxy_prefix):
        pytest.skip("the distribution's program cannot start itself again where it is not installed")
    file, master = tmp_path / "haproxy.cfg", tmp_path / "master.sock"
    file.write_text(CONFIGURATION.format(folder=tmp_path))

    def run(text: str) -> "subprocess.CompletedProcess[str]":
        file.write_text(text.format(folder=tmp_path))
        environment = {
            **os.environ,
            "MYCAT_HA_MASTER_SOCKET": str(master),
            "MYCAT_HA_ADMIN_SOCKET": str(tmp_path / "admin.sock"),
            "MYCAT_HA_SERVER_STATE": str(tmp_path / "servers"),
        }
        return subprocess.run([sys.executable, RELOAD], env=environment, capture_output=True, text=True, check=False)

    limited = [*LIMITED, *(UNPRIVILEGED if os.geteuid() == 0 else ())]
    argv = [*limited, str(haproxy_prefix / "sbin/haproxy"), "-W", "-f", str(file), "-S", str(master)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as running:
        try:
            wait_until((tmp_path / "admin.sock").exists, "HAProxy to run", 20)
            yield run
        finally:
            running.terminate()
    assert run(CONFIGURATION).returncode == 0  # where it does not run there is nothing to do


def test_a_reload_that_fails_says_so_and_why(reload: Reload) -> None:
    assert reload(CONFIGURATION.replace("100", "50")).returncode == 0
    for text, why in (
        (CONFIGURATION + "    nonsense\n", "unknown keyword 'nonsense'"),
        # What it can have here, no look at the file alone tells.
        (CONFIGURATION.replace("100", "2000"), "lower haproxy.defaultMaxConnections"),
    ):
        done = reload(text)
        assert done.returncode == 1
        assert "HAProxy has not taken the new configuration" in done.stderr
        assert why in done.stderr
    assert reload(CONFIGURATION).returncode == 0


def test_the_new_process_knows_where_a_name_leads_to(reload: Reload, name_server: NameServer, tmp_path: Path) -> None:
    """Though no name server answers it."""

    def ask(command: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(tmp_path / "admin.sock"))
            admin.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    named = CONFIGURATION + NAMED.replace("PORT", str(name_server.port))
    name_server.leads_to = "192.0.2.7"
    assert reload(named).returncode == 0
    wait_until(lambda: " one 192.0.2.7 " in ask("show servers state"), "its address", 20)
    name_server.leads_to = None
    before = ask("show info")
    assert reload(named).returncode == 0
    assert ask("show info").partition("Pid: ")[2].split()[0] != before.partition("Pid: ")[2].split()[0]
    assert " one 192.0.2.7 " in ask("show servers state")
    assert not (tmp_path / "servers").exists()
