"""The database tier: MariaDB with Galera on every machine of role mysql."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_command import remote

from components.machine import Machine
from components.mycat_files import backends
from components.template import render, verbatim
from constants import LIBRARY
from settings import MachineSettings, Role, Settings

CONFIG = "/etc/mysql/mariadb.conf.d/60-galera.cnf"


@dataclass
class DatabaseArgs:
    settings: Settings
    #: Machines of role mysql, in the order of the settings; the first one forms the cluster when it is new.
    machines: Sequence[tuple[MachineSettings, Machine]]


class Database(pulumi.ComponentResource):
    """A Galera cluster that forms once, joins for ever after, and comes back by itself after any power cut.

    Nodes start and change one after the other, each synced before the next one is touched.
    """

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:database:Database", name, {}, opts)
        self._settings = args.settings
        self._nodes = args.settings.of_role(Role.MYSQL)
        self.synced: list[pulumi.Resource] = []
        for node, machine in args.machines:
            files = self._files(node, machine)
            before = [*files, *self.synced]
            if not self.synced:
                before.append(self._bootstrap(node, machine, files))
            self.synced.append(self._start(machine, before))
        self.users = self._users(args.machines[0][1])
        self.ready = [*self.synced, self.users]
        self.register_outputs({})

    def _peers(self, node: MachineSettings) -> list[MachineSettings]:
        return [peer for peer in self._nodes if peer.name != node.name]

    def _files(self, node: MachineSettings, machine: Machine) -> list[pulumi.Resource]:
        installed = machine.run(
            f"{machine.name}-mariadb-install",
            render("mariadb/install.sh.j2"),
            timeout="20m",
            opts=pulumi.ResourceOptions(parent=self),
        )
        after_install = pulumi.ResourceOptions(parent=self, depends_on=[installed])
        return [
            machine.file(
                f"{machine.name}-mariadb-environment",
                "/etc/mycat-ha/galera.env",
                render("mariadb/galera.env.j2", peers=self._peers(node)),
                opts=after_install,
            ),
            machine.file(
                f"{machine.name}-mariadb-start-hook",
                f"{LIBRARY}/galera-start",
                verbatim("mariadb/galera-start"),
                mode="0755",
                validate='bash -n "$STAGED"',
                opts=after_install,
            ),
            machine.file(
                f"{machine.name}-mariadb-unit",
                "/etc/systemd/system/mariadb.service.d/mycat-ha.conf",
                verbatim("mariadb/mariadb.service.d.conf"),
                apply="systemctl daemon-reload",
                opts=after_install,
            ),
            machine.file(
                f"{machine.name}-mariadb-config",
                CONFIG,
                configuration(self._settings, node),
                validate=render("mariadb/validate.sh.j2"),
                opts=after_install,
            ),
        ]

    def _bootstrap(self, node: MachineSettings, machine: Machine, files: Sequence[pulumi.Resource]) -> remote.Command:
        """Never again after the first time: a replaced first node must join, so nothing here triggers on it."""
        return machine.run(
            f"{machine.name}-mariadb-bootstrap",
            render("mariadb/bootstrap.sh.j2", peers=self._peers(node)),
            outlives_machine=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(files), ignore_changes=["connection", "create"]),
        )

    def _start(self, machine: Machine, before: Sequence[pulumi.Resource]) -> remote.Command:
        node = next(node for node in self._nodes if node.name == machine.name)
        digest = hashlib.sha256(configuration(self._settings, node).encode()).hexdigest()
        return machine.run(
            f"{machine.name}-mariadb-start",
            render("mariadb/start.sh.j2"),
            triggers=[digest],
            timeout="60m",
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(before)),
        )

    def _users(self, machine: Machine) -> remote.Command:
        database, secrets, mycat = self._settings.database, self._settings.secrets, self._settings.mycat
        return machine.run(
            f"{machine.name}-mariadb-users",
            "exec mariadb --batch",
            stdin=pulumi.Output.secret(
                render(
                    "mariadb/users.sql.j2",
                    schema=database.schema_,
                    user=database.user,
                    password=secrets["database"].get_secret_value(),
                    health_password=secrets["health"].get_secret_value(),
                    mycat_user=mycat.database_user if mycat and not mycat.external else None,
                    mycat_password=secrets["mycatDatabase"].get_secret_value() if mycat and not mycat.external else "",
                    mycat_databases=backends(self._settings).databases if mycat and not mycat.external else (),
                )
            ),
            outlives_machine=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(self.synced)),
        )


def configuration(settings: Settings, node: MachineSettings) -> str:
    """60-galera.cnf of ``node``."""
    return render(
        "mariadb/galera.cnf.j2",
        settings=settings,
        machine=node,
        nodes=settings.of_role(Role.MYSQL),
        cluster=f"{pulumi.get_project()}-{pulumi.get_stack()}",
        sst="rsync",
        mycat=bool(settings.of_role(Role.MYCAT)),
    )
