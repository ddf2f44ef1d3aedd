"""The Pulumi CLI with its Python language host."""

import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from toolchain import download, golang, venv
from toolchain.paths import ROOT, digest
from toolchain.progress import ToolchainError, run, say
from toolchain.store import entry, obtain

VERSION = venv.locked_version("pulumi")
PROGRAMS = ("pulumi", "pulumi-language-python", "pulumi-language-python-exec")
ARCHIVES = "https://get.pulumi.com/releases/sdk"
RELEASE = f"https://github.com/pulumi/pulumi/releases/download/v{VERSION}"
ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}

CLI_MODULE = ROOT / "toolchain" / "pulumi"
CLI_PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
# The newest published Go module with a language host is older than the CLI: it is released with the CLI's archive only.
HOST_MODULE = ROOT / "toolchain" / "language-python"
HOST_PACKAGE = "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python"

# The flags decide what Go's build cache can reuse: another set compiles everything again.
CLI_FLAGS = (
    "-trimpath",
    "-ldflags",
    f"-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={VERSION}",
)
HOST_FLAGS = ("-trimpath", "-ldflags", "-s -w")


def version(pulumi: str) -> tuple[int, ...]:
    """What `pulumi version` says, as numbers; () where it does not run."""
    env = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        said = subprocess.run([pulumi, "version"], check=False, capture_output=True, text=True, env=env).stdout
    except OSError:
        return ()
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", said.strip())
    return tuple(map(int, found.groups())) if found else ()


def new_enough(found: tuple[int, ...]) -> bool:
    """The same major version as the pinned one, and not older."""
    pinned = tuple(map(int, VERSION.split(".")))
    return found[:1] == pinned[:1] and found >= pinned


def on_path() -> Path | None:
    """The folder of a CLI on PATH that is new enough and has its language host beside it or on PATH."""
    pulumi = shutil.which("pulumi")
    if pulumi is None:
        return None
    if not new_enough(version(pulumi)):
        say("pulumi", f"{pulumi} is older than {VERSION} (or of another major version): not used")
        return None
    folder = Path(pulumi).resolve().parent
    if shutil.which("pulumi-language-python", path=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}") is None:
        say("pulumi", f"{pulumi} has no pulumi-language-python: not used")
        return None
    return folder


def install(go: Callable[[], str]) -> Path:
    """The folder with the CLI and its language host; `go` is asked for Go only when something is to be built."""
    present = on_path()
    if present:
        say("pulumi", f"{present / 'pulumi'}, found on PATH")
        return present
    key = digest(CLI_MODULE, HOST_MODULE, repr((CLI_FLAGS, HOST_FLAGS)))
    try:
        if entry("pulumi", key).is_dir():
            # The same version: no run after that has to wait for a site that may not answer.
            raise ToolchainError("built already")
        folder = obtain("pulumi-download", VERSION, _download)
        say("pulumi", f"{VERSION}, the official download ({folder})")
    except ToolchainError as reason:
        if not entry("pulumi", key).is_dir():
            say("pulumi", f"no official download ({reason}): building it from its Go module")
        folder = obtain("pulumi", key, lambda part: _build(part, go()))
        say("pulumi", f"{VERSION}, built from its Go module ({folder})")
    if not new_enough(version(str(folder / "pulumi"))):
        raise ToolchainError(f"pulumi: {folder / 'pulumi'} does not run as {VERSION}: remove {folder} and try again")
    return folder


def _download(part: Path) -> None:
    """The official archive, checked against the sums that its release publishes."""
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise ToolchainError(f"there is none for {platform.machine()}")
    name = f"pulumi-v{VERSION}-linux-{architecture}.tar.gz"
    sums = download.read(f"{RELEASE}/pulumi-{VERSION}-checksums.txt").decode()
    published = {file: total for total, file in (line.split() for line in sums.splitlines() if line.strip())}
    if name not in published:
        raise ToolchainError(f"its release publishes no sum for {name}")
    say("pulumi", f"downloading {name}")
    download.fetch(f"{ARCHIVES}/{name}", part / name, published[name])
    with tarfile.open(part / name) as archive:
        for member in archive:
            program = Path(member.name).name
            content = archive.extractfile(member) if program in PROGRAMS else None
            if content is not None:
                (part / program).write_bytes(content.read())
                (part / program).chmod(0o755)
    (part / name).unlink()


def _build(part: Path, go: str) -> None:
    env = golang.environment(go)
    for module, flags, package in ((HOST_MODULE, HOST_FLAGS, HOST_PACKAGE), (CLI_MODULE, CLI_FLAGS, CLI_PACKAGE)):
        name = package.rsplit("/", 1)[1]
        run("pulumi", f"building {name}", [go, "build", *flags, "-o", f"{part}/", package], cwd=module, env=env)
    # The host starts programs through this script; it is part of the same module, beside the Go sources.
    sources = run(
        "pulumi", "finding the host's script", [go, "list", "-f", "{{.Dir}}", HOST_PACKAGE], cwd=HOST_MODULE, env=env
    )
    script = Path(sources.strip().splitlines()[-1]).parent / "pulumi-language-python-exec"
    shutil.copyfile(script, part / script.name)
    (part / script.name).chmod(0o755)
