"""The Pulumi CLI with its Python language host."""

import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from toolchain import download, golang, gomodule, venv
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

CLI_FLAGS = (
    *gomodule.FLAGS,
    "-ldflags",
    f"-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={VERSION}",
)
HOST_FLAGS = (*gomodule.FLAGS, "-ldflags", "-s -w")
#: That host is older than the engine, which tells it Pulumi.yaml's options with each request; it knows them from its
#: command line only. In the folder that it is started in, the project's, the one option that matters is looked up.
HOST_LAUNCHER = """#!/bin/sh
virtualenv=$(sed -n 's/^ *virtualenv: *//p' Pulumi.yaml 2>/dev/null)
exec "$(dirname "$(readlink -f "$0")")/pulumi-language-python-host" \\
    ${virtualenv:+"-virtualenv=$virtualenv" "-root=$PWD"} "$@"
"""

MODULE = "github.com/pulumi/pulumi/pkg/v3"
#: State buckets and keys at Azure and Google, with their SDKs, are a fifth of the CLI's packages, and of no use here.
#: Each file of the module with what is cut out of it: regular expressions that have to match, and replacements.
CUTS = {
    "backend/diy/backend.go": (
        (r'\t"gocloud\.dev/blob/azureblob"[^\n]*\n', ""),
        (r'\t"gocloud\.dev/blob/gcsblob"[^\n]*\n', ""),
        (r'\t"github\.com/pulumi/pulumi/pkg/v3/authhelpers"\n', ""),
        (r"\tif p\.Scheme == gcsblob\.Scheme \{.*?\n\t\}\n", ""),
        (r"\tif p\.Scheme == azureblob\.Scheme \{.*?\n\t\}\n", ""),
    ),
    "secrets/cloud/manager.go": (
        (r'\t_ "gocloud\.dev/secrets/azurekeyvault"[^\n]*\n', ""),
        (r'\t"gocloud\.dev/secrets/gcpkms"[^\n]*\n', ""),
        (r'\t"google\.golang\.org/api/cloudkms/v1"\n', ""),
        (r'\t"github\.com/pulumi/pulumi/pkg/v3/authhelpers"\n', ""),
        (r'\tnetUrl "net/url"\n', ""),
        (r"\tu, err := netUrl\.Parse\(url\)\n.*?\tdefault:\n\t(\t[^\n]*\n)\t\}\n", r"\1"),
    ),
    "operations/resources.go": ((r"GCPOperationsProvider\(ctx, ops\.config, ops\.resource\)", "nil, nil"),),
}
#: Google's logs, which `pulumi logs` would show.
LEFT_OUT = ("authhelpers", "operations/operations_gcp.go")


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
    key = digest(CLI_MODULE, HOST_MODULE, repr((CLI_FLAGS, HOST_FLAGS, HOST_LAUNCHER, CUTS, LEFT_OUT)))
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
    output = f"{part}/"
    argv = [go, "build", *HOST_FLAGS, "-o", f"{part}/pulumi-language-python-host", HOST_PACKAGE]
    run("pulumi", "building pulumi-language-python", argv, cwd=HOST_MODULE, env=env)
    with tempfile.TemporaryDirectory(prefix=".pulumi-build-", dir=part.parent) as scratch:
        main, module = Path(scratch) / "main", Path(scratch) / "module"
        shutil.copytree(CLI_MODULE, main)
        source = gomodule.download("pulumi", MODULE, go, CLI_MODULE, env)
        gomodule.link_tree(source, module, [path.name for path in source.iterdir()])
        reduce(module)
        replace = [go, "mod", "edit", f"-replace={MODULE}={module}"]
        run("pulumi", "naming the reduced module", replace, cwd=main, env=env)
        argv = [go, "build", "-mod=mod", *CLI_FLAGS, "-o", output, CLI_PACKAGE]
        run("pulumi", "building pulumi", argv, cwd=main, env=env)
    # The host starts programs through this script; it is part of the same module, beside the Go sources.
    sources = run(
        "pulumi", "finding the host's script", [go, "list", "-f", "{{.Dir}}", HOST_PACKAGE], cwd=HOST_MODULE, env=env
    )
    (part / "pulumi-language-python").write_text(HOST_LAUNCHER)
    (part / "pulumi-language-python").chmod(0o755)
    script = Path(sources.strip().splitlines()[-1]).parent / "pulumi-language-python-exec"
    shutil.copyfile(script, part / script.name)
    (part / script.name).chmod(0o755)


def reduce(module: Path) -> None:
    """Cuts what is left out from a copy of the CLI's module. Raises ToolchainError where it is not as expected."""
    for name in LEFT_OUT:
        path = module / name
        if not path.exists():
            raise gomodule.unexpected(name, "is not there")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name, cuts in CUTS.items():
        gomodule.rewrite(module, name, lambda text, cuts=cuts, name=name: _cut(name, text, cuts))  # type: ignore[misc]


def _cut(name: str, text: str, cuts: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in cuts:
        text, times = re.subn(pattern, replacement, text, flags=re.DOTALL)
        if times != 1:
            raise gomodule.unexpected(name, f"has {times} of {pattern}, not one")
    return text
