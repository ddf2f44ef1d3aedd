"""Clients of a stack on the local region: each runs on this computer, in the network of one of the region's hosts."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from drills.stack import Stack
from localregion.client import Region, RegionError
from stackctl.pulumi import stack_outputs
from tests.conftest import REGION, ROOT
from toolchain import jdbc

FOLDER = Path(__file__).parent
#: The password comes over standard input: it is in no command line.
_WITH_PASSWORD = 'IFS= read -r MYSQL_PWD; export MYSQL_PWD; exec "$@"'


@dataclass(frozen=True)
class Login:
    """Where on the VIP, and as whom."""

    address: str
    port: int
    user: str
    password: str = field(repr=False)
    schema: str


@cache
def outputs(stack: str) -> dict[str, Any]:
    return stack_outputs(stack)


def login(stack: Stack, tier: str) -> Login:
    """As the application's user of ``tier``: mysql (3306) or mycat (3307)."""
    if tier == "mysql":
        return Login(stack.vip, stack.port, stack.user, stack.password, stack.schema)
    known = outputs(stack.name)
    return Login(stack.vip, known["mycatPort"], known["mycatUser"], known["mycatPassword"], known["mycatSchema"])


def mariadb(
    region: Region,
    at: Login,
    sql: str,
    host: str = "client",
    *,
    options: Sequence[str] = (),
    timeout: float = 20,
    check: bool = True,
) -> str:
    """The MariaDB command line; its output, and with ``check`` off also when it fails."""
    argv = [
        *("bash", "-c", _WITH_PASSWORD, "-", "mariadb", "--batch", "-N", "--connect-timeout=5", *options),
        *(f"-h{at.address}", f"-P{at.port}", f"-u{at.user}", "-e", sql, at.schema),
    ]
    return region.exec(host, argv, input=f"{at.password}\n", timeout=timeout, check=check).stdout.strip()


def mycat_serves(region: Region, stack: Stack, host: str = "client") -> bool:
    """Does each Mycat get to each of its databases? A global table is on all of them, a new connection on the next."""
    sql = "CREATE TABLE IF NOT EXISTS countries (id INT PRIMARY KEY, name VARCHAR(40))"
    try:
        for _ in range(2 * len(stack.of_role("mycat"))):
            mariadb(region, login(stack, "mycat"), sql, host, timeout=10)
    except (RegionError, subprocess.TimeoutExpired):
        return False
    return True


def pymysql(region: Region, at: Login, sql: str, host: str = "client") -> str:
    """PyMySQL; the first column of the first row."""
    script = (
        "import json, pymysql, sys\n"
        "sql, settings = json.loads(sys.stdin.read())\n"
        "with pymysql.connect(connect_timeout=5, autocommit=True, **settings) as c, c.cursor() as cursor:\n"
        "    cursor.execute(sql)\n"
        "    row = cursor.fetchone()\n"
        "    print(row[0] if row else '')\n"
    )
    settings = {"host": at.address, "port": at.port, "user": at.user, "password": at.password, "database": at.schema}
    return region.exec(host, [sys.executable, "-c", script], input=json.dumps([sql, settings])).stdout.strip()


@cache
def _jdbc_class_path() -> str:
    """The connector, and the Java client, compiled once: to do so at each start takes longer than what it does."""
    classes = ROOT / ".local/jdbc"
    subprocess.run(["javac", "-d", str(classes), str(FOLDER / "Jdbc.java")], check=True)
    return f"{jdbc.path()}:{classes}"


def java(at: Login, sql: str, seconds: int = 0) -> list[str]:
    """The command line of the Java client (Jdbc.java), which wants the password on standard input."""
    url = f"jdbc:mysql://{at.address}:{at.port}/{at.schema}?connectTimeout=1000&socketTimeout=3000"
    return ["java", "-cp", _jdbc_class_path(), "Jdbc", url, at.user, str(seconds), sql]


def connector_j(region: Region, at: Login, sql: str, host: str = "client") -> str:
    """MySQL Connector/J; the first column of the first row."""
    said = region.exec(host, java(at, sql), input=f"{at.password}\n").stdout
    _, outcome, value = said.rstrip("\n").split("\t")
    if outcome != "ok":
        raise AssertionError(value)
    return value


CLIENTS = {"mariadb": mariadb, "pymysql": pymysql, "connector-j": connector_j}


def curl(region: Region, host: str, *words: str) -> str:
    return region.exec(host, ["curl", "-s", "-m", "5", *words], check=False).stdout


def status(region: Region, host: str, *words: str) -> int:
    """HTTP's status; 0 if there is no answer."""
    return int(curl(region, host, "-o", "/dev/null", "-w", "%{http_code}", *words) or 0)


def condition(stack: Stack) -> tuple[int, dict[str, Any]]:
    """What `stackctl status --json` says: its exit status, and the object."""
    argv = [sys.executable, "-m", "stackctl", "status", stack.name, "--json", "--region-env", REGION]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, json.loads(done.stdout)


