"""The Mycat distribution: the one that MYCAT_ARCHIVE names, or a stand-in that is built here.

No package registry has Mycat, and no release of it has a published checksum.
"""

import gzip
import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from toolchain import system
from toolchain.download import sha256
from toolchain.paths import ROOT, digest
from toolchain.progress import ToolchainError, run, say
from toolchain.store import obtain

SETTING = "MYCAT_ARCHIVE"
SOURCE = ROOT / "standins" / "mycat"
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
            f"NOT MYCAT but a stand-in for it, since no package registry has Mycat: {self.path}. It covers logins as "
            "server.xml's users, the schemas, and statements to the data nodes that schema.xml names, sharded by "
            f"PartitionByMod; it refuses all else. For a real one set {SETTING}=path to its tar.gz"
        )


def install() -> Archive:
    """The archive, built if it has to be, and says which one it is. Raises ToolchainError."""
    found = archive()
    say("mycat", found.words())
    return found


def archive() -> Archive:
    """The archive that machines of a local region get. Raises ToolchainError."""
    given = os.environ.get(SETTING)
    if given:
        path = Path(given).expanduser().absolute()
        if not path.is_file():
            raise ToolchainError(f"mycat: {SETTING}={given} is not a file")
        return Archive(path, sha256(path), _version(path.name), stand_in=False)
    key = digest(SOURCE, VERSION, RELEASE)
    name = f"mycat-standin-{key}.tar.gz"
    path = obtain("mycat-standin", key, lambda part: _build(part / name)) / name
    return Archive(path, sha256(path), VERSION, stand_in=True)


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
