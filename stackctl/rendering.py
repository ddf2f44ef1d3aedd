"""The files of a stack's machines, as dry_run.py renders them: without a connection, and without a secret."""

import json
import subprocess
import sys
from pathlib import Path

from stackctl.project import Stack, StackError

#: Machine, path on it, text.
Files = dict[str, dict[str, str]]


def render(stack: Stack, machine: str | None = None) -> Files:
    """Of every machine, or of ``machine``. Raises StackError, also with what is wrong with the settings."""
    file = stack.config_file
    if not file.exists():
        raise StackError(f"stack '{stack.name}' has no settings: write {stack.source.relative_to(stack.root)}")
    # A process of its own: the program is run by it, and stackctl knows nothing of the program.
    done = subprocess.run(
        [sys.executable, "-m", "dry_run", stack.name, str(file)],
        cwd=stack.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StackError(f"stack '{stack.name}' cannot be rendered:\n{done.stderr.strip()}")
    files: Files = json.loads(done.stdout)
    if machine is None:
        return files
    if machine not in files:
        raise StackError(f"stack '{stack.name}' has no files on a machine '{machine}'; it has {', '.join(files)}")
    return {machine: files[machine]}


def text(files: Files) -> str:
    """All of them one after the other, each below a line that names it."""
    return "".join(
        f"==> {machine}: {shown(path)} <==\n{content}{'' if content.endswith(chr(10)) else chr(10)}\n"
        for machine, texts in files.items()
        for path, content in texts.items()
    )


def shown(path: str) -> str:
    """A file's path as on the machine; what a command gets on its standard input by the command's name."""
    return path if path.startswith("stdin/") else f"/{path}"


def write(files: Files, folder: Path) -> None:
    """DIR/MACHINE/PATH. Raises StackError if there is something in the folder, which would be taken for a file."""
    if folder.exists() and any(folder.iterdir()):
        raise StackError(f"--to {folder}: not empty")
    for machine, texts in files.items():
        for path, content in texts.items():
            file = folder / machine / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)


def read(folder: Path) -> Files:
    """What ``write`` wrote."""
    files: Files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            machine, *path = file.relative_to(folder).parts
            files.setdefault(machine, {})["/".join(path)] = file.read_text()
    return files
