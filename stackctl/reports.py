"""What the machines of a stack and EC2 say of it, understood. Everything here is a pure function of what was said.

The dataclasses are also what `stackctl status --json` prints (docs/stacks.md), so a renamed field is another version.
"""

import csv
import json
import re
import ssl
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

#: A backup's name says when it was begun (files/mariadb/database_backup.py).
STAMP = "%Y-%m-%dT%H-%M-%SZ"
NO_CLUSTER = "00000000-0000-0000-0000-000000000000"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: HAProxy's word for a server that has no check.
_UNCHECKED = "no check"
#: And for one whose name leads to no address.
_NAMELESS = "MAINT (resolution)"
NO_ADDRESS = "its name leads to no address"


@dataclass(frozen=True)
class Server:
    """A server of one of HAProxy's backends, as one balancer sees it."""

    backend: str
    name: str
    #: UP, DOWN, MAINT, DRAIN or NOLB; UNCHECKED if it has no check.
    state: str
    #: HAProxy's own words, such as `UP 1/2` or `MAINT (via mysqlservers/node1)`.
    status: str
    #: Of the last check, if the server is not UP.
    reason: str | None
    #: At the moment, with those of the read port.
    sessions: int


@dataclass(frozen=True)
class Balancer:
    #: systemd's words: active, activating, inactive, failed ...
    keepalived: str
    haproxy: str
    #: master, backup, fault, stop, or silent if keepalived does not answer; unknown if nobody could tell.
    vrrp: str
    #: It is master, and its claim of the VIP has succeeded since it is.
    claimed: bool
    #: The VIP is on its network device.
    has_vip: bool
    #: Why its HAProxy could not be asked.
    error: str | None
    servers: tuple[Server, ...]
    #: When the certificate of its statistics page expires, as in `2027-07-01T00:00:00+00:00`; None without TLS.
    certificate_expires: str | None


@dataclass(frozen=True)
class View:
    """The last primary component that a node belonged to, as it remembers it in gvwstate.dat."""

    id: str
    members: int


@dataclass(frozen=True)
class Database:
    #: systemd's word: active, activating, inactive, failed ...
    mariadb: str
    #: There is a mariadbd; while it waits to be let start, there is none.
    running: bool
    #: Why a mariadbd that runs did not answer, or why nothing is known of the data of one that does not.
    error: str | None = None
    #: Galera's wsrep_cluster_status, _local_state_comment, _cluster_size, _ready; None if there is no answer.
    cluster_status: str | None = None
    local_state: str | None = None
    cluster_size: int | None = None
    ready: bool | None = None
    read_only: bool | None = None
    #: When its certificate for TLS with clients expires, as in `2027-07-01T00:00:00+00:00`; None without TLS.
    certificate_expires: str | None = None
    #: Writes of other nodes that wait to be applied here.
    queue: int | None = None
    #: Its queue is too long, so that no node may write (flow control), and it applies nothing of it for seconds.
    holds_writes: bool = False
    #: The UUID of the cluster; None if the node has no data of one.
    cluster: str | None = None
    #: The last write that the node has.
    position: int | None = None
    #: Whether the position is not written down, and only a recovery (which a start does) would find it.
    to_be_recovered: bool = False
    #: Without a mariadbd: it was alone in its cluster when it left.
    safe_to_bootstrap: bool | None = None
    #: Without a mariadbd: None if it stopped in peace.
    view: View | None = None
    #: What a start that has not come to mariadbd yet has said last.
    waits: str | None = None


@dataclass(frozen=True)
class Backup:
    """The databases' backups, as one of them sees S3."""

    #: Why S3, or what is there, could not be asked.
    error: str | None
    #: The newest complete one, by its name, and when it was begun, as in `2026-07-01T02:30:00+00:00`.
    newest: str | None = None
    begun: str | None = None
    #: From which age of the newest one on something is wrong, in hours.
    alarm_hours: int | None = None
    #: The last one that was restored for a trial, and why that failed; None if it did not.
    tried: str | None = None
    trial_problem: str | None = None
    #: What has failed on this machine at its last run: `run`, `test`.
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mycat:
    #: systemd's word: active, activating, inactive, failed ...
    mycat: str
    answers: bool
    #: Why it does not answer.
    reason: str | None


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    roles: tuple[str, ...]
    #: Why it could not be asked; the parts are None then, as is that of a role that it does not have.
    error: str | None
    balancer: Balancer | None = None
    database: Database | None = None
    mycat: Mycat | None = None
    backup: Backup | None = None


