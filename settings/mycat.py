"""The Mycat tier: who may log in, which tables there are, and where their rows lie."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from settings.base import IPv4Address, Name, Port, SecretName, Section, Sha256, SourceArchive, Text, Url, Version, twice
from settings.topology import MachineSettings, Role

#: A name in Mycat's XML that is also a name in SQL. Mycat gives meaning to `,` and `$` in names, so they have none.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
#: Names that only Mycat's own files know (an XML name token, without `,`, `$` and `:`).
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
#: Which of a table's data nodes, counted from 0.
Place = Annotated[int, Field(ge=0, le=1023)]
Long = Annotated[int, Field(ge=0, lt=2**63)]

#: Logs in from the machine itself: the health responder, and the tool that applies a configuration.
HEALTH_USER = "health"


class User(Section):
    """Who may log in to Mycat."""

    name: Label
    """The name to log in with."""
    secret: SecretName
    """The key in `mycat-ha:secrets` that holds the password."""
    schemas: tuple[Identifier, ...] = ()
    """The schemas that the user may use; the first one is chosen at login. Default: all."""
    read_only: bool = False
    """Refuse everything that writes."""


class Table(Section):
    """Sharded by a `rule`, the same on all its nodes (`global`), or on one node only."""

    name: Identifier
    """The table's name. Mycat does not tell upper from lower case."""
    data_nodes: Annotated[tuple[Label, ...], Field(min_length=1)]
    """The data nodes that hold its rows. A rule's function refers to them by place, counted from 0."""
    primary_key: Identifier | None = None
    """The column of the primary key, for Mycat's cache of where rows are."""
    rule: Label | None = None
    """The rule that decides on each row's node."""
    global_: Annotated[bool, Field(alias="global")] = False
    """All rows are on all of the data nodes, so that it can be joined with any sharded table."""


class Schema(Section):
    """A database as Mycat's clients see it."""

    name: Identifier
    """The name that clients use."""
    data_node: Label | None = None
    """Where tables are that are not listed. Default: there are no others."""
    tables: tuple[Table, ...] = ()
    """The tables that are not on `dataNode`, or that Mycat has to know the primary key of."""
    sql_max_limit: Annotated[int, Field(ge=-1)] = -1
    """Rows that a query without a LIMIT gets at most. -1: no limit, because Mycat adds it silently."""


class Rule(Section):
    """Which column of a row decides on its node, and how."""

    name: Label
    """The name by which tables refer to it."""
    column: Identifier
    """The column that decides."""
    function: Label
    """The function that makes a place of the column's value."""


class ModLong(Section):
    """The column's number modulo `count`."""

    name: Label
    """The name by which rules refer to it."""
    kind: Literal["mod-long"]
    """Always `mod-long`."""
    count: Annotated[int, Field(ge=1, le=1024)]
    """The divisor: how many data nodes the table has."""

    def places(self) -> set[int]:
        return set(range(self.count))


class HashInt(Section):
    """A node for each value of the column."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: Label
    """The name by which rules refer to it."""
    kind: Literal["hash-int"]
    """Always `hash-int`."""
    map: Annotated[dict[Text, Place], Field(min_length=1)]
    """The place, counted from 0, of each value."""
    default_node: Place | None = None
    """The place of all other values. Default: Mycat refuses them."""

    def places(self) -> set[int]:
        return {*self.map.values(), *(() if self.default_node is None else (self.default_node,))}

    @model_validator(mode="after")
    def _fits_its_file(self) -> Self:
        for value in self.map:
            if "=" in value or value.startswith(("#", "//")) or value != value.strip() or not value:
                raise ValueError(f"map: '{value}' cannot be a line of Mycat's file (=, a comment, blanks, or empty)")
        return self


class Interval(Section):
    """The values `from` to `to`, both included."""

    from_: Annotated[Long, Field(alias="from")]
    """The lowest value."""
    to: Long
    """The highest value."""
    node: Place
    """The place, counted from 0, of the table's data node."""

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.to < self.from_:
            raise ValueError(f"from {self.from_} is greater than to {self.to}")
        return self


