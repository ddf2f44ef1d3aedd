"""One drill: probes run, the fault strikes, the probes go on, everything is mended, and what must hold is judged."""

import json
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from drills.analysis import Attempt, Floor, Ledger, Outage, Parts, Turn, ledger, outage, parts, turns, two_holders
from drills.faults import Fault, Scene
from drills.probe import TABLE, Login, ProbeSettings
from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from localregion.effects import EFFECT_DELAY_MS

CLIENT = "drill"
#: Kinds of client that have to recover from every fault; Mycat is measured if it does.
CORE = ("connect", "read", "write", "session")
KINDS = (*CORE, "mycat")
_MASTER = "VRRP state: master"  # what files/keepalived/vrrp-notify logs
Say = Callable[[str], None]


@dataclass
class Result:
    fault: str
    machine: str  # the VIP's holder at the beginning
    moved_to: str  # the holder when clients had recovered
    moment: float  # of the fault, CLOCK_MONOTONIC in seconds
    outages: dict[str, Outage]
    ledger: Ledger
    events: list[tuple[float, str]]  # seconds after the fault, what
    rejoined: float  # seconds until the stack was whole, once the fault had been mended
    parts: Parts | None  # None: it was no failover
    floor: Floor | None
    moves: int  # of the VIP, by the region, until the stack was whole
    turns: list[Turn]
    two_holders: float  # seconds
    broken: list[str]  # what had to hold and did not
    attempts: list[Attempt] = field(repr=False, default_factory=list)

    def summary(self) -> dict[str, Any]:
        found = asdict(self)
        del found["attempts"]
        return found


