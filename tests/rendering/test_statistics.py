"""HAProxy's own statistics, as `stackctl status` reads them: the columns and words are those of the pinned versions."""

import subprocess
import time
from pathlib import Path

import pytest

from stackctl import machine_report, reports

CONFIGURATION = """
global
    stats socket {folder}/admin.sock mode 600 level admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    timeout check 1s
backend mysqlservers
    option httpchk
    http-check send meth GET uri /mysql ver HTTP/1.1 hdr Host node1
    http-check expect status 200
    default-server check inter 100ms rise 2 fall 2
    server up unix@{folder}/yes.sock
    server unwell unix@{folder}/no.sock
    server gone unix@{folder}/nobody.sock
    server aside unix@{folder}/yes.sock disabled
backend mysqlreaders
    server up unix@{folder}/yes.sock track mysqlservers/up
backend static
    server unchecked unix@{folder}/yes.sock
frontend yes
    mode http
    bind unix@{folder}/yes.sock
    http-request return status 200
frontend no
    mode http
    bind unix@{folder}/no.sock
    http-request return status 503
"""


def test_states_and_reasons_are_understood(
    haproxy_prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_report, "ADMIN_SOCKET", str(tmp_path / "admin.sock"))
    (tmp_path / "haproxy.cfg").write_text(CONFIGURATION.format(folder=tmp_path))
    with subprocess.Popen([haproxy_prefix / "sbin/haproxy", "-db", "-q", "-f", tmp_path / "haproxy.cfg"]) as running:
        try:
            until = time.monotonic() + 20
            found: dict[str, reports.Server] = {}
            # While the next check is under way, the last one's code is 0.
            while sum(server.state == "DOWN" for server in found.values()) < 2 or "503" not in (
                found["unwell"].reason or ""
            ):
                assert time.monotonic() < until, found
                time.sleep(0.1)
                if (tmp_path / "admin.sock").exists():
                    found = {server.name: server for server in reports.servers(machine_report.ask_haproxy("show stat"))}
        finally:
            running.terminate()
    assert {name: server.state for name, server in found.items()} == {
        "up": "UP", "unwell": "DOWN", "gone": "DOWN", "aside": "MAINT", "unchecked": "UNCHECKED",
    }  # fmt: skip
    assert found["up"].backend == "mysqlservers"
    assert found["unwell"].reason
    assert found["unwell"].reason.startswith("Layer7 wrong status 503")
    assert found["gone"].reason
    assert "No such file or directory" in found["gone"].reason
    assert {found[name].reason for name in ("up", "aside", "unchecked")} == {None}
    assert {server.sessions for server in found.values()} == {0}