class Range(Section):
    """A node for each range of the column's number."""

    name: Label
    """The name by which rules refer to it."""
    kind: Literal["range"]
    """Always `range`."""
    ranges: Annotated[tuple[Interval, ...], Field(min_length=1)]
    """The ranges, which must not overlap."""
    default_node: Place | None = None
    """The place of all other values, one that a range has as well. Default: Mycat refuses them."""

    def places(self) -> set[int]:
        # Mycat itself does not count the default node here, so it must be one of the others.
        return {interval.node for interval in self.ranges}

    @model_validator(mode="after")
    def _apart(self) -> Self:
        ordered = sorted(self.ranges, key=lambda interval: interval.from_)
        for lower, upper in pairwise(ordered):
            if upper.from_ <= lower.to:
                raise ValueError(f"ranges: {lower.from_}-{lower.to} and {upper.from_}-{upper.to} overlap")
        if self.default_node is not None and self.default_node not in self.places():
            raise ValueError(f"defaultNode: {self.default_node} is the node of no range")
        return self


class OtherFunction(Section):
    """Any class of Mycat's or of the user's that the archive brings."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: Label
    """The name by which rules refer to it."""
    class_: Annotated[
        str, Field(alias="class"), StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$")
    ]
    """The Java class, for example `io.mycat.route.function.PartitionByMurmurHash`."""
    properties: dict[Label, Text] = Field(default_factory=dict)
    """The properties that the class demands."""

    def places(self) -> set[int] | None:
        """Only the class knows."""
        return None


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind", "other"))
    return str(getattr(value, "kind", "other"))


Function = Annotated[
    Annotated[ModLong, Tag("mod-long")]
    | Annotated[HashInt, Tag("hash-int")]
    | Annotated[Range, Tag("range")]
    | Annotated[OtherFunction, Tag("other")],
    Discriminator(
        _kind,
        custom_error_type="function_kind",
        custom_error_message="kind must be mod-long, hash-int or range; or leave it out and give class",
    ),
]


class DataNode(Section):
    """A database on a data host."""

    name: Label
    """The name by which tables and schemas refer to it."""
    data_host: Label
    """The data host that has the database."""
    database: Identifier
    """The database's name there. It is created if the databases are machines of the stack."""


class Server(Section):
    """A database server: a machine of role `mysql` by its name, or any other by its address."""

    name: Label | None = None
    """Its name in Mycat's files and logs. Default: the machine's, or address and port."""
    machine: Name | None = None
    """A machine of role `mysql`."""
    address: IPv4Address | None = None
    """The address of any other server, as the machines of Mycat reach it."""
    port: Port = 3306
    """Its port; a machine's is 3306."""

    @property
    def label(self) -> str:
        return self.name or self.machine or f"{self.address}-{self.port}"

    @model_validator(mode="after")
    def _machine_or_address(self) -> Self:
        if (self.machine is None) == (self.address is None):
            raise ValueError("give either machine or address")
        if self.machine is not None and self.port != Server.model_fields["port"].default:
            raise ValueError(f"port: the database on machine {self.machine} listens on 3306")
        return self


class WriteHost(Server):
    """A database server that gets writes, with its replicas."""

    read_hosts: tuple[Server, ...] = ()
    """Its replicas, which get reads by `balance` of the data host."""


class DataHost(Section):
    """Servers that hold the same data: the first write host is used, the next ones when it is down.

    Sources: Mycat's schema.dtd; XMLSchemaLoader for what the numbers mean.
    """

    name: Label
    """The name by which data nodes refer to it."""
    write_hosts: Annotated[tuple[WriteHost, ...], Field(min_length=1)]
    """The servers, in the order in which they are used."""
    balance: Annotated[int, Field(ge=0, le=3)] = 0
    """Where reads go: 0 to the write host in use, 1 to read hosts and the other write hosts, 2 to any, 3 to read hosts
    only."""
    switch_type: Literal[-1, 1, 2, 3] = 1
    """What moves writes to the next write host: -1 nothing, 1 a failure of this one, 2 the state of its replication, 3
    the state of its cluster."""
    max_connections: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Connections to each server from each Mycat at most (`maxCon`). Mycat refuses a statement for which there is none
    (error 1184), and if that is its own check of the server, it takes the server for dead and ends all sessions. So the
    sessions of `haproxy.mycat.serverMaxConnections` must find one for each data node here, and a tenth more. Default:
    just that, or 440 if those are not set."""
    min_connections: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Connections to each server that each Mycat keeps open."""
    heartbeat: Annotated[Text, Field(min_length=1)] = "select user()"
    """The statement by which Mycat checks a server."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_connections is not None and self.min_connections > self.max_connections:
            raise ValueError("minConnections is greater than maxConnections")
        return self


class ExternalMycat(Section):
    """A Mycat that is not a machine of the stack."""

    name: Name
    """Its name in HAProxy's configuration and on the statistics page."""
    address: IPv4Address
    """Its address, as the load balancers reach it."""
    port: Port = 8066
    """Its port. The default is Mycat's own."""


