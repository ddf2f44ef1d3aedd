"""The Pulumi CLI, with a stack's own configuration file, without a terminal.

The one place where the project runs Pulumi; drills and tests use it as well. It is not Pulumi's Automation API: that
gives a secret to `config set` in a command line, has no standard input for it, forwards no signal, and looks for stack
files beside the program, whatever stackConfigDir says (pulumi/pulumi#10305).
"""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from stackctl.environment import Environment, environment
from stackctl.project import Stack, StackError
from toolchain.paths import ROOT

NO_PULUMI = (
    "there is no `pulumi` on PATH: run `python3 -m toolchain install`, "
    "then this command behind `python3 -m toolchain exec --`"
)


class Pulumi:
    """Runs `pulumi` on one stack with backend, passphrase and AWS_* of an environment: this process's by default."""

    def __init__(self, stack: Stack, variables: Environment | None = None):
        self.stack = stack
        self.environment = variables or environment()

    def stream(self, *arguments: str) -> int:
        """Run with the output passed through; the exit code.

        SIGINT and SIGTERM are Pulumi's to handle: it ends what is under way and saves the state. A second one makes it
        give up at once.
        """
        argv = [*arguments, *self._options(arguments)]
        with _start(argv, self.environment, cwd=self.stack.root, stdin=subprocess.DEVNULL) as process:

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
        return _read(arguments, self._options(arguments), self.environment, cwd or self.stack.root, stdin)

    def read_json(self, *arguments: str) -> Any:
        return json.loads(self.read(*arguments, "--json"))

    def _options(self, arguments: Sequence[str]) -> list[str]:
        options = ["--stack", self.stack.name]
        if arguments[0] in ("up", "preview", "refresh", "destroy", "config") and self.stack.config_file.exists():
            options += ["--config-file", str(self.stack.config_file)]
        return options

    # What the backend knows of the stack

    def open_environment(self, name: str) -> dict[str, Any]:
        """The values of an environment of Pulumi ESC, secrets in plain text. Raises StackError with Pulumi's reason."""
        opened = _read(["env", "open", name, "--format", "json"], [], self.environment, self.stack.root)
        return dict(json.loads(opened))

    def exists(self) -> bool:
        return self.stack.name in stack_names(self.environment, self.stack.root)

    def tags(self) -> dict[str, str]:
        """The tags of the stack itself (not of its resources), kept by the backend."""
        return dict(self.read_json("stack", "tag", "ls"))

    def tag(self, name: str, value: str) -> None:
        self.read("stack", "tag", "set", name, value)

    def outputs(self, *, show_secrets: bool = False) -> str:
        """The stack's outputs as JSON. Raises StackError if there is no such stack."""
        return self.read("stack", "output", "--json", *(["--show-secrets"] if show_secrets else []))

    def remove(self, *, force: bool = False) -> None:
        """Remove the stack itself; with ``force`` also one that still has resources, of which nobody knows then."""
        # Without --preserve-config Pulumi deletes the committed settings as well.
        self.read("stack", "rm", "--yes", "--preserve-config", *(["--force"] if force else []))

    def state(self) -> dict[str, Any]:
        """The stack's deployment: `resources`, `pending_operations` ... Secrets in it stay encrypted."""
        return dict(json.loads(self.read("stack", "export"))["deployment"])


def stack_names(variables: Environment | None = None, root: Path = ROOT) -> list[str]:
    """All stacks of the project in the backend."""
    listed = json.loads(_read(["stack", "ls"], ["--json"], variables or environment(), root))
    # Pulumi Cloud puts an organization in front of the name.
    return [str(entry["name"]).rpartition("/")[2] for entry in listed]


def stack_outputs(name: str) -> dict[str, Any]:
    """The outputs of one of the project's stacks, secrets in plain text. Raises StackError if it does not exist."""
    return dict(json.loads(Pulumi(Stack(name)).outputs(show_secrets=True)))


def _read(
    arguments: Sequence[str], options: Sequence[str], variables: Environment, cwd: Path, stdin: str | None = None
) -> str:
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with _start([*arguments, *options, "--non-interactive"], variables, cwd=cwd, **pipes) as process:
        output, errors = process.communicate(stdin or "")
    if process.returncode != 0:
        printed = "\n".join(filter(None, (output.strip(), errors.strip())))
        raise StackError(f"`pulumi {' '.join(arguments)}` failed: {printed}")
    return output


def _start(arguments: Sequence[str], variables: Environment, **options: Any) -> "subprocess.Popen[str]":
    # A stack whose settings file is not here takes the secrets provider from its state.
    env = {**variables.variables, "PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER": "true"}
    try:
        return subprocess.Popen(["pulumi", *arguments], env=env, **options)
    except FileNotFoundError:
        raise StackError(NO_PULUMI) from None


def _foreground() -> int:
    """The process group that the terminal's signals go to; -1 without a terminal."""
    try:
        with open("/dev/tty") as terminal:  # noqa: PTH123 - a device, not a path
            return os.tcgetpgrp(terminal.fileno())
    except OSError:
        return -1
