"""HAProxy on a load balancer: built from source, logged through rsyslog, run by systemd."""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import pulumi

from components.certificates import BUNDLE_LOADS
from components.config_file import PYTHON_SYNTAX
from components.machine import Machine
from components.source_build import SourceBuild
from components.template import render, verbatim
from constants import (
    HAPROXY_HEALTH_PORT,
    HAPROXY_PEERS_PORT,
    HAPROXY_SERVER_STATE,
    LIBRARY,
    MYCAT_PORT,
    MYSQL_CHECK_USER,
    MYSQL_PORT,
    SERVICE_HEALTH_PORT,
)
from settings import MachineSettings, Role, services
from settings.http import Backend, Http
from settings.mycat import Mycat

RELOAD = f"{LIBRARY}/reload-haproxy"
WAIT_FOR_SERVER = f"{LIBRARY}/wait-for-server.lua"
#: Seconds that a new session waits while no server works. By the default checks one that answers again is up within
#: two; drivers wait longer than three.
NO_SERVER_PATIENCE = 3.0
#: What makes a HAProxy that runs take what is new, and is content where none does.
RELOAD_IF_ACTIVE = f"systemctl is-active --quiet haproxy || exit 0; {RELOAD}"
#: Key and certificate of the statistics pages.
STATISTICS_BUNDLE = "/etc/haproxy/statistics.pem"
#: Debian packages that the build needs.
PACKAGES = ("build-essential", "pkg-config", "libssl-dev", "libpcre2-dev", "liblua5.4-dev", "zlib1g-dev")
#: Where each machine of role mysql says whether clients may come: is the node synced, is it leaving service?
_OWN_DATABASES = services.HealthPort(port=SERVICE_HEALTH_PORT, path="/mysql")
#: Connections of each frontend that is not for the service's clients: statistics, health checks.
OWN_CONNECTIONS = 40


@dataclass(frozen=True)
class Server:
    """A `server` line of haproxy.cfg."""

    name: str
    address: IPv4Address
    port: int


def configuration(
    node: str,
    *,
    vip: IPv4Address,
    haproxy: services.Haproxy,
    mysql_silence: tuple[float, float],
    mycat_silence: tuple[float, float],
    mycat_sessions: int,
    statistics_password: str,
    machines: Sequence[MachineSettings],
    database: services.Database,
    mycat: Mycat | None,
    http: Http | None,
) -> str:
    """haproxy.cfg of the load balancer named ``node``; it holds the statistics password.

    ``mysql_silence`` and ``mycat_silence``: seconds that a client and a server of each may be silent;
    ``mycat_sessions``: that a Mycat gets at the same time.
    """
    external_mycat = mycat is not None and bool(mycat.external)
    names = any(server.host for server in database.external)
    check_user = database.external_check_user if database.external else MYSQL_CHECK_USER
    return render(
        "haproxy/haproxy.cfg.j2",
        node=node,
        vip=vip,
        haproxy=haproxy,
        mysql_silence=mysql_silence,
        mycat_silence=mycat_silence,
        mycat_sessions=mycat_sessions,
        max_connections=haproxy.max_connections or _all_frontends(haproxy, mycat, http),
        own_connections=OWN_CONNECTIONS,
        statistics_password=statistics_password,
        statistics_tls=f" ssl crt {STATISTICS_BUNDLE} ssl-min-ver TLSv1.2" if haproxy.statistics.tls else "",
        health_port=HAPROXY_HEALTH_PORT,
        balancers=[machine for machine in machines if Role.LB in machine.roles],
        peers_port=HAPROXY_PEERS_PORT,
        mysql_servers=database.external or _servers(machines, Role.MYSQL, MYSQL_PORT),
        names=names,
        server_state=HAPROXY_SERVER_STATE if names or database.external_writer_check else None,
        mysql_health=database.external_writer_check if database.external else _OWN_DATABASES,
        mysql_reader_health=database.external_reader_check,
        mysql_check_user=check_user,
        mysql_check_login=_login(check_user) if check_user else None,
        no_server_patience=NO_SERVER_PATIENCE,
        wait_for_server=WAIT_FOR_SERVER,
        mysql_patience=_patience(haproxy) if database.external else 1,
        mycat_servers=mycat.external if mycat and external_mycat else _servers(machines, Role.MYCAT, MYCAT_PORT),
        mycat_check_port=mycat.external_check_port if mycat and external_mycat else SERVICE_HEALTH_PORT,
        http=http,
        http_servers={name: _web_servers(backend, machines) for name, backend in http.backends.items()} if http else {},
    )


def _login(user: str) -> str:
    """In hex what a client without a password answers to a server's greeting, and its goodbye (MariaDB's manual,
    "Connection" and COM_QUIT)."""
    protocol_41_and_authentication, most, utf8 = 0x8200, 1 << 24, 33
    words = struct.pack("<IIB23x", protocol_41_and_authentication, most, utf8) + user.encode() + b"\0\0"
    packets = ((1, words), (0, b"\x01"))
    return b"".join(struct.pack("<I", len(words))[:3] + bytes([number]) + words for number, words in packets).hex()


def _patience(haproxy: services.Haproxy) -> float:
    """Seconds after which a process that was just started has an answer from every database, or will get none: the
    first checks are spread over the time between two."""
    return max(1, haproxy.mysql.check.inter + haproxy.timeouts.connect + haproxy.timeouts.check)


def notice(haproxy: services.Haproxy) -> int:
    """Seconds in which every load balancer notices that a check of a database or a Mycat says no."""
    checks = (haproxy.mysql.check, haproxy.mycat.check)
    return math.ceil(1 + max(check.inter + check.fall * max(check.inter, check.fastinter or 0) for check in checks))


