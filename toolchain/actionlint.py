"""actionlint, the checker of GitHub workflows; its Go module is small enough to build wherever it is needed."""

from pathlib import Path

from toolchain import golang
from toolchain.paths import ROOT, digest
from toolchain.progress import run
from toolchain.store import obtain

MODULE = ROOT / "toolchain" / "actionlint"
PACKAGE = "github.com/rhysd/actionlint/cmd/actionlint"


def install() -> str:
    """The path of the program, built once."""

    def build(part: Path) -> None:
        go = golang.install()
        argv = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{part}/", PACKAGE]
        run("lint", "building actionlint", argv, cwd=MODULE, env=golang.environment(go))

    return str(obtain("actionlint", digest(MODULE), build) / "actionlint")
