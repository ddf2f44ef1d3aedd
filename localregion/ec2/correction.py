"""What a correction of moto is made of."""

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
