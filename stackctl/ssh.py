"""Commands on machines, as root, over SSH; a bastion on the way if need be."""

import asyncio
import math
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncssh

#: How many lines of a failed command's standard error an error quotes.
LAST_LINES = 5
#: Seconds without a sign of life after which a connection is lost: probes each second, so many of them unanswered.
UNANSWERED_SECONDS = 5
#: Seconds that a command has to end after it was told to, before it is killed.
KILL_AFTER = 5


class SshError(Exception):
    """What went wrong, with the address and the port where it did."""


@dataclass(frozen=True)
class Host:
    """Where a machine's sshd answers, and as whom to log in."""

    address: str
    port: int
    #: May become root without a password (sudo), or is root.
    user: str
    #: In OpenSSH's or PEM format, without a passphrase.
    private_key: str = field(repr=False)
    #: As in known_hosts, e.g. ``ssh-ed25519 AAAA...``; None trusts whoever answers.
    host_key: str | None
    #: The bastion; None connects directly.
    via: "Host | None" = None

    def __str__(self) -> str:
        way = f" (through {self.via})" if self.via else ""
        return f"{self.address}, port {self.port}{way}"


async def run(host: Host, command: str, *, stdin: str | None = None, timeout: float) -> str:
    """What the bash script ``command`` printed, run as root, its first failure being its end.

    ``timeout`` in seconds is for everything, the connection included; the machine ends the command by then, too, even
    if this side is gone. Secrets belong in ``stdin``, never in ``command``. Raises SshError.
    """
    try:
        async with asyncio.timeout(timeout), _connected(host) as connection:
            done = await connection.run(_as_root(host.user, command, timeout), input=stdin or "", encoding="utf-8")
    except TimeoutError:
        raise SshError(f"{host}: no answer within {timeout:g} s") from None
    except (OSError, asyncssh.Error) as error:
        raise SshError(f"{host}: the connection was lost: {_words(error)}") from None
    if done.exit_status != 0:
        how = f"exit status {done.exit_status}" if done.exit_signal is None else f"signal {done.exit_signal[0]}"
        last = "\n".join(str(done.stderr or "").strip().splitlines()[-LAST_LINES:])
        raise SshError(f"{host}: {how}{': ' if last else ''}{last}")
    return str(done.stdout or "")


async def run_on_all(hosts: Mapping[str, Host], command: str, timeout: float) -> dict[str, tuple[str, str]]:
    """By the hosts' names: what it has printed, and what went wrong."""

    async def on(host: Host) -> tuple[str, str]:
        try:
            return await run(host, command, timeout=timeout), ""
        except SshError as error:
            return "", str(error)

    return dict(zip(hosts, await asyncio.gather(*map(on, hosts.values())), strict=True))


def _as_root(user: str, command: str, timeout: float) -> str:
    limited = f"timeout --kill-after={KILL_AFTER} {math.ceil(timeout)} bash -euo pipefail -c {shlex.quote(command)}"
    return limited if user == "root" else f"sudo -n {limited}"


@asynccontextmanager
async def _connected(host: Host) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Nothing of the user's own SSH configuration, keys or agent takes part. Raises SshError."""
    if host.via:
        async with _connected(host.via) as tunnel, await _login(host, tunnel) as connection:
            yield connection
    else:
        async with await _login(host, None) as connection:
            yield connection


async def _login(host: Host, tunnel: asyncssh.SSHClientConnection | None) -> asyncssh.SSHClientConnection:
    known: tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]] | None
    try:
        key = asyncssh.import_private_key(host.private_key)
        known = None if host.host_key is None else ([asyncssh.import_public_key(host.host_key)], [], [])
    except asyncssh.KeyImportError as error:
        raise SshError(f"{host}: not a key: {error}") from None
    try:
        return await asyncssh.connect(
            host.address,
            host.port,
            tunnel=tunnel or (),
            username=host.user,
            client_keys=[key],
            known_hosts=known,
            config=None,
            agent_path=None,
            preferred_auth="publickey",
            keepalive_interval=1,
            keepalive_count_max=UNANSWERED_SECONDS,
        )
    except asyncssh.HostKeyNotVerifiable:
        raise SshError(f"{host}: another host key than the one that is known: another machine answers there") from None
    except asyncssh.PermissionDenied:
        raise SshError(f"{host}: login as {host.user} refused: the machine does not take this private key") from None
    except ConnectionRefusedError:
        raise SshError(f"{host}: refused: still booting, or its sshd does not run") from None
    except asyncssh.ChannelOpenError as error:
        raise SshError(f"{host}: the bastion cannot connect to it: {_words(error)}") from None
    except (OSError, asyncssh.Error) as error:
        raise SshError(f"{host}: no connection: {_words(error)}") from None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
