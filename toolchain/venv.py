"""The virtual environment with exactly the packages of requirements.lock."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from toolchain.paths import LOCK, VENV, cache, digest
from toolchain.progress import ToolchainError, run, say
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
        _install_packages(folder / "bin" / "python")
        (folder / DONE).touch()
    return folder


def link(folder: Path) -> None:
    """Lets Pulumi.yaml's virtual environment be this one, unless `pulumi install` has made one there."""
    if VENV.is_symlink() and VENV.readlink() == folder:
        return
    if VENV.exists() and not VENV.is_symlink():
        return
    with lock("bin"):
        new = VENV.with_name(f".{VENV.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(folder)
        new.rename(VENV)


def _install_packages(python: Path) -> None:
    """Exactly the locked packages, checked by hash: with uv in a fraction of pip's time, with pip where uv cannot."""
    exact = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
    pip = [str(python), "-m", "pip", "--no-input", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
            only_uv.write(locked(LOCK.read_text(), "uv"))
            only_uv.flush()
            run("venv", "installing uv", [*pip, *exact, "--requirement", only_uv.name])
        uv = [str(python.with_name("uv")), "pip", "install", "--quiet", "--python", str(python)]
        run("venv", "installing packages", [*uv, *exact, "--requirement", str(LOCK)], env=_uv_environment())
    except ToolchainError as reason:
        say("venv", f"{reason}\nthis was uv; trying pip")
        run("venv", "installing packages", [*pip, *exact, "--requirement", str(LOCK)])


def locked(lock_text: str, package: str) -> str:
    """The lock's lines about one package: its version and hashes."""
    found = re.search(rf"^{re.escape(package)}==.*?(?=^\S|\Z)", lock_text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ToolchainError(f"venv: {LOCK.name} has no {package}: run `make lock`")
    return found.group()


def locked_version(package: str) -> str:
    """The version of a package in requirements.lock: programs that have to fit a package take theirs from here."""
    return locked(LOCK.read_text(), package).split()[0].partition("==")[2]


def _uv_environment() -> dict[str, str]:
    """uv does not read pip's settings, so those about where packages come from are handed on."""
    variables = dict(os.environ)
    for theirs, its in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_CERT", "SSL_CERT_FILE")):
        if theirs in variables:
            variables.setdefault(its, variables[theirs])
    return variables
