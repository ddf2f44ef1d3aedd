"""Software built on the machine from a pinned source archive."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi
from pulumi_command import remote

from components.machine import Machine
from components.template import render
from settings import SettingsError
from settings.base import SourceArchive


@dataclass
class SourceBuildArgs:
    machine: Machine
    #: Its folder in templates/ has a build.sh.j2: it builds in the source's directory and installs into ``$PREFIX``.
    software: str
    source: SourceArchive
    #: Debian packages that the build needs.
    packages: Sequence[str] = ()


class SourceBuild(pulumi.ComponentResource):
    """A build in a prefix named after everything that went into it, so that it is made once and never changes.

    The running version is not touched: the component that uses the build switches to it. A build that fails makes
    `up` fail with the last lines of its log.
    """

    #: e.g. /opt/haproxy/3.0.11-1f2e3d4c5b6a-debian12
    prefix: pulumi.Output[str]

    def __init__(self, name: str, args: SourceBuildArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:source_build:SourceBuild", name, {}, opts)
        source, commands = args.source, render(f"{args.software}/build.sh.j2")
        digest = hashlib.sha256("\0".join((source.version, source.sha256, commands)).encode()).hexdigest()[:12]
        archive_on_machine = f"/var/cache/mycat-ha/{args.software}-{source.version}.tar.gz"
        depends: list[pulumi.Resource] = []
        if source.archive:
            depends.append(self._upload(name, args, f"{archive_on_machine}.uploaded"))
        build = args.machine.run(
            f"{name}-build",
            render(
                "source_build/build.sh.j2",
                software=args.software,
                source=source,
                archive=archive_on_machine,
                digest=digest,
                build=commands,
                packages=args.packages,
            ),
            timeout="30m",
            opts=pulumi.ResourceOptions(parent=self, depends_on=depends),
        )
        self.prefix = build.stdout.apply(str.strip)
        self.register_outputs({"prefix": self.prefix})

    def _upload(self, name: str, args: SourceBuildArgs, target: str) -> remote.CopyToRemote:
        path = Path(str(args.source.archive)).expanduser()
        key = f"mycat-ha:{args.software}.archive"
        if not path.is_file():
            raise SettingsError(f"{key}: no file at {path}; leave the key out to download {args.source.url}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != args.source.sha256:
            raise SettingsError(
                f"mycat-ha:{args.software}.sha256: {path} has sha256 {found}, the settings demand {args.source.sha256}"
            )
        directory = args.machine.run(
            f"{name}-upload-directory",
            f'install -d -m 0755 /var/cache/mycat-ha; install -d -m 0755 -o "$SUDO_USER" {target}',
            opts=pulumi.ResourceOptions(parent=self),
        )
        return args.machine.upload(
            f"{name}-upload",
            str(path),
            f"{target}/archive",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[directory]),
        )
