"""Whether a stack is whole, and how to make it so again: every test in this folder starts from that and returns to it.

Whole means: every machine has power, every service runs, the databases are one cluster and synced, exactly one
balancer is master and all others are backups, the EC2 API has the VIP at that master's interface, every balancer has
every server of the stack's own tiers in rotation, and a client gets an answer through the VIP.
"""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from drills.stack import Stack
from localregion.client import Region, RegionError
from tests.stack.clients import login, mariadb, mycat_serves

_UNITS = {
    "lb": ("haproxy.service", "keepalived.service", "rsyslog.service", "reconcile-vip.timer"),
    "mysql": ("mariadb.service", "mycat-ha-health.socket"),
    "mycat": ("mycat.service", "mycat-ha-health.socket"),
}
#: Backends whose servers are the stack's own machines, and the role of those.
_BACKENDS = {"mysqlservers": "mysql", "mycat_servers": "mycat"}
_STATE = (Path(__file__).parent / "machine_state.py").read_text()
#: Programs that a test may have stopped with SIGSTOP.
_CONTINUE = "pkill -CONT -x haproxy; pkill -CONT -x keepalived; pkill -CONT -u mycat; true"
_READY = (
    "import socket, sys\n"
    "for server in sys.argv[1:]:\n"
    "    with socket.socket(socket.AF_UNIX) as s:\n"
    "        s.connect('/run/haproxy/admin.sock')\n"
    "        s.sendall(f'set server {server} state ready\\n'.encode())\n"
    "        s.recv(4096)\n"
)

Machine = dict[str, Any]
State = dict[str, Any]


class NotWholeError(AssertionError):
    """The stack did not become whole; the message lists what is wrong with it."""


def units(machine: Machine) -> list[str]:
    return list(dict.fromkeys(unit for role in machine["roles"] for unit in _UNITS.get(role, ())))


def state(region: Region, stack: Stack, machine: Machine) -> State:
    """What machine_state.py finds; empty if the machine cannot be asked."""
    try:
        done = region.exec(
            machine["instanceId"], ["python3", "-", stack.vip, *units(machine)], input=_STATE, timeout=20
        )
        return dict(json.loads(done.stdout))
    except (RegionError, subprocess.TimeoutExpired, ValueError):
        return {}


def states(region: Region, stack: Stack) -> dict[str, State]:
    """Each machine's state by its name, all asked at once."""
    with ThreadPoolExecutor(len(stack.machines)) as pool:
        found = pool.map(lambda machine: state(region, stack, machine), stack.machines)
        return {machine["name"]: one for machine, one in zip(stack.machines, found, strict=True)}


def masters(region: Region, stack: Stack) -> list[str]:
    """The balancers that are master by VRRP: keepalived reported it, and has the VIP on the interface."""
    found = states(region, stack)
    return [b["name"] for b in stack.of_role("lb") if found[b["name"]].get("vrrp") == "master" and _has_vip(found, b)]


def _has_vip(found: dict[str, State], balancer: Machine) -> bool:
    return bool(found[balancer["name"]].get("vip"))


def pair(region: Region, stack: Stack) -> tuple[Machine, Machine]:
    """The balancer that holds the VIP, and the other one."""
    holder = stack.machine(stack.holder(region))
    return holder, next(machine for machine in stack.of_role("lb") if machine["name"] != holder["name"])


def problems(region: Region, stack: Stack, client: str) -> list[str]:
    """What is not whole, in words; empty if all is well. ``client`` is a test host that may use the VIP."""
    found = states(region, stack)
    wrong = [*_machines(region, stack, found), *_databases(stack, found), *_balancers(region, stack, found)]
    # Only if all else is well: a client waits long for an answer that cannot come.
    return wrong or _service(region, stack, client)


def _machines(region: Region, stack: Stack, found: dict[str, State]) -> list[str]:
    powered = {one["id"] for one in region.machines() if one["powered"] and one["state"] == "running"}
    wrong = []
    for machine in stack.machines:
        name = machine["name"]
        if machine["instanceId"] not in powered:
            wrong.append(f"{name} has no power")
        elif not found[name]:
            wrong.append(f"{name} does not answer")
        wrong += [f"{name}: {unit} is {how}" for unit, how in found[name].get("units", {}).items() if how != "active"]
    return wrong


