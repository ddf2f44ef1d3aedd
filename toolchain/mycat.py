"""The Mycat distribution: the one that MYCAT_ARCHIVE names, else the local stack's release, else a stand-in.

No release of Mycat has a published checksum: the sum of the first download is
pinned in the cache, and another one is refused from then on. The stand-in,
which is built here, takes the place of a release that cannot be downloaded.
"""

import gzip
import io
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from toolchain import system
from toolchain.download import UnavailableError, fetch, sha256
from toolchain.paths import ROOT, cache, digest
from toolchain.progress import ToolchainError, run, say
from toolchain.store import lock, obtain

SETTING = "MYCAT_ARCHIVE"
SOURCE = ROOT / "standins" / "mycat"
STACK = ROOT / "stacks" / "Pulumi.local.yaml"
#: Mycat's release that the stand-in behaves like.
VERSION = "1.6.7.6"
RELEASE = "11"
FOLDERS = ("bin", "lib", "conf", "catlet", "logs")


@dataclass(frozen=True)
class Archive:
    path: Path
    sha256: str
    version: str
    stand_in: bool

    def words(self) -> str:
        """Which one it is, for whoever runs something on it."""
        if not self.stand_in:
            return f"Mycat from {self.path}"
        return (
            f"NOT MYCAT but a stand-in for it, since Mycat cannot be downloaded here: {self.path}. It covers logins as "
            "server.xml's users, the schemas, and statements to the data nodes that schema.xml names, sharded by "
            f"PartitionByMod; it refuses all else. For a real one set {SETTING}=path to its tar.gz"
        )


def install() -> Archive:
    """The archive, downloaded or built if it has to be, and says which one it is. Raises ToolchainError."""
    if not os.environ.get(SETTING):
        try:
            download(release(STACK.read_text()))
        except UnavailableError as reason:
            say("mycat", f"the release cannot be downloaded: {reason}")
    found = archive()
    say("mycat", found.words())
    return found


def archive() -> Archive:
    """The archive that machines of a local region get; it asks nobody for a download. Raises ToolchainError."""
    given = os.environ.get(SETTING)
    if given:
        path = Path(given).expanduser().absolute()
        if not path.is_file():
            raise ToolchainError(f"mycat: {SETTING}={given} is not a file")
        return Archive(path, sha256(path), _version(path.name), stand_in=False)
    path = downloaded(release(STACK.read_text()))
    total = pinned(path)
    if path.is_file() and total is not None:
        if sha256(path) != total:
            raise ToolchainError(f"mycat: {path} is damaged: run `python3 -m toolchain install --only mycat`")
        return Archive(path, total, _version(path.name), stand_in=False)
    key = digest(SOURCE, VERSION, RELEASE)
    name = f"mycat-standin-{key}.tar.gz"
    path = obtain("mycat-standin", key, lambda part: _build(part / name)) / name
    return Archive(path, sha256(path), VERSION, stand_in=True)


def release(stack: str) -> str:
    """The address of the release in a stack's file, which is read without a YAML parser: none is installed yet."""
    found = re.search(r'^  mycat-ha:mycat:\n(?: {4}.*\n)*? {4}url: "?((?:\\\n|[^"\n])+)', stack, re.MULTILINE)
    if found is None:
        raise ToolchainError(f"mycat: {STACK} has no mycat-ha:mycat with a url")
    return re.sub(r"\\\n *", "", found.group(1)).strip()


def downloaded(url: str) -> Path:
    """Where the release is after its download."""
    return cache() / "mycat" / PurePosixPath(urlsplit(url).path).name


def _pin(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def pinned(path: Path) -> str | None:
    """The sum that the release had when it was first downloaded, from a file as sha256sum writes it."""
    return _pin(path).read_text().split()[0] if _pin(path).exists() else None


def download(url: str) -> None:
    """Puts the release into the cache, if it is not there. UnavailableError; ToolchainError for another sum."""
    path = downloaded(url)
    with lock("mycat"):
        total = pinned(path)
        if total is not None and path.is_file() and sha256(path) == total:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        arrived = path.with_name(f".{path.name}")
        try:
            fetch(url, arrived, None)
            if not _is_whole(arrived):
                raise UnavailableError(f"{url}: what came is not a whole tar archive of Mycat")
            found = sha256(arrived)
            if total is None:
                _pin(path).write_text(f"{found}  {path.name}\n")
                say(
                    "mycat",
                    f"{path.name} has the sha256 {found}. No release has a published one to compare it with: this one "
                    f"is pinned in {_pin(path)}, and another is refused from now on. To check it, download {url} on "
                    "another machine, over another network, and compare what sha256sum says there",
                )
            elif found != total:
                raise ToolchainError(
                    f"mycat: {url}: its sha256 is {found}, but it was {total} when it was first downloaded; not used. "
                    "Download it on another machine, over another network, and compare: if the new sum is right, "
                    f"remove {_pin(path)}; else set {SETTING}=path to an archive that you trust"
                )
            arrived.rename(path)
        finally:
            arrived.unlink(missing_ok=True)


def _is_whole(archive: Path) -> bool:
    """Whether it is Mycat's folder to its end, and neither cut off nor a web page that says why not."""
    try:
        with tarfile.open(archive) as tar:
            return any(name.startswith("mycat/") for name in tar.getnames())
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        return False


def _version(name: str) -> str:
    """From a name such as Mycat-server-1.6.7.5-release-20200422133810-linux.tar.gz."""
    numbers = [word for word in name.split("-") if word[:1].isdigit() and "." in word]
    return numbers[0].removesuffix(".tar.gz") if numbers else VERSION


def _build(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="mycat-standin-") as scratch:
        sources = sorted(str(path) for path in SOURCE.rglob("*.java"))
        argv = [_compiler(), "--release", RELEASE, "-Xlint:all", "-Werror", "-d", scratch, *sources]
        run("mycat", "compiling the stand-in", argv)
        library = io.BytesIO()
        with zipfile.ZipFile(library, "w", zipfile.ZIP_DEFLATED) as jar:
            for path in sorted(Path(scratch).rglob("*.class")):
                jar.writestr(zipfile.ZipInfo(str(path.relative_to(scratch))), path.read_bytes(), zipfile.ZIP_DEFLATED)
    files = {
        f"lib/Mycat-server-{VERSION}-standin.jar": library.getvalue(),
        "version.txt": f"A stand-in for Mycat {VERSION}; not Mycat.\n".encode(),
    }
    # No times, no owners: the same classes make the same archive.
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for folder in ("mycat", *(f"mycat/{name}" for name in FOLDERS)):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(f"mycat/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _compiler() -> str:
    """javac, from Debian's package when there is none."""
    found = shutil.which("javac")
    if found is None:
        system.install(system.JDK)
        found = shutil.which("javac")
    if found is None:
        raise ToolchainError(f"mycat: no javac on PATH, although {system.JDK['javac']} is installed")
    return found
