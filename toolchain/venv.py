"""The virtual environment with exactly the packages of requirements.lock."""

import os
import shutil
import sys
from pathlib import Path

from toolchain.paths import LOCK, cache, digest
from toolchain.progress import run, say
from toolchain.store import lock

DONE = "complete"


def path() -> Path:
    """The environment's folder; a virtual environment cannot be moved, so it is made in place and marked when done."""
    return cache() / f"venv-{digest(LOCK, sys.version)}"


def install() -> Path:
    folder = path()
    if (folder / DONE).exists():
        return folder
    with lock("venv"):
        if (folder / DONE).exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        say("venv", f"installing the packages of requirements.lock into {folder}")
        # The python that runs this may itself sit in a virtual environment; its base does not.
        base = Path(getattr(sys, "_base_executable", sys.executable))
        run("venv", "creating the virtual environment", [str(base), "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
        run(
            "venv",
            "installing packages",
            [*pip, "--require-hashes", "--only-binary", ":all:", "--requirement", str(LOCK)],
            env={**os.environ, "PIP_PROGRESS_BAR": "off"},
        )
        (folder / DONE).touch()
    return folder
