"""HAProxy, keepalived and the database tier."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from settings.base import IPv4Address, Name, Port, Seconds, Section, SourceArchive

#: Without what keepalived.conf takes as a comment, a quote or a variable.
Email = Annotated[str, StringConstraints(max_length=254, pattern=r"^[A-Za-z0-9.+_=%/-]+@[A-Za-z0-9.-]+$")]


class Timeouts(Section):
    """HAProxy's timeouts, in seconds. Every one is set, since a missing one means forever (HAProxy manual, 4.2)."""

    connect: Seconds = 1
    client: Seconds = 60
    server: Seconds = 60
    queue: Seconds = 60
    check: Seconds = 1
    http_request: Seconds = 10
    http_keep_alive: Seconds = 10


class Check(Section):
    """Health checks of a backend's servers (HAProxy manual, 5.2: inter, fastinter, downinter, rise, fall)."""

    inter: Seconds = 2
    fastinter: Seconds | None = None
    downinter: Seconds | None = None
    rise: Annotated[int, Field(ge=1, le=100)] = 2
    fall: Annotated[int, Field(ge=1, le=100)] = 3


class Frontend(Section):
    """A TCP frontend on the VIP with its servers."""

    port: Port
    check: Check
    weight: Annotated[int, Field(ge=0, le=256)] = 10
    server_max_connections: Annotated[int, Field(ge=1)] = 400


class MysqlFrontend(Frontend):
    port: Port = 3306
    check: Check = Check(inter=0.5, fastinter=0.25, downinter=1, rise=2, fall=2)
    #: Send all connections to one server and keep the others as `backup`: no certification conflicts (error 1213).
    single_writer: bool = False


class MycatFrontend(Frontend):
    port: Port = 3307
    check: Check = Check(inter=2, fastinter=0.5, rise=2, fall=3)


class Statistics(Section):
    port: Port = 8888
    user: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")] = "admin"
    realm: Annotated[str, StringConstraints(pattern=r"^[^\r\n]+$")] = "Hapadmin"
    refresh: Seconds = 30


class Haproxy(SourceArchive):
    max_connections: Annotated[int, Field(ge=10)] = 4096
    default_max_connections: Annotated[int, Field(ge=10)] = 2000
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    timeouts: Timeouts = Timeouts()
    statistics: Statistics = Statistics()
    mysql: MysqlFrontend = MysqlFrontend()
    mycat: MycatFrontend = MycatFrontend()


class Mode(StrEnum):
    FAST = "fast"
    SEED = "seed"


class Mail(Section):
    """keepalived's notification mail on every change of state. It is sent once; nothing is queued."""

    to: Annotated[tuple[Email, ...], Field(min_length=1)]
    sender: Email
    smtp_server: IPv4Address
    smtp_port: Port = 25
    connect_timeout: Annotated[int, Field(ge=1, le=300)] = 30

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sum(len(address) + 4 for address in self.to) > 512:
            raise ValueError("to: too many addresses for keepalived, which writes a mail into 1024 bytes; use a list")
        return self


class Keepalived(SourceArchive):
    #: ``fast``: VRRPv3, sub-second adverts. ``seed``: the recipe's VRRPv2, one-second adverts, PASS authentication.
    mode: Mode = Mode.FAST
    virtual_router_id: Annotated[int, Field(ge=1, le=255)] = 249
    #: Seconds between adverts in ``fast`` mode, in hundredths (RFC 9568, 5.2.7). A dead master is noticed after three.
    advert_interval: Annotated[float, Field(ge=0.05, le=40.95)] = 0.2
    #: Seconds after start in which no mastership is taken, so that a machine that boots does not grab it.
    startup_delay: Annotated[float, Field(ge=0, le=300)] = 2
    mail: Mail | None = None


class ExternalServer(Section):
    name: Name
    address: IPv4Address
    port: Port = 3306


class Sst(StrEnum):
    RSYNC = "rsync"
    MARIABACKUP = "mariabackup"


class Galera(Section):
    """Galera's view-change timeouts, in seconds, and the database that is created for the application.

    The defaults were chosen by measurement: a power cut stalls writes until the group has a new view, about 6 s with
    Galera's own timeouts and about 2 s with these. A suspect timeout of 0.5 s made living nodes lose each other.
    """

    keepalive_period: Seconds = 0.3
    inactive_check_period: Seconds = 0.2
    suspect_timeout: Annotated[float, Field(ge=0.5)] = 1
    inactive_timeout: Seconds = 3
    install_timeout: Seconds = 3
    buffer_pool_mib: Annotated[int, Field(ge=16)] = 128
    max_connections: Annotated[int, Field(ge=10)] = 500

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.keepalive_period < self.suspect_timeout <= self.inactive_timeout:
            raise ValueError("Galera needs keepalivePeriod < suspectTimeout <= inactiveTimeout")
        return self


Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]


class Database(Section):
    """The servers behind port 3306: MariaDB with Galera on the machines of role ``mysql``, or ``external`` ones."""

    galera: Galera = Galera()
    external: tuple[ExternalServer, ...] = ()
    #: Logs in without a password to check external servers; null: HAProxy looks at their handshake only.
    external_check_user: Identifier | None = None
    schema_: Annotated[Identifier, Field(alias="schema")] = "app"
    user: Identifier = "app"
    kind: Literal["mariadb"] = "mariadb"

    @model_validator(mode="after")
    def _does_not_lock_itself_out(self) -> Self:
        if self.external and "external_check_user" not in self.model_fields_set:
            raise ValueError(
                "externalCheckUser: missing; name a user without password and rights (CREATE USER haproxy@'...'), as "
                "whom HAProxy logs in to check external servers. With null it only looks at their handshake: a server "
                "blocks a balancer that has done that max_connect_errors times, 100 by default, and nothing else"
            )
        return self
