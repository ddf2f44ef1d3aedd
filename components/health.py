"""The responder to the load balancers' health checks, on every machine that has something behind them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi

from components.machine import Machine
from components.template import render, verbatim
from constants import LIBRARY, MYCAT_PORT, SERVICE_HEALTH_PORT
from settings import MachineSettings, Role, Settings
from settings.mycat import HEALTH_USER

_UNIT = "mycat-ha-health"


@dataclass
class HealthArgs:
    settings: Settings
    machine: Machine
    machine_settings: MachineSettings
    #: What has to run before it is asked for.
    after: Sequence[pulumi.Resource] = ()
    #: Ask again when one of these is another one.
    triggers: Sequence[pulumi.Input[str]] = field(default_factory=tuple)


class Health(pulumi.ComponentResource):
    """A systemd socket on 48700 of the machine's own address; who may reach it is the firewall's business.

    `up` goes on to what depends on it only when everything here has been answered for.
    """

    def __init__(self, name: str, args: HealthArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:health:Health", name, {}, opts)
        machine = args.machine
        installed = machine.run(
            f"{name}-install", render("health/install.sh.j2"), opts=pulumi.ResourceOptions(parent=self)
        )
        # Not before what is asked: it keeps its connection over a change of a password there, this would not.
        after_install = pulumi.ResourceOptions(parent=self, depends_on=[installed, *args.after])
        asked = checks(args.settings, args.machine_settings)
        restart = f"systemctl daemon-reload; systemctl is-active --quiet {_UNIT} || exit 0; systemctl restart {_UNIT}"
        files = [
            machine.file(
                f"{name}-responder",
                f"{LIBRARY}/health",
                verbatim("health/health.py"),
                mode="0755",
                validate='python3 -c "import ast, sys; ast.parse(open(sys.argv[1]).read())" "$STAGED"',
                apply=restart,
                opts=after_install,
            ),
            machine.file(
                f"{name}-credentials",
                "/etc/mycat-ha/health.json",
                pulumi.Output.secret(json.dumps(asked)),
                mode="0640",
                owner="root:mycat-ha-health",
                validate='python3 -m json.tool "$STAGED" >/dev/null',
                apply=restart,
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
                "health/start.sh.j2", unit=_UNIT, paths=list(asked), address=machine.address, port=SERVICE_HEALTH_PORT
            ),
            triggers=args.triggers,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(files)),
        )
        self.register_outputs({})


def checks(settings: Settings, machine: MachineSettings) -> dict[str, dict[str, Any]]:
    """What is asked on ``machine``: PyMySQL's connection settings by request target."""
    found: dict[str, dict[str, Any]] = {}
    login = {"user": HEALTH_USER, "password": settings.secrets[HEALTH_USER].get_secret_value()}
    if Role.MYSQL in machine.roles:
        found["/mysql"] = {"unix_socket": "/run/mysqld/mysqld.sock", **login}
    if Role.MYCAT in machine.roles:
        found["/mycat"] = {"host": str(machine.address), "port": MYCAT_PORT, **login}
    return found
