"""The Mycat tier: who may log in, which tables there are, and where their rows lie."""

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from settings.base import IPv4Address, Name, Port, Section, Sha256, SourceArchive, Text, Url, Version
from settings.topology import MachineSettings, Role

#: A name in Mycat's XML that is also a name in SQL. Mycat gives meaning to `,` and `$` in names, so they have none.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
#: Names that only Mycat's own files know (an XML name token, without `,`, `$` and `:`).
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
#: Which of a table's data nodes, counted from 0.
Place = Annotated[int, Field(ge=0, le=1023)]
Long = Annotated[int, Field(ge=0, lt=2**63)]

#: Logs in from the machine itself: the health responder, and the tool that applies a configuration.
HEALTH_USER = "health"
XML_FILES = ("server.xml", "schema.xml", "rule.xml")


class User(Section):
    name: Label
    #: The key in ``mycat-ha:secrets`` that holds the password.
    secret: SecretName
    #: What the user may use, the first one by default; without any: all schemas.
    schemas: tuple[Identifier, ...] = ()
    read_only: bool = False


class Table(Section):
    """Sharded by a ``rule``, the same on all its nodes (``global``), or on one node only."""

    name: Identifier
    data_nodes: Annotated[tuple[Label, ...], Field(min_length=1)]
    primary_key: Identifier | None = None
    rule: Label | None = None
    global_: Annotated[bool, Field(alias="global")] = False


class Schema(Section):
    name: Identifier
    #: Where tables are that are not listed.
    data_node: Label | None = None
    tables: tuple[Table, ...] = ()
    #: Rows that a query without a LIMIT gets at most; Mycat adds the limit silently. -1: no limit.
    sql_max_limit: Annotated[int, Field(ge=-1)] = -1


class Rule(Section):
    """Which column of a row decides on its node, and how."""

    name: Label
    column: Identifier
    function: Label


class ModLong(Section):
    """The column's number modulo ``count``."""

    name: Label
    kind: Literal["mod-long"]
    count: Annotated[int, Field(ge=1, le=1024)]

    def places(self) -> set[int]:
        return set(range(self.count))


class HashInt(Section):
    """A node for each value of the column."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: Label
    kind: Literal["hash-int"]
    map: Annotated[dict[Text, Place], Field(min_length=1)]
    #: For values that are not in the map; without it Mycat refuses them.
    default_node: Place | None = None

    def places(self) -> set[int]:
        return {*self.map.values(), *(() if self.default_node is None else (self.default_node,))}

    @model_validator(mode="after")
    def _fits_its_file(self) -> Self:
        for value in self.map:
            if "=" in value or value.startswith(("#", "//")) or value != value.strip() or not value:
                raise ValueError(f"map: '{value}' cannot be a line of Mycat's file (=, a comment, blanks, or empty)")
        return self


class Interval(Section):
    """The values ``from`` to ``to``, both included."""

    from_: Annotated[Long, Field(alias="from")]
    to: Long
    node: Place

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.to < self.from_:
            raise ValueError(f"from {self.from_} is greater than to {self.to}")
        return self


class Range(Section):
    """A node for each range of the column's number."""

    name: Label
    kind: Literal["range"]
    ranges: Annotated[tuple[Interval, ...], Field(min_length=1)]
    default_node: Place | None = None

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

    name: Label
    class_: Annotated[
        str, Field(alias="class"), StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$")
    ]
    properties: dict[Label, Text] = Field(default_factory=dict)

    model_config = ConfigDict(coerce_numbers_to_str=True)

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
    data_host: Label
    database: Identifier


class Server(Section):
    """A database server: a machine of role mysql by its name, or any other by its address."""

    #: In Mycat's files and logs; by default the machine's.
    name: Label | None = None
    machine: Name | None = None
    address: IPv4Address | None = None
    port: Port = 3306

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
    read_hosts: tuple[Server, ...] = ()


