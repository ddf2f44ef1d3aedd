"""What every section of the settings shares."""

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Url = Annotated[str, StringConstraints(pattern=r"""^https?://[^\s'"]+$""")]
#: ARN of an IAM policy.
PolicyArn = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:policy/[\w+=,.@/-]+$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+~-]*$")]
#: Seconds, whole or not; HAProxy gets it in milliseconds.
Seconds = Annotated[float, Field(gt=0, le=86400)]
#: Characters of a path (RFC 3986, 3.3).
PATH = r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]"
#: What a check asks for: a path, and what follows a `?`.
Target = Annotated[str, StringConstraints(pattern=rf"^/(?:{PATH}|\?)*$")]
#: A key of `mycat-ha:secrets`.
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]

#: What the keys of this project begin with in a stack file; the project's name in Pulumi.yaml.
NAMESPACE = "mycat-ha"

__all__ = [
    "NAMESPACE",
    "PATH",
    "IPv4Address",
    "IPv4Network",
    "Name",
    "PolicyArn",
    "Port",
    "Seconds",
    "SecretName",
    "Section",
    "Sha256",
    "SourceArchive",
    "Target",
    "Text",
    "Url",
    "Version",
    "twice",
    "unprintable",
]


def unprintable(text: str) -> bool:
    """Whether ``text`` has control characters, line breaks, or what no XML file can hold (XML 1.0, 2.2 "Char")."""
    return any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 or c in "\ufffe\uffff" for c in text)


def twice(key: str, names: Iterable[str]) -> Iterator[str]:
    """That a name of several things at ``key`` is not the name of one alone, as ``KEY: reason``."""
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{key}: {count} are named {name}; each needs a name of its own"


def _printable(text: str) -> str:
    if unprintable(text):
        raise ValueError("must not contain control characters or line breaks")
    return text


#: One line that a person can read.
Text = Annotated[str, AfterValidator(_printable)]


class Section(BaseModel):
    """A part of the stack's settings: keys in camelCase as in any Pulumi stack file, an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,  # the string below a field is its description in docs/settings.md
    )


class SourceArchive(Section):
    """A release archive that is pinned by its checksum.

    ``archive`` is a file that the deployer has and uploads; without it each machine downloads ``url`` itself.
    Nothing is unpacked before its sha256 has been checked.
    """

    version: Version
    """The release, as in the archive's name. Another version is another build beside this one."""
    sha256: Sha256
    """SHA-256 of the archive, in lower-case hexadecimal digits."""
    url: Url
    """Where each machine downloads the archive, unless `archive` is given."""
    archive: str | None = None
    """Path of the archive on the machine that runs `pulumi up`, which uploads it. Default: `url` is downloaded."""
