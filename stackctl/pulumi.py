"""The Pulumi CLI, with a stack's own configuration file, without a terminal."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from stackctl.project import Stack, StackError
from toolchain.paths import ROOT

NO_PULUMI = (
    "there is no `pulumi` on PATH: run `python3 -m toolchain install`, "
    "then this command behind `python3 -m toolchain exec --`"
)


class Pulumi:
    """Runs `pulumi` on one stack, in this process's environment: backend, passphrase and AWS_* come from there."""

    def __init__(self, stack: Stack):
        self.stack = stack

    def stream(self, *arguments: str) -> int:
        """Run with the output passed through; the exit code.

        SIGINT and SIGTERM are Pulumi's to handle: it ends what is under way and saves the state. A second one makes it
        give up at once.
        """
        argv = ["pulumi", *arguments, *self._where(arguments)]
        with self._start(argv, cwd=self.stack.root, stdin=subprocess.DEVNULL) as process:

            def forward(number: int, _frame: FrameType | None) -> None:
                # A terminal's Ctrl-C reaches the whole process group, so Pulumi has that one already.
                if number != signal.SIGINT or os.getpgrp() != _foreground():
                    process.send_signal(number)

            previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                return process.wait()
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    def read(self, *arguments: str, stdin: str | None = None, cwd: Path | None = None) -> str:
        """Run and return standard output. Raises StackError with what Pulumi wrote to standard error."""
        argv = ["pulumi", *arguments, *self._where(arguments), "--non-interactive"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with self._start(argv, cwd=cwd or self.stack.root, **pipes) as process:
            output, complaint = process.communicate(stdin or "")
        if process.returncode != 0:
            said = "\n".join(filter(None, (output.strip(), complaint.strip())))
            raise StackError(f"`pulumi {' '.join(arguments)}` failed: {said}")
        return output

    def read_json(self, *arguments: str) -> Any:
        return json.loads(self.read(*arguments, "--json"))

    def _where(self, arguments: Sequence[str]) -> list[str]:
        where = ["--stack", self.stack.name]
        if arguments[0] in ("up", "preview", "refresh", "destroy", "config") and self.stack.config_file.exists():
            where += ["--config-file", str(self.stack.config_file)]
        return where

    def _start(self, argv: Sequence[str], **how: Any) -> "subprocess.Popen[str]":
        try:
            # A stack whose settings file is not here takes the secrets provider from its state.
            environment = {**os.environ, "PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER": "true"}
            return subprocess.Popen(argv, env=environment, **how)
        except FileNotFoundError:
            raise StackError(NO_PULUMI) from None

    # What the backend knows of the stack

    def exists(self) -> bool:
        return self.stack.name in stack_names(self.stack.root)

    def tags(self) -> dict[str, str]:
        """The tags of the stack itself (not of its resources), kept by the backend."""
        return dict(self.read_json("stack", "tag", "ls"))

    def tag(self, name: str, value: str) -> None:
        self.read("stack", "tag", "set", name, value)

    def state(self) -> dict[str, Any]:
        """The stack's deployment: `resources`, `pending_operations` ... Secrets in it stay encrypted."""
        return dict(json.loads(self.read("stack", "export"))["deployment"])


def stack_names(root: Path = ROOT) -> list[str]:
    """All stacks of the project in the backend."""
    try:
        listed = subprocess.run(
            ["pulumi", "stack", "ls", "--json", "--non-interactive"],
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise StackError(NO_PULUMI) from None
    if listed.returncode != 0:
        raise StackError(f"`pulumi stack ls` failed: {listed.stderr.strip()}")
    # Pulumi Cloud puts an organization in front of the name.
    return [str(entry["name"]).rpartition("/")[2] for entry in json.loads(listed.stdout)]


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _foreground() -> int:
    """The process group that the terminal's signals go to; -1 without a terminal."""
    try:
        with open("/dev/tty") as terminal:  # noqa: PTH123 - a device, not a path
            return os.tcgetpgrp(terminal.fileno())
    except OSError:
        return -1
