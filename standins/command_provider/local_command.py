"""command:local:Command: runs a command on the deployer's machine."""

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path

from standins.command_provider.errors import CommandError, failed_run
from standins.command_provider.operation import Properties, Teller, previous_output
from standins.command_provider.output import Output
from standins.command_provider.values import ARCHIVE, Asset, file_asset

DEFAULT_INTERPRETER = ["/bin/sh", "-c"]


async def run(command: str, properties: Properties, previous: Properties, tell: Teller, timeout: float) -> Properties:
    """The properties that the run sets.

    `previous` are those of the last state; `timeout` in seconds, 0 for none, is for the command.
    """
    argv = [*(properties.get("interpreter") or DEFAULT_INTERPRETER), command]
    folder = Path(properties.get("dir") or Path.cwd())
    env = {**os.environ, **(properties.get("environment") or {}), **previous_output(properties, previous)}
    if not folder.is_dir():
        raise failed_run(f"chdir {folder}: no such file or directory", command, b"")
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a group of its own, so that what it starts can be ended with it
        )
    except OSError as error:
        raise failed_run(f"fork/exec {argv[0]}: {(error.strerror or '').lower()}", command, b"") from None
    output = Output(properties.get("logging"), tell.status)
    try:
        with contextlib.suppress(TimeoutError):  # it is killed below, and fails by that
            async with asyncio.timeout(timeout or None):
                await asyncio.gather(
                    _read("stdout", process.stdout, output),
                    _read("stderr", process.stderr, output),
                    _write(process.stdin, (properties.get("stdin") or "").encode()),
                )
                await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        status = await process.wait()
        await output.finish()
    if status < 0:
        raise failed_run(f"signal: {signal.strsignal(-status) or -status}".lower(), command, bytes(output.both))
    if status > 0:
        raise failed_run(f"exit status {status}", command, bytes(output.both))
    results: Properties = dict(output.outputs())
    if "assetPaths" in properties:
        results["assets"] = _matching(folder, properties["assetPaths"])
    if "archivePaths" in properties:
        results["archive"] = Asset(ARCHIVE, {"assets": _matching(folder, properties["archivePaths"])})
    return results


async def _read(name: str, stream: asyncio.StreamReader | None, output: Output) -> None:
    assert stream is not None
    while data := await stream.read(65536):
        output.feed(name, data)


async def _write(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    assert stream is not None
    try:
        stream.write(data)
        await stream.drain()
        stream.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the command did not want all of it; its exit status tells whether that matters


def _matching(folder: Path, patterns: list[str]) -> dict[str, Asset]:
    """The files that the patterns include and later ones beginning with "!" do not exclude again."""
    rules = [(pattern.startswith("!"), re.compile(glob_expression(pattern.removeprefix("!")))) for pattern in patterns]
    found = {}
    for file in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name = file.relative_to(folder).as_posix()
        included = False
        for exclude, rule in rules:
            if rule.fullmatch(name):
                included = not exclude
        if included:
            found[name] = file_asset(file)
    return found


def glob_expression(pattern: str) -> str:
    """A regular expression for a pattern of github.com/gobwas/glob with "/" as separator."""
    expression, index, depth = "", 0, 0
    while index < len(pattern):
        character = pattern[index]
        if pattern.startswith("**", index):
            expression += ".*"
            index += 1
        elif character == "*":
            expression += "[^/]*"
        elif character == "?":
            expression += "[^/]"
        elif character == "[":
            end = pattern.find("]", index + 1)
            if end < 0:
                raise CommandError(f"the path pattern {pattern!r} has a [ without its ]")
            inside = pattern[index + 1 : end]
            negated = inside.startswith("!")
            expression += f"[{'^' if negated else ''}{re.escape(inside.removeprefix('!')).replace(chr(92) + '-', '-')}]"
            index = end
        elif character == "{":
            expression, depth = expression + "(?:", depth + 1
        elif character == "}" and depth:
            expression, depth = expression + ")", depth - 1
        elif character == "," and depth:
            expression += "|"
        elif character == "\\" and index + 1 < len(pattern):
            index += 1
            expression += re.escape(pattern[index])
        else:
            expression += re.escape(character)
        index += 1
    if depth:
        raise CommandError(f"the path pattern {pattern!r} has a {{ without its }}")
    return expression
