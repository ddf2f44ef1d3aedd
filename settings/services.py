"""HAProxy, keepalived and the database tier."""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from constants import MYSQL_CHECK_USER
from settings.backup import Backup
from settings.base import (
    IPv4Address,
    IPv4Network,
    Name,
    Port,
    Seconds,
    SecretName,
    Section,
    SourceArchive,
    Target,
    twice,
)
from settings.extra import Lines, Sections

#: Without what keepalived.conf takes as a comment, a quote or a variable.
Email = Annotated[str, StringConstraints(max_length=254, pattern=r"^[A-Za-z0-9.+_=%/-]+@[A-Za-z0-9.-]+$")]


class Timeouts(Section):
    """HAProxy's timeouts, in seconds. Every one is set, since a missing one means forever (HAProxy manual, 4.2).

    `client` and `server` are those of HTTP and of the statistics; SQL has its own (`haproxy.mysql.timeouts`).
    """

    connect: Seconds = 1
    """`timeout connect`: until a server accepts a connection. The recipe's 10 s are how long a client would wait for a
    dead server; within a VPC a living one needs milliseconds."""
    client: Seconds = 60
    """`timeout client`: how long a client may be silent. The recipe's minute."""
    server: Seconds = 60
    """`timeout server`: how long a server may be silent. The recipe's minute."""
    queue: Seconds = 60
    """`timeout queue`: how long a connection waits for a server that has `serverMaxConnections` already."""
    check: Seconds = 1
    """`timeout check`: how long a health check waits for its answer once it is connected."""
    http_request: Seconds = 10
    """`timeout http-request`: until a client's request header is complete."""
    http_keep_alive: Seconds = 10
    """`timeout http-keep-alive`: how long an idle HTTP connection waits for the next request."""


#: Seconds, for SQL: MariaDB ends an idle session after 8 hours (`wait_timeout`), Mycat after half an hour, and
#: MariaDB sets no limit to a statement.
SQL_SILENCE = 86_400


class SqlTimeouts(Section):
    """How long SQL sessions may be silent, in seconds. A statement is silent on both sides until its first row."""

    client: Seconds | None = None
    """`timeout client`: how long a client may be silent. Default: a day, so that the database decides when an idle
    session ends: MariaDB after 8 hours (`wait_timeout`). Clients that are gone without a word are cleared by TCP's
    keepalive after 35 s. In keepalived's mode `recipe`: `haproxy.timeouts.client`, the recipe's minute."""
    server: Seconds | None = None
    """`timeout server`: how long a server may be silent, so also how long a statement may take. Default: a day; in
    keepalived's mode `recipe` `haproxy.timeouts.server`, the recipe's minute."""


class Check(Section):
    """Health checks of a backend's servers (HAProxy manual, 5.2)."""

    inter: Seconds = 2
    """Seconds between two checks of a server."""
    fastinter: Seconds | None = None
    """Seconds between checks while a server is changing between up and down. Default: `inter`."""
    downinter: Seconds | None = None
    """Seconds between checks of a server that is down. Default: `inter`."""
    rise: Annotated[int, Field(ge=1, le=100)] = 2
    """After how many good checks in a row a server is up."""
    fall: Annotated[int, Field(ge=1, le=100)] = 3
    """After how many failed checks in a row a server is down."""


#: HAProxy's ways to choose a server (manual, 4.2, `balance`) that know nothing of what is transferred.
Balance = Literal["roundrobin", "static-rr", "leastconn", "first", "source", "random"]


class Share(Section):
    """What is different for one server of several (HAProxy manual, 5.2)."""

    weight: Annotated[int, Field(ge=0, le=256)] | None = None
    """Its part of the sessions in proportion to the others' weights; 0 sends no new ones. Default: as the others."""
    backup: bool = False
    """Whether it gets sessions only while no other server works; the first one of several such. Those that it has stay
    when another one is back."""


def share_problems(key: str, shares: Mapping[str, Share], servers: Collection[str]) -> Iterator[str]:
    """What contradicts the names of the ``servers`` that there are. ``key``: of the section."""
    for name in shares:
        if name not in servers:
            yield f"{key}.servers.{name}: no server of this name; there are {', '.join(servers) or 'none'}"
    if servers and all(name in shares and shares[name].backup for name in servers):
        yield f"{key}.servers: all are backups; one that is not is needed"