def _all_frontends(haproxy: services.Haproxy, mycat: Mycat | None, http: Http | None) -> int:
    """What the frontends' limits add up to, but not less than the recipe's."""
    sql = 1 + bool(haproxy.mysql.read_port) + bool(mycat)
    clients = haproxy.default_max_connections * sql + (http.max_connections if http else 0)
    return max(4096, clients + OWN_CONNECTIONS * (4 if http else 2))


def _servers(machines: Sequence[MachineSettings], role: Role, port: int) -> list[Server]:
    return [Server(machine.name, machine.address, port) for machine in machines if role in machine.roles]


def _web_servers(backend: Backend, machines: Sequence[MachineSettings]) -> list[Server]:
    addresses = {machine.name: machine.address for machine in machines}
    own = [Server(name, addresses[name], backend.port) for name in backend.machines]
    return own + [Server(server.name, server.address, server.port) for server in backend.external]


@dataclass
class HaproxyArgs:
    machine: Machine
    build: SourceBuild
    #: haproxy.cfg.
    configuration: pulumi.Input[str]
    #: Key and certificate (PEM) for `haproxy.statistics.tls`.
    statistics_bundle: pulumi.Input[str] | None


class Haproxy(pulumi.ComponentResource):
    """HAProxy running with the stack's configuration, and answering."""

    def __init__(self, name: str, args: HaproxyArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:haproxy:Haproxy", name, {}, opts)
        machine = args.machine
        system = machine.run(f"{name}-system", render("haproxy/system.sh.j2"), opts=pulumi.ResourceOptions(parent=self))
        after_system = pulumi.ResourceOptions(parent=self, depends_on=[system])
        sysctl = machine.file(
            f"{name}-sysctl",
            "/etc/sysctl.d/90-mycat-ha.conf",
            verbatim("haproxy/sysctl.conf"),
            apply="sysctl --quiet --load=/etc/sysctl.d/90-mycat-ha.conf",
            opts=after_system,
        )
        rsyslog = machine.file(
            f"{name}-rsyslog",
            "/etc/rsyslog.d/49-haproxy.conf",
            verbatim("haproxy/rsyslog.conf"),
            validate='rsyslogd -N 1 -f "$STAGED"',
            apply="systemctl restart rsyslog",
            opts=after_system,
        )
        logrotate = machine.file(
            f"{name}-logrotate",
            "/etc/logrotate.d/haproxy",
            verbatim("haproxy/logrotate"),
            validate='logrotate --debug "$STAGED"',
            opts=after_system,
        )
        logrotate_timer = machine.file(
            f"{name}-logrotate-timer",
            "/etc/systemd/system/logrotate.timer.d/mycat-ha.conf",
            verbatim("haproxy/logrotate.timer.conf"),
            apply="systemctl daemon-reload && systemctl restart logrotate.timer",
            opts=after_system,
        )
        unit_content = verbatim("haproxy/haproxy.service")
        unit = machine.file(
            f"{name}-unit",
            "/etc/systemd/system/haproxy.service",
            unit_content,
            apply="systemctl daemon-reload",
            opts=after_system,
        )
        reload = machine.file(
            f"{name}-reload",
            RELOAD,
            verbatim("haproxy/reload-haproxy"),
            mode="0755",
            validate=PYTHON_SYNTAX,
            opts=after_system,
        )
        wait = machine.file(
            f"{name}-wait-for-server",
            WAIT_FOR_SERVER,
            verbatim("haproxy/wait-for-server.lua"),
            apply=RELOAD_IF_ACTIVE,
            opts=after_system,
        )
        bundle = [self._bundle(name, args, args.statistics_bundle, after_system)] if args.statistics_bundle else []
        config = machine.file(
            f"{name}-config",
            "/etc/haproxy/haproxy.cfg",
            pulumi.Output.secret(args.configuration),
            mode="0600",
            validate=args.build.prefix.apply(lambda prefix: render("haproxy/validate.sh.j2", prefix=prefix)),
            apply=RELOAD_IF_ACTIVE,
            gate=_answers_if_active(),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[system, unit, reload, wait, *bundle]),
        )
        self.running = machine.run(
            f"{name}-start",
            args.build.prefix.apply(
                lambda prefix: render("haproxy/start.sh.j2", prefix=prefix, health_port=HAPROXY_HEALTH_PORT)
            ),
            triggers=[hashlib.sha256(unit_content.encode()).hexdigest()],
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[sysctl, rsyslog, logrotate, logrotate_timer, unit, config]
            ),
        )
        self.register_outputs({})

    def _bundle(
        self, name: str, args: HaproxyArgs, bundle: pulumi.Input[str], opts: pulumi.ResourceOptions
    ) -> pulumi.Resource:
        """Before the configuration that names it; another one is taken by a reload."""
        return args.machine.file(
            f"{name}-statistics-tls",
            STATISTICS_BUNDLE,
            bundle,
            mode="0600",
            validate=BUNDLE_LOADS,
            apply=RELOAD_IF_ACTIVE,
            opts=opts,
        )


def _answers_if_active() -> str:
    """Right after a reload the new worker may need a moment; a machine that does not run HAProxy yet passes."""
    return (
        "systemctl is-active --quiet haproxy || exit 0; "
        "for _ in $(seq 50); do "
        f"curl -fsS -o /dev/null --max-time 1 http://127.0.0.1:{HAPROXY_HEALTH_PORT}/health && exit 0; "
        "sleep 0.1; done; echo 'HAProxy does not answer its health check'; exit 1"
    )
