"""A throwaway SSH server on loopback, which remembers nothing but what its commands leave in files."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.channel import SSHServerChannel
from asyncssh.packet import SSHPacket

PASSWORD = "correct horse battery staple"
# As in an sshd_config with AcceptEnv ACCEPTED_* PULUMI_COMMAND_*.
ACCEPT_ENV = ("ACCEPTED_", "PULUMI_COMMAND_")


@dataclass
class Server:
    key: asyncssh.SSHKey
    host_key: asyncssh.SSHKey
    port: int = 0
    logins: list[str] = field(default_factory=list)
    tunnels: list[str] = field(default_factory=list)
    connected: int = 0
    most_at_once: int = 0

    @functools.cached_property  # each export differs in its check numbers
    def private_key(self) -> str:
        return self.key.export_private_key().decode()

    def encrypted_key(self, passphrase: str, form: str = "openssh") -> str:
        return self.key.export_private_key(form, passphrase).decode()

    @property
    def host_public_key(self) -> str:
        return self.host_key.export_public_key().decode().strip()


class _Server(asyncssh.SSHServer):
    def __init__(self, state: Server) -> None:
        self._state = state

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._state.connected += 1
        self._state.most_at_once = max(self._state.most_at_once, self._state.connected)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connected -= 1

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return bool(key.public_data == self._state.key.public_data)

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == PASSWORD

    def auth_completed(self) -> None:
        self._state.logins.append("")

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        self._state.tunnels.append(f"{dest_host}:{dest_port}")
        return True


def _process_env_request(channel: SSHServerChannel[bytes], packet: SSHPacket) -> bool:
    key, value = packet.get_string(), packet.get_string()
    packet.check_end()
    if not key.decode().startswith(ACCEPT_ENV):
        return False
    channel._env[key] = value
    return True


async def _command(process: asyncssh.SSHServerProcess[bytes], folder: Path) -> None:
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    env |= {_text(key): _text(value) for key, value in (process.env or {}).items()}
    child = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", process.command or "", cwd=folder, env=env,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin
    assert child.stdout
    assert child.stderr
    pumps = [
        asyncio.ensure_future(_pump(child.stdout, process.stdout)),
        asyncio.ensure_future(_pump(child.stderr, process.stderr)),
    ]
    feeding = asyncio.ensure_future(_pump(process.stdin, child.stdin))
    try:
        await asyncio.gather(*pumps)
        status = await child.wait()
    except asyncio.CancelledError:
        # The server stops. What is left of a command would be collected when its event loop is gone.
        child.terminate()
        await child.communicate()
        raise
    finally:
        feeding.cancel()
    if status < 0:
        process.exit_with_signal("TERM")
    else:
        process.exit(status)


async def _pump(source: Any, target: Any) -> None:
    """Copies until the end; a command that does not read all its input is nothing to complain about."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        if isinstance(target, asyncio.StreamWriter):
            target.close()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@contextmanager
def serving(folder: Path, port: int = 0, like: Server | None = None) -> Iterator[Server]:
    """A server whose commands run in `folder`; `like` lends its keys to a second one."""
    state = Server(
        key=like.key if like else asyncssh.generate_private_key("ssh-ed25519"),
        host_key=like.host_key if like else asyncssh.generate_private_key("ssh-ed25519"),
    )
    loop = asyncio.new_event_loop()
    original = SSHServerChannel._process_env_request
    SSHServerChannel._process_env_request = _process_env_request  # type: ignore[assignment, method-assign]

    async def start() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=lambda: _Server(state),
            server_host_keys=[state.host_key],
            process_factory=lambda process: _command(process, folder),
            sftp_factory=True,
            encoding=None,
            line_editor=False,
            config=None,
        )

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    acceptor = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    state.port = acceptor.get_port()
    try:
        yield state
    finally:

        async def stop() -> None:
            acceptor.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
        SSHServerChannel._process_env_request = original  # type: ignore[method-assign]
