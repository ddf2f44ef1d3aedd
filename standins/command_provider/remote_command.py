"""command:remote:Command: runs a command over SSH."""

from standins.command_provider import ssh
from standins.command_provider.errors import CommandError, quote
from standins.command_provider.operation import Properties, Teller, previous_output
from standins.command_provider.output import Output


async def run(command: str, properties: Properties, previous: Properties, tell: Teller, timeout: float) -> Properties:
    """The properties that the run sets.

    `previous` are those of the last state; `timeout` in seconds, 0 for none, is for the connection.
    """
    endpoint = ssh.Endpoint.of(properties["connection"])
    wanted: dict[str, str] = properties.get("environment") or {}
    optional = previous_output(properties, previous)

    async def refused(name: str) -> None:
        text = (
            f"Unable to set '{name}'. This only works if your SSH server is configured to accept these variables via "
            "AcceptEnv. Alternatively, if a Bash-like shell runs the command on the remote host, you could prefix the "
            "command itself with the variables in the form 'VAR=value command'"
        )
        if name in wanted:
            await tell.error(text)
            raise CommandError(f"could not set environment variable {quote(name)}: ssh: setenv failed")
        await tell.warning(text)

    output = Output(properties.get("logging"), tell.status)
    try:
        connection = await ssh.connect(endpoint, timeout)
        await ssh.run(connection, command, properties.get("stdin") or "", {**optional, **wanted}, refused, output)
    finally:
        await output.finish()
    return output.outputs()
