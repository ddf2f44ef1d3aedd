"""Mycat on a machine: from a pinned distribution, configured without dropping clients, run by systemd."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.machine import Machine
from components.mycat_files import configuration
from components.source_build import SourceBuild, SourceBuildArgs
from components.template import render, verbatim
from constants import LIBRARY
from settings import MachineSettings, Settings

SYSCTL = "/etc/sysctl.d/91-mycat.conf"
#: What Mycat runs on, and what the tool talks to it with.
PACKAGES = ("openjdk-17-jre-headless", "python3-pymysql")


@dataclass
class MycatArgs:
    settings: Settings
    machine: Machine
    machine_settings: MachineSettings
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
        mycat, machine = args.settings.mycat, args.machine
        assert mycat is not None
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
                validate='bash -n "$STAGED"',
                opts=after_system,
            ),
            machine.file(
                f"{name}-apply",
                f"{LIBRARY}/mycat-apply",
                verbatim("mycat/mycat_apply.py"),
                mode="0755",
                validate='python3 -c "import ast, sys; ast.parse(open(sys.argv[1]).read())" "$STAGED"',
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
        bundle = json.dumps(
            {
                # The distribution's own writes where Mycat here may not write.
                "log4j2.xml": verbatim("mycat/log4j2.xml"),
                **configuration(args.settings, args.machine_settings),
            },
            sort_keys=True,
        )
        self.applied = machine.run(
            f"{name}-configuration",
            build.prefix.apply(lambda prefix: f"{LIBRARY}/mycat-apply {prefix} {machine.address}"),
            stdin=bundle,
            shell=False,
            triggers=[_digest(unit, start)],
            # Mycat may refuse a second change of data nodes until statements from before the first must have ended.
            timeout=f"{mycat.sql_execute_timeout + 600}s",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*files, *args.after]),
        )
        # Of passwords too, and so a secret itself.
        self.version = pulumi.Output.secret(build.prefix.apply(lambda prefix: _digest(prefix, bundle, unit, start)))
        self.register_outputs({})


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
