"""Mycat on a machine: from a pinned distribution, configured without dropping clients, run by systemd."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.config_file import ConfigFile, ConfigFileArgs
from components.machine import Machine
from components.mycat_files import configuration
from components.remote import run
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
        system = run(
            f"{name}-system",
            machine.connection,
            render("mycat/system.sh.j2"),
            triggers=[machine.instance_id],
            opts=pulumi.ResourceOptions.merge(machine.bound, child),
        )
        unit = verbatim("mycat/mycat.service")
        start = render("mycat/run.sh.j2", heap_mib=mycat.heap_mib, direct_memory_mib=mycat.direct_memory_mib)
        files = [
            ConfigFile(
                f"{name}-{suffix}",
                ConfigFileArgs(machine=machine, path=path, content=content, mode=mode, validate=validate, apply=apply),
                pulumi.ResourceOptions(parent=self, depends_on=[system]),
            )
            for suffix, path, content, mode, validate, apply in (
                ("run", f"{LIBRARY}/mycat-run", start, "0755", 'bash -n "$STAGED"', ""),
                (
                    "apply",
                    f"{LIBRARY}/mycat-apply",
                    verbatim("mycat/mycat_apply.py"),
                    "0755",
                    'python3 -c "import ast, sys; ast.parse(open(sys.argv[1]).read())" "$STAGED"',
                    "",
                ),
                ("unit", "/etc/systemd/system/mycat.service", unit, "0644", "", "systemctl daemon-reload"),
                ("sysctl", SYSCTL, verbatim("mycat/sysctl.conf"), "0644", "", f"sysctl --quiet --load={SYSCTL}"),
            )
        ]
        bundle = json.dumps(
            {
                # The distribution's own writes where Mycat here may not write.
                "log4j2.xml": verbatim("mycat/log4j2.xml"),
                **configuration(args.settings, args.machine_settings),
            },
            sort_keys=True,
        )
        self.applied = run(
            f"{name}-configuration",
            machine.connection,
            build.prefix.apply(lambda prefix: f"{LIBRARY}/mycat-apply {prefix} {machine.address}"),
            stdin=bundle,
            shell=False,
            triggers=[machine.instance_id, _digest(unit, start)],
            # Mycat may refuse a second change of data nodes until statements from before the first must have ended.
            timeout=f"{mycat.sql_execute_timeout + 600}s",
            opts=pulumi.ResourceOptions.merge(
                machine.bound, pulumi.ResourceOptions(parent=self, depends_on=[*files, *args.after])
            ),
        )
        # Of passwords too, and so a secret itself.
        self.version = pulumi.Output.secret(build.prefix.apply(lambda prefix: _digest(prefix, bundle, unit, start)))
        self.register_outputs({})


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
