"""python3 -m toolchain: `install` obtains every part, `exec` runs a command among them, `lint` and `check` check."""

import argparse
import os
import sys

from toolchain.checks import check
from toolchain.environment import environment
from toolchain.install import PARTS, install
from toolchain.lint import lint
from toolchain.progress import ToolchainError


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m toolchain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    obtain = commands.add_parser("install", help="obtain what is missing; does nothing when all is there")
    obtain.add_argument(
        "--only",
        choices=PARTS,
        action="append",
        default=[],
        help="only this part (several are possible), and what it needs",
    )
    obtain.add_argument(
        "--meanwhile", metavar="COMMAND", help="run this in the Python environment during the Go builds"
    )
    run = commands.add_parser("exec", help="run a command with the toolchain's environment")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    commands.add_parser("lint", help="style, types, shell scripts, YAML")
    checks = commands.add_parser("check", help="lint, and the tests that need no region; then where the time went")
    checks.add_argument("--everything", action="store_true", help="the tests on a region and on stacks as well")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "install":
            install(chosen.only, chosen.meanwhile)
        elif chosen.command == "exec":
            argv = chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv
            if not argv:
                parser.error("exec: no command given")
            variables = environment()
            os.execvpe(argv[0], argv, variables)  # noqa: S606 (a shell would only be in the way)
        elif chosen.command == "lint":
            return 0 if lint() else 1
        elif chosen.command == "check":
            return 0 if check(chosen.everything) else 1
    except ToolchainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
