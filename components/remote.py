"""Commands over SSH, as root. Components use ``Machine.run``, which knows the machine."""

import shlex
from collections.abc import Sequence

import pulumi
from pulumi_command import remote

#: Seconds that the command provider waits for one connection.
DIAL_SECONDS = 5
#: Seconds that a machine which has booted before may be away, such as for another instance type.
AWAY_SECONDS = 300


def dials(seconds: float) -> int:
    """How often the command provider may fail to connect in ``seconds`` in which nothing answers.

    By a limit of dials it gives up with the address, the port and the reason; by its time only it says nothing of them.
    Between two dials it waits for 0.1 s, then half as long again each time, at most 5 s (pulumi/pulumi:
    sdk/go/common/util/retry/until.go). Where connections are refused at once, the limit is therefore reached in about
    half of the time.
    """
    limit, delay, ends = 0, 0.1, float(DIAL_SECONDS)
    while (ends := ends + delay + DIAL_SECONDS) < seconds:
        limit, delay = limit + 1, min(delay * 1.5, 5.0)
    return limit


def as_root(command: str, timeout: str) -> str:
    """A command line that runs another one as root, at most for ``timeout``, and leaves stdin to it.

    Ended by timeout(1) on the machine, which says so: the command provider's own timeout bounds its dialling only.
    Never put a secret in it.
    """
    return f"sudo -n timeout --verbose --kill-after=30 {timeout} {command}"


def bash(script: str) -> str:
    """The command line that runs ``script``."""
    return f"bash -euo pipefail -c {shlex.quote(script)}"


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
        create=pulumi.Output.from_input(script).apply(lambda text: as_root(bash(text) if shell else text, timeout)),
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
