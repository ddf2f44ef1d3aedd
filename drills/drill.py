"""One drill: probes run, the fault strikes the machine that holds the VIP, the probes go on, the ledger is checked."""

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pymysql

from drills.analysis import Attempt, Ledger, Outage, Parts, ledger, outage, parts
from drills.faults import Fault
from drills.probe import TABLE, ProbeSettings
from drills.stack import Stack
from localregion.client import Region, wait_until

CLIENT = "drill"
_MASTER = "VRRP state: master"  # what files/keepalived/vrrp-notify logs
Say = Callable[[str], None]


@dataclass
class Result:
    fault: str
    machine: str
    moved_to: str
    moment: float
    outages: dict[str, Outage]
    ledger: Ledger
    events: list[tuple[float, str]]  # seconds after the fault, what
    rejoined: float
    parts: Parts | None  # None: the VIP has not moved
    attempts: list[Attempt] = field(repr=False, default_factory=list)

    def summary(self) -> dict[str, Any]:
        found = asdict(self)
        del found["attempts"]
        return found


class Client:
    """The probe process, and what it has seen so far."""

    def __init__(self, region: Region, stack: Stack, run: str) -> None:
        self.attempts: list[Attempt] = []
        settings = ProbeSettings(stack.vip, stack.port, stack.user, stack.password, stack.schema, run)
        self._process = region.popen(
            CLIENT,
            [sys.executable, "-m", "drills.probe"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        # Over standard input: the password is in no command line.
        self._process.stdin.write(json.dumps(asdict(settings)) + "\n")
        self._process.stdin.flush()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.attempts.append(Attempt(**json.loads(line)))

    def successes(self, kind: str, since: float) -> int:
        return sum(1 for a in list(self.attempts) if a.kind == kind and a.error is None and a.start > since)

    def quiet_since(self, since: float, seconds: float) -> bool:
        """Every kind has succeeded for ``seconds`` without a failure."""
        recent = time.monotonic() - seconds
        if recent < since:
            return False
        late = [a for a in list(self.attempts) if a.end > recent]
        kinds = {a.kind for a in late if a.error is None}
        return kinds == {"read", "write", "session"} and all(a.error is None for a in late)

    def stop(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)


def client_address(stack: Stack) -> str:
    """An address for the client host in the range that the local stack lets clients be in: 192.168.106.40 for .249."""
    return str(ip_address(int(ip_address(stack.vip)) & ~0xFF | 40))


def drill(region: Region, stack: Stack, fault: Fault, say: Say, *, settle: float = 3) -> Result:
    """Run one drill. Leaves the stack whole.

    Raises TimeoutError if the client does not recover, RuntimeError if the stack has no databases of its own.
    """
    if not stack.password:
        raise RuntimeError(f"stack {stack.name} has external databases; a drill writes to databases of the stack's own")
    run = uuid.uuid4().hex[:12]
    region.add_host(CLIENT, client_address(stack))
    stack.wait_whole(region)
    _sql(
        region,
        stack,
        f"CREATE TABLE IF NOT EXISTS {TABLE} (run CHAR(12), n BIGINT, at DATETIME(6), PRIMARY KEY (run, n))",
    )
    holder = stack.holder(region)
    instance = stack.machine(holder)["instanceId"]
    client = Client(region, stack, run)
    try:
        started = time.monotonic()
        wait_until(lambda: client.quiet_since(started, 1), "the client to work before the fault", 30)
        say(f"the client writes through {stack.vip}:{stack.port}; {holder} holds the VIP")
        moment = fault.inject(region, instance)
        say(f"{holder}: {fault.what}")
        try:
            wait_until(lambda: client.quiet_since(moment, settle), "the client to recover", 90)
            moved_to = stack.holder(region)
            say(f"the client carries on; {moved_to} holds the VIP")
            client.stop()
            events = _events(region, stack, moved_to, moment)
            move = _move(region, stack, moved_to, moment)
        finally:
            fault.heal(region, instance)
    finally:
        client.stop()
    attempts = list(client.attempts)
    found = None
    masters = [moment + at for at, what in events if _MASTER in what]
    if move and masters:
        answered, in_force = move
        found = parts(attempts, moment, masters[0], answered, in_force)
        events = sorted([*events, (in_force - moment, f"network: packets for {stack.vip} go to {moved_to}")])
    rejoined = stack.wait_whole(region)
    say(f"{holder} is back and whole after {rejoined:.1f} s; {stack.holder(region)} holds the VIP")
    present = _sql(region, stack, f"SELECT n FROM {TABLE} WHERE run = '{run}'")  # noqa: S608
    result = Result(
        fault=fault.name,
        machine=holder,
        moved_to=moved_to,
        moment=moment,
        outages={kind: outage(attempts, kind, moment) for kind in ("read", "write", "session")},
        ledger=ledger(attempts, (int(row) for row in present)),
        events=events,
        rejoined=rejoined,
        parts=found,
        attempts=attempts,
    )
    _sql(region, stack, f"DELETE FROM {TABLE} WHERE run = '{run}'")  # noqa: S608
    return result


def _sql(region: Region, stack: Stack, statement: str) -> list[str]:
    """Run as root on a database machine that is up; every committed row is on all of them."""
    errors = []
    for node in stack.of_role("mysql"):
        done = region.exec(
            node["instanceId"],
            ["mariadb", "-N", stack.schema],
            input=f"SET wsrep_sync_wait=7; {statement};",
            check=False,
        )
        if done.returncode == 0:
            return done.stdout.split()
        errors.append(done.stderr.strip())
    raise pymysql.MySQLError("; ".join(errors))


def _move(region: Region, stack: Stack, to: str, moment: float) -> tuple[float, float] | None:
    """When the API had moved the VIP to this machine, and when that was in force; None if it has not."""
    for move in region.moves(moment):
        if move["address"] == stack.vip and move["eni"] == stack.machine(to)["eniId"]:
            return move["answered"], move["in_force"]
    return None


def _events(region: Region, stack: Stack, machine: str, moment: float) -> list[tuple[float, str]]:
    """What the machine that took over wrote to its journal, in seconds after the fault."""
    offset = time.time() - time.monotonic()
    command = [
        "journalctl",
        "--output=json",
        f"--since=@{moment + offset - 1:.0f}",
        "-t",
        "vrrp-notify",
        "-t",
        "claim-vip",
    ]
    found = []
    for line in region.exec(stack.machine(machine)["instanceId"], command, check=False).stdout.splitlines():
        entry = json.loads(line)
        at = int(entry.get("_SOURCE_REALTIME_TIMESTAMP", entry["__REALTIME_TIMESTAMP"])) / 1e6 - offset - moment
        if at > 0:
            found.append((at, f"{machine}: {entry['MESSAGE']}"))
    return sorted(found)