class Frontend(Section):
    """A TCP frontend on the VIP with its servers."""

    port: Port
    """The port on the VIP."""
    check: Check
    """Health checks of the servers."""
    timeouts: SqlTimeouts = SqlTimeouts()
    """How long its sessions may be silent."""
    balance: Balance = "roundrobin"
    """How HAProxy chooses a server for a session (manual, 4.2). `leastconn` suits sessions that last."""
    weight: Annotated[int, Field(ge=0, le=256)] = 10
    """HAProxy's weight of each server (manual, 5.2). All are equal, but for `servers`; 0 sends no new connections."""
    servers: dict[Name, Share] = Field(default_factory=dict)
    """What is different for single servers, by the name of the machine or of the external server."""
    server_max_connections: Annotated[int, Field(ge=1)] = 400
    """Connections that one server gets at the same time; further ones wait (`maxconn` of a server). The databases have
    to have room for them (`database.galera.maxConnections`)."""


class MysqlFrontend(Frontend):
    """The databases, on a port of the VIP."""

    port: Port = 3306
    """The port on the VIP. The default is MySQL's own."""
    check: Check = Check(inter=0.5, fastinter=0.25, downinter=1, rise=2, fall=2)
    """Health checks of the databases, more often than the recipe's, so that a dead one is noticed in about a second."""
    single_writer: bool = False
    """Send all connections to one server, the first one at first: no certification conflicts (error 1213). When it
    fails, its sessions end, and the next one that works is the writer. The load balancers tell each other which one it
    is, on port 8890. Before external servers it needs `database.externalWriterCheck`."""
    single_writer_failback: bool = False
    """Whether the first server becomes the writer again as soon as it works again. Then the sessions of the moment end.
    By default the writer stays the writer until it fails itself. Not before external servers, which say themselves who
    may write."""
    read_port: Port | None = None
    """A second port on the VIP, for sessions that only read; 3308 is a good one. With `singleWriter` they go to the
    databases that are not the writer, and to the writer if there is no other; without it to all. Nothing there refuses
    a write. Default: none."""
    read_balance: Balance = "leastconn"
    """How HAProxy chooses a database for a session of the read port. `leastconn` evens out long sessions, and
    databases that return."""
    proxy_protocol: bool = False
    """Tell the databases the address of the client (PROXY protocol), so that `SHOW PROCESSLIST`, their logs and
    `'user'@'address'` see it instead of a load balancer's. For machines of role `mysql`; on or off by a reload of
    HAProxy, without a restart of a database (docs/databases.md)."""


class MycatFrontend(Frontend):
    """The Mycats, on a port of the VIP."""

    port: Port = 3307
    """The port on the VIP, if the stack has Mycat. The default is the recipe's."""
    check: Check = Check(inter=2, fastinter=0.5, rise=2, fall=3)
    """Health checks of the Mycats. The defaults are the recipe's, with faster ones once a check has failed."""
    server_max_connections: Annotated[int, Field(ge=1)] = 400
    """Sessions that one Mycat gets at the same time; further ones wait for as long as `haproxy.timeouts.queue` says.
    Mycat has to have connections for them (`mycat.dataHosts`), and the databases for those. Default: 400, or as many as
    `mycat.dataHosts[].maxConnections` and `database.galera.maxConnections` serve if that is less. If it is set, a new
    data node may need another `max_connections`, for which the databases are restarted, one after the other."""


#: A label, and several of them with dots between.
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = rf"{_LABEL}(\.{_LABEL})*"
#: A DNS name; its first part may be `*`.
HostName = Annotated[str, StringConstraints(max_length=253, pattern=rf"^(\*\.)?{_DNS_NAME}$")]


