"""The programs in files/, run as they are with real bash: what they call is found in a folder of stubs first."""

import os
import signal
import subprocess
from pathlib import Path

FILES = Path(__file__).parents[1] / "files"

#: Every stub writes down how it was called, one line a call, before it does anything.
STUB = """#!/bin/bash
echo "${{0##*/}} $*" >>{calls}
{script}
"""


def _default_signals() -> None:
    """What is ignored where the tests were started, as by `pytest &` in a script or by nohup, cannot be trapped."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Stubs:
    """A folder of commands that stands in front of PATH."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._calls = folder.parent / f"{folder.name}.calls"
        self._calls.touch()
        self._started: list[subprocess.Popen[str]] = []

    def add(self, command: str, script: str = "") -> None:
        """From now on ``command`` runs this bash script, which succeeds if it is empty."""
        # Replaced in one step: one that runs at the moment goes on with the script that it began with.
        written = self.folder / f".{command}"
        written.write_text(STUB.format(calls=self._calls, script=script))
        written.chmod(0o755)
        written.replace(self.folder / command)

    def calls(self, command: str = "") -> list[str]:
        """What was called, oldest first; of one command only its arguments."""
        lines = self._calls.read_text().splitlines()
        return [line.removeprefix(f"{command} ") for line in lines if line.split(" ")[0] == command or not command]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", **more}

    def start(self, file: str, *arguments: str, stdin: str = "", **environment: str) -> "subprocess.Popen[str]":
        """``files/<file>`` in the background, its input written."""
        process = subprocess.Popen(
            ["bash", str(FILES / file), *arguments],
            env=self.environment(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_default_signals,  # noqa: PLW1509
        )
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        self._started.append(process)
        return process

    def end(self) -> None:
        """Nothing that was started outlives its test."""
        for process in self._started:
            process.kill()
            process.communicate()

    def run(
        self, file: str, *arguments: str, stdin: str = "", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """``files/<file>`` until it ends, at most two minutes."""
        return subprocess.run(
            ["bash", str(FILES / file), *arguments],
            env=self.environment(**environment),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
