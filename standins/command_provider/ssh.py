"""SSH connections as the real provider makes them, and commands over them."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncssh
from asyncssh.channel import SSHClientChannel
from asyncssh.constants import EXTENDED_DATA_STDERR
from asyncssh.packet import String

from standins.command_provider.errors import CommandError, failed_run
from standins.command_provider.output import Output

T = TypeVar("T")

# The delays between dials, in seconds (pulumi/pulumi: sdk/go/common/util/retry/until.go).
FIRST_DELAY, BACKOFF, LONGEST_DELAY = 0.1, 1.5, 5.0
# Go's TCP keepalive finds a dead peer after 15 s and nine probes of 15 s; this does it inside SSH.
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 15, 9
# From a TCP connection to a logged-in one; the real provider has no limit there and would hang.
HANDSHAKE_SECONDS = 120.0
WINDOW_BYTES, PACKET_BYTES = 2 * 1024 * 1024, 32768


@dataclass(frozen=True)
class Endpoint:
    """One host to log in to; `per_dial_timeout` is in seconds, 0 for none; `dial_error_limit` -1 for no limit."""

    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    private_key: str | None = field(repr=False)
    private_key_password: str | None = field(repr=False)
    agent_socket_path: str | None
    host_key: str | None
    dial_error_limit: int
    per_dial_timeout: float
    proxy: "Endpoint | None" = None

    @staticmethod
    def of(connection: dict[str, Any]) -> "Endpoint":
        """From a resource's `connection`, checked and without marks of secrecy."""
        proxy = connection.get("proxy")
        return Endpoint(
            host=connection["host"],
            port=int(connection.get("port", 22)),
            user=connection.get("user", "root"),
            password=connection.get("password"),
            private_key=connection.get("privateKey"),
            private_key_password=connection.get("privateKeyPassword"),
            agent_socket_path=connection.get("agentSocketPath") or os.environ.get("SSH_AUTH_SOCK") or None,
            host_key=connection.get("hostKey"),
            dial_error_limit=int(connection.get("dialErrorLimit", 10)),
            per_dial_timeout=float(connection.get("perDialTimeout", 15)),
            proxy=Endpoint.of(proxy) if proxy else None,
        )

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _reason(error: OSError) -> str:
    """The error's meaning in the words that Go uses."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)


def _private_key(text: str, passphrase: str | None) -> asyncssh.SSHKey:
    """The key as Go's x/crypto/ssh reads it, with its errors. None of them may show a part of the key."""
    # Of encrypted keys it knows OpenSSH's own format and the old PEM encryption.
    if "BEGIN ENCRYPTED PRIVATE KEY" in text:
        unknown = 'unsupported key type "ENCRYPTED PRIVATE KEY"'
        raise CommandError(f"ssh: {unknown if passphrase is None else 'not an encrypted key'}")
    try:
        key = asyncssh.import_private_key(text)
    except (asyncssh.KeyImportError, ValueError) as error:
        if "passphrase" not in str(error).lower():
            raise CommandError("ssh: no key found") from None
    else:
        if passphrase is not None:
            openssh = "BEGIN OPENSSH PRIVATE KEY" in text
            raise CommandError(f"ssh: {'key is not password protected' if openssh else 'not an encrypted key'}")
        return key
    if passphrase is None:
        raise CommandError("ssh: this private key is passphrase protected")
    try:
        return asyncssh.import_private_key(text, passphrase)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError):
        raise CommandError("x509: decryption password incorrect") from None


