"""Where a stack's files are, and how this command speaks."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from toolchain.paths import LOCAL, ROOT, cache

#: The project's name in Pulumi.yaml, which is also the namespace of its settings and of its tags.
NAME = "mycat-ha"

console = Console(stderr=True, highlight=False, soft_wrap=True)
output = Console(highlight=False)
if not output.is_terminal:
    output.width = 160  # a log has no width of its own, and ids must not be cut


class StackError(Exception):
    """A request that cannot be carried out; the text says what was wrong and what to do."""


def say(text: str) -> None:
    console.print(f"stackctl: {text}", markup=False)


@dataclass(frozen=True)
class Stack:
    """A stack's name and its files. The work tree is a field so that a test can have its own."""

    name: str
    root: Path = ROOT
    local: Path = LOCAL

    @property
    def source(self) -> Path:
        """The settings that are committed."""
        return self.root / "stacks" / f"Pulumi.{self.name}.yaml"

    @property
    def generated(self) -> Path:
        """The settings with what was generated for this work tree: secrets (encrypted), a key, places of archives."""
        return self.local / "stacks" / f"Pulumi.{self.name}.yaml"

    @property
    def key(self) -> Path:
        """The generated private SSH key; the public half has the suffix .pub."""
        return self.local / "ssh" / self.name

    @property
    def config_file(self) -> Path:
        """What Pulumi is given. May not exist: a stack can be destroyed without its settings."""
        return self.generated if self.generated.exists() else self.source


def sources() -> Path:
    """Where `python3 -m toolchain install` puts source archives."""
    return cache() / "sources"


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise StackError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("config", {}), dict):
        raise StackError(f"{path}: must be a map with the key `config`, as in stacks/Pulumi.staging.yaml")
    return content


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(content)
    temporary.replace(path)
