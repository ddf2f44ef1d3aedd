"""Programs of the load balancers on this machine, for tests that let them judge what was rendered for them."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolchain import sources, system
from toolchain.download import fetch
from toolchain.paths import digest
from toolchain.progress import ToolchainError, run, say
from toolchain.store import lock, obtain


def source(url: str, sha256: str) -> Path:
    """The archive, from $CACHE/sources or from `url`. Raises ToolchainError."""
    name = url.rsplit("/", 1)[1]
    for known in sources.SOURCES:
        if known.sha256 == sha256:
            sources.install()
            return sources.folder() / known.name
    file = sources.folder() / f"{sha256[:16]}-{name}"
    with lock("sources"):
        if not file.exists():
            sources.folder().mkdir(parents=True, exist_ok=True)
            fetch(url, file, sha256)
    return file


def build(name: str, archive: Path, commands: str, packages: Sequence[str]) -> Path:
    """The prefix of `name`, built once by the shell commands that build it on a machine.

    They run in the unpacked archive and install into $PREFIX; `packages` are the
    distribution's that they need. Raises ToolchainError.
    """

    def make(part: Path) -> None:
        system.install({}, packages)
        with tempfile.TemporaryDirectory(prefix=f"build-{name}-") as work:
            run(name, "unpacking", ["tar", "-xf", str(archive), "-C", work, "--strip-components=1", "--no-same-owner"])
            environment = {**os.environ, "PREFIX": str(part)}
            run(name, "building for the tests", ["bash", "-exc", commands], cwd=Path(work), env=environment)

    release = Path("/etc/os-release").read_text()
    return obtain(f"build-{name}", digest(archive, commands, release), make)


# Where newer versions than the release's come from; experimental has the newest long-term one before a release does.
NEWER_SUITES = ("sid", "experimental")
LOADER = "usr/lib/*/ld-linux-*.so.*"


def distribution_haproxy(branch: str) -> Path:
    """A prefix with `sbin/haproxy` of the branch, such as 3.4, from the distribution's newer suites.

    It is the distribution's own build, with the libraries that it was made for
    beside it, and enough for judging a configuration. Which release of the
    branch it is stays as it was when it was fetched. Raises ToolchainError.
    """
    return obtain("haproxy-distribution", branch, lambda part: _unpack_haproxy(part, branch))


def _unpack_haproxy(part: Path, branch: str) -> None:
    address = sources.distribution_archive()
    with tempfile.TemporaryDirectory(prefix="haproxy-distribution-") as scratch:
        work = Path(scratch)
        options = sources.private_apt(work, *(f"deb {address} {suite} main" for suite in NEWER_SUITES))
        run("haproxy", "reading the newer suites' lists", ["apt-get", *options, "update"])
        offered = run("haproxy", "looking for it", ["apt-cache", *options, "madison", "haproxy"])
        version = next((v for line in offered.splitlines() if (v := line.split()[2]).startswith(f"{branch}.")), None)
        if version is None:
            raise ToolchainError(f"haproxy: {', '.join(NEWER_SUITES)} have no {branch}")
        say("haproxy", f"fetching the distribution's {version}")
        recursion = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances", "pre-depends")
        argv = ["apt-cache", *options, "depends", "--recurse", *(f"--no-{kind}" for kind in recursion), "haproxy"]
        listed = run("haproxy", "finding its libraries", argv).splitlines()
        libraries = [line for line in listed if line.startswith("lib")]
        packages = work / "packages"
        packages.mkdir()
        run("haproxy", "fetching", ["apt-get", *options, "download", f"haproxy={version}", *libraries], cwd=packages)
        for package in sorted(packages.glob("*.deb")):
            run("haproxy", "unpacking", ["dpkg-deb", "--extract", str(package), str(part)])
    # Its libraries are newer than this machine's, and so it is started by its own loader.
    (loader,) = part.glob(LOADER)
    folder = loader.relative_to(part).parent
    (part / "sbin").mkdir()
    (part / "sbin" / "haproxy").write_text(
        '#!/bin/sh\nprefix=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")\n'
        f'exec "$prefix/{folder}/{loader.name}" --library-path "$prefix/{folder}" "$prefix/usr/sbin/haproxy" "$@"\n'
    )
    (part / "sbin" / "haproxy").chmod(0o755)
    (part / "errorfiles").symlink_to("etc/haproxy/errors")