async def _options(endpoint: Endpoint) -> dict[str, Any]:
    """asyncssh's options; like the real provider, nothing is taken from the user's own SSH configuration."""
    keys: list[Any] = []
    if endpoint.private_key is not None:
        keys.append(_private_key(endpoint.private_key, endpoint.private_key_password))
    if endpoint.agent_socket_path:
        try:
            agent = await asyncssh.connect_agent(endpoint.agent_socket_path)
        except OSError as error:
            raise CommandError(f"dial unix {endpoint.agent_socket_path}: connect: {_reason(error)}") from None
        keys.extend(await agent.get_keys())
    options: dict[str, Any] = {
        "config": None,
        "username": endpoint.user,
        "client_keys": keys or None,
        "password": endpoint.password,
        "agent_path": None,
        "known_hosts": None,
        "gss_auth": False,
        "gss_kex": False,
        "host_based_auth": False,
        "keepalive_interval": KEEPALIVE_SECONDS,
        "keepalive_count_max": KEEPALIVE_COUNT,
        "connect_timeout": HANDSHAKE_SECONDS,
    }
    if endpoint.host_key is not None:
        try:
            key = asyncssh.import_public_key(endpoint.host_key)
        except (asyncssh.KeyImportError, ValueError):
            raise CommandError("failed to parse host key: ssh: no key found") from None
        options["known_hosts"] = ([key], [], [])
        options["server_host_key_algs"] = [key.algorithm.decode()]
    return options


