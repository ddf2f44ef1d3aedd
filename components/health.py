"""The responder to the load balancers' health checks, on every machine with a database or a Mycat."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from components.config_file import PYTHON_SYNTAX
from components.machine import Machine
from components.template import render, verbatim
from constants import LIBRARY, MYCAT_PORT, MYSQL_EXTRA_PORT, SERVICE_HEALTH_PORT
from settings import Role
from settings.mycat import HEALTH_USER

_UNIT = "mycat-ha-health"
_SYSCTL = "/etc/sysctl.d/93-mycat-ha-health.conf"
#: Request targets of the checks.
PATHS = {Role.MYSQL: "/mysql", Role.MYCAT: "/mycat"}


@dataclass
class HealthArgs:
    machine: Machine
    roles: Sequence[Role]
    #: Of the user that checks databases and Mycat.
    password: pulumi.Input[str]
    #: Whether the database has TLS.
    tls: bool
    #: Seconds in which every load balancer notices that a check says no.
    notice: int
    #: What has to run before it is checked.
    after: Sequence[pulumi.Resource] = ()
    #: Check again when one of these has changed.
    triggers: Sequence[pulumi.Input[str]] = ()


class Health(pulumi.ComponentResource):
    """A systemd socket on 48700 of the machine's own address; the firewall opens it to the load balancers, and to the
    other databases.

    `up` goes on to what depends on it only when every check here has succeeded.
    """

    def __init__(self, name: str, args: HealthArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:health:Health", name, {}, opts)
        machine = args.machine
        installed = machine.run(
            f"{name}-install", render("health/install.sh.j2"), opts=pulumi.ResourceOptions(parent=self)
        )
        # Not before the service's own change: its connection outlives a new password there, a new responder has none.
        after_install = pulumi.ResourceOptions(parent=self, depends_on=[installed, *args.after])
        restart = f"systemctl daemon-reload; systemctl is-active --quiet {_UNIT} || exit 0; systemctl restart {_UNIT}"
        files = [
            machine.file(
                f"{name}-responder",
                f"{LIBRARY}/health",
                verbatim("health/health.py"),
                mode="0755",
                validate=PYTHON_SYNTAX,
                apply=restart,
                opts=after_install,
            ),
            machine.file(
                f"{name}-credentials",
                "/etc/mycat-ha/health.json",
                pulumi.Output.secret(args.password).apply(
                    lambda password: json.dumps(checks(args.roles, machine.address, password, tls=args.tls))
                ),
                mode="0640",
                owner="root:mycat-ha-health",
                validate='python3 -m json.tool "$STAGED" >/dev/null',
                apply=restart,
                opts=after_install,
            ),
            machine.file(
                f"{name}-leave",
                "/etc/mycat-ha/leave-service.env",
                f"NOTICE_SECONDS={args.notice}\n",
                opts=after_install,
            ),
            machine.file(
                f"{name}-sysctl",
                _SYSCTL,
                # The port is one of those that connections of the machine's own get; one had it at a boot, and the
                # socket failed for good.
                f"net.ipv4.ip_local_reserved_ports = {SERVICE_HEALTH_PORT}\n",
                apply=f"sysctl --quiet --load={_SYSCTL}",
                opts=after_install,
            ),
            machine.file(
                f"{name}-service",
                f"/etc/systemd/system/{_UNIT}.service",
                verbatim("health/health.service"),
                apply=restart,
                opts=after_install,
            ),
            machine.file(
                f"{name}-socket",
                f"/etc/systemd/system/{_UNIT}.socket",
                render("health/health.socket.j2", address=machine.address, port=SERVICE_HEALTH_PORT),
                apply=restart,
                opts=after_install,
            ),
        ]
        self.listening = machine.run(
            f"{name}-start",
            render(
                "health/start.sh.j2",
                unit=_UNIT,
                paths=[path for role, path in PATHS.items() if role in args.roles],
                address=machine.address,
                port=SERVICE_HEALTH_PORT,
            ),
            triggers=args.triggers,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(files)),
        )
        self.register_outputs({})


def checks(roles: Sequence[Role], address: str, password: str, *, tls: bool = False) -> dict[str, dict[str, Any]]:
    """What the responder checks: PyMySQL's connection settings by request target. ``tls``: of the database."""
    login = {"user": HEALTH_USER, "password": password}
    connections: dict[Role, dict[str, Any]] = {
        Role.MYSQL: {
            # The one that has room when the server is full.
            "host": address,
            "port": MYSQL_EXTRA_PORT,
            # A busy node has to answer too, whatever `database.galera.wsrepSyncWait` is.
            "init_command": "SET SESSION wsrep_sync_wait = 0",
            # TLS if the server offers it, which may demand it; it is on this machine, so nothing has to be verified.
            **({"ssl": {"check_hostname": False}} if tls else {}),
            **login,
        },
        Role.MYCAT: {"host": address, "port": MYCAT_PORT, **login},
    }
    return {path: connections[role] for role, path in PATHS.items() if role in roles}