def connects(region: Region, host: str, address: str, port: int) -> bool:
    script = f"timeout 2 bash -c '</dev/tcp/{address}/{port}'"
    return region.exec(host, ["bash", "-c", script], check=False).returncode == 0


def adverts(region: Region, machine: str, count: int) -> list[dict[str, Any]]:
    """The next VRRP adverts that reach a machine."""
    script = (FOLDER / "vrrp_capture.py").read_text()
    said = region.exec(machine, ["python3", "-", str(count)], input=script).stdout
    return [json.loads(line) for line in said.splitlines()]


def journal(region: Region, machine: str, identifier: str, since: float) -> list[str]:
    """What a program of a machine has logged since then (seconds since 1970; machines have this computer's clock)."""
    command = ["journalctl", "--output=json", f"--since=@{int(since)}", "-t", identifier]
    entries = map(json.loads, region.exec(machine, command).stdout.splitlines())
    return [str(entry["MESSAGE"]) for entry in entries if int(entry["__REALTIME_TIMESTAMP"]) >= since * 1e6]


def shell(region: Region, machine: str, script: str) -> str:
    """The output of a bash script that runs as root on a machine (its instance's id)."""
    return region.exec(machine, ["bash", "-c", script]).stdout.strip()


def main_pid(region: Region, machine: str, unit: str) -> str:
    """The unit's main process; "0" if there is none."""
    return shell(region, machine, f"systemctl show -p MainPID --value {unit}")


def booted(region: Region, machine: str) -> str:
    """Differs from one boot of a machine to the next: when its init was started."""
    return shell(region, machine, "awk '{print $22}' /proc/1/stat")


def haproxy(region: Region, stack: Stack, command: str) -> str:
    """The statistics socket of the balancer that holds the VIP."""
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock')\n"
        "s.sendall(sys.argv[1].encode() + b'\\n')\n"
        "print(b''.join(iter(lambda: s.recv(65536), b'')).decode())\n"
    )
    holder = stack.machine(stack.holder(region))["instanceId"]
    return region.exec(holder, ["python3", "-c", script, command]).stdout


def haproxy_says(region: Region, stack: Stack) -> dict[str, list[str]]:
    """The latest of each balancer about servers that come and go, and sessions that did not end well (manual, 8.5)."""
    wanted = "grep -v -- ' -- ' /var/log/haproxy.log | tail -n 60"
    return {one["name"]: shell(region, one["instanceId"], wanted).splitlines() for one in stack.of_role("lb")}


def servers(region: Region, stack: Stack, backend: str) -> dict[str, tuple[str, int]]:
    """State and number of sessions so far of each server of a backend, for the balancer that holds the VIP."""
    lines = haproxy(region, stack, "show stat").splitlines()
    rows = [line.split(",") for line in lines if line.startswith(f"{backend},")]
    return {row[1]: (row[17], int(row[7])) for row in rows if row[1] != "BACKEND"}


def administrator(stack: Stack) -> str:
    """User and password of the statistics pages, as curl takes them."""
    return f"{stack.statistics_user}:{outputs(stack.name)['statisticsPassword']}"


def browse(region: Region, host: str, url: str, credentials: str, picture: Path) -> str:
    """Log in to a page with Chromium and save what it shows as ``picture`` (PNG); the page as the browser has it."""
    where = url.replace("://", f"://{credentials}@", 1)
    # Root has no user namespace to sandbox it in, and there is no D-Bus and no GPU to ask.
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    with tempfile.TemporaryDirectory() as profile:
        look = ["--hide-scrollbars", "--window-size=1400,1000", f"--user-data-dir={profile}"]
        argv = ["timeout", "60", "chromium", *quiet, *look, f"--screenshot={picture}", "--dump-dom", where]
        return region.exec(host, argv, timeout=90).stdout


class Repeated:
    """The MariaDB command line over and over, a new connection each time, at most ``attempts`` times."""

    def __init__(self, region: Region, host: str, at: Login, attempts: int = 400) -> None:
        client = f"mariadb --connect-timeout=3 -h{at.address} -P{at.port} -u{at.user} -e 'SELECT 1' {at.schema}"
        script = (
            f"IFS= read -r MYSQL_PWD; export MYSQL_PWD; for ((i = 0; i < {attempts}; i++)); do at=$EPOCHREALTIME; "
            f'if timeout 5 {client} >/dev/null 2>&1; then echo "$at ok"; else echo "$at failed"; fi; sleep 0.2; done'
        )
        self._process = region.popen(
            host, ["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(f"{at.password}\n")
        self._process.stdin.flush()

    def stop(self) -> list[tuple[float, bool]]:
        """When each attempt began (seconds since 1970), and whether it succeeded."""
        self._process.terminate()
        said = self._process.communicate(timeout=30)[0].splitlines()
        return [(float(line.split()[0]), line.endswith(" ok")) for line in said]
