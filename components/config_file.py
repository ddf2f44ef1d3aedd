"""A file on a machine that is never half-written and never replaces a working one by a broken one."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi_command import remote

from components.machine import INSTALL_FILE, Machine
from components.remote import run


@dataclass
class ConfigFileArgs:
    machine: Machine
    path: str
    content: pulumi.Input[str]
    mode: str = "0644"
    owner: str = "root:root"
    #: Command that refuses a bad file; ``$STAGED`` is the new one beside the old one.
    validate: pulumi.Input[str] = ""
    #: Command that makes running software take the new file; must succeed where it does not run yet.
    apply: str = ""
    #: Command that shows that the software works with it; if it fails the old file comes back and `up` fails.
    gate: str = ""
    triggers: Sequence[pulumi.Input[str]] = field(default_factory=tuple)


class ConfigFile(pulumi.ComponentResource):
    """Stage, validate with the real program, swap, apply, check. On failure the old file is back and in force."""

    def __init__(self, name: str, args: ConfigFileArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("mycat-ha:config_file:ConfigFile", name, {}, opts)
        script = pulumi.Output.from_input(args.validate).apply(lambda validate: _install(args, validate))
        self.command: remote.Command = run(
            f"{name}-file",
            args.machine.connection,
            script,
            stdin=args.content,
            shell=False,
            triggers=[args.machine.instance_id, *args.triggers],
            opts=pulumi.ResourceOptions.merge(args.machine.bound, pulumi.ResourceOptions(parent=self)),
        )
        self.register_outputs({})


def _install(args: ConfigFileArgs, validate: str) -> str:
    words = [INSTALL_FILE, args.path, args.mode, args.owner]
    for option, command in (("--validate", validate), ("--apply", args.apply), ("--gate", args.gate)):
        if command:
            words += [option, command]
    return shlex.join(words)
