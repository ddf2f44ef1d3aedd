"""Test stacks: another stack's settings, moved to an address range of their own and tagged with owner and expiry."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import yaml
from botocore.exceptions import BotoCoreError, ClientError

from stackctl import configuration, life
from stackctl.aws import Clients, connect_stack
from stackctl.configuration import ENCRYPTION
from stackctl.project import NAME, Stack, StackError, read_yaml, say
from stackctl.protection import MARK

PREFIX = "test-"
OWNER, CREATED, EXPIRES = f"{NAME}:owner", f"{NAME}:created", f"{NAME}:expires"
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@dataclass(frozen=True)
class Subnet:
    """An existing one, for a test stack in somebody's network."""

    id: str
    cidr: IPv4Network


def create(
    name: str,
    cidr: str,
    owner: str,
    *,
    origin: str,
    subnet_id: str | None,
    expires: str,
    assignments: Sequence[str],
    secrets_provider: str | None,
    local_region: str | None,
    archives: Path | None,
) -> int:
    """Create a test stack, or bring it up to date and give it a new expiry; the exit code of Pulumi's `up`.

    Raises StackError if a value cannot be used; the texts name the command line's options.
    """
    stack, source = Stack(stack_name(name)), Stack(origin)
    if not source.source.exists():
        raise StackError(f"--from {origin}: there is no stacks/{source.source.name}")
    try:
        target = IPv4Network(cidr)
    except ValueError as error:
        raise StackError(f"--cidr {cidr}: {error}") from None
    born, expiry = now(), now() + lifetime(expires)
    pulumi = life.pulumi_of(stack.name, local_region)
    if pulumi.exists():
        born = parse_timestamp(pulumi.tags().get(CREATED)) or born
        if not stack.generated.exists():
            configuration.recover(pulumi)
    tags = {OWNER: owner_tag(owner), CREATED: timestamp(born), EXPIRES: timestamp(expiry)}
    settings = read_yaml(source.source)
    subnet = None
    if subnet_id:
        subnet = find_subnet(connect_stack(pulumi, settings), subnet_id)
    settings = derive(settings, target, tags, subnet)
    if secrets_provider:
        settings["secretsprovider"] = secrets_provider
    for assignment in assignments:
        assign(settings, assignment)
    earlier = read_yaml(stack.generated) if stack.generated.exists() else {}
    configuration.write_settings(stack, configuration.complete(settings, earlier, None))
    life.prepare(pulumi, archives)
    # On the stack before anything of it exists: a sweep must be able to tell even if `up` never gets far.
    for key, value in tags.items():
        pulumi.tag(key, value)
    code = life.up(pulumi, archives)
    say(f"stack {stack.name} belongs to {owner} and expires at {tags[EXPIRES]}")
    return code


def find_subnet(aws: Clients, subnet_id: str) -> Subnet:
    """Raises StackError if the region has no such subnet."""
    try:
        (found,) = aws.client("ec2").describe_subnets(SubnetIds=[subnet_id])["Subnets"]
    except (BotoCoreError, ClientError) as error:
        raise StackError(f"--subnet-id {subnet_id}: {error}") from None
    return Subnet(found["SubnetId"], IPv4Network(found["CidrBlock"]))


def stack_name(name: str) -> str:
    """`test-NAME`; the prefix is what tells a test stack from any other."""
    short = name.removeprefix(PREFIX)
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", short):
        raise StackError(f"'{name}': a test stack's name is 1 to 30 lower-case letters, digits and dashes")
    return PREFIX + short


def lifetime(text: str) -> timedelta:
    """`30m`, `8h` or `2d`."""
    match = re.fullmatch(r"([1-9][0-9]{0,3})([mhd])", text)
    if not match:
        raise StackError(f"--expires '{text}': give minutes, hours or days, such as 30m, 8h or 2d")
    return int(match[1]) * UNITS[match[2]]


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def owner_tag(owner: str) -> str:
    if not re.fullmatch(r"[\w .:/=+@-]{1,64}", owner):
        raise StackError(f"--owner '{owner}': 1 to 64 letters, digits, spaces or _.:/=+-@ (what an AWS tag can hold)")
    return owner


