"""actionlint, the checker of GitHub workflows; its Go module is small enough to build wherever it is needed."""

from collections.abc import Callable
from pathlib import Path

from toolchain import golang
from toolchain.paths import ROOT, digest
from toolchain.progress import run
from toolchain.store import obtain

MODULE = ROOT / "toolchain" / "actionlint"
PACKAGE = "github.com/rhysd/actionlint/cmd/actionlint"


def install(go: Callable[[], str]) -> str:
    """The path of the program, built once; `go` is asked for Go only when it is to be built."""

    def build(part: Path) -> None:
        compiler = go()
        argv = [compiler, "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{part}/", PACKAGE]
        run("lint", "building actionlint", argv, cwd=MODULE, env=golang.environment(compiler))

    return str(obtain("actionlint", digest(MODULE), build) / "actionlint")
