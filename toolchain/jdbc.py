"""MySQL Connector/J, with which the tests are a Java client: fetched by Maven, used if its sum is the pinned one."""

from pathlib import Path

from toolchain.download import sha256
from toolchain.progress import ToolchainError, run, say
from toolchain.store import entry, obtain

VERSION = "8.4.0"
SHA256 = "d77962877d010777cff997015da90ee689f0f4bb76848340e1488f2b83332af5"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
NAME = f"mysql-connector-j-{VERSION}.jar"


def path() -> Path:
    """Where the driver is, for a Java class path."""
    return entry("jdbc", SHA256[:16]) / NAME


def install() -> Path:
    obtain("jdbc", SHA256[:16], _fetch)
    say("jdbc", str(path()))
    return path()


def _fetch(part: Path) -> None:
    copy = [f"{PLUGIN}:copy", f"-Dartifact=com.mysql:mysql-connector-j:{VERSION}", f"-DoutputDirectory={part}"]
    # In the empty folder: a pom.xml where the command happens to be called would be read otherwise.
    run("jdbc", f"fetching {NAME}", ["mvn", "--batch-mode", "--no-transfer-progress", "--quiet", *copy], cwd=part)
    found = sha256(part / NAME)
    if found != SHA256:
        raise ToolchainError(f"jdbc: {NAME}: its sha256 is {found}, expected {SHA256}; not used")