class Client:
    """The probe process, and what it has seen so far."""

    def __init__(self, region: Region, stack: Stack, run: str) -> None:
        self.attempts: list[Attempt] = []
        mycat = None
        if stack.mycat_port is not None:
            mycat = Login(stack.mycat_port, stack.mycat_user, stack.mycat_password, stack.mycat_schema)
        settings = ProbeSettings(
            host=stack.vip,
            run=run,
            mysql=Login(stack.port, stack.user, stack.password, stack.schema),
            mycat=mycat,
        )
        self._process = region.popen(
            CLIENT,
            [sys.executable, "-m", "drills.probe"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt from the keyboard is not for it
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

    def quiet_since(self, since: float, seconds: float, kinds: Iterable[str] = CORE) -> bool:
        """Each of these kinds has succeeded for ``seconds`` without a failure."""
        recent = time.monotonic() - seconds
        if recent < since:
            return False
        wanted = set(kinds)
        late = [a for a in list(self.attempts) if a.end > recent and a.kind in wanted]
        return {a.kind for a in late if a.error is None} == wanted and all(a.error is None for a in late)

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
    """Run one drill on a stack that is whole, and leave it so, whatever happens.

    Raises TimeoutError if the stack is not whole before or after it, or if the client does not recover; RuntimeError if
    the stack has no databases of its own; LookupError if it has nothing that the fault could strike.
    """
    if not stack.password:
        raise RuntimeError(f"stack {stack.name} has external databases; a drill writes to databases of the stack's own")
    run = uuid.uuid4().hex[:12]
    region.add_host(CLIENT, client_address(stack))
    stack.restore(region)  # what a drill before may have left that was killed
    stack.wait_whole(region)
    columns = "run CHAR(12), n BIGINT, at DATETIME(6), PRIMARY KEY (run, n)"
    _sql(region, stack, stack.of_role("mysql")[0], f"CREATE TABLE IF NOT EXISTS {TABLE} ({columns})")
    scene = Scene.now(region, stack)
    struck = fault.machines(scene)
    holder = scene.holder["name"]
    # By what the one that would take over goes; it may be without power afterwards.
    floor = _floor(region, scene)
    client = Client(region, stack, run)
    try:
        started = time.monotonic()
        wait_until(lambda: client.quiet_since(started, 1), "the client to work before the fault", 30)
        say(f"the client writes through {stack.vip}:{stack.port}; {holder} holds the VIP")
        try:
            say(f"{', '.join(machine['name'] for machine in struck)}: {fault.what}")
            moment = fault.inject(scene, struck)
            recovered = (*CORE, *fault.clients)
            wait_until(lambda: client.quiet_since(moment, settle, recovered), "the client to recover", fault.recovery)
            moved_to = stack.holder(region)
            say(f"the client carries on; {moved_to} holds the VIP")
            client.stop()
            in_force = _moves(region, stack, moment)
        finally:
            fault.heal(scene, struck)
    finally:
        client.stop()
        rejoined = stack.wait_whole(region, fault.recovery + 300)
    moves = len(_moves(region, stack, moment))
    attempts = list(client.attempts)
    events = sorted(event for balancer in stack.of_role("lb") for event in _events(region, balancer, moment))
    say(f"the stack is whole after {rejoined:.1f} s; {stack.holder(region)} holds the VIP")
    found = None
    for answered, effect, name in in_force:
        masters = [moment + at for at, machine, what in events if _MASTER in what and machine == name]
        if name == moved_to and masters:
            with suppress(ValueError):
                found = parts(attempts, moment, masters[0], answered, effect)
                break
    shown = [(at, f"{machine}: {what}") for at, machine, what in events if at < attempts[-1].end - moment]
    shown += [(effect - moment, f"network: packets for {stack.vip} go to {name}") for _, effect, name in in_force]
    seen = [turn for turn in turns(attempts) if turn.seen > moment]
    present = {
        node["name"]: [int(n) for n in _sql(region, stack, node, f"SELECT n FROM {TABLE} WHERE run = '{run}'")]  # noqa: S608
        for node in stack.of_role("mysql")
    }
    result = Result(
        fault=fault.name,
        machine=holder,
        moved_to=moved_to,
        moment=moment,
        outages={kind: one for kind in KINDS if (one := _outage(attempts, kind, moment))},
        ledger=ledger(attempts, present),
        events=sorted(shown),
        rejoined=rejoined,
        parts=found,
        floor=floor if found else None,
        moves=moves,
        turns=seen,
        two_holders=two_holders(seen, len(in_force)),
        broken=fault.broken(holder, moved_to, moves),
        attempts=attempts,
    )
    if result.ledger.lost:
        result.broken.append(f"{len(result.ledger.lost)} acknowledged writes are lost")
    if result.two_holders:
        result.broken.append(f"two balancers answered by turns for {result.two_holders:.2f} s")
    _sql(region, stack, stack.of_role("mysql")[0], f"DELETE FROM {TABLE} WHERE run = '{run}'")  # noqa: S608
    return result


def _outage(attempts: list[Attempt], kind: str, moment: float) -> Outage | None:
    """None if it has not recovered, which only a kind does that need not, or if there is no such client."""
    try:
        return outage(attempts, kind, moment)
    except ValueError:
        return None


def _sql(region: Region, stack: Stack, node: dict[str, Any], statement: str) -> list[str]:
    """The words of the answer to root on this machine, which has first caught up with what is committed elsewhere."""
    said = region.exec(
        node["instanceId"], ["mariadb", "-N", stack.schema], input=f"SET wsrep_sync_wait=7; {statement};"
    )
    return said.stdout.split()


def _moves(region: Region, stack: Stack, moment: float) -> list[tuple[float, float, str]]:
    """The VIP's moves so far: when EC2 had made it, when it was in force, and the machine that it went to."""
    region.settle()
    names = {machine["eniId"]: machine["name"] for machine in stack.machines}
    return [
        (move["answered"], move["in_force"], names.get(move["eni"], move["eni"]))
        for move in region.moves(moment)
        if move["address"] == stack.vip
    ]


def _floor(region: Region, scene: Scene) -> Floor | None:
    """By keepalived's configuration on the balancer that would take over; the call's part is filled in by `report`."""
    try:
        text = region.exec(scene.peer["instanceId"], ["cat", "/etc/keepalived/keepalived.conf"]).stdout
    except RegionError:
        return None
    advert, priority = re.search(r"advert_int ([0-9.]+)", text), re.search(r"priority (\d+)", text)
    if not advert or not priority:
        return None
    return Floor(float(advert[1]), int(priority[1]), EFFECT_DELAY_MS / 1000)


def _events(region: Region, balancer: dict[str, Any], moment: float) -> list[tuple[float, str, str]]:
    """What a balancer has written to its journal about VRRP and the claim: seconds after the fault, its name, what."""
    offset = time.time() - time.monotonic()
    since = f"--since=@{moment + offset - 1:.0f}"
    command = ["journalctl", "--output=json", since, *(f"--identifier={name}" for name in ("vrrp-notify", "claim-vip"))]
    found = []
    for line in region.exec(balancer["instanceId"], command, check=False).stdout.splitlines():
        entry = json.loads(line)
        at = int(entry.get("_SOURCE_REALTIME_TIMESTAMP", entry["__REALTIME_TIMESTAMP"])) / 1e6 - offset - moment
        if at > 0:
            found.append((at, balancer["name"], str(entry["MESSAGE"])))
    return found