class Certificate(Section):
    """By what a server proves to TLS clients who it is."""

    names: tuple[HostName, ...] = ()
    """DNS names by which clients connect to it. They are in the certificate, besides the address of the VIP and those
    of the machines."""
    certificate: str | None = None
    """Path of your own certificate (PEM) on the machine that runs `pulumi up`: the server's own first, then those
    between it and the authority. Its key is a secret, which the section that this one is in names. Default: one of the
    stack's own authority."""
    authority: str | None = None
    """Path of the certificate (PEM) of the authority that has signed yours, by which clients verify it."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if bool(self.certificate) != bool(self.authority):
            raise ValueError("certificate, authority: set both, or neither for an authority of the stack's own")
        return self


class Statistics(Section):
    """HAProxy's statistics page, for `access.administrators`. Its password is `secrets.statistics`."""

    port: Port = 8888
    """The port on each load balancer and on the VIP. The default is the recipe's."""
    user: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")] = "admin"
    """The name to log in with."""
    realm: Annotated[str, StringConstraints(pattern=r"^[^\r\n]+$")] = "Hapadmin"
    """What a browser shows when it asks for the password. The default is the recipe's."""
    refresh: Seconds = 30
    """Seconds after which a browser loads the page again."""
    tls: Certificate | None = None
    """HTTPS instead of HTTP (TLS 1.2 and 1.3) for this page, for `/metrics` on its port, and for the page of
    `http.statistics`; `{}` is enough. The key of a certificate of your own is `secrets.statisticsTlsKey`. Default:
    none, so that the password crosses the network in the clear. A reload of HAProxy switches it on and off."""


class Haproxy(SourceArchive):
    """HAProxy on the machines of role `lb`, built from its source archive."""

    max_connections: Annotated[int, Field(ge=10, le=250_000)] | None = None
    """Connections of the whole process (`maxconn` in `global`). Default: the recipe's 4096, or what the frontends' own
    limits add up to if that is more, so that no frontend can take the others' connections."""
    default_max_connections: Annotated[int, Field(ge=10, le=50_000)] = 2000
    """Connections of each frontend (`maxconn` in `defaults`)."""
    hard_stop_after: Seconds = 1800
    """`hard-stop-after`: seconds after a reload, in which the sessions that were open live on in the process before it;
    then it cuts them. That process checks no servers any more."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """How often a failed connection to a server is tried again."""
    timeouts: Timeouts = Timeouts()
    """How long HAProxy waits for what."""
    statistics: Statistics = Statistics()
    """The statistics page."""
    mysql: MysqlFrontend = MysqlFrontend()
    """The port for the databases."""
    mycat: MycatFrontend = MycatFrontend()
    """The port for Mycat; not there unless the stack has the section `mycat`."""
    extra: Sections = Field(default_factory=dict)
    """Lines of your own, by section as in `haproxy.cfg`: `global`, `defaults` (of all others), `mysql`,
    `mysqlservers`, `mysqlread`, `mysqlreaders` (with `readPort`), `mycat`, `mycat_servers`, `statistics`, `http-in`,
    `healthcheck`, `http-statistics`, and the names of `http.backends`. They stand before the stack's own lines; what
    contradicts those is refused (docs/stacks.md)."""


class Mode(StrEnum):
    """How keepalived speaks VRRP."""

    FAST = "fast"
    RECIPE = "recipe"

    @classmethod
    def _missing_(cls, value: object) -> "Mode | None":
        """``seed``, the earlier name of ``recipe``, stays valid in stack files."""
        return cls.RECIPE if value == "seed" else None


class Mail(Section):
    """keepalived's notification mail on every change of state. It is sent once; nothing is queued."""

    to: Annotated[tuple[Email, ...], Field(min_length=1)]
    """The addresses that get it; together about 500 characters at most, which is keepalived's limit."""
    sender: Email
    """The address that it comes from."""
    smtp_server: IPv4Address
    """The mail server's address. A name would need a name server at the moment of a failover."""
    smtp_port: Port = 25
    """The mail server's port; keepalived speaks SMTP without TLS."""
    connect_timeout: Annotated[int, Field(ge=1, le=300)] = 30
    """Seconds until keepalived gives up on the mail server."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sum(len(address) + 4 for address in self.to) > 512:
            raise ValueError("to: too many addresses for keepalived, which writes a mail into 1024 bytes; use a list")
        return self


class Keepalived(SourceArchive):
    """keepalived on the machines of role `lb`, built from its source archive: it decides who holds the VIP."""

    mode: Mode = Mode.FAST
    """`fast`: VRRPv3 with an advert every `advertInterval`. `recipe`: the recipe's VRRPv2, an advert every second,
    PASS authentication with `secrets.vrrp`."""
    virtual_router_id: Annotated[int, Field(ge=1, le=255)] = 249
    """VRRP's number of this group of balancers; another one for each group in a subnet. The default is the recipe's."""
    advert_interval: Annotated[float, Field(ge=0.05, le=40.95)] = 0.2
    """Seconds between adverts in mode `fast`, in steps of 0.01 (RFC 9568, 5.2.7). A master is taken for dead when three
    are missing, so a shorter interval is a faster failover, and a busy machine that pauses is sooner taken for dead."""
    startup_delay: Annotated[float, Field(ge=0, le=300)] = 2
    """Seconds after its start in which keepalived does not become master, so that a booting machine does not take the
    VIP because it has not heard the master yet."""
    mail: Mail | None = None
    """A mail for every change of state. Default: none."""
    extra: Sections = Field(default_factory=dict)
    """Lines of your own, by section as in `keepalived.conf`: `global_defs`, `vrrp_instance`. They stand before the
    stack's own lines; what contradicts those is refused (docs/stacks.md)."""