@dataclass(frozen=True)
class Holding:
    """Where EC2 has the VIP."""

    #: The name of the machine that it is at; None if it is at none of the stack.
    machine: str | None
    #: The network interface; None if it is at none.
    interface: str | None
    #: Why EC2 could not be asked.
    error: str | None


def machine(name: str, address: str, roles: tuple[str, ...], said: str) -> Machine:
    """Of what machine_report.py has printed there."""
    try:
        parts: Mapping[str, Any] = json.loads(said)
        return Machine(
            name,
            address,
            roles,
            None,
            balancer(parts["lb"]) if "lb" in parts else None,
            database(parts["mysql"]) if "mysql" in parts else None,
            mycat(parts["mycat"]) if "mycat" in parts else None,
            backup(parts["backup"]) if "backup" in parts else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        return Machine(name, address, roles, f"its answer is not understood ({type(error).__name__}: {error})")


def balancer(said: Mapping[str, Any]) -> Balancer:
    vrrp = said["vrrp"].strip() or "unknown"
    stated, claimed = said["stated"] or "", said["claimed"] or ""
    return Balancer(
        keepalived=said["keepalived"]["state"],
        haproxy=said["haproxy"]["state"],
        vrrp=vrrp,
        claimed=vrrp == "master" and bool(stated.strip()) and stated.strip() == claimed.strip(),
        has_vip=bool(said["addresses"].strip()),
        error=said["statisticsProblem"] or None,
        servers=servers(said["statistics"]),
        certificate_expires=_expiry(said["certificate"]),
    )


def servers(statistics: str) -> tuple[Server, ...]:
    """Of HAProxy's answer to `show stat` (HAProxy management guide, 9.1)."""
    rows = list(csv.DictReader(statistics.removeprefix("# ").splitlines()))
    # The read port's follow the checks of mysqlservers: what is new of them are the sessions.
    followed = Counter[str]()
    for row in rows:
        followed[row.get("tracked") or ""] += int(row["scur"] or 0)
    own = (row for row in rows if not row.get("tracked") and row["svname"] not in {"FRONTEND", "BACKEND"})
    return tuple(_server(row, followed[f"{row['pxname']}/{row['svname']}"]) for row in own)


def _server(row: Mapping[str, str], more_sessions: int) -> Server:
    status = row["status"]
    state = "UNCHECKED" if status == _UNCHECKED else status.split()[0]
    reason = None
    if status == _NAMELESS:
        reason = NO_ADDRESS
    elif state != "UP":
        code = f" {row['check_code']}" if row.get("check_code") else ""
        reason = ": ".join(filter(None, (f"{row.get('check_desc') or ''}{code}".strip(), row.get("last_chk")))) or None
    return Server(row["pxname"], row["svname"], state, status, reason, int(row["scur"] or 0) + more_sessions)


def database(said: Mapping[str, Any]) -> Database:
    unit, running = said["mariadb"]["state"], said["mariadb"]["pid"] != "0"
    status, later = _values(said["status"]), _values(said["statusLater"])
    if status:
        return Database(
            unit,
            running,
            cluster_status=status.get("wsrep_cluster_status"),
            local_state=status.get("wsrep_local_state_comment"),
            cluster_size=_number(status.get("wsrep_cluster_size")),
            ready=status.get("wsrep_ready") == "ON",
            read_only=status.get("read_only") != "0",
            certificate_expires=_expiry(said["certificate"]),
            queue=_number(status.get("wsrep_local_recv_queue")),
            holds_writes=all(
                look.get("wsrep_flow_control_requested") == "true"
                and look.get("wsrep_local_recv_queue") not in {None, "0"}
                and look.get("wsrep_last_committed") == status.get("wsrep_last_committed")
                for look in (status, later)
            ),
            cluster=_cluster(status.get("wsrep_cluster_state_uuid")),
            position=_position(status.get("wsrep_last_committed")),
        )
    if running:
        # Its files say nothing now: the position is written down when it stops.
        return Database(unit, running, said["statusProblem"] or "an empty answer")
    return _stopped(said, unit)


def _values(status: str) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in status.splitlines() if "\t" in line)