async def _tcp(endpoint: Endpoint) -> socket.socket:
    """A connected socket within the time for one dial."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(endpoint.per_dial_timeout or None):
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        error: OSError = OSError("no address")
        for family, kind, protocol, _, address in found:
            connection = socket.socket(family, kind, protocol)
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, address)
            except OSError as failed:
                connection.close()
                error = failed
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise error


async def _retry(limit: int, dial: Callable[[], Awaitable[T]]) -> T:
    """Dials until it works; after `limit` failures the next one is final, with -1 none is."""
    delay = FIRST_DELAY
    failures = 0
    while True:
        try:
            return await dial()
        except CommandError as error:
            if -1 < limit <= failures:
                raise CommandError(f"after {failures} failed attempts: {error}") from None
            failures += 1
        await asyncio.sleep(delay)
        delay = min(delay * BACKOFF, LONGEST_DELAY)


async def _log_in(endpoint: Endpoint, options: dict[str, Any]) -> asyncssh.SSHClientConnection:
    try:
        return await asyncssh.connect(sock=await _tcp(endpoint), **options)
    except (TimeoutError, asyncssh.Error, OSError) as error:
        raise _login_error(endpoint, options, error) from None


def _login_error(endpoint: Endpoint, options: dict[str, Any], error: Exception) -> CommandError:
    match error:
        case TimeoutError():
            return CommandError(f"dial tcp {endpoint.address}: i/o timeout")
        case asyncssh.HostKeyNotVerifiable():
            return CommandError("ssh: handshake failed: ssh: host key mismatch")
        case asyncssh.PermissionDenied():
            methods = ["none"]
            methods += ["publickey"] if options["client_keys"] else []
            methods += ["password", "keyboard-interactive"] if endpoint.password is not None else []
            return CommandError(
                f"ssh: handshake failed: ssh: unable to authenticate, attempted methods [{' '.join(methods)}], "
                "no supported methods remain"
            )
        case asyncssh.Error():
            return CommandError(f"ssh: handshake failed: {error.reason}")
        case OSError():
            return CommandError(f"dial tcp {endpoint.address}: connect: {_reason(error)}")
    raise error


# The real provider never closes the connection of a command: it stays open until the plugin ends with its `up`.
_open: list[asyncssh.SSHClientConnection] = []


async def connect(endpoint: Endpoint, timeout: float) -> asyncssh.SSHClientConnection:
    """A logged-in connection, over the proxy if there is one, which stays open; `timeout` in seconds, 0 for none."""
    try:
        async with asyncio.timeout(timeout or None):
            connection = await _dial(endpoint)
    except TimeoutError:
        raise CommandError("context deadline exceeded") from None
    _open.append(connection)
    return connection


async def _dial(endpoint: Endpoint) -> asyncssh.SSHClientConnection:
    options = await _options(endpoint)
    if endpoint.proxy is None:
        return await _retry(endpoint.dial_error_limit, lambda: _log_in(endpoint, options))
    via = endpoint.proxy
    try:
        proxy_options = await _options(via)
        proxy = await _retry(via.dial_error_limit, lambda: _log_in(via, proxy_options))
        _open.append(proxy)
        return await _dial_through(proxy, endpoint, options)
    except CommandError as error:
        raise CommandError(f"proxy: {error}") from None


class _HandshakeError(Exception):
    """The tunnel stands, but the login over it failed."""


async def _dial_through(
    proxy: asyncssh.SSHClientConnection, endpoint: Endpoint, options: dict[str, Any]
) -> asyncssh.SSHClientConnection:
    """As the real provider does it: the tunnel is dialled again, a login over it only on the tunnel that it closed."""

    async def tunnel_and_log_in() -> asyncssh.SSHClientConnection:
        try:
            return await asyncssh.connect(endpoint.host, endpoint.port, tunnel=proxy, **options)
        except asyncssh.ChannelOpenError as error:
            raise CommandError(f"ssh: rejected: connect failed ({error.reason})") from None
        except (TimeoutError, asyncssh.Error, OSError) as error:
            raise _HandshakeError(str(_login_error(endpoint, options, error))) from None

    try:
        return await _retry(endpoint.dial_error_limit, tunnel_and_log_in)
    except _HandshakeError as error:
        reasons = iter([str(error)])

    async def log_in_again() -> asyncssh.SSHClientConnection:
        raise CommandError(next(reasons, "ssh: handshake failed: EOF"))

    return await _retry(endpoint.dial_error_limit, log_in_again)


class _Session(asyncssh.SSHClientSession[bytes]):
    def __init__(self, output: Output) -> None:
        self._output = output
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._output.feed("stderr" if datatype == EXTENDED_DATA_STDERR else "stdout", data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the status says what counts)
        if not self.closed.done():
            self.closed.set_result(None)


class _Channel(SSHClientChannel[bytes]):
    """A channel that waits for the answer about each environment variable, which asyncssh itself does not look at."""

    variables: dict[str, str]
    refused: Callable[[str], Awaitable[None]]

    async def _make_request(self, request: bytes, *args: bytes) -> bool | None:
        if request == b"exec":
            for name, value in self.variables.items():
                if not await super()._make_request(b"env", String(name), String(value)):
                    await self.refused(name)
        return await super()._make_request(request, *args)


async def run(
    connection: asyncssh.SSHClientConnection,
    command: str,
    stdin: str,
    variables: dict[str, str],
    refused: Callable[[str], Awaitable[None]],
    output: Output,
) -> None:
    """Runs a command; `refused` is called for a variable that the server does not accept, and may raise."""
    loop = asyncio.get_running_loop()
    channel = _Channel(connection, loop, "strict", None, "strict", WINDOW_BYTES, PACKET_BYTES)
    channel.variables, channel.refused = variables, refused
    try:
        session: _Session = await channel.create(  # type: ignore[assignment]
            # asyncssh takes an empty command for an interactive shell
            lambda: _Session(output),
            command or ":",
            None,
            {},
            False,
            None,
            None,
            {},
            False,
            None,
            None,
            False,
            False,
        )
        if stdin:
            channel.write(stdin.encode())
        channel.write_eof()
        await session.closed
    except (asyncssh.Error, OSError) as error:
        raise failed_run(str(error), command, bytes(output.both)) from None
    status, signal = channel.get_exit_status(), channel.get_exit_signal()
    if signal is not None:
        name, _, message, _ = signal
        why = f"Process exited with status {_signal_status(name)} from signal {name}"
        raise failed_run(why + (f". Reason was: {message}" if message else ""), command, bytes(output.both))
    if status is None:
        raise failed_run("wait: remote command exited without exit status or exit signal", command, bytes(output.both))
    if status != 0:
        raise failed_run(f"Process exited with status {status}", command, bytes(output.both))


def _signal_status(name: str) -> int:
    """What a shell would report for the signal, named as in RFC 4254 section 6.10."""
    numbers = {
        "HUP": 1,
        "INT": 2,
        "QUIT": 3,
        "ILL": 4,
        "ABRT": 6,
        "FPE": 8,
        "KILL": 9,
        "SEGV": 11,
        "PIPE": 13,
        "ALRM": 14,
        "TERM": 15,
    }
    return 128 + numbers.get(name, 0)