def derive(
    origin: Mapping[str, Any], cidr: IPv4Network, tags: Mapping[str, str], subnet: Subnet | None = None
) -> dict[str, Any]:
    """The settings of a test stack: those of ``origin``, with all its addresses moved into ``cidr``.

    ``cidr`` is the range of a VPC of its own; with ``subnet`` a part of that one, for the addresses of the origin's
    subnet.

    Nothing secret is taken over: a test stack gets passwords and keys of its own. Nor are backups, which it could write
    to, and remove from, the same place.
    """
    settings: dict[str, Any] = copy.deepcopy(dict(origin))
    for key in ENCRYPTION[1:]:  # the provider stays, the keys do not
        settings.pop(key, None)
    config = settings.get("config") or {}
    network = config.get(f"{NAME}:network") or {}
    if subnet is None and "vpcCidr" not in network:
        raise StackError(
            "the stack to copy adopts an existing subnet (network.subnetId): name one for the test stack as well "
            "(--subnet-id), or copy a stack that has network.vpcCidr"
        )
    if subnet and not cidr.subnet_of(subnet.cidr):
        raise StackError(
            f"--cidr {cidr}: not in --subnet-id {subnet.id}, which is {subnet.cidr}; give a part of it that is free"
        )
    home = IPv4Network(network["subnetCidr" if subnet else "vpcCidr"])
    if cidr.prefixlen > home.prefixlen:
        raise StackError(f"--cidr {cidr}: too small, the stack to copy uses a /{home.prefixlen} ({home})")
    moved: dict[str, Any] = _walk(config, _mover(home, cidr))
    if subnet:
        moved[f"{NAME}:network"] = {"subnetId": subnet.id, "subnetCidr": str(subnet.cidr)}
    else:
        moved[f"{NAME}:network"]["vpcCidr"] = str(cidr)
    moved.pop(f"{NAME}:secrets", None)
    access = moved.get(f"{NAME}:access")
    if isinstance(access, dict):
        access.pop("sshPublicKey", None)
    database = moved.get(f"{NAME}:database")
    if isinstance(database, dict):
        database.pop("backup", None)
    kept = {key: value for key, value in (moved.get(f"{NAME}:tags") or {}).items() if key != MARK}
    moved[f"{NAME}:tags"] = {**kept, **tags}
    settings["config"] = moved
    return settings


def _mover(home: IPv4Network, target: IPv4Network) -> Callable[[str], str]:
    def move(text: str) -> str:
        try:
            network = IPv4Network(text)
        except ValueError:
            return text
        if not network.subnet_of(home):
            return text
        offset = int(network.network_address) - int(home.network_address)
        address = IPv4Address(int(target.network_address) + offset)
        return f"{address}/{network.prefixlen}" if "/" in text else str(address)

    return move


def _walk(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _walk(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def assign(settings: dict[str, Any], assignment: str) -> None:
    """Apply `section.key=value`, or `section=value` for the whole of it; the value is YAML.

    A list's items are named by their number: machines.0.address.
    """
    path, separator, text = assignment.partition("=")
    section, *keys = path.split(".")
    if not separator:
        raise StackError(f"--set '{assignment}': write SECTION.KEY=VALUE, such as keepalived.mode=seed")
    config = settings["config"]
    try:
        value = yaml.safe_load(text)
        if not keys:
            if not isinstance(value, dict | list):
                raise ValueError(f"a whole section is a map or a list; for one setting write {section}.KEY=VALUE")
            config[f"{NAME}:{section}"] = value
            return
        holder: Any = config.setdefault(f"{NAME}:{section}", {})
        for key in keys[:-1]:
            holder = holder[int(key)] if isinstance(holder, list) else holder.setdefault(key, {})
        last: Any = int(keys[-1]) if isinstance(holder, list) else keys[-1]
        holder[last] = value
    except (IndexError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise StackError(f"--set '{assignment}': {error}") from None
