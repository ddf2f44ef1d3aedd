"""What a correction of moto is made of."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from moto.ec2.exceptions import EC2ClientError


class Correction(NamedTuple):
    """An attribute of one of moto's classes or modules, and what takes its place."""

    owner: Any
    attribute: str
    replacement: Any

    @property
    def name(self) -> str:
        return f"{self.owner.__name__}.{self.attribute}"


def refuse(code: str, message: str) -> None:
    """Answer the request with an error of AWS's."""
    raise EC2ClientError(code, message)


@contextmanager
def whole(ec2: Any) -> Iterator[None]:
    """A call that fails leaves no interface, instance or volume; moto keeps what it has made by then.

    An interface that was there before is free again.
    """
    kinds: tuple[dict[str, Any], ...] = (ec2.reservations, ec2.enis, ec2.volumes, ec2.tags)
    before = [set(kind) for kind in kinds]
    try:
        yield
    except BaseException:
        for kind, kept in zip(kinds, before, strict=True):
            for identifier in kind.keys() - kept:
                del kind[identifier]
        left = {instance.id for instance in ec2.all_instances()}
        for eni in ec2.enis.values():
            if eni.instance is not None and eni.instance.id not in left:
                eni.instance.detach_eni(eni)
        raise
