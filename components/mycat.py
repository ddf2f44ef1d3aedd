"""Mycat on a machine: from a pinned distribution, configured without dropping clients, run by systemd."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

import settings.mycat
from components.config_file import BASH_SYNTAX, PYTHON_SYNTAX
from components.machine import Machine
from components.source_build import SourceBuild, SourceBuildArgs
from components.template import render, verbatim
from constants import LIBRARY

SYSCTL = "/etc/sysctl.d/91-mycat.conf"
#: Debian packages: what Mycat runs on, and what mycat-apply talks to it with.
PACKAGES = ("openjdk-17-jre-headless", "python3-pymysql")


@dataclass
class MycatArgs:
    machine: Machine
    mycat: settings.mycat.Mycat
    #: Seconds after which Mycat ends a statement.
    sql_execute_timeout: int
    #: server.xml, schema.xml and whatever else belongs to them, by name; they hold passwords.
    files: pulumi.Input[Mapping[str, str]]
    #: What has to work before anything that runs here is changed: the databases, the Mycat before this one.
    after: Sequence[pulumi.Resource] = ()


class Mycat(pulumi.ComponentResource):
    """Mycat running with the stack's configuration, and answering.

    The distribution is unpacked like a build, in a prefix named after its checksum. Its configuration is one bundle,
    because its files only make sense together.
    """

    #: Different whenever something that Mycat runs with is.
    version: pulumi.Output[str]

    def __init__(self, name: str, args: MycatArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:mycat:Mycat", name, {}, opts)
        mycat, machine = args.mycat, args.machine
        child = pulumi.ResourceOptions(parent=self)
        build = SourceBuild(name, SourceBuildArgs(machine, "mycat", mycat.source, PACKAGES), child)
        system = machine.run(f"{name}-system", render("mycat/system.sh.j2"), opts=child)
        after_system = pulumi.ResourceOptions(parent=self, depends_on=[system])
        unit = verbatim("mycat/mycat.service")
        start = render("mycat/run.sh.j2", heap_mib=mycat.heap_mib, direct_memory_mib=mycat.direct_memory_mib)
        files = [
            machine.file(
                f"{name}-run",
                f"{LIBRARY}/mycat-run",
                start,
                mode="0755",
                validate=BASH_SYNTAX,
                opts=after_system,
            ),
            machine.file(
                f"{name}-apply",
                f"{LIBRARY}/mycat-apply",
                verbatim("mycat/mycat_apply.py"),
                mode="0755",
                validate=PYTHON_SYNTAX,
                opts=after_system,
            ),
            machine.file(
                f"{name}-unit",
                "/etc/systemd/system/mycat.service",
                unit,
                apply="systemctl daemon-reload",
                opts=after_system,
            ),
            machine.file(
                f"{name}-sysctl",
                SYSCTL,
                verbatim("mycat/sysctl.conf"),
                apply=f"sysctl --quiet --load={SYSCTL}",
                opts=after_system,
            ),
        ]
        # The distribution's own log4j2.xml writes where Mycat here may not write.
        defaults = {"log4j2.xml": verbatim("mycat/log4j2.xml")}
        bundle = pulumi.Output.secret(args.files).apply(lambda files: json.dumps({**defaults, **files}, sort_keys=True))
        self.applied = machine.run(
            f"{name}-configuration",
            build.prefix.apply(lambda prefix: f"{LIBRARY}/mycat-apply {prefix} {machine.address}"),
            stdin=bundle,
            shell=False,
            triggers=[_digest(unit, start)],
            # Mycat may refuse a second change of data nodes until statements from before the first must have ended.
            timeout=f"{args.sql_execute_timeout + 600}s",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*files, *args.after]),
        )
        # Made of passwords too, and so a secret itself.
        self.version = pulumi.Output.all(build.prefix, bundle).apply(lambda parts: _digest(*parts, unit, start))
        self.register_outputs({})


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