class Mycat(Section):
    """Mycat on the machines of role `mycat`, or `external` ones, behind HAProxy's port 3307.

    What it serves is given here, or in `files`: a directory with a server.xml, schema.xml and rule.xml of the user's
    own, which are used as they are. docs/mycat.md explains the whole.
    """

    version: Version | None = None
    """The release. Needed with machines of role `mycat`, as `sha256` and `url` are."""
    sha256: Sha256 | None = None
    """SHA-256 of the archive. No release has a published one; docs/mycat.md says how to get it."""
    url: Url | None = None
    """Where each machine downloads the archive, unless `archive` is given."""
    archive: str | None = None
    """Path of the archive on the machine that runs `pulumi up`, which uploads it. Default: `url` is downloaded."""

    heap_mib: Annotated[int, Field(ge=64, le=1_048_576)] | None = None
    """Java's heap, in MiB. It must hold every result that Mycat sorts or groups itself; if it does not, Mycat ends with
    all sessions (docs/mycat.md). Default: an eighth of the machine's memory, 256 at least, which with `directMemoryMib`
    fits into 2 GiB beside a database and a balancer."""
    direct_memory_mib: Annotated[int, Field(ge=32, le=1_048_576)] = 128
    """Memory outside of the heap, in MiB; one half of it is for network buffers, which all sessions share: Mycat stops
    reading from a database when a client leaves more than its part unread."""
    sql_execute_timeout: Annotated[int, Field(ge=1, le=3600)] | None = None
    """Seconds after which Mycat ends a statement; also how long it refuses a second change of data nodes after one. It
    has to be less than HAProxy's (`haproxy.mycat.timeouts`). Default: Mycat's own 300, or five less than HAProxy's if
    that is shorter, as in keepalived's mode `recipe`."""

    database_user: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")] = "mycat"
    """The user as whom Mycat logs in to the databases; the password is `secrets.mycatDatabase`. It is created if they
    are machines of the stack. Elsewhere it must exist, with `mysql_native_password`: Mycat knows nothing else."""
    users: tuple[User, ...] = ()
    """Who may log in; the first one is the one that the stack's outputs name."""
    schemas: tuple[Schema, ...] = ()
    """The databases that clients see."""
    rules: tuple[Rule, ...] = ()
    """How tables are sharded."""
    functions: tuple[Function, ...] = ()
    """What rules compute. A place is one of a table's data nodes, counted from 0."""
    data_nodes: tuple[DataNode, ...] = ()
    """The databases that hold the tables."""
    data_hosts: tuple[DataHost, ...] = ()
    """The servers that have these databases."""
    files: str | None = None
    """A directory with a server.xml, schema.xml, rule.xml and whatever they need, instead of `users`, `schemas`,
    `rules`, `functions`, `dataNodes` and `dataHosts`."""

    external: tuple[ExternalMycat, ...] = ()
    """Servers that exist already, instead of machines of role `mycat`."""
    external_check_port: Port | None = 48700
    """Where external servers answer `OPTIONS *`, as in the recipe. null: HAProxy looks at their handshake instead."""

    @property
    def source(self) -> SourceArchive:
        """The distribution; only a tier of one's own has one."""
        return SourceArchive.model_validate(
            {"version": self.version, "sha256": self.sha256, "url": self.url, "archive": self.archive}
        )

    @property
    def directory(self) -> Path | None:
        return Path(self.files).expanduser() if self.files else None

    def schemas_of(self, user: User) -> tuple[str, ...]:
        return user.schemas or tuple(schema.name for schema in self.schemas)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        served = ("users", "schemas", "rules", "functions", "data_nodes", "data_hosts")
        given = [_key(field) for field in served if getattr(self, field)]
        if self.external:
            more = [field for field in ("version", "sha256", "url", "archive", "files") if getattr(self, field)]
            if given or more:
                raise ValueError(f"external servers are used as they are: leave out {', '.join(more + given)}")
            if self.external_check_port and len({server.port for server in self.external}) > 1:
                raise ValueError("external: the servers need the same port, unless externalCheckPort is null")
            return self
        missing = [field for field in ("version", "sha256", "url") if getattr(self, field) is None]
        if missing:
            raise ValueError(f"{', '.join(missing)}: missing; nothing is run whose checksum is not known")
        if self.files:
            if given:
                raise ValueError(f"files are used as they are: leave out {', '.join(given)}")
        elif lacking := {"users", "schemas", "dataNodes", "dataHosts"}.difference(given):
            raise ValueError(f"{', '.join(sorted(lacking))}: give at least one of each, or files")
        return self


