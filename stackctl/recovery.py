"""`stackctl database recover`: databases that have no cluster any more get one again.

Who forms it is decided on the machines, by files/mariadb/galera_start.py; here a person says which nodes do not count.
"""

import asyncio
import shlex
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from constants import LIBRARY
from stackctl import recovery_plan, ssh, status
from stackctl.adoption import Confirm
from stackctl.hosts import known, settings_and_state
from stackctl.project import StackError, output, say
from stackctl.pulumi import Pulumi
from stackctl.recovery_plan import Facts, Node, Plan
from stackctl.ssh import Host, SshError
from stackctl.status_tables import WIDTH, plain
from stackctl.switchover import REFUSED, RefusedError

#: Seconds for a node to find its position, which needs InnoDB's recovery.
RECOVERY = 300.0
#: Seconds for a step that is done at once.
STEP = 30.0
#: Seconds between two looks at the nodes.
LOOK = 2.0
#: Seconds until the first one has a cluster: nodes that have to meet may take minutes, and one to start anew.
FORM = 600.0
#: Seconds until all are synced; each may get a copy of everything (TimeoutStartSec of mariadb).
SYNC = 3600.0
PROGRAM = f"{LIBRARY}/galera-start"
#: A program of before this command would take `tell` for a start.
TELL = (
    f"grep -qs '^def tell' {PROGRAM} || {{ echo 'its {PROGRAM} is older than this command: run `stackctl up`' >&2;"
    f" exit 1; }}; exec {PROGRAM} tell"
)


def recover(pulumi: Pulumi, given_up: Collection[str], confirm: Confirm) -> int:
    """The exit code. ``given_up`` are the names of nodes whose data are lost, or will be thrown away.

    Raises StackError if it failed half-way: the machines go on by themselves, and the text says from where.
    """
    config, resources = settings_and_state(pulumi)
    found = known(config, resources, "mysql")
    machines = [machine for machine in config["machines"] if machine["name"] in found]
    try:
        if not machines:
            raise RefusedError(
                "the stack has no databases of its own: those that it uses are brought back where they are"
            )
        if len(machines) == 1:
            only = machines[0]["name"]
            raise RefusedError(
                f"{only} is the only database: `systemctl --no-block start mariadb` there, it needs nobody"
            )
        asyncio.run(_Databases(machines, found).recover(given_up, confirm))
    except RefusedError as refused:
        say(f"refused, and nothing was changed: {refused}")
        return REFUSED
    return 0