class ExternalServer(Section):
    """A database server that is not a machine of the stack, by its address or by a DNS name (`host`)."""

    name: Name
    """Its name in HAProxy's configuration and on the statistics page."""
    address: IPv4Address | None = None
    """Its address, as the load balancers reach it."""
    host: Annotated[str, StringConstraints(max_length=253, pattern=rf"^{_DNS_NAME}$")] | None = None
    """Its DNS name instead, such as an RDS endpoint. HAProxy asks the load balancer's name servers for it every second,
    and new sessions follow it. Needs `within` or `securityGroup`."""
    within: tuple[IPv4Network, ...] = ()
    """Of a `host`: the ranges that its addresses are in, such as those of the subnets of an RDS subnet group. The
    firewall lets the load balancers out to them."""
    security_group: Annotated[str, StringConstraints(pattern=r"^sg-[0-9a-f]+$")] | None = None
    """Of a `host`: the security group of its machines (`sg-...`), to which the firewall lets the load balancers out. It
    has to let their group in, which is the stack's output `securityGroupIds.lb`."""
    port: Port = 3306
    """Its port."""

    @model_validator(mode="after")
    def _can_be_found(self) -> Self:
        if (self.address is None) == (self.host is None):
            raise ValueError("address, host: give one of them, its address or its DNS name")
        ways_out = bool(self.within or self.security_group)
        if self.host and not ways_out:
            raise ValueError(
                f"host {self.host}: has no address yet for the firewall's rule; give within, the ranges that its "
                "addresses are in, or securityGroup"
            )
        if self.address and ways_out:
            raise ValueError("within, securityGroup: only of a host; the firewall's rule is for the address")
        if any(cidr.prefixlen == 0 for cidr in self.within):
            raise ValueError("within: 0.0.0.0/0 would let the load balancers out to everybody; name the ranges")
        return self


class HealthPort(Section):
    """Where each external server answers whether it is fit for clients: `GET` of `path`, in plain HTTP."""

    port: Port
    """The port. clustercheck's is 9200."""
    path: Target = "/"
    """The path, with what follows a `?`. 200 is yes; every other answer, and none, is no."""


class Durability(StrEnum):
    """When an acknowledged commit is on the disks."""

    FULL = "full"
    RELAXED = "relaxed"


class GroupTls(StrEnum):
    """What a Galera node takes from the others, and offers to them."""

    PREFERRED = "preferred"
    REQUIRED = "required"


class StateTransfer(StrEnum):
    """How a node gets a copy of everything: at its first start, and when it was away for too long."""

    MARIABACKUP = "mariabackup"
    RSYNC = "rsync"


#: MariaDB's own limit of `max_connections`.
MOST_CONNECTIONS = 100_000
#: Of each database's connections, for administrators, state transfers, and sessions that outlive their balancer.
RESERVED_CONNECTIONS = 50


