"""command:remote:CopyToRemote: copies a file, a text or a folder over SFTP."""

import os
import posixpath
from pathlib import Path

import asyncssh

from standins.command_provider import ssh
from standins.command_provider.errors import CommandError
from standins.command_provider.operation import Properties
from standins.command_provider.values import Asset


async def copy(properties: Properties, timeout: float) -> None:
    """Copies; `timeout` in seconds, 0 for none, is for the connection."""
    source: Asset = properties["source"]
    target: str = properties["remotePath"]
    connection = await ssh.connect(ssh.Endpoint.of(properties["connection"]), timeout)
    try:
        async with connection.start_sftp_client() as sftp:
            if source.path is None:
                await _copy_text(sftp, source.text or "", target)
            else:
                await _copy_path(sftp, source.path, target)
    except asyncssh.Error as error:
        raise CommandError(f"failed to copy to remote path {target}: {error.reason}") from None
    except OSError as error:
        raise CommandError(f"failed to copy to remote path {target}: {error}") from None
    finally:
        connection.close()  # unlike a command's, as in the real one


async def _copy_text(sftp: asyncssh.SFTPClient, content: str, target: str) -> None:
    if await sftp.isdir(target):
        raise CommandError(
            f"remote path {target} is a directory; when using a text asset, remotePath must be a file path"
        )
    await sftp.makedirs(posixpath.dirname(target) or ".", exist_ok=True)
    async with sftp.open(target, "wb") as remote:
        await remote.write(content.encode())


async def _copy_path(sftp: asyncssh.SFTPClient, source: str, target: str) -> None:
    """
    source | target is a folder     | target is not there | target is a file
    -------|------------------------|---------------------|------------------
    dir    | target/dir             | target/dir          | error
    dir/   | target/x for x in dir  | target/x            | error
    file   | target/file            | target              | target, overwritten
    """
    exists, is_folder = await sftp.exists(target), await sftp.isdir(target)
    if not Path(source).is_dir():
        if is_folder:
            target = posixpath.join(target, Path(source).name)
        elif not exists:
            await sftp.makedirs(posixpath.dirname(target) or ".", exist_ok=True)
        await sftp.put(source, target)
        return
    if not exists:
        await sftp.makedirs(target, exist_ok=True)
    if not source.endswith("/"):
        target = posixpath.join(target, Path(source).name)
    for folder, folders, files in os.walk(source):
        folders.sort()
        inner = os.path.relpath(folder, source)
        remote = target if inner == "." else posixpath.join(target, inner)
        if not await sftp.exists(remote):
            await sftp.mkdir(remote)
        elif not await sftp.isdir(remote):
            raise CommandError(f"remote path {remote} exists but is not a directory")
        for file in sorted(files):
            await sftp.put(os.path.join(folder, file), posixpath.join(remote, file))  # noqa: PTH118 (as os.walk has it)
