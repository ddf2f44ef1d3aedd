"""The database tier: MariaDB with Galera on every machine of role mysql."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import pulumi
from pulumi_command import remote

from components.certificates import BUNDLE_LOADS
from components.config_file import PYTHON_SYNTAX
from components.machine import Machine
from components.template import render, verbatim
from constants import LIBRARY, MYSQL_CHECK_USER, MYSQL_EXTRA_PORT
from settings import services

CONFIG = "/etc/mysql/mariadb.conf.d/60-galera.cnf"
SYSCTL = "/etc/sysctl.d/92-mariadb.conf"
WATCH = "mycat-ha-galera-watch"
TLS_BUNDLE = "/etc/mysql/mycat-ha-tls.pem"
GROUP_BUNDLE = "/etc/mysql/mycat-ha-galera.pem"
TRANSFER_CONFIG = "/etc/mysql/mariadb.conf.d/61-galera-transfer.cnf"
GROUP_TLS = f"{LIBRARY}/group-tls"
#: New sessions get the new certificate, and those that there are go on. Of this node alone, hence LOCAL.
TAKE_CERTIFICATE = 'systemctl is-active --quiet mariadb || exit 0; mariadb --execute "FLUSH LOCAL SSL"'


@dataclass(frozen=True)
class MycatUser:
    """The user as whom Mycat logs in."""

    name: str
    password: pulumi.Input[str]
    #: Databases that are created, with all rights for this user.
    databases: Sequence[str]


@dataclass
class DatabaseArgs:
    #: Machines of role mysql, in the order of the settings; the first one forms the cluster when it is new.
    machines: Sequence[Machine]
    #: Addresses of the load balancers, which check the databases.
    balancers: Sequence[IPv4Address]
    #: Galera's name of the cluster.
    cluster: str
    database: services.Database
    #: Of each server.
    max_connections: int
    #: Of the application's user.
    password: pulumi.Input[str]
    #: Of each of `database.users`, by name.
    user_passwords: Mapping[str, pulumi.Input[str]]
    #: Of the health responder's user.
    health_password: pulumi.Input[str]
    #: None: no Mycat in front of these databases.
    mycat: MycatUser | None
    #: Key and certificate (PEM) for `database.tls`.
    tls_bundle: pulumi.Input[str] | None
    #: Key and certificate (PEM) for `database.galera.tls`.
    group_bundle: pulumi.Input[str] | None


class Database(pulumi.ComponentResource):
    """A Galera cluster that forms once, is joined from then on, and comes back by itself after every stop.

    Nodes start and change one after the other, each synced before the next one is touched.
    """

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:database:Database", name, {}, opts)
        self._machines = args.machines
        addresses = {machine.name: machine.address for machine in args.machines}
        self.synced: list[pulumi.Resource] = []
        installed = {machine.name: self._installed(machine) for machine in args.machines}
        transfer = self._transfer(args, installed)
        for machine in args.machines:
            peers = [address for address in addresses.values() if address != machine.address]
            config = configuration(
                machine.name,
                addresses=addresses,
                cluster=args.cluster,
                database=args.database,
                max_connections=args.max_connections,
                mycat=args.mycat is not None,
            )
            files = self._files(machine, peers, config, args, [installed[machine.name], *transfer])
            before = [*files, *self.synced]
            if not self.synced:
                before.append(self._bootstrap(machine, peers, files))
            self.synced.append(self._start(machine, config, before))
        self.users = self._users(args)
        self.ready = [*self.synced, self.users]
        self.register_outputs({})

    def _installed(self, machine: Machine) -> remote.Command:
        return machine.run(
            f"{machine.name}-mariadb-install",
            render("mariadb/install.sh.j2"),
            timeout="20m",
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _transfer(self, args: DatabaseArgs, installed: Mapping[str, pulumi.Resource]) -> list[pulumi.Resource]:
        """How a copy goes from node to node. Programs read that when a copy begins, and both ends have to agree: it
        changes on all nodes before any of them is restarted, by a configuration that may make it need a copy."""
        after_install = pulumi.ResourceOptions(parent=self, depends_on=list(installed.values()))
        bundles: list[pulumi.Resource] = []
        if args.group_bundle is not None:
            bundles += [
                self._bundle(machine, "mariadb-galera-tls", GROUP_BUNDLE, args.group_bundle, "", after_install)
                for machine in args.machines
            ]
        text = render("mariadb/galera-transfer.cnf.j2", tls=args.database.galera.tls, bundle=GROUP_BUNDLE)
        opts = pulumi.ResourceOptions(parent=self, depends_on=[*installed.values(), *bundles])
        files = [
            machine.file(f"{machine.name}-mariadb-transfer", TRANSFER_CONFIG, text, opts=opts)
            for machine in args.machines
        ]
        return [*bundles, *files]

    def _files(
        self,
        machine: Machine,
        peers: Sequence[str],
        config: str,
        args: DatabaseArgs,
        before: Sequence[pulumi.Resource],
    ) -> list[pulumi.Resource]:
        after_install = pulumi.ResourceOptions(parent=self, depends_on=list(before))
        # Before the file that names them.
        needed: list[pulumi.Resource] = [
            machine.file(
                f"{machine.name}-mariadb-group-tls",
                GROUP_TLS,
                verbatim("mariadb/group_tls.py"),
                mode="0755",
                validate=PYTHON_SYNTAX,
                opts=after_install,
            )
        ]
        if args.tls_bundle is not None:
            needed.append(
                self._bundle(machine, "mariadb-tls", TLS_BUNDLE, args.tls_bundle, TAKE_CERTIFICATE, after_install)
            )
        tls = args.database.galera.tls or "disabled"
        restart_watch = f"systemctl is-active --quiet {WATCH} || exit 0; systemctl restart {WATCH}"
        return [
            machine.file(
                f"{machine.name}-mariadb-environment",
                "/etc/mycat-ha/galera.env",
                render("mariadb/galera.env.j2", address=machine.address, peers=peers),
                opts=after_install,
            ),
            machine.file(
                f"{machine.name}-mariadb-start-hook",
                f"{LIBRARY}/galera-start",
                verbatim("mariadb/galera_start.py"),
                mode="0755",
                validate=PYTHON_SYNTAX,
                apply=restart_watch,
                opts=after_install,
            ),
            machine.program(f"{machine.name}-mariadb-note-version", "mariadb/note-version", opts=after_install),
            machine.program(f"{machine.name}-mariadb-proxy-networks", "mariadb/proxy-networks", opts=after_install),
            machine.file(
                f"{machine.name}-mariadb-watch",
                f"/etc/systemd/system/{WATCH}.service",
                verbatim("mariadb/galera-watch.service"),
                apply=f"systemctl daemon-reload; {restart_watch}",
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
                f"{machine.name}-mariadb-sysctl",
                SYSCTL,
                verbatim("mariadb/sysctl.conf"),
                apply=f"sysctl --quiet --load={SYSCTL}",
                opts=after_install,
            ),
            machine.file(
                f"{machine.name}-mariadb-config",
                CONFIG,
                config,
                validate=render("mariadb/validate.sh.j2", group_tls=GROUP_TLS, tls=tls, peers=peers),
                # With one that mariadbd cannot start with after all, the nodes after this one keep what they run with.
                opts=pulumi.ResourceOptions(parent=self, depends_on=[*before, *needed, *self.synced]),
            ),
            *needed,
        ]

    def _bundle(
        self,
        machine: Machine,
        name: str,
        path: str,
        bundle: pulumi.Input[str],
        apply: str,
        opts: pulumi.ResourceOptions,
    ) -> pulumi.Resource:
        return machine.file(
            f"{machine.name}-{name}",
            path,
            bundle,
            mode="0640",
            owner="root:mysql",
            validate=BUNDLE_LOADS,
            apply=apply,
            opts=opts,
        )

    def _bootstrap(self, machine: Machine, peers: Sequence[str], files: Sequence[pulumi.Resource]) -> remote.Command:
        """The cluster's very first start. It never runs again: a first node that was replaced must join."""
        return machine.run(
            f"{machine.name}-mariadb-bootstrap",
            render("mariadb/bootstrap.sh.j2", peers=peers),
            outlives_machine=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=files, ignore_changes=["connection", "create"]),
        )

    def _start(self, machine: Machine, config: str, before: Sequence[pulumi.Resource]) -> remote.Command:
        return machine.run(
            f"{machine.name}-mariadb-start",
            render("mariadb/start.sh.j2", watch=WATCH, library=LIBRARY),
            triggers=[hashlib.sha256(config.encode()).hexdigest()],
            # A copy of everything takes hours if everything is much; the script ends when nothing moves.
            timeout="1440m",
            opts=pulumi.ResourceOptions(parent=self, depends_on=before),
        )

    def believe(self, balancers: Sequence[IPv4Address], after: Sequence[pulumi.Resource] = ()) -> list[pulumi.Resource]:
        """Take from these load balancers, and from nobody else, who asks (PROXY protocol); no database restarts."""
        return [
            machine.run(
                f"{machine.name}-mariadb-believe",
                " ".join([f"{LIBRARY}/proxy-networks", *map(str, balancers)]),
                opts=pulumi.ResourceOptions(parent=self, depends_on=[*self.synced, *after]),
            )
            for machine in self._machines
        ]

    def _users(self, args: DatabaseArgs) -> remote.Command:
        """On one node: Galera replicates users and rights."""
        machine, mycat = args.machines[0], args.mycat
        sql = pulumi.Output.all(
            password=args.password,
            health_password=args.health_password,
            user_passwords=dict(args.user_passwords),
            mycat_password=mycat.password if mycat else "",
        ).apply(
            lambda passwords: render(
                "mariadb/users.sql.j2",
                schema=args.database.schema_,
                user=args.database.user,
                schemas=args.database.schemas,
                users=args.database.users,
                privileges=services.PRIVILEGES,
                own_schema=services.OWN_SCHEMA,
                health_hosts=["localhost", *(machine.address for machine in args.machines)],
                check_user=MYSQL_CHECK_USER,
                check_hosts=args.balancers,
                tls_required=args.database.tls is not None and args.database.tls.required,
                mycat_user=mycat.name if mycat else None,
                mycat_databases=mycat.databases if mycat else (),
                **passwords,
            )
        )
        return machine.run(
            f"{machine.name}-mariadb-users",
            "exec mariadb --batch",
            stdin=sql,
            outlives_machine=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=self.synced),
        )


def configuration(
    name: str,
    *,
    addresses: Mapping[str, str],
    cluster: str,
    database: services.Database,
    max_connections: int,
    mycat: bool,
) -> str:
    """60-galera.cnf of the node ``name``. ``addresses``: those of all by name; ``mycat``: Mycat logs in to them."""
    return render(
        "mariadb/galera.cnf.j2",
        name=name,
        address=addresses[name],
        addresses=list(addresses.values()),
        # The first one is the single writer, if there is to be one.
        donors=[node for node in reversed(list(addresses)) if node != name],
        cluster=cluster,
        galera=database.galera,
        extra=database.extra,
        max_connections=max_connections,
        extra_port=MYSQL_EXTRA_PORT,
        tls=database.tls,
        tls_bundle=TLS_BUNDLE,
        group_bundle=GROUP_BUNDLE,
        mycat=mycat,
    )