class Galera(Section):
    """MariaDB with Galera: how soon a lost node is noticed (in seconds), and what a server may use.

    The defaults were chosen by measurement (docs/databases.md, "Nodes that pause"): a power cut stalls writes until the
    group has a new view, about 6 s with Galera's own timeouts and about 2 s with these. A suspect timeout of 0.5 s made
    living nodes lose each other.
    """

    keepalive_period: Seconds = 0.3
    """`evs.keepalive_period`: seconds without traffic after which a node sends a sign of life."""
    inactive_check_period: Seconds = 0.2
    """`evs.inactive_check_period`: seconds between looks for silent nodes."""
    suspect_timeout: Annotated[float, Field(ge=0.5)] = 1.8
    """`evs.suspect_timeout`: seconds of silence after which a node is suspected; if all agree, it is out."""
    inactive_timeout: Seconds = 3
    """`evs.inactive_timeout`: seconds of silence after which a node is out, whether the others agree or not."""
    install_timeout: Seconds = 3
    """`evs.install_timeout`: seconds that the nodes have to agree on a new view."""
    buffer_pool_mib: Annotated[int, Field(ge=16)] = 128
    """`innodb_buffer_pool_size`, in MiB. The default is MariaDB's own."""
    max_connections: Annotated[int, Field(ge=10, le=MOST_CONNECTIONS)] | None = None
    """`max_connections` of each server; a sum that is not enough is refused. Default: what may come, and 500 at least:
    `haproxy.mysql.serverMaxConnections`, from each machine with Mycat `maxConnections` of every data host that leads
    to the server (440 by default), with `haproxy.mysql.readPort` what comes from there, and 50 for administrators and
    what goes wrong. The health responder and one session of root get in beyond that."""
    durability: Durability = Durability.FULL
    """`full`: an acknowledged commit is on the disk of the node that took it, and survives that all nodes lose their
    power in the same second (`innodb_flush_log_at_trx_commit` 1, `sync_binlog` 1). `relaxed`: it is written to disk
    about once a second (2 and 0), which saves a flush for each commit; when all nodes lose their power or their kernel
    at once, the commits of about the last second are gone. The loss of some nodes, or of mariadbd on all of them, loses
    nothing either way."""
    state_transfer: StateTransfer = StateTransfer.MARIABACKUP
    """How a node gets a copy of everything from another one, the donor (`wsrep_sst_method`). `mariabackup`: the donor
    goes on serving. `rsync`: it takes no writes meanwhile, and the load balancers send it no clients. The node that
    `haproxy.mysql.singleWriter` prefers is the last one that is asked to be donor."""
    tls: GroupTls | None = None
    """TLS between the nodes: of all that Galera sends from node to node, and of copies by `mariabackup`. They know each
    other by `secrets.galeraTlsKey`. `required`: nothing else is taken. `preferred`: both, as a step for a stack that
    exists: from none to `required`, or back, go by an `up` with `preferred`; anything else is refused before a node
    changes. Each step restarts the nodes one after the other. Default: none."""
    require_primary_key: bool = True
    """Refuse to create or alter a table that has neither a primary key nor a unique one without NULL
    (`innodb_force_primary_key`, error 1173), which Galera does not support fully. That goes for temporary tables too;
    `false` is for applications that have them without a key. Tables that exist can still be read and written."""
    wsrep_sync_wait: Annotated[int, Field(ge=0, le=15)] = 0
    """`wsrep_sync_wait`: which statements wait until their node has applied what was committed before on any node; a
    sum of 1 (SELECT, BEGIN), 2 (UPDATE, DELETE), 4 (INSERT, REPLACE) and 8 (SHOW). 0: none, so a read on another node
    may miss a write that was acknowledged a moment before. Each such statement costs a round trip through the group
    and the wait for the node's queue, at worst 30 s and an error 1205; a session may choose for itself."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.keepalive_period < self.suspect_timeout <= self.inactive_timeout:
            raise ValueError("Galera needs keepalivePeriod < suspectTimeout <= inactiveTimeout")
        return self

    @model_validator(mode="after")
    def _copies_are_encrypted_too(self) -> Self:
        if self.tls and self.state_transfer is StateTransfer.RSYNC:
            raise ValueError(
                "tls: a copy by rsync would go from node to node in the clear; set stateTransfer: mariabackup"
            )
        return self


Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]
#: As long as MariaDB takes them (manual, "Identifier Names").
SchemaName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,79}$")]
#: All that MariaDB 10.11 knows for a schema but GRANT OPTION (manual, GRANT, "Database Privileges").
Privilege = Literal[
    "ALL PRIVILEGES",
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "DROP",
    "REFERENCES",
    "INDEX",
    "ALTER",
    "CREATE TEMPORARY TABLES",
    "LOCK TABLES",
    "CREATE VIEW",
    "SHOW VIEW",
    "CREATE ROUTINE",
    "ALTER ROUTINE",
    "EXECUTE",
    "EVENT",
    "TRIGGER",
    "DELETE HISTORY",
]
ALL_PRIVILEGES, *PRIVILEGES = get_args(Privilege)

#: A schema that says which of `database.users` there are, so that one that is no longer named can be dropped.
OWN_SCHEMA = "mycat_ha"
#: Characters of a schema's name in GRANT, where each _ has a backslash before it.
_LONGEST_PATTERN = 64
#: MariaDB's, this program's, and the one of the health checks, besides `constants.MYSQL_CHECK_USER`.
_OTHER_USERS = {
    "root": "MariaDB's own",
    "mysql": "MariaDB's own",
    "mariadb.sys": "MariaDB's own",
    "PUBLIC": "MariaDB's role of everybody",
    "health": "the one of the health checks",
    MYSQL_CHECK_USER: "the one of HAProxy's checks",
}
_OTHER_SCHEMAS = {
    **dict.fromkeys(("mysql", "sys", "information_schema", "performance_schema"), "MariaDB's own"),
    OWN_SCHEMA: "the one in which `up` keeps the names of database.users",
}


class DatabaseUser(Section):
    """A user of the databases, from any host, with exactly these rights on schemas."""

    name: UserName
    """The name to log in with. One that exists already is taken over: it gets this password and these rights."""
    secret: SecretName
    """The key in `mycat-ha:secrets` that holds the password. A changed password ends no session."""
    rights: dict[SchemaName, Annotated[tuple[Privilege, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """By schema (`schema` or one of `schemas`), what GRANT would name: `[SELECT, INSERT]`, or `[ALL PRIVILEGES]` alone.
    What is removed here is revoked, as is any other right on a whole schema. Default: none."""
    require_tls: bool = False
    """Refuse this user without TLS (`REQUIRE SSL`). Sessions that it has go on until they end. Needs `database.tls`."""


class Tls(Certificate):
    """TLS between clients and the databases, through the VIP (docs/databases.md). The key of a certificate of your own
    is `secrets.databaseTlsKey`."""

    required: bool = False
    """Refuse clients without TLS (`require_secure_transport`). Not with Mycat before these databases: it has none."""


class Database(Section):
    """The servers behind port 3306: MariaDB with Galera on the machines of role `mysql`, or `external` ones."""

    galera: Galera = Galera()
    """The cluster on the machines of role `mysql`."""
    external: tuple[ExternalServer, ...] = ()
    """Servers that exist already, instead of machines of role `mysql`."""
    external_check_user: Identifier | None = None
    """The user as whom HAProxy logs in, without a password, to check external servers; needed with `external`, but for
    `externalWriterCheck`, after which it logs in as well if there is a user. null: HAProxy only looks at their
    handshake, for servers whose `max_connect_errors` is out of reach; with `externalWriterCheck` not even at that."""
    external_writer_check: HealthPort | None = None
    """Where an external server says that it may write; only those get the sessions of `haproxy.mysql.port`. With
    `haproxy.mysql.singleWriter`, which needs it, the sessions of a server that no longer may are ended. Default: none,
    a server that lets `externalCheckUser` log in is taken for one that may."""
    external_reader_check: HealthPort | None = None
    """Where an external server says that it may be read from, for `haproxy.mysql.readPort`. Default: as
    `externalWriterCheck`, so that a replica that may not write is not read from either."""
    schema_: Annotated[Identifier, Field(alias="schema")] = "app"
    """The database that is created for the application."""
    user: Identifier = "app"
    """The application's user, with all rights on `schema`. The password is `secrets.database`."""
    schemas: tuple[SchemaName, ...] = ()
    """Further databases that are created, with character set utf8mb4. One that is removed here is never dropped: its
    data stays, and only the rights of `users` on it are revoked."""
    users: tuple[DatabaseUser, ...] = ()
    """Further users, with rights on `schema` and `schemas`. One that is removed here is dropped by the next `up`;
    sessions that it has go on until they end (docs/databases.md)."""
    tls: Tls | None = None
    """TLS between clients and the databases; `{}` is enough. Default: none. To switch it on or off restarts the nodes
    one after the other; another certificate does not."""
    backup: Backup | None = None
    """Backups in S3, of the machines of role `mysql`. Default: none."""
    extra: Lines = ()
    """Lines of your own for `[mysqld]` on the machines of role `mysql`, such as `max_allowed_packet = 64M`. What
    contradicts the stack's own lines is refused (docs/stacks.md). A change restarts the nodes one after the other."""

    @model_validator(mode="after")
    def _does_not_lock_itself_out(self) -> Self:
        checked = self.external_writer_check or "external_check_user" in self.model_fields_set
        if self.external and not checked:
            raise ValueError(
                "externalCheckUser: missing; name a user without password and rights (CREATE USER haproxy@'...'), as "
                "whom HAProxy logs in to check external servers, or a port that says how they are, externalWriterCheck"
                ". With null it only looks at their handshake: a server blocks a balancer that has done that "
                "max_connect_errors times, 100 by default, and nothing else"
            )
        return self