class DataHost(Section):
    """Servers that hold the same data: the first write host is used, the next ones when it is down.

    Sources: Mycat's schema.dtd; XMLSchemaLoader for what the numbers mean.
    """

    name: Label
    write_hosts: Annotated[tuple[WriteHost, ...], Field(min_length=1)]
    #: Reads: 0 from the write host in use, 1 from read hosts and other write hosts, 2 from any, 3 from read hosts only.
    balance: Annotated[int, Field(ge=0, le=3)] = 0
    #: Which failure moves writes to the next write host: -1 none, 1 its own, 2 by replication, 3 by cluster status.
    switch_type: Literal[-1, 1, 2, 3] = 1
    #: For each server, and for each Mycat.
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 100
    min_connections: Annotated[int, Field(ge=1, le=10_000)] = 2
    heartbeat: Annotated[Text, Field(min_length=1)] = "select user()"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_connections > self.max_connections:
            raise ValueError("minConnections is greater than maxConnections")
        return self


class ExternalMycat(Section):
    name: Name
    address: IPv4Address
    port: Port = 8066


class Mycat(Section):
    """Mycat on the machines of role ``mycat``, or ``external`` ones, behind HAProxy's port 3307.

    What it serves is given here, or in ``files``: a directory with a server.xml, schema.xml and rule.xml of the
    user's own, which are used as they are.
    """

    version: Version | None = None
    sha256: Sha256 | None = None
    url: Url | None = None
    archive: str | None = None

    heap_mib: Annotated[int, Field(ge=64, le=1_048_576)] = 256
    #: Of this, one half is for network buffers.
    direct_memory_mib: Annotated[int, Field(ge=32, le=1_048_576)] = 128
    #: Seconds after which Mycat ends a statement; also how long it refuses a second change of data nodes after one.
    sql_execute_timeout: Annotated[int, Field(ge=1, le=3600)] = 300

    #: As whom Mycat logs in to the databases; the password is ``secrets.mycatDatabase``.
    database_user: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")] = "mycat"
    users: tuple[User, ...] = ()
    schemas: tuple[Schema, ...] = ()
    rules: tuple[Rule, ...] = ()
    functions: tuple[Function, ...] = ()
    data_nodes: tuple[DataNode, ...] = ()
    data_hosts: tuple[DataHost, ...] = ()
    files: str | None = None

    external: tuple[ExternalMycat, ...] = ()
    #: Where external servers answer `OPTIONS *`, as in the recipe; null: HAProxy looks at their handshake instead.
    external_check_port: Port | None = 48700

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
        yield from _twice(f"mycat.{_key(field)}", (item.name for item in getattr(mycat, field)))

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
        yield from _twice(f"{key}.tables", (table.name.upper() for table in schema.tables))
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
    yield from _twice(f"{key}.dataNodes", table.data_nodes)
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
    yield from _twice(key, (server.label for server in servers))
    for i, server in enumerate(servers):
        if server.machine is None:
            continue
        if server.machine not in machines:
            yield f"{key}[{i}].machine: there is no machine {server.machine}"
        elif Role.MYSQL not in machines[server.machine].roles:
            yield f"{key}[{i}].machine: {server.machine} has no role mysql"


def _twice(key: str, names: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{key}: {count} are named {name}; each needs a name of its own"


def read(directory: Path) -> dict[str, str]:
    """The user's own files by name; hidden ones are left out. Raises ValueError or OSError."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_file() or path.name == "dnindex.properties":
            raise ValueError(f"{path.name}: not a file that can be deployed")
        found[path.name] = path.read_text(encoding="utf-8")
    return found


def refusals(directory: Path, health_password: str) -> Iterator[str]:
    """What is wrong with the user's own files, as far as it can be seen without Mycat."""
    key = "mycat.files"
    try:
        files = read(directory)
    except (OSError, ValueError) as error:
        yield f"{key}: {error}"
        return
    roots = {}
    for name in XML_FILES:
        if name not in files:
            yield f"{key}: {directory} has no {name}; without it Mycat would take the one that comes with it"
            continue
        try:
            roots[name] = ET.fromstring(files[name])
        except ET.ParseError as error:
            yield f"{key}: {name}: {error}"
    if "server.xml" in roots:
        passwords = roots["server.xml"].findall(f"./user[@name='{HEALTH_USER}']/property[@name='password']")
        if [(password.text or "").strip() for password in passwords] != [health_password]:
            yield f"{key}: server.xml needs a user {HEALTH_USER} whose password is secrets.{HEALTH_USER}"