def _databases(stack: Stack, found: dict[str, State]) -> list[str]:
    nodes = stack.of_role("mysql")
    want = {"wsrep_cluster_size": str(len(nodes)), "wsrep_local_state_comment": "Synced"}
    names = [node["name"] for node in nodes]
    return [f"{name}: Galera says {found[name].get('galera')}" for name in names if found[name].get("galera") != want]


def _balancers(region: Region, stack: Stack, found: dict[str, State]) -> list[str]:
    wrong = []
    vrrp = {b["name"]: found[b["name"]].get("vrrp", "") for b in stack.of_role("lb")}
    with_vip = [b["name"] for b in stack.of_role("lb") if _has_vip(found, b)]
    if sorted(vrrp.values()) != ["backup"] * (len(vrrp) - 1) + ["master"]:
        wrong.append(f"VRRP is not one master and backups: {vrrp}")
    try:
        holder = stack.holder(region)
    except RuntimeError as error:
        wrong.append(str(error))
    else:
        if with_vip != [holder] or vrrp[holder] != "master":
            wrong.append(f"EC2 has the VIP at {holder}, its interface is up on {with_vip}, VRRP says {vrrp}")
    expected = {f"{backend}/{m['name']}" for backend, role in _BACKENDS.items() for m in stack.of_role(role)}
    for name in vrrp:
        servers = found[name].get("servers", {})
        wrong += [
            f"{name}: {server} is {servers.get(server, 'unknown')}"
            for server in sorted(expected)
            if servers.get(server) != "UP"
        ]
    return wrong


def _service(region: Region, stack: Stack, client: str) -> list[str]:
    if stack.password:
        try:
            answer = mariadb(region, login(stack, "mysql"), "SELECT 1", client, check=False)
        except subprocess.TimeoutExpired:
            answer = ""
        if answer != "1":
            return [f"no SQL through {stack.vip}:{stack.port} from {client}"]
    if stack.of_role("mycat") and not mycat_serves(region, stack, client):
        return ["Mycat does not get to all of its databases"]
    return []


def make_whole(region: Region, stack: Stack, client: str, seconds: float = 400) -> list[str]:
    """Take every fault away, let the stack repair itself, then help; returns what had to be helped with.

    A stack that repairs itself within 15 s has needed nobody. Raises NotWholeError after ``seconds``; Mycat may wait
    for itself for a minute with each write host that it tries (docs/mycat.md).
    """
    region.clear_faults()
    helped = _power_on(region, stack)
    started = time.monotonic()
    next_help = started + 15
    while wrong := problems(region, stack, client):
        now = time.monotonic()
        if now > started + seconds:
            raise NotWholeError(f"stack {stack.name} is not whole after {seconds:g} s:\n  " + "\n  ".join(wrong))
        if now > next_help:
            helped += _help(region, stack)
            next_help = time.monotonic() + 30
        time.sleep(0.3)
    return helped


def _power_on(region: Region, stack: Stack) -> list[str]:
    powered = {one["id"] for one in region.machines() if one["powered"]}
    off = [machine for machine in stack.machines if machine["instanceId"] not in powered]
    for machine in off:
        region.power_on(machine["instanceId"])
    return [f"{machine['name']} had no power" for machine in off]


def _help(region: Region, stack: Stack) -> list[str]:
    """Whatever a test may have stopped and not started again."""
    helped = _power_on(region, stack)
    for name, found in states(region, stack).items():
        instance = stack.machine(name)["instanceId"]
        region.exec(instance, ["bash", "-c", _CONTINUE], check=False)
        idle = [unit for unit, how in found.get("units", {}).items() if how in {"inactive", "failed"}]
        if idle:
            region.exec(instance, ["systemctl", "reset-failed", *idle], check=False)
            region.exec(instance, ["systemctl", "--no-block", "start", *idle], check=False)
            helped += [f"{name}: {unit} did not run" for unit in idle]
        aside = [server for server, how in found.get("servers", {}).items() if how.startswith(("DRAIN", "MAINT"))]
        if aside:
            region.exec(instance, ["python3", "-c", _READY, *aside], check=False)
            helped += [f"{name}: {server} was taken out of rotation" for server in aside]
    return helped
