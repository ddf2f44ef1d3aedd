"""The stack's settings: read from Pulumi's configuration, typed, and checked before any resource is registered."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env
from pydantic import Field, SecretStr, ValidationError, model_validator

from constants import MYSQL_PORT
from settings import backends
from settings.base import NAMESPACE, Section
from settings.checks import problems
from settings.errors import SettingsError, explain
from settings.http import Http
from settings.mycat import Mycat
from settings.services import (
    MOST_CONNECTIONS,
    RESERVED_CONNECTIONS,
    SQL_SILENCE,
    Database,
    Frontend,
    Haproxy,
    Keepalived,
    Mode,
)
from settings.topology import Access, Instances, MachineSettings, Network, Role, VirtualIp

#: Connections of one Mycat to each server of a data host, if the settings say neither how many sessions there may be,
#: nor how many connections: for 400 sessions with one each. It does not follow the number of data nodes, for which the
#: databases would have to be restarted, with another max_connections.
POOL = 440

__all__ = ["NAMESPACE", "MachineSettings", "Role", "Settings", "SettingsError"]


class Settings(Section):
    """The settings of a stack, by section."""

    network: Network
    """The subnet."""
    machines: Annotated[tuple[MachineSettings, ...], Field(min_length=2)]
    """The machines; two or more are load balancers. Their order is the order in which they are configured."""
    instances: Instances = Instances()
    """AMI, type and disk of the machines."""
    access: Access
    """Who may reach what."""
    vip: VirtualIp
    """The virtual IP."""
    haproxy: Haproxy
    """HAProxy on the load balancers."""
    keepalived: Keepalived
    """keepalived on the load balancers."""
    database: Database
    """The databases behind port 3306."""
    http: Http | None = None
    """HTTP proxying. Default: none."""
    mycat: Mycat | None = None
    """Mycat behind port 3307. Default: none."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of every resource that AWS can tag, besides `mycat-ha:project`, `mycat-ha:stack` and `Name`. With
    `mycat-ha:protected: "true"` the stack is protected (docs/stacks.md)."""
    secrets: dict[str, SecretStr] = Field(default_factory=dict)
    """Passwords and the SSH key by name: `sshPrivateKey`, `statistics`; with databases `database` and `health`; with
    Mycat `health` and `mycatDatabase`; the ones that `database.users` and `mycat.users` name; in mode `recipe` of
    keepalived `vrrp`; with `database.tls` the keys `databaseTlsKey` and, unless the certificate is yours,
    `databaseAuthorityKey`. Set one with `pulumi config set --secret --path 'mycat-ha:secrets.NAME'`; `stackctl`
    generates those that are missing."""

    @classmethod
    def load(cls, config: pulumi.Config | None = None) -> Self:
        """Read the settings of the current stack.

        Raises SettingsError naming every wrong key, its value (never a secret's) and what is allowed.
        """
        config = config or pulumi.Config(NAMESPACE)
        raw: dict[str, Any] = {}
        known = [section.alias or name for name, section in cls.model_fields.items()]
        for key in known:
            if config.get(key) is not None:
                raw[key] = _section(config, key)
        if not raw:
            raise SettingsError(
                f"stack '{pulumi.get_stack()}' has no settings: write stacks/Pulumi.{pulumi.get_stack()}.yaml "
                "(stacks/Pulumi.staging.yaml is an example with comments)"
            )
        return cls.parse({**raw, **dict.fromkeys(_configured().difference(known))})

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Check ``raw`` (plain values by section). Raises SettingsError."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise SettingsError("\n".join(explain(error, raw, cls))) from None

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

    def silence(self, frontend: Frontend) -> tuple[float, float]:
        """Seconds that a client and a server of ``frontend`` (haproxy.mysql or haproxy.mycat) may be silent."""
        recipe = self.haproxy.timeouts if self.keepalived.mode is Mode.RECIPE else None
        client = frontend.timeouts.client or (recipe.client if recipe else SQL_SILENCE)
        server = frontend.timeouts.server or (recipe.server if recipe else SQL_SILENCE)
        return client, server

    def sql_execute_timeout(self) -> int:
        """Seconds that a statement may take in Mycat: as set, else Mycat's own if HAProxy has the patience."""
        known = self.mycat.sql_execute_timeout if self.mycat else None
        return known or max(1, min(300, int(min(self.silence(self.haproxy.mycat))) - 5))

    def data_hosts(self) -> tuple[backends.DataHost, ...]:
        """Of the stack's own Mycats."""
        if self.mycat is None or self.mycat.external:
            return ()
        hosts = backends.data_hosts(self.mycat, self.machines)
        if self.database.galera.max_connections or "server_max_connections" in self.haproxy.mycat.model_fields_set:
            return hosts
        return tuple(replace(host, most=max(POOL, host.least)) if host.most is None else host for host in hosts)

    def mycat_sessions(self) -> int:
        """Sessions that a Mycat gets at the same time: as set, else as many, up to the default, as find connections."""
        frontend, hosts = self.haproxy.mycat, self.data_hosts()
        if not hosts or "server_max_connections" in frontend.model_fields_set:
            return frontend.server_max_connections
        most = self.database.galera.max_connections or MOST_CONNECTIONS

        def fit(sessions: int) -> bool:
            served = all(host.serves(sessions) for host in hosts)
            return served and self._that_may_come(self._most_from_mycat(hosts, sessions)) <= most

        return next(filter(fit, range(frontend.server_max_connections, 1, -1)), 1)

    def most_from_mycat(self) -> int:
        """Connections that all Mycats together may open to one of the databases, the one that gets most."""
        return self._most_from_mycat(self.data_hosts(), self.mycat_sessions())

    def _most_from_mycat(self, hosts: Sequence[backends.DataHost], sessions: int) -> int:
        pools = backends.pools(hosts, sessions)
        own = [pools.get((str(node.address), MYSQL_PORT), 0) for node in self.of_role(Role.MYSQL)]
        return len(self.of_role(Role.MYCAT)) * max(own, default=0)

    def connections_that_may_come(self) -> int:
        """To each of the databases."""
        return self._that_may_come(self.most_from_mycat())

    def _that_may_come(self, from_mycat: int) -> int:
        from_haproxy = self.haproxy.mysql.server_max_connections * (1 + self.read_backends())
        return from_haproxy + from_mycat + RESERVED_CONNECTIONS

    def read_backends(self) -> int:
        """How many of HAProxy's backends of the read port a database is in: with a single writer one for each writer
        that there may be, and each has its own limit."""
        mysql = self.haproxy.mysql
        writers = len(self.of_role(Role.MYSQL)) if mysql.single_writer else 1
        return writers if mysql.read_port else 0

    def max_connections(self) -> int:
        """Of each database: as set, else what may come."""
        return self.database.galera.max_connections or max(500, self.connections_that_may_come())

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if found := list(problems(self)):
            raise ValueError("\n".join(found))
        return self


def _section(config: pulumi.Config, key: str) -> Any:
    try:
        return config.get_object(key)
    except pulumi.ConfigTypeError:
        raise SettingsError(f"{NAMESPACE}:{key}: must be a map or a list, as in stacks/Pulumi.staging.yaml") from None


def _configured() -> set[str]:
    """The keys of the project's namespace that the stack has; pulumi.Config finds only those whose name is known."""
    configured = {**get_config_env(), **CONFIG.get()}
    return {name for key in configured for namespace, _, name in [key.partition(":")] if namespace == NAMESPACE}