def _taken_names(database: Database, mycat_user: str | None) -> Iterator[str]:
    """`up` sets the password and the rights of those that it makes, whoever had the name before."""
    for key, name in (("database.user", database.user), ("mycat.databaseUser", mycat_user)):
        if what := _OTHER_USERS.get(name or ""):
            yield f"{key}: {name} is {what}; choose another name"
    if mycat_user == database.user:
        yield f"mycat.databaseUser: {mycat_user} is database.user, which has a password of its own; choose another name"
    if what := _OTHER_SCHEMAS.get(database.schema_.lower()):
        yield f"database.schema: {database.schema_} is {what}; choose another name"


def user_problems(database: Database, mycat_user: str | None) -> Iterator[str]:
    """What contradicts itself in `database.schemas` and `database.users`. ``mycat_user``: as whom Mycat logs in."""
    if database.external:
        for key in ("schemas", "users"):
            if getattr(database, key):
                yield f"database.{key}: the databases are external ones, in which the stack makes none; leave it out"
    else:
        yield from _taken_names(database, mycat_user)
    for i, schema in enumerate(database.schemas):
        if what := _OTHER_SCHEMAS.get(schema.lower()):
            yield f"database.schemas[{i}]: {schema} is {what}; choose another name"
        if len(schema.replace("_", r"\_")) > _LONGEST_PATTERN:
            yield f"database.schemas[{i}]: {schema} is too long: in GRANT each _ counts twice, and 64 are possible"
    yield from twice("database.schemas", (database.schema_, *database.schemas))
    yield from twice("database.users", (user.name for user in database.users))

    others = {**_OTHER_USERS, database.user: "database.user"}
    if mycat_user:
        others[mycat_user] = "mycat.databaseUser"
    for i, user in enumerate(database.users):
        if what := others.get(user.name):
            yield f"database.users[{i}].name: {user.name} is {what}; choose another name"
        if user.require_tls and not database.tls:
            yield f"database.users[{i}].requireTls: {user.name} could not log in: set database.tls too"
        for schema, privileges in user.rights.items():
            key = f"database.users[{i}].rights.{schema}"
            if schema not in (database.schema_, *database.schemas):
                yield f"{key}: the stack makes no schema {schema}; add it to database.schemas"
            if ALL_PRIVILEGES in privileges and len(privileges) > 1:
                yield f"{key}: ALL PRIVILEGES has the others in it; leave them out"
