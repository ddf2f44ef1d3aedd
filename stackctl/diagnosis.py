"""What is wrong with a stack, worst first, by what its machines and EC2 say of it (reports.py); what to do, and where
that is explained.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from stackctl.reports import NO_ADDRESS, Balancer, Database, Holding, Machine, Mycat, Server

LOOK_FIRST = "docs/failover.md#what-to-look-at-first"
VIP = "docs/failover.md#when-the-vip-moves-and-when-it-does-not"
DATABASES = "docs/failover.md#databases"
BACKUPS = "docs/databases.md#backups"
TLS = "docs/databases.md#tls"
HELD_UP = "docs/failover.md#when-one-database-holds-up-the-writes-of-all"
REACHED = "docs/stacks.md#when-a-machine-cannot-be-reached"
MYCAT = "docs/mycat.md#on-the-machine"

#: HAProxy's names for the stack's own tiers (templates/haproxy/haproxy.cfg.j2).
MYSQL_BACKEND, MYCAT_BACKEND = "mysqlservers", "mycat_servers"
_NAME_SERVERS = "see whether its name is right (database.external), and whether the balancers' name servers answer"
#: Before the end of a certificate. An `up` in each half-year never lets it come to that.
EXPIRY_NOTICE = timedelta(days=30)


class Weight(IntEnum):
    """The worst first."""

    NO_SERVICE = 0  # clients are not served
    SPLIT = 1  # two where there must be one
    LOST = 2  # a machine or a service of one is not there
    ASIDE = 3  # somebody has set a server aside
    SOON = 4  # nothing is wrong yet


@dataclass(frozen=True)
class Problem:
    #: The one that it is at; None if it is the stack's.
    machine: str | None
    what: str
    do: str
    #: The document, and the section in it.
    see: str


@dataclass(frozen=True)
class Vip:
    address: str
    ec2: Holding
    #: The balancers that VRRP says are master, and those that have the address on their device.
    masters: tuple[str, ...]
    on_device: tuple[str, ...]
    #: Whether EC2, VRRP and the devices have it at one balancer.
    agreed: bool
    #: Who holds it, in words.
    verdict: str


@dataclass(frozen=True)
class Status:
    """All of it. ``version`` changes when a field is renamed or removed, or means something else."""

    version: int
    stack: str
    #: There is no problem.
    whole: bool
    #: The worst first.
    problems: tuple[Problem, ...]
    vip: Vip
    machines: tuple[Machine, ...]


def status(stack: str, address: str, ec2: Holding, machines: Sequence[Machine], now: datetime) -> Status:
    vip = _vip(address, ec2, machines)
    weighed = [
        *_of_vip(vip, machines),
        *_of_machines(machines),
        *_of_databases(stack, machines),
        *_of_servers(machines),
        *_of_certificates(stack, machines, now),
        *_of_backups(stack, machines, now),
    ]
    problems = tuple(problem for _, problem in sorted(weighed, key=lambda each: each[0]))
    return Status(1, stack, not problems, problems, vip, tuple(machines))


def _balancers(machines: Iterable[Machine]) -> Iterator[tuple[str, Balancer]]:
    return ((machine.name, machine.balancer) for machine in machines if machine.balancer)


def _databases(machines: Iterable[Machine]) -> Iterator[tuple[str, Database]]:
    return ((machine.name, machine.database) for machine in machines if machine.database)


# --- The VIP ---


def _vip(address: str, ec2: Holding, machines: Sequence[Machine]) -> Vip:
    masters = tuple(name for name, balancer in _balancers(machines) if balancer.vrrp == "master")
    on_device = tuple(name for name, balancer in _balancers(machines) if balancer.has_vip)
    one = ec2.machine is not None and masters == on_device == (ec2.machine,)
    return Vip(address, ec2, masters, on_device, one, _verdict(ec2, masters, on_device, machines, agreed=one))


def _verdict(
    ec2: Holding, masters: Sequence[str], on_device: Sequence[str], machines: Sequence[Machine], *, agreed: bool
) -> str:
    if agreed:
        return f"{ec2.machine} holds it, as EC2, VRRP and its network device say"
    there = f"by VRRP {_names(masters)} master, and it is on the device of {', '.join(on_device) or 'nobody'}"
    if ec2.error:
        return f"EC2 cannot be asked who holds it ({ec2.error}); {there}"
    if ec2.interface is None:
        return f"nobody holds it: EC2 has it at no interface; {there}"
    if ec2.machine is None:
        return f"a stranger holds it: EC2 has it at {ec2.interface}, which is no machine's of the stack; {there}"
    if _unasked(ec2.machine, machines):
        return f"EC2 has it at {ec2.machine}, which cannot be asked; {there}"
    return f"they do not agree: EC2 has it at {ec2.machine}; {there}"


def _unasked(name: str | None, machines: Iterable[Machine]) -> bool:
    return any(machine.name == name and machine.error for machine in machines)


def _names(masters: Sequence[str]) -> str:
    return f"{' and '.join(masters) or 'nobody'} {'are' if len(masters) > 1 else 'is'}"


def _of_vip(vip: Vip, machines: Sequence[Machine]) -> Iterator[tuple[Weight, Problem]]:
    if vip.agreed:
        return
    weight = Weight.NO_SERVICE
    if len(vip.masters) > 1:
        weight = Weight.SPLIT
        do = "see whether the balancers reach each other (IP protocol 112); the one of higher priority keeps the VIP"
    elif not vip.masters and _unasked(vip.ec2.machine, machines):
        do = f"see to {vip.ec2.machine}: if it were gone, the next balancer that is fit would have taken the VIP over"
    elif not vip.masters:
        do = "bring keepalived and HAProxy of a balancer back; `journalctl -u keepalived -t vrrp-notify` there says why"
    elif vip.ec2.error:
        weight = Weight.LOST
        do = "see that the EC2 API answers; until it does the VIP cannot move"
    elif vip.ec2.machine == vip.masters[0]:
        do = f"`systemctl restart keepalived` on {' and '.join({*vip.masters} ^ {*vip.on_device})}"
    else:
        do = (
            f"wait for vip.reconcileInterval, in which {vip.masters[0]} claims it; "
            "then its `journalctl -t claim-vip` says why it could not"
        )
    many = "there is more than one master; " if weight is Weight.SPLIT else ""
    yield weight, Problem(None, f"{vip.address}: {many}{vip.verdict}", do, VIP)


# --- Machines and their services ---


def _of_machines(machines: Sequence[Machine]) -> Iterator[tuple[Weight, Problem]]:
    for machine in machines:
        if machine.error:
            do = "see that it is switched on, and that this machine reaches it over SSH"
            yield Weight.LOST, Problem(machine.name, f"it cannot be asked: {machine.error}", do, REACHED)
        if machine.balancer and (wrong := _balancer(machine.balancer)):
            do = "`systemctl start` what does not run; `journalctl -u haproxy -u keepalived -t check-haproxy` says why"
            yield Weight.LOST, Problem(machine.name, "; ".join(wrong), do, VIP)
        if machine.database and (wrong := list(_database(machine.database))):
            yield Weight.LOST, Problem(machine.name, "; ".join(wrong), _remedy(machine.database), DATABASES)
        if machine.mycat and (wrong := list(_mycat(machine.mycat))):
            do = "`systemctl start mycat` if it does not run; `journalctl -u mycat` says why"
            yield Weight.LOST, Problem(machine.name, "; ".join(wrong), do, MYCAT)


def _balancer(balancer: Balancer) -> list[str]:
    wrong = [
        f"{unit} is {state}"
        for unit, state in (("keepalived", balancer.keepalived), ("haproxy", balancer.haproxy))
        if state != "active"
    ]
    if balancer.haproxy == "active" and balancer.error:
        wrong.append(f"haproxy does not answer: {balancer.error}")
    elif balancer.haproxy == "active" and not balancer.servers:
        wrong.append("haproxy names no server that it has")
    if balancer.keepalived == "active" and balancer.vrrp not in {"master", "backup"}:
        wrong.append(
            {
                "fault": "keepalived is in FAULT: HAProxy does not serve, or its network is down",
                "silent": "keepalived does not answer",
            }.get(balancer.vrrp, f"keepalived takes no part in VRRP ({balancer.vrrp})")
        )
    return wrong


def _database(database: Database) -> Iterator[str]:
    if database.mariadb != "active":
        yield f"mariadb is {database.mariadb}" + (f", {database.waits}" if database.waits else "")
    if database.error:
        yield f"mariadbd does not answer: {database.error}" if database.running else database.error
    elif database.running:
        if database.cluster_status != "Primary":
            yield f"wsrep_cluster_status is {database.cluster_status}"
        if database.local_state != "Synced":
            yield f"it is not synced: {database.local_state}"
        if not database.ready:
            yield "wsrep_ready is OFF"
        if database.read_only:
            yield "it is read-only, so the balancers send nobody there"
    elif database.to_be_recovered:
        yield "its position is not written down (grastate.dat has -1) and has to be recovered"


def _remedy(database: Database) -> str:
    if database.mariadb == "activating":
        return "wait: it says for whom it waits (`journalctl -u mariadb`), and goes on by itself when they are there"
    if database.running:
        return (
            "wait for two minutes, in which it finds its cluster again, or is restarted with a copy of everything; "
            "`journalctl -u mariadb -u mycat-ha-galera-watch` says if it is left alone"
        )
    if database.to_be_recovered:
        return (
            "`systemctl --no-block start mariadb`: the start recovers the position, and joins or waits for the others"
        )
    return "`systemctl --no-block start mariadb`: it joins the others, or waits for them"


def _mycat(mycat: Mycat) -> Iterator[str]:
    if mycat.mycat != "active":
        yield f"mycat is {mycat.mycat}"
    elif not mycat.answers:
        yield f"Mycat does not answer: {mycat.reason}"


def _of_certificates(stack: str, machines: Sequence[Machine], now: datetime) -> Iterator[tuple[Weight, Problem]]:
    databases = [(name, one.certificate_expires, "TLS", "database.tls") for name, one in _databases(machines)]
    pages = [
        (name, one.certificate_expires, "the statistics page", "haproxy.statistics.tls")
        for name, one in _balancers(machines)
    ]
    for name, expires, of, key in (*databases, *pages):
        if expires is None:
            continue
        end = datetime.fromisoformat(expires)
        if end - now < EXPIRY_NOTICE:
            weight, verb = (Weight.LOST, "has expired") if end <= now else (Weight.SOON, "expires")
            do = f"`stackctl up {stack}` replaces it; one of your own needs a new file at {key}.certificate first"
            yield weight, Problem(name, f"its certificate for {of} {verb} on {end:%Y-%m-%d}", do, TLS)


def _of_backups(stack: str, machines: Sequence[Machine], now: datetime) -> Iterator[tuple[Weight, Problem]]:
    kept = [(machine.name, machine.backup) for machine in machines if machine.backup]
    for name, backup in kept:
        for verb in backup.failed:
            do = f"`journalctl -u database-backup@{verb}` there says why"
            what = {"run": "the last backup", "test": "the last trial of a backup"}[verb]
            yield Weight.LOST, Problem(name, f"{what} has failed", do, BACKUPS)
    seen = next((backup for _, backup in kept if backup.error is None), None)
    if seen is None:
        for name, backup in kept[:1]:
            do = "see whether S3 answers, and what the databases' role may do there (database.backup)"
            yield Weight.LOST, Problem(name, f"nobody can say which backups there are: {backup.error}", do, BACKUPS)
        return
    now_by_hand = f"`stackctl database backup {stack}` makes one now"
    if seen.begun is None:
        yield Weight.LOST, Problem(None, "there is no backup yet", now_by_hand, BACKUPS)
    elif seen.alarm_hours and now - datetime.fromisoformat(seen.begun) > timedelta(hours=seen.alarm_hours):
        what = f"the newest backup is {seen.newest}, older than {seen.alarm_hours} hours (database.backup.alarmHours)"
        do = f"`systemctl list-timers 'database-backup@*'` on the databases; {now_by_hand}"
        yield Weight.LOST, Problem(None, what, do, BACKUPS)
    if seen.trial_problem:
        what = f"the backup {seen.tried} could not be restored for a trial: {seen.trial_problem}"
        yield Weight.LOST, Problem(None, what, f"make another one, and try that: {now_by_hand}", BACKUPS)


# --- The databases as one ---


def _of_databases(stack: str, machines: Sequence[Machine]) -> Iterator[tuple[Weight, Problem]]:
    nodes = [machine.name for machine in machines if "mysql" in machine.roles]
    primary = {name: node for name, node in _databases(machines) if node.cluster_status == "Primary"}
    asked = [name for name, _ in _databases(machines)]
    if asked and not primary:
        do = "start mariadb on all of them: they find out who forms the cluster"
        if any(not database.running for _, database in _databases(machines)):
            do += f" ({_positions(machines)})"
        do += f". If one never comes back: `stackctl database recover {stack}`"
        which = "database" if len(asked) == len(nodes) else "database that can be asked"
        yield Weight.NO_SERVICE, Problem(None, f"no {which} is in a primary component", do, DATABASES)
    for name, node in primary.items():
        if node.holds_writes:
            what = f"it holds up the writes of all: {node.queue} wait here, and it applies none (Galera's flow control)"
            do = (
                "see there by `mariadb -e 'SHOW FULL PROCESSLIST'` what it is at: a long statement ends by itself; if"
                " it waits for a lock, `KILL` the session that has it, or else `systemctl kill --signal=KILL mariadb`"
            )
            yield Weight.NO_SERVICE, Problem(name, what, do, HELD_UP)
    clusters = defaultdict(list)
    for name, node in primary.items():
        clusters[node.cluster].append(name)
    if len(clusters) > 1:
        shown = "; ".join(f"{', '.join(names)} in {cluster}" for cluster, names in clusters.items())
        do = "stop mariadb on the ones whose data you give up, and have them join the others"
        yield Weight.SPLIT, Problem(None, f"the databases are {len(clusters)} clusters: {shown}", do, DATABASES)
    sizes = {node.cluster_size for node in primary.values()}
    # A node that is not there has said so itself, or could not be asked.
    if len(clusters) == 1 and len(primary) == len(nodes) and sizes != {len(nodes)}:
        shown = ", ".join(f"{name} counts {node.cluster_size}" for name, node in primary.items())
        do = "bring the others back; they join by themselves"
        yield (
            Weight.LOST,
            Problem(None, f"the cluster does not have all of its {len(nodes)} nodes: {shown}", do, DATABASES),
        )


def _positions(machines: Sequence[Machine]) -> str:
    def of(node: Database) -> str:
        return "to be recovered" if node.position is None else str(node.position)

    return ", ".join(f"{name} is at {of(node)}" for name, node in _databases(machines))


# --- What the balancers send clients to ---


def _of_servers(machines: Sequence[Machine]) -> Iterator[tuple[Weight, Problem]]:
    by_server = defaultdict(list)
    for balancer, said in _balancers(machines):
        works = {server.backend for server in said.servers if server.state in {"UP", "UNCHECKED"}}
        for backend in dict.fromkeys(server.backend for server in said.servers):
            if backend not in works:
                do = "bring one of its servers back; those are listed with the reason"
                what = f"its HAProxy has no server that works for {backend}"
                yield Weight.NO_SERVICE, Problem(balancer, what, do, LOOK_FIRST)
        own = {machine.name for machine in machines}
        for server in said.servers:
            if server.backend in works and server.name not in own and _may_not_write(server):
                continue
            if server.state not in {"UP", "UNCHECKED"}:
                by_server[server.backend, server.name, server.state, server.reason].append(balancer)
    for (backend, name, state, reason), balancers in by_server.items():
        aside = state != "DOWN" and reason != NO_ADDRESS
        if not aside and any(machine.name == name and _explains(machine, backend) for machine in machines):
            continue
        what = f"{backend}/{name} is {state} for {', '.join(balancers)}" + (f" ({reason})" if reason else "")
        do = f"`set server {backend}/{name} state ready` on the statistics page or socket, if nobody works on it"
        yield (
            Weight.ASIDE if aside else Weight.LOST,
            Problem(
                name if any(machine.name == name for machine in machines) else None,
                what,
                do if aside else _NAME_SERVERS if reason == NO_ADDRESS else "see what that server says of itself",
                LOOK_FIRST,
            ),
        )


def _may_not_write(server: Server) -> bool:
    """Whether a database that exists elsewhere says so, as a replica does on a port that says who may."""
    said_no = re.match(r"Layer7 wrong status [1-5]\d\d\b", server.reason or "")
    return server.backend == MYSQL_BACKEND and server.state == "DOWN" and bool(said_no)


def _explains(machine: Machine, backend: str) -> bool:
    """Whether what is wrong with the machine, which is told anyway, is why its server is down."""
    if machine.error:
        return True
    if backend == MYSQL_BACKEND:
        return machine.database is not None and any(_database(machine.database))
    return backend == MYCAT_BACKEND and machine.mycat is not None and any(_mycat(machine.mycat))
