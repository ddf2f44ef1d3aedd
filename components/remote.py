"""Commands over SSH, as root. Components use ``Machine.run``, which knows the machine."""

import shlex
from collections.abc import Sequence

import pulumi
from pulumi_command import remote


def as_root(script: str) -> str:
    """A command line that runs ``script`` with bash as root and leaves stdin to it. Never put a secret in it."""
    return f"sudo -n bash -euo pipefail -c {shlex.quote(script)}"


def run(
    name: str,
    connection: remote.ConnectionArgs,
    script: pulumi.Input[str],
    *,
    triggers: Sequence[pulumi.Input[str]],
    opts: pulumi.ResourceOptions,
    stdin: pulumi.Input[str] | None = None,
    timeout: str = "10m",
    shell: bool = True,
) -> remote.Command:
    """The resource behind ``Machine.run``, which describes the parameters."""
    return remote.Command(
        name,
        connection=connection,
        create=pulumi.Output.from_input(script).apply(as_root if shell else "sudo -n {}".format),
        stdin=stdin,
        triggers=list(triggers),
        # Whatever reads a file or a password might repeat it.
        logging=remote.Logging.NONE if stdin is not None else remote.Logging.STDERR,
        add_previous_output_in_env=False,
        opts=pulumi.ResourceOptions.merge(
            opts,
            pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout)),
        ),
    )