def _stopped(said: Mapping[str, Any], unit: str) -> Database:
    grastate = said["grastate"]
    waits = (said["waits"].strip() or None) if unit == "activating" else None
    if grastate is None:
        return Database(unit, running=False, waits=waits, view=view(said["gvwstate"]))
    found = [
        re.search(rf"^{key}:\s+({value})\s*$", grastate, re.MULTILINE)
        for key, value in (("uuid", _UUID), ("seqno", r"-?\d+"), ("safe_to_bootstrap", "[01]"))
    ]
    values = [match[1] for match in found if match]
    if len(values) != len(found):
        return Database(unit, False, "grastate.dat is torn", waits=waits, view=view(said["gvwstate"]))
    cluster, position = _cluster(values[0]), int(values[1])
    return Database(
        unit,
        running=False,
        cluster=cluster,
        position=position if cluster and position >= 0 else None,
        to_be_recovered=cluster is not None and position < 0,
        safe_to_bootstrap=values[2] == "1",
        view=view(said["gvwstate"]),
        waits=waits,
    )


def view(gvwstate: str | None) -> View | None:
    """None if there is none, or not all of it."""
    found = re.search(r"^view_id: (.+)$", gvwstate or "", re.MULTILINE)
    if not found or not re.search("^#vwend$", gvwstate or "", re.MULTILINE):
        return None
    return View(found[1].strip(), len(re.findall(rf"^member: {_UUID}\b", gvwstate or "", re.MULTILINE)))


def begun(name: str) -> datetime:
    """When the backup of this name was."""
    return datetime.strptime(name, STAMP).replace(tzinfo=UTC)


def backup(said: Mapping[str, Any]) -> Backup:
    failed = tuple(verb for verb, state in said["units"].items() if state == "failed")
    if said["problem"]:
        return Backup(said["problem"], failed=failed)
    found = json.loads(said["newest"])
    newest, tried = found["newest"] or {}, found["tried"] or {}
    name = newest.get("id")
    return Backup(
        None,
        name,
        begun(name).isoformat() if name else None,
        found["alarmHours"],
        tried.get("id"),
        tried.get("problem") or None,
        failed,
    )


def mycat(said: Mapping[str, Any]) -> Mycat:
    problem = said["problem"]
    return Mycat(said["mycat"]["state"], not problem, problem or None)


def holding(vip: str, subnet: str, interfaces: list[Mapping[str, Any]], machines: Mapping[str, str]) -> Holding:
    """``interfaces`` as EC2 describes them; ``machines`` are names by primary address."""
    for interface in interfaces:
        addresses = {each["PrivateIpAddress"] for each in interface["PrivateIpAddresses"]}
        if interface["SubnetId"] == subnet and vip in addresses:
            primary = interface.get("PrivateIpAddress", "")
            return Holding(machines.get(primary), interface["NetworkInterfaceId"], None)
    return Holding(None, None, None)


def _expiry(shown: str) -> str | None:
    """Of what `openssl x509 -enddate` prints: `notAfter=Jul  1 00:00:00 2027 GMT`."""
    found = re.fullmatch(r"notAfter=(.+ GMT)\n?", shown)
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(found[1]), UTC).isoformat() if found else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def _position(text: str | None) -> int | None:
    """Galera has no position as -1, also as one without a sign."""
    number = _number(text)
    return number if number is not None and 0 <= number < 2**63 else None


def _cluster(uuid: str | None) -> str | None:
    return uuid if uuid and uuid != NO_CLUSTER else None
