"""The names that people give to machines on the command line."""

from collections.abc import Iterable
from dataclasses import dataclass

_KIND = "-instance"


@dataclass(frozen=True)
class Target:
    """A machine with everything that it can be called by."""

    id: str
    tag: str = ""  # Name
    stack: str = ""  # the tag `stack`, with whatever prefix; empty if it has none
    addresses: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The Name tag without what the machines of a stack have in common: ``PROJECT-STACK-`` and ``-instance``."""
        own = self.tag.partition(f"-{self.stack}-")[2] if self.stack else self.tag
        return (own or self.tag).removesuffix(_KIND)

    @property
    def qualified(self) -> str:
        """``STACK/NAME``, or what identifies it otherwise."""
        return f"{self.stack}/{self.name}" if self.stack else self.tag or self.id


def resolve(name: str, machines: Iterable[Target]) -> str:
    """The id of the machine that ``name`` means: an id, a Name tag, an address, STACK/NAME, NAME, or a Name tag's end.

    The first of these that fits anything decides. Raises LookupError if it fits several machines, or nothing fits.
    """
    machines = list(machines)
    matches: list[Target] = []
    for match in (
        lambda machine: name in {machine.id, machine.tag, *machine.addresses},
        lambda machine: name in {machine.qualified, machine.name},
        lambda machine: machine.tag.removesuffix(_KIND).endswith(f"-{name}"),
    ):
        matches = [machine for machine in machines if match(machine)]
        if matches:
            break
    if len(matches) == 1:
        return matches[0].id
    known = ", ".join(f"{machine.qualified} ({machine.id})" for machine in matches or machines) or "none"
    if matches:
        raise LookupError(f"{len(matches)} machines are called {name}; say which one: {known}")
    raise LookupError(f"no machine is called {name}; there are: {known}")


def stack_of(tags: Iterable[tuple[str, str]]) -> str:
    """The value of the tag ``stack``: its key may have a prefix, as in ``mycat-ha:stack``.

    From a tag and not from the Name: stacks and machines have hyphens in their names as well.
    """
    return next((value for key, value in tags if key.rpartition(":")[2] == "stack"), "")
