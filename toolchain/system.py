"""The distribution's packages that the local region and the build need on this machine."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from toolchain.progress import ToolchainError, run, say

# What is looked for, and the package that brings it.
NEEDED = {
    "curl": "curl",
    "debootstrap": "debootstrap",
    "git": "git",
    "ip": "iproute2",
    "mariadb": "mariadb-client",
    "nft": "nftables",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
}
JDK = {"javac": "openjdk-17-jdk-headless"}
# What the tests without a region need besides: databases on this machine, and copies of them.
NEEDED_BY_CHECK = {
    **JDK,
    "git": "git",
    "mariadb-backup": "mariadb-backup",
    "mariadbd": "mariadb-server-core",
    "zstd": "zstd",
}
# What the other tests need: a browser for the statistics page, a Java client for the databases.
NEEDED_BY_TESTS = {**NEEDED_BY_CHECK, "chromium": "chromium", "mvn": "maven"}
# Packages without a command of their own.
ALSO_NEEDED = ("ca-certificates", "python3-venv")


def _package_installed(package: str) -> bool:
    state = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package],
        check=False,
        capture_output=True,
        text=True,
    )
    return state.stdout == "installed"


def missing(commands: Mapping[str, str] = NEEDED, also: Sequence[str] = ALSO_NEEDED) -> list[str]:
    """The packages to install for the commands, and those of `also`."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    packages = [package for command, package in commands.items() if shutil.which(command, path=search) is None]
    return packages + [package for package in also if not _package_installed(package)]


def install(commands: Mapping[str, str] = NEEDED, also: Sequence[str] = ALSO_NEEDED) -> None:
    if shutil.which("apt-get") is None:
        raise ToolchainError("system: no apt-get: the local region needs a Debian 12 machine (or one made like it)")
    packages = missing(commands, also)
    if not packages:
        say("system", "every package is there")
        return
    wanted = " ".join(packages)
    if os.geteuid() != 0:
        raise ToolchainError(f"system: not root; run `apt-get install --no-install-recommends {wanted}` first")
    say("system", f"installing {wanted}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "--quiet", "--yes", "--option=DPkg::Lock::Timeout=300"]
    run("system", "reading the package lists", [*apt, "update"], env=env)
    run("system", "installing packages", [*apt, "install", "--no-install-recommends", *packages], env=env)
