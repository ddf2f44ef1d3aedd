"""The stack's settings: read from Pulumi's configuration, typed, and checked before any resource is registered."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Self

import pulumi
from pydantic import Field, SecretStr, ValidationError, model_validator

from constants import HAPROXY_HEALTH_PORT
from settings.base import Section, unprintable
from settings.http import Http
from settings.mycat import Mycat, contradictions, refusals
from settings.services import Database, Haproxy, Keepalived, Mode
from settings.topology import Access, Instances, MachineSettings, Network, Role, VirtualIp

NAMESPACE = "mycat-ha"
_OWN_PORTS = {22: "SSH", HAPROXY_HEALTH_PORT: "HAProxy's own health check"}

__all__ = ["MachineSettings", "Role", "Settings", "SettingsError"]


class SettingsError(pulumi.RunError):
    """The settings contradict themselves or AWS; the message names each key. Nothing has been created."""


class Settings(Section):
    network: Network
    machines: Annotated[tuple[MachineSettings, ...], Field(min_length=2)]
    instances: Instances = Instances()
    access: Access
    vip: VirtualIp
    haproxy: Haproxy
    keepalived: Keepalived
    database: Database
    http: Http | None = None
    mycat: Mycat | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, SecretStr] = Field(default_factory=dict)

    @classmethod
    def load(cls, config: pulumi.Config | None = None) -> Self:
        """Read the settings of the current stack.

        Raises SettingsError naming every wrong key, its value (never a secret's) and what is allowed.
        """
        config = config or pulumi.Config(NAMESPACE)
        raw: dict[str, Any] = {}
        for name, section in cls.model_fields.items():
            key = section.alias or name
            if config.get(key) is not None:
                raw[key] = _section(config, key)
        if not raw:
            raise SettingsError(
                f"stack '{pulumi.get_stack()}' has no settings: write stacks/Pulumi.{pulumi.get_stack()}.yaml "
                "(stacks/Pulumi.staging.yaml is an example with comments)"
            )
        return cls.parse(raw)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Check ``raw`` (plain values by section). Raises SettingsError."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise SettingsError("\n".join(_explain(error, raw))) from None

    def of_role(self, role: Role) -> tuple[MachineSettings, ...]:
        return tuple(machine for machine in self.machines if role in machine.roles)

    def secret(self, name: str) -> pulumi.Output[str] | None:
        """A secret for outputs and inputs; None where the stack has no use for it."""
        secret = self.secrets.get(name)
        return pulumi.Output.secret(secret.get_secret_value()) if secret else None

    def priority(self, machine: MachineSettings) -> int:
        """VRRP priority: as set, else 150, 100, 90, 80 ... in the order of the machines."""
        if machine.priority is not None:
            return machine.priority
        place = self.of_role(Role.LB).index(machine)
        return (150, 100)[place] if place < 2 else max(1, 110 - 10 * place)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        problems = [problem for check in _CHECKS for problem in check(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _section(config: pulumi.Config, key: str) -> Any:
    try:
        return config.get_object(key)
    except pulumi.ConfigTypeError:
        raise SettingsError(f"{NAMESPACE}:{key}: must be a map or a list, as in stacks/Pulumi.staging.yaml") from None


def _explain(error: ValidationError, raw: Mapping[str, Any]) -> Iterator[str]:
    for item in error.errors(include_url=False):
        message = item["msg"].removeprefix("Value error, ")
        path, value = _place(item["loc"], raw)
        if not path:  # the checks across sections name their keys themselves
            yield from (f"{NAMESPACE}:{line}" for line in message.splitlines())
            continue
        shown = (
            "" if value is None or isinstance(value, dict | list) or path.startswith("secrets") else f" (is {value!r})"
        )
        yield f"{NAMESPACE}:{path}: {message}{shown}"


def _place(location: tuple[int | str, ...], raw: Any) -> tuple[str, Any]:
    """The key as it is written in a stack file, and what it has there, or None."""
    path, value = "", raw
    for depth, part in enumerate(location):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            if isinstance(value, dict) and depth < len(location) - 1:
                continue  # pydantic's name for one of several forms of a value: no key of the file
            value = None
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip("."), value


def _topology(settings: Settings) -> Iterator[str]:
    machines = settings.machines
    for what in ("name", "address"):
        for value, count in Counter(str(getattr(machine, what)) for machine in machines).items():
            if count > 1:
                yield f"machines: {count} machines have the {what} {value}; each needs its own"
    for index, machine in enumerate(machines):
        if refusal := settings.network.refusal(machine.address):
            yield f"machines[{index}].address: {refusal}"
        if len(set(machine.roles)) < len(machine.roles):
            yield f"machines[{index}].roles: a role is named twice"
    balancers = settings.of_role(Role.LB)
    if len(balancers) < 2:
        yield f"machines: {len(balancers)} with role lb; high availability needs at least two"
    priorities = Counter(settings.priority(balancer) for balancer in balancers)
    for priority, count in priorities.items():
        if count > 1:
            yield f"machines: {count} load balancers have the priority {priority}; VRRP needs them to differ"


def _virtual_ip(settings: Settings) -> Iterator[str]:
    address = settings.vip.address
    if refusal := settings.network.refusal(address):
        yield f"vip.address: {refusal}"
    for machine in settings.machines:
        if machine.address == address:
            yield f"vip.address: {address} is the address of machine {machine.name}; the VIP needs one of its own"


def _database(settings: Settings) -> Iterator[str]:
    nodes = len(settings.of_role(Role.MYSQL))
    if settings.database.external and nodes:
        yield f"database.external: {nodes} machines have the role mysql as well; use one or the other"
    if not settings.database.external:
        if nodes == 0:
            yield "machines: none with role mysql, and database.external is empty; port 3306 needs servers"
        elif nodes == 2:
            yield "machines: 2 with role mysql; two Galera nodes lose their quorum with either one, use three (or one)"


def _mycat(settings: Settings) -> Iterator[str]:
    mycat, machines = settings.mycat, settings.of_role(Role.MYCAT)
    if mycat is None:
        if machines:
            yield f"mycat: missing, and machine {machines[0].name} has the role mycat"
        return
    if mycat.external and machines:
        yield f"mycat.external: {len(machines)} machines have the role mycat as well; use one or the other"
    if not mycat.external and not machines:
        yield "mycat: no machine has the role mycat; give it to one, or name external servers, or leave the section out"
    if mycat.database_user in (settings.database.user, "health"):
        yield f"mycat.databaseUser: {mycat.database_user} is another user of the databases; Mycat needs one of its own"
    yield from contradictions(mycat, settings.machines)
    if mycat.directory:
        health = settings.secrets.get("health")
        yield from refusals(mycat.directory, health.get_secret_value() if health else "")
    for index, user in enumerate(mycat.users):
        secret = settings.secrets.get(user.secret)
        if secret and secret.get_secret_value() != secret.get_secret_value().strip():
            yield f"mycat.users[{index}].secret: {user.secret} begins or ends with a blank, which Mycat would ignore"


def _ports(settings: Settings) -> Iterator[str]:
    haproxy, http = settings.haproxy, settings.http
    ports = {
        "haproxy.mysql.port": haproxy.mysql.port,
        "haproxy.mycat.port": haproxy.mycat.port,
        "haproxy.statistics.port": haproxy.statistics.port,
    }
    if http:
        ports |= {
            "http.port": http.port,
            "http.healthCheckPort": http.health_check_port,
            "http.statistics.port": http.statistics.port,
        }
    for port, count in Counter(ports.values()).items():
        keys = " and ".join(key for key, value in ports.items() if value == port)
        if count > 1:
            yield f"{keys}: all are {port}; each frontend needs a port of its own"
        if port in _OWN_PORTS:
            yield f"{keys}: {port} is the port of {_OWN_PORTS[port]} on every load balancer"


def _http(settings: Settings) -> Iterator[str]:
    if settings.http:
        yield from settings.http.problems({machine.name: machine.address for machine in settings.of_role(Role.WEB)})


def _secrets(settings: Settings) -> Iterator[str]:
    needed = {"sshPrivateKey": "SSH to the machines", "statistics": "the statistics page"}
    if settings.of_role(Role.MYSQL):
        needed |= {"database": f"database user {settings.database.user}", "health": "the database's health check"}
    if settings.mycat and settings.of_role(Role.MYCAT):
        needed["health"] = "the health checks"
        needed |= {user.secret: f"Mycat's user {user.name}" for user in settings.mycat.users}
        if settings.mycat.data_hosts or settings.of_role(Role.MYSQL):
            needed["mycatDatabase"] = f"database user {settings.mycat.database_user} of Mycat"
    if settings.keepalived.mode is Mode.SEED:
        needed["vrrp"] = "VRRPv2's PASS authentication"
    for name, use in needed.items():
        secret = settings.secrets.get(name)
        if secret is None or not secret.get_secret_value():
            yield (
                f"secrets.{name}: missing (for {use}); "
                f"set it with: pulumi config set --secret --path '{NAMESPACE}:secrets.{name}'"
            )
    for name, secret in settings.secrets.items():
        value = secret.get_secret_value()
        if name != "sshPrivateKey" and unprintable(value):
            yield f"secrets.{name}: must not contain control characters or line breaks"
    vrrp = settings.secrets.get("vrrp")
    if vrrp and len(vrrp.get_secret_value()) > 8:
        yield "secrets.vrrp: longer than 8 characters; VRRPv2 would silently use the first 8 only (RFC 2338, 5.3.6)"
    if vrrp and not re.fullmatch(r"[A-Za-z0-9+/_.-]*", vrrp.get_secret_value()):
        yield "secrets.vrrp: only letters, digits and + / _ . - (keepalived.conf takes others as comments or quotes)"


_CHECKS: tuple[Callable[[Settings], Iterator[str]], ...] = (
    _topology,
    _virtual_ip,
    _database,
    _mycat,
    _ports,
    _http,
    _secrets,
)
