"""The pinned source archives that machines are built from.

Each comes from its project's site, or, where that cannot be reached, from the
distribution's source archive, which carries the unmodified upstream file: the
SHA-256 is the same, so it does not matter which one it was.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from toolchain.download import fetch, sha256
from toolchain.paths import cache
from toolchain.progress import ToolchainError, say
from toolchain.store import lock


@dataclass(frozen=True)
class Source:
    """One archive: `package` is what apt-get calls it in the distribution's `suite`."""

    url: str
    sha256: str
    suite: str
    package: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


SOURCES = (
    Source(
        "https://www.haproxy.org/download/3.0/src/haproxy-3.0.11.tar.gz",
        "a133e2d550c5fd9a849b5c7ab17bb945bcdad209ca140d41f45ebf31943ae783",
        "trixie",
        "haproxy",
    ),
    Source(
        "https://www.keepalived.org/software/keepalived-2.3.4.tar.gz",
        "6afd95ddb7d3e0d3b8b8e5b3a489144131b61a01b06d29e883d0c44acc8a36bf",
        "sid",
        "keepalived=1:2.3.4-1",
    ),
)


def folder() -> Path:
    return cache() / "sources"


def install() -> None:
    """Puts every archive into $CACHE/sources, checked; archives that are there already are checked again."""
    folder().mkdir(parents=True, exist_ok=True)
    with lock("sources"):
        for source in SOURCES:
            destination = folder() / source.name
            if destination.exists() and sha256(destination) == source.sha256:
                say("sources", f"{source.name} is there")
                continue
            try:
                fetch(source.url, destination, source.sha256)
                say("sources", f"{source.name} from its project's site")
            except ToolchainError as reason:
                say("sources", f"{reason}; trying the distribution's source archive")
                _from_distribution(source, destination)
                say("sources", f"{source.name} from the distribution's source archive ({source.suite})")


def distribution_archive() -> str:
    """The address of the archive that this machine's own packages come from."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    codename = release.get("VERSION_CODENAME", "").strip('"')
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE)|$(REPO_URI)", "Created-By: Packages"],
        check=False,
        capture_output=True,
        text=True,
    )
    for line in listed.stdout.splitlines():
        suite, address = line.split("|")
        if suite == codename:
            return address
    raise ToolchainError(
        f"sources: apt knows no archive for {codename or 'this distribution'}: look at /etc/apt/sources.list.d"
    )


def private_apt(work: Path, *listed: str) -> list[str]:
    """The start of an apt command line that knows the sources `listed` and nothing else, with its lists in `work`."""
    # apt's own download user has to reach the folder; otherwise apt says so at length and does it as root.
    work.chmod(0o755)
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text("".join(f"{line}\n" for line in listed))
    options = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": work / "parts",
        "Dir::Etc::preferencesparts": work / "parts",
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Acquire::Languages": "none",
        # A mirror's list may be out of date, which does not matter for an archive whose own sum is known.
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Retries": "3",
        "APT::Sandbox::User": "root",
    }
    return ["--quiet", "--quiet", *(f"--option={name}={value}" for name, value in options.items())]


def _from_distribution(source: Source, destination: Path) -> None:
    """Lets apt-get fetch the archive, with lists of its own, so that the machine's stay as they are."""
    address = distribution_archive()
    with tempfile.TemporaryDirectory(prefix=f".{source.name}-", dir=destination.parent) as scratch:
        work = Path(scratch)
        apt = ["apt-get", *private_apt(work, f"deb-src {address} {source.suite} main")]
        said = []
        for command in (["update"], ["source", "--download-only", "--only-source", source.package]):
            done = subprocess.run(
                [*apt, *command], check=False, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            said += done.stderr.strip().splitlines()
        # apt-get fails when only the description (.dsc) is gone from the mirror: what counts is the archive's sum.
        for file in work.glob("*.tar.*"):
            if sha256(file) == source.sha256:
                file.chmod(0o644)
                file.rename(destination)
                return
        raise ToolchainError(
            f"sources: {source.name} is neither at {source.url} nor in the distribution's archive ({source.suite}): "
            f"{' '.join(said)}; "
            f"put it into {destination.parent} by hand (sha256 {source.sha256})"
        )