def _key(field: str) -> str:
    return str(Mycat.model_fields[field].alias or field)


def contradictions(mycat: Mycat, machines: Iterable[MachineSettings]) -> Iterator[str]:
    """What cannot work, as ``KEY: reason`` below ``mycat-ha:``."""
    schemas = {schema.name for schema in mycat.schemas}
    nodes = {node.name for node in mycat.data_nodes}
    functions = {function.name: function for function in mycat.functions}
    rules = {rule.name: rule for rule in mycat.rules}
    for field in ("users", "schemas", "rules", "functions", "data_nodes", "data_hosts"):
        yield from twice(f"mycat.{_key(field)}", (item.name for item in getattr(mycat, field)))

    for i, user in enumerate(mycat.users):
        if user.name == HEALTH_USER:
            yield f"mycat.users[{i}].name: {HEALTH_USER} is the user of the health checks; choose another name"
        for schema_name in user.schemas:
            if schema_name not in schemas:
                yield f"mycat.users[{i}].schemas: there is no schema {schema_name}"
    for i, rule in enumerate(mycat.rules):
        if rule.function not in functions:
            yield f"mycat.rules[{i}].function: there is no function {rule.function}"
    for i, schema in enumerate(mycat.schemas):
        key = f"mycat.schemas[{i}]"
        if not schema.tables and schema.data_node is None:
            yield f"{key}: has neither tables nor a dataNode for those that are not listed"
        if schema.data_node is not None and schema.data_node not in nodes:
            yield f"{key}.dataNode: there is no data node {schema.data_node}"
        yield from twice(f"{key}.tables", (table.name.upper() for table in schema.tables))
        for j, table in enumerate(schema.tables):
            function = functions.get(rules[table.rule].function) if table.rule in rules else None
            places = function.places() if function else None
            yield from _table(f"{key}.tables[{j}]", table, nodes, set(rules), places)
    for i, node in enumerate(mycat.data_nodes):
        if node.data_host not in {host.name for host in mycat.data_hosts}:
            yield f"mycat.dataNodes[{i}].dataHost: there is no data host {node.data_host}"
    by_name = {machine.name: machine for machine in machines}
    for i, host in enumerate(mycat.data_hosts):
        yield from _servers(f"mycat.dataHosts[{i}].writeHosts", host.write_hosts, by_name)
        for j, write_host in enumerate(host.write_hosts):
            yield from _servers(f"mycat.dataHosts[{i}].writeHosts[{j}].readHosts", write_host.read_hosts, by_name)


def _table(key: str, table: Table, nodes: set[str], rules: set[str], places: set[int] | None) -> Iterator[str]:
    count = len(table.data_nodes)
    yield from twice(f"{key}.dataNodes", table.data_nodes)
    for name in table.data_nodes:
        if name not in nodes:
            yield f"{key}.dataNodes: there is no data node {name}"
    if table.global_ and table.rule:
        yield f"{key}: global and rule exclude each other: a global table is the same on all its nodes"
    elif not table.global_ and not table.rule and count > 1:
        yield f"{key}: {count} dataNodes need a rule, or global: true"
    if table.rule and table.rule not in rules:
        yield f"{key}.rule: there is no rule {table.rule}"
    if places is not None and places != set(range(count)):
        numbers = ", ".join(map(str, sorted(places)))
        yield f"{key}.dataNodes: {count} data nodes, but the function of rule {table.rule} knows the places {numbers}"


def _servers(key: str, servers: Iterable[Server], machines: dict[str, MachineSettings]) -> Iterator[str]:
    servers = list(servers)
    yield from twice(key, (server.label for server in servers))
    for i, server in enumerate(servers):
        if server.machine is None:
            continue
        if server.machine not in machines:
            yield f"{key}[{i}].machine: there is no machine {server.machine}"
        elif Role.MYSQL not in machines[server.machine].roles:
            yield f"{key}[{i}].machine: {server.machine} has no role mysql"