class _Databases:
    def __init__(self, machines: Sequence[Mapping[str, Any]], hosts: Mapping[str, Host | None]) -> None:
        self._machines = {machine["name"]: machine for machine in machines}
        self._hosts = hosts

    async def recover(self, given_up: Collection[str], confirm: Confirm) -> None:
        nodes = await asyncio.gather(*map(self._ask, self._machines))
        _show(nodes)
        if recovery_plan.whole(nodes):
            say("all databases are synced members of one cluster: there is nothing to do")
            return
        plan = recovery_plan.decide(nodes, given_up)
        for sentence in plan.words:
            say(sentence)
        if (plan.order or plan.stopped) and not confirm("Do this?"):
            raise RefusedError("it was not confirmed")
        begun = time.monotonic()
        try:
            await self._order(plan, nodes)
            await self._start(plan)
            await self._watch(plan, begun)
        except asyncio.CancelledError:
            raise StackError(
                "interrupted; the machines go on by themselves, and `stackctl status` shows how far they are. Until"
                " one has a cluster, the same command continues"
            ) from None

    async def _ask(self, name: str) -> Node:
        machine = self._machines[name]
        said = await status.ask({**machine, "roles": ["mysql"]}, self._hosts[name], "")
        address, host = str(machine["address"]), self._hosts[name]
        if said.database is None or host is None:
            return Node(name, address, said.error)
        if said.database.running:
            return Node(name, address, None, said.database)
        try:
            told = recovery_plan.told(await ssh.run(host, TELL, timeout=RECOVERY))
        except SshError as error:
            raise RefusedError(f"{name} does not tell what it has: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(f"{name}'s answer is not understood ({type(error).__name__}: {error})") from None
        return Node(name, address, None, said.database, told)

    async def _on_all(self, names: Sequence[str], command: str, seconds: float = STEP) -> dict[str, str]:
        """What went wrong, by name."""
        # They have answered before.
        hosts = {name: host for name in names if (host := self._hosts[name])}
        done = await ssh.run_on_all(hosts, command, seconds)
        return {name: wrong for name, (_, wrong) in done.items() if wrong}

    async def _order(self, plan: Plan, nodes: Sequence[Node]) -> None:
        """On all that take part, or on none. Each looks once more whether it may be so."""
        if plan.order is None:
            return
        failed = await self._on_all(plan.rest, f"{PROGRAM} order {shlex.quote(plan.order.text())}", RECOVERY)
        if not failed:
            return
        reasons = "; ".join(f"{name}: {wrong}" for name, wrong in failed.items())
        # One that had it before belongs to somebody who relies on it.
        had = {node.name for node in nodes if node.told and node.told.facts and node.told.facts.order}
        left = await self._on_all([name for name in plan.rest if name not in had], f"{PROGRAM} withdraw")
        if left:
            still = "; ".join(f"{name}: {wrong}" for name, wrong in left.items())
            raise StackError(f"{reasons}. The order may stand on nodes where it could not be taken back: {still}")
        raise RefusedError(reasons)

    async def _start(self, plan: Plan) -> None:
        if failed := await self._on_all(plan.rest, "systemctl --no-block start mariadb"):
            reasons = "; ".join(f"{name}: {wrong}" for name, wrong in failed.items())
            raise StackError(f"mariadb could not be started: {reasons}. The same command continues")

    async def _watch(self, plan: Plan, begun: float) -> None:
        """Until all that take part are synced."""
        before: dict[str, str] = {}
        formed = False
        while True:
            machines = [{**self._machines[name], "roles": ["mysql"]} for name in plan.rest]
            said = await asyncio.gather(*(status.ask(one, self._hosts[one["name"]], "") for one in machines))
            nodes = [Node(one.name, one.address, one.error, one.database) for one in said]
            took = time.monotonic() - begun
            for node in nodes:
                state = _state(node)
                if before.get(node.name) != state:
                    say(f"  {took:3.0f} s  {node.name}: {plain(state)}")
                before[node.name] = state
            if recovery_plan.whole(nodes):
                break
            formed = formed or any(node.database and node.database.cluster_status == "Primary" for node in nodes)
            if took > (SYNC if formed else FORM):
                shown = "; ".join(f"{name}: {state}" for name, state in before.items())
                raise StackError(f"after {took:.0f} s not all are synced ({shown}); the same command continues")
            await asyncio.sleep(LOOK)
        cluster = nodes[0].database.cluster if nodes[0].database else None
        say(f"{' and '.join(plan.rest)} are a cluster again, all synced, after {took:.0f} s ({cluster})")


def _state(node: Node) -> str:
    one = node.database
    if one is None:
        return f"cannot be asked: {node.error}"
    if one.cluster_status == "Primary":
        return f"{one.local_state}, in a cluster of {one.cluster_size}"
    if one.running:
        return "mariadbd is starting" + (f" ({one.error})" if one.error and one.mariadb != "activating" else "")
    return f"mariadb is {one.mariadb}" + (f", {one.waits}" if one.waits else "")


def _show(nodes: Sequence[Node]) -> None:
    for part in _parts(nodes):
        output.print(part, width=min(output.width, WIDTH), soft_wrap=False)
    output.print()


def _parts(nodes: Sequence[Node]) -> Iterator[RenderableType]:
    table = Table("database", "mariadb", "position", "left last", "last view", box=None, pad_edge=False)
    told = recovery_plan.facts_of(nodes)
    clusters: dict[str, list[str]] = {}
    for node in nodes:
        facts, one = told.get(node.name), node.database
        mariadb = "cannot be asked" if one is None else one.mariadb
        if one and one.running:
            mariadb += f", {one.cluster_status or 'no answer'}"
        table.add_row(node.name, mariadb, *_cells(facts, one.position if one and one.running else None))
        cluster = facts.cluster if facts else one.cluster if one else None
        if cluster:
            clusters.setdefault(cluster, []).append(node.name)
    lines = [Text(f"{node.name}: {plain(reason)}") for node in nodes for reason in _reasons(node)]
    lines += [Text(f"cluster {cluster}: {', '.join(names)}") for cluster, names in clusters.items()]
    yield Group(table, *lines)


def _cells(facts: Facts | None, position: int | None) -> Iterable[str]:
    if facts is None:
        return ["unknown" if position is None else str(position), "", ""]
    return [
        ("none" if facts.cluster is None else "unknown") if facts.position is None else str(facts.position),
        "yes" if facts.left_last else "no",
        f"of {len(facts.view.members)}" if facts.view else "none",
    ]


def _reasons(node: Node) -> Iterator[str]:
    if node.error:
        yield node.error
    if node.told and node.told.problem:
        yield node.told.problem
    if node.database and node.database.waits:
        yield node.database.waits
