"""HAProxy on a load balancer: built from source, logged through rsyslog, run by systemd."""

import hashlib
from dataclasses import dataclass
from typing import Any

import pulumi

from components.machine import Machine
from components.source_build import SourceBuild
from components.template import render, verbatim
from constants import HAPROXY_HEALTH_PORT, MYCAT_PORT, SERVICE_HEALTH_PORT
from settings import MachineSettings, Role, Settings

#: Loopback only: does this HAProxy accept and answer?
PACKAGES = ("build-essential", "pkg-config", "libssl-dev", "libpcre2-dev", "liblua5.4-dev", "zlib1g-dev")


@dataclass
class HaproxyArgs:
    settings: Settings
    machine: Machine
    machine_settings: MachineSettings
    build: SourceBuild


def configuration(settings: Settings, machine: MachineSettings) -> str:
    """haproxy.cfg of ``machine``; holds the statistics password."""
    servers = settings.database.external or [
        {"name": node.name, "address": node.address, "port": 3306} for node in settings.of_role(Role.MYSQL)
    ]
    mycat = settings.mycat
    mycat_servers = (mycat.external if mycat else ()) or [
        {"name": node.name, "address": node.address, "port": MYCAT_PORT} for node in settings.of_role(Role.MYCAT)
    ]
    return render(
        "haproxy/haproxy.cfg.j2",
        settings=settings,
        machine=machine,
        mysql_servers=servers,
        mycat_servers=mycat_servers,
        mycat_check_port=mycat.external_check_port if mycat and mycat.external else SERVICE_HEALTH_PORT,
        health_port=HAPROXY_HEALTH_PORT,
        service_health_port=SERVICE_HEALTH_PORT,
        statistics_password=settings.secrets["statistics"].get_secret_value(),
        http_servers=http_servers(settings),
    )


def http_servers(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """The servers of each backend of ``http``, by its name."""
    addresses = {machine.name: machine.address for machine in settings.machines}
    return {
        name: [{"name": machine, "address": addresses[machine], "port": backend.port} for machine in backend.machines]
        + [{"name": server.name, "address": server.address, "port": server.port} for server in backend.external]
        for name, backend in (settings.http.backends if settings.http else {}).items()
    }


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
        unit_content = verbatim("haproxy/haproxy.service")
        unit = machine.file(
            f"{name}-unit",
            "/etc/systemd/system/haproxy.service",
            unit_content,
            apply="systemctl daemon-reload",
            opts=after_system,
        )
        config = machine.file(
            f"{name}-config",
            "/etc/haproxy/haproxy.cfg",
            pulumi.Output.secret(configuration(args.settings, args.machine_settings)),
            mode="0600",
            validate=args.build.prefix.apply(lambda prefix: render("haproxy/validate.sh.j2", prefix=prefix)),
            apply="systemctl is-active --quiet haproxy || exit 0; systemctl reload haproxy",
            gate=_answers_if_active(),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[system, unit]),
        )
        self.running = machine.run(
            f"{name}-start",
            args.build.prefix.apply(
                lambda prefix: render("haproxy/start.sh.j2", prefix=prefix, health_port=HAPROXY_HEALTH_PORT)
            ),
            triggers=[hashlib.sha256(unit_content.encode()).hexdigest()],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[sysctl, rsyslog, logrotate, unit, config]),
        )
        self.register_outputs({})


def _answers_if_active() -> str:
    """Right after a reload the new worker may need a moment; a machine that does not run HAProxy yet passes."""
    return (
        "systemctl is-active --quiet haproxy || exit 0; "
        "for _ in $(seq 50); do "
        f"curl -fsS -o /dev/null --max-time 1 http://127.0.0.1:{HAPROXY_HEALTH_PORT}/health && exit 0; "
        "sleep 0.1; done; echo 'HAProxy does not answer its health check'; exit 1"
    )
