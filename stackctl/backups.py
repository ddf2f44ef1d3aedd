"""Backups of a stack's databases: one made now, what there is, and one put in the place of what they have.

The work is done on the machines, by files/mariadb/database_backup.py.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from constants import LIBRARY
from stackctl import reports, ssh
from stackctl.adoption import Confirm
from stackctl.hosts import of, settings_and_state
from stackctl.project import StackError, output, say
from stackctl.pulumi import Pulumi
from stackctl.ssh import Host, SshError
from stackctl.switchover import REFUSED, RefusedError

PROGRAM = f"{LIBRARY}/database-backup"
#: Seconds for what is done at once, for a stop of mariadbd, and for what takes as long as there are data.
STEP, STOP, COPY = 60.0, 600.0, 86_400.0
SYNCED = (
    "SET SESSION wsrep_sync_wait = 0; SELECT 1 FROM information_schema.global_status"
    " WHERE variable_name = 'wsrep_local_state_comment' AND variable_value = 'Synced'"
)
#: A start that has failed is not waited for.
UNTIL_SYNCED = (
    f'until [ "$(mariadb --batch --skip-column-names --execute "{SYNCED}" 2>/dev/null)" = 1 ]; do'
    " systemctl is-failed --quiet mariadb && { journalctl --unit mariadb --lines 5 --output cat >&2; exit 1; };"
    " sleep 1; done"
)
USERS = "-mariadb-users"


def backup(pulumi: Pulumi) -> int:
    """Make one now. Raises StackError."""
    nodes = _nodes(pulumi)
    done = asyncio.run(ssh.run_on_all(nodes, f"{PROGRAM} run", COPY))
    lines = {name: wrong or said.strip() for name, (said, wrong) in done.items()}
    for name, words in lines.items():
        say(f"{name}: {words}")
    if not any("complete after" in words for words in lines.values()):
        raise StackError("no database has made a backup")
    return 0


def backups(pulumi: Pulumi, prefix: str | None, *, as_json: bool) -> int:
    """Show them, newest first. Raises StackError if nobody can say."""
    found = asyncio.run(_list(_nodes(pulumi), prefix))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return 0
    table = Table("backup", "age", "from", "MariaDB", "data", "in S3", "took", "tried", box=None, pad_edge=False)
    for entry in found:
        table.add_row(
            *(entry["id"], _age(entry["id"]), entry["node"], entry["version"].partition("-")[0]),
            *(f"{entry['dataBytes'] >> 20} MiB", f"{entry['bytes'] >> 20} MiB", f"{entry['seconds']:g} s"),
            _tried(entry["restored"]),
        )
    output.print(table if found else Text("there is no backup"))
    return 0


def restore(pulumi: Pulumi, identifier: str | None, prefix: str | None, confirm: Confirm) -> int:
    """The exit code. ``identifier``: None for the newest one. Raises StackError if it failed half-way; the text says
    what to do.
    """
    try:
        nodes, users = _nodes(pulumi), _users(pulumi)
        if users is None:
            raise RefusedError("the state does not have the users' passwords: `stackctl up` has to have succeeded once")
        asyncio.run(_restore(nodes, identifier, prefix, users, confirm))
    except RefusedError as refused:
        say(f"refused, and nothing was changed: {refused}")
        return REFUSED
    return 0


async def _restore(
    nodes: Mapping[str, Host], identifier: str | None, prefix: str | None, users: str, confirm: Confirm
) -> None:
    found = await _list(nodes, prefix)
    chosen = next((entry for entry in found if identifier in {None, entry["id"]}), None)
    if chosen is None:
        raise RefusedError(f"there is no backup {identifier or ''}; `stackctl database backups` shows what there is")
    first, *others = nodes
    # One that cannot be asked may be serving clients, and would go on with data that nobody else has.
    for name, (_, wrong) in (await ssh.run_on_all(nodes, f"{PROGRAM} room {chosen['dataBytes']}", STEP)).items():
        if wrong:
            raise RefusedError(f"{name}: {wrong}")
    say(f"{chosen['id']}, {_age(chosen['id'])} old, from {chosen['node']}, {chosen['dataBytes'] >> 20} MiB of data")
    say(f"The databases stop, {first} gets it, and {' and '.join(others) or 'nobody'} a copy of everything from there.")
    say("WHAT WAS WRITTEN SINCE IS NOT IN IT. It is kept on each machine in /var/lib/mysql.before-TIME.")
    if not confirm("Do this?"):
        raise RefusedError("it was not confirmed")
    place = [chosen["id"], *([prefix] if prefix else [])]
    say(f"{first}: download and preparation, beside the database, which goes on")
    try:
        await ssh.run(nodes[first], shlex.join([PROGRAM, "fetch", *place]), timeout=COPY)
    except SshError as error:
        raise RefusedError(f"{first}: {error}") from None
    try:
        say("all: mariadb stops")
        await _each(nodes, "systemctl stop mariadb", STOP)
        say(f"{first}: the backup takes the place of the data")
        await _each({first: nodes[first]}, shlex.join([PROGRAM, "install", chosen["id"]]), STEP)
        await _each({name: nodes[name] for name in others}, f"{PROGRAM} aside", STEP)
        say(f"{first}: mariadb starts, and forms a new cluster")
        await _start(nodes[first])
        # Of this stack and of now, whatever they were when the backup was made.
        await ssh.run(nodes[first], "exec mariadb --batch", stdin=users, timeout=STEP)
        for name in others:
            say(f"{name}: mariadb starts, and gets a copy of everything")
            await _start(nodes[name])
    except (SshError, StackError) as error:
        raise StackError(
            f"{error}. What was there before is in /var/lib/mysql.before-TIME on each machine; the same command begins"
            " anew"
        ) from None
    say(f"{chosen['id']} is restored, and all databases are synced")
    say("When nobody needs the data of before any more: `rm -r /var/lib/mysql.before-*` on each machine")


async def _start(host: Host) -> None:
    await ssh.run(host, "systemctl --no-block start mariadb", timeout=STEP)
    await ssh.run(host, UNTIL_SYNCED, timeout=COPY)


async def _each(nodes: Mapping[str, Host], command: str, seconds: float) -> None:
    """Raises StackError if it failed on one."""
    done = await ssh.run_on_all(nodes, command, seconds)
    if wrong := "; ".join(f"{name}: {error}" for name, (_, error) in done.items() if error):
        raise StackError(wrong)


async def _list(nodes: Mapping[str, Host], prefix: str | None) -> list[dict[str, Any]]:
    """As the first one knows that can be asked."""
    command = shlex.join([PROGRAM, "list", *([prefix] if prefix else [])])
    wrong = []
    for name, host in nodes.items():
        try:
            return list(json.loads(await ssh.run(host, command, timeout=STEP)))
        except SshError as error:
            wrong.append(f"{name}: {error}")
    raise StackError("; ".join(wrong))


def _nodes(pulumi: Pulumi) -> dict[str, Host]:
    """The databases' machines. Raises StackError."""
    config, resources = settings_and_state(pulumi)
    if not (config.get("database") or {}).get("backup"):
        raise StackError("the stack keeps no backups: see database.backup in docs/settings.md")
    return of(config, resources, "mysql")


def _users(pulumi: Pulumi) -> str | None:
    """The statements that make the stack's users, passwords included, as the state has them."""
    exported = json.loads(pulumi.read("stack", "export", "--show-secrets"))
    for resource in exported["deployment"].get("resources") or []:
        if resource["urn"].endswith(USERS):
            given = (resource.get("inputs") or {}).get("stdin") or ""
            return str(json.loads(given["plaintext"]) if isinstance(given, dict) else given) or None
    return None


def _age(identifier: str) -> str:
    hours = (datetime.now(UTC) - reports.begun(identifier)).total_seconds() / 3600
    return f"{hours / 24:.0f} d" if hours >= 48 else f"{hours:.1f} h"


def _tried(restored: Mapping[str, Any] | None) -> str:
    if restored is None:
        return "not yet"
    return f"failed: {restored['problem']}" if restored["problem"] else f"{restored['tables']} tables whole"
