"""Pulumi's provider plugins: the real ones where they can be had, else what stands in for them in this project."""

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from toolchain import aws_bridge, download, venv
from toolchain.paths import BIN, LOCAL, ROOT, cache
from toolchain.progress import ToolchainError, run, say
from toolchain.store import lock

# A plugin fits the Python package of the same version.
VERSIONS = {name: venv.locked_version(f"pulumi-{name}") for name in ("aws", "command")}
OFFICIAL = "https://get.pulumi.com/"
INSTALL_SECONDS = 900.0


def home() -> Path:
    """PULUMI_HOME: the work tree's own, but its plugins are kept in the cache."""
    folder = LOCAL / "pulumi"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    plugins = cache() / "pulumi-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    link = folder / "plugins"
    if link.is_symlink() and link.readlink() != plugins:
        link.unlink()
    if not link.exists():
        link.symlink_to(plugins)
    return folder


def real(name: str, pulumi: Path) -> str | None:
    """Where the real plugin is, after an attempt to install it; None, with the reason said, where it cannot be had."""
    program = f"pulumi-resource-{name}"
    search = os.pathsep.join(
        folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(folder) != BIN
    )
    present = shutil.which(program, path=search)
    if present:
        return f"{present}, found on PATH"
    version = VERSIONS[name]
    installed = home() / "plugins" / f"resource-{name}-v{version}"
    if not (installed / program).exists():
        unreachable = download.unreachable(OFFICIAL)
        if unreachable:
            say(name, f"the real plugin cannot be downloaded: {unreachable}")
            return None
        argv = [str(pulumi / "pulumi"), "plugin", "install", "resource", name, version, "--non-interactive"]
        env = {**os.environ, "PULUMI_HOME": str(home()), "PULUMI_SKIP_UPDATE_CHECK": "true"}
        try:
            run(name, f"installing the real plugin {version}", argv, env=env, timeout=INSTALL_SECONDS)
        except ToolchainError as reason:
            say(name, f"the real plugin cannot be installed: {reason}")
            return None
    return f"the real plugin {version} ({installed})"


def install_aws(pulumi: Path, go: Callable[[], str]) -> None:
    found = real("aws", pulumi)
    link = BIN / "pulumi-resource-aws"
    if found:
        link.unlink(missing_ok=True)
        say("aws", found)
        return
    folder = aws_bridge.build(go)
    _replace(link, lambda new: new.symlink_to(folder / "pulumi-resource-aws"))
    say("aws", f"the Terraform AWS provider behind Pulumi's bridge, built from Go modules ({folder})")


def install_command(pulumi: Path, python: Path) -> None:
    found = real("command", pulumi)
    launcher = BIN / "pulumi-resource-command"
    if found:
        launcher.unlink(missing_ok=True)
        say("command", found)
        return

    def write(new: Path) -> None:
        new.write_text(stand_in_launcher(python))
        new.chmod(0o755)

    _replace(launcher, write)
    say(
        "command",
        f"this project's stand-in for version {VERSIONS['command']} ({ROOT / 'standins' / 'command_provider'})",
    )


def stand_in_launcher(python: Path) -> str:
    """A script of this work tree's, because it names this tree's stand-in and its virtual environment."""
    return (
        "#!/bin/sh\n"
        f"PYTHONPATH={shlex.quote(str(ROOT))} "
        f'exec {shlex.quote(str(python / "bin" / "python"))} -m standins.command_provider "$@"\n'
    )


def link_cli(pulumi: Path) -> None:
    """Puts the CLI's programs on the PATH of `toolchain exec`; one found on PATH needs no link, and gets none."""
    own = pulumi.is_relative_to(cache())
    for name in ("pulumi", "pulumi-language-python", "pulumi-language-python-exec"):
        if own:
            _replace(BIN / name, lambda new, name=name: new.symlink_to(pulumi / name))  # type: ignore[misc]
        else:
            (BIN / name).unlink(missing_ok=True)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside `path` and renames, so that a running `pulumi` never meets half a file."""
    with lock("bin"):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        write(new)
        new.rename(path)
