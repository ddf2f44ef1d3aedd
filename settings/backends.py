"""The databases behind Mycat: what the firewall lets Mycat reach, and what its user gets rights on."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from settings.base import unprintable
from settings.mycat import Mycat, Server
from settings.topology import MachineSettings

#: Of a `jdbc:` URL: host and port after `//` (MySQL, PostgreSQL) or `@` (Oracle).
_JDBC = re.compile(r"jdbc:[^/@]+(?://|@(?://)?)(?P<host>[^/:;?@]+):(?P<port>[0-9]+)(?:[/:;?].*)?")
_NATIVE = re.compile(r"(?P<host>[^:]+):(?P<port>[0-9]+)")
_SEVERAL = re.compile(r"([^$]*)\$([0-9]+)-([0-9]+)")
#: Data nodes in one schema.xml; a mistyped range must not become a million databases.
_MOST = 4096


@dataclass(frozen=True)
class Backends:
    """What the data hosts and the data nodes of Mycat refer to, each once and in order."""

    databases: tuple[str, ...]
    #: Address and port of each database server.
    servers: tuple[tuple[str, int], ...]


def backends(mycat: Mycat, machines: Iterable[MachineSettings]) -> Backends:
    """The databases behind a Mycat that is not external, from the settings or from the user's own schema.xml.

    The user's own file has to have been checked by ``own_files.problems``. Raises ValueError if it has changed since.
    """
    if mycat.directory:
        found, problems = parse((mycat.directory / "schema.xml").read_text(encoding="utf-8"))
        if problems:
            raise ValueError("; ".join(problems))
        return found
    addresses = {machine.name: str(machine.address) for machine in machines}
    servers = {
        (addresses[server.machine] if server.machine else str(server.address), server.port)
        for host in mycat.data_hosts
        for write_host in host.write_hosts
        for server in (write_host, *write_host.read_hosts)
    }
    return Backends(tuple(sorted({node.database for node in mycat.data_nodes})), tuple(sorted(servers)))


@dataclass(frozen=True)
class DataHost:
    """Servers that hold the same data, as far as connections to them go."""

    #: Its key in the settings, or its place in the user's own schema.xml.
    key: str
    #: How many connections to one of its servers a session needs at most: one for each data node, in a transaction too.
    nodes: int
    #: As given; None: what the sessions need.
    most: int | None
    least: int
    #: Address and port of each.
    servers: tuple[tuple[str, int], ...]

    def serves(self, sessions: int) -> bool:
        return self.most is None or self.needs(sessions) <= self.most

    def needs(self, sessions: int) -> int:
        """Connections that serve ``sessions`` at once, whatever they do.

        Mycat's check of the server needs one as well, and one that was closed is counted for a second or two more
        (PhysicalDatasource.calcTotalCount).
        """
        busy = sessions * max(1, self.nodes)
        return busy + max(2, busy // 10)

    def pool(self, sessions: int) -> int:
        """Connections to each of its servers from one Mycat that has ``sessions``."""
        return self.most or max(self.needs(sessions), self.least)


def data_hosts(mycat: Mycat, machines: Iterable[MachineSettings]) -> tuple[DataHost, ...]:
    """The data hosts of a Mycat that is not external, in their order.

    The user's own files have to have been checked, as for ``backends``.
    """
    if mycat.directory:
        return _own_data_hosts(ET.fromstring((mycat.directory / "schema.xml").read_text(encoding="utf-8")))
    addresses = {machine.name: str(machine.address) for machine in machines}

    def place(server: Server) -> tuple[str, int]:
        return (addresses.get(server.machine, server.machine) if server.machine else str(server.address), server.port)

    return tuple(
        DataHost(
            f"mycat.dataHosts[{i}].maxConnections",
            sum(node.data_host == host.name for node in mycat.data_nodes),
            host.max_connections,
            host.min_connections,
            tuple(place(each) for writer in host.write_hosts for each in (writer, *writer.read_hosts)),
        )
        for i, host in enumerate(mycat.data_hosts)
    )


def _own_data_hosts(root: ET.Element) -> tuple[DataHost, ...]:
    """Those of the user's own schema.xml. A `dataNode` with several names has every database on every host."""
    nodes: dict[str, int] = {}
    for node in root.iter("dataNode"):
        for host in _names(node.get("dataHost", "")):
            nodes[host] = nodes.get(host, 0) + len(list(_names(node.get("database", ""))))

    def number(data_host: ET.Element, name: str) -> int:
        value = data_host.get(name, "")
        return int(value) if value.isdecimal() else 0

    return tuple(
        DataHost(
            f"maxCon of dataHost {data_host.get('name')} in mycat.files",
            nodes.get(data_host.get("name", ""), 0),
            number(data_host, "maxCon"),
            number(data_host, "minCon"),
            tuple(_server(each.get("url", "")) for each in data_host.iter() if each.tag in ("writeHost", "readHost")),
        )
        for data_host in root.iter("dataHost")
    )


def pools(hosts: Iterable[DataHost], sessions: int) -> dict[tuple[str, int], int]:
    """How many connections a Mycat that has ``sessions`` opens at most, by address and port of the database server."""
    found: dict[tuple[str, int], int] = {}
    for host in hosts:
        for server in host.servers:
            found[server] = found.get(server, 0) + host.pool(sessions)
    return found


def parse(schema: str) -> tuple[Backends, list[str]]:
    """What a schema.xml refers to, and what of it cannot be understood: ``ELEMENT: reason``.

    Raises xml.etree.ElementTree.ParseError.
    """
    databases: set[str] = set()
    servers: set[tuple[str, int]] = set()
    problems: list[str] = []
    root = ET.fromstring(schema)
    for node in root.iter("dataNode"):
        place = f"dataNode {node.get('name')}"
        try:
            databases |= set(_databases(node.get("database", "")))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    for data_host in root.iter("dataHost"):
        for server in (element for element in data_host.iter() if element.tag in ("writeHost", "readHost")):
            place = f"dataHost {data_host.get('name')}, {server.tag} {server.get('host')}"
            try:
                servers.add(_server(server.get("url", "")))
            except ValueError as error:
                problems.append(f"{place}: {error}")
    return Backends(tuple(sorted(databases)), tuple(sorted(servers))), problems


def _databases(attribute: str) -> Iterator[str]:
    """The names in a `database` attribute."""
    for name in _names(attribute):
        _check_database(name)
        yield name


def _names(attribute: str) -> Iterator[str]:
    """The names in an attribute, which may be several: `a,b` and `db$0-3` (Mycat's SplitUtil)."""
    for part in attribute.split(","):
        text = part.strip()
        several = _SEVERAL.fullmatch(text)
        if several:
            first, last = int(several[2]), int(several[3])
            if not 0 <= last - first < _MOST:
                raise ValueError(f"database {text!r}: the range has to go up, and to {_MOST} databases at most")
            yield from (f"{several[1]}{number}" for number in range(first, last + 1))
        else:
            yield text


def _check_database(name: str) -> None:
    """Raise ValueError if the database cannot be created by name, or the rights on it not be given."""
    if not name or len(name) > 64:
        raise ValueError(f"database {name!r}: needs 1 to 64 characters (MariaDB manual, Identifier Names)")
    if unprintable(name) or set("`\\/.$") & set(name):
        raise ValueError(f"database {name!r}: must not contain ` \\ / . $ or control characters")


def _server(url: str) -> tuple[str, int]:
    """Address and port of a `url` attribute, `ADDRESS:PORT` or a JDBC URL."""
    found = (_JDBC if url.startswith("jdbc:") else _NATIVE).fullmatch(url.strip())
    if not found:
        raise ValueError(f"url {url!r}: needs ADDRESS:PORT, for the firewall's rule")
    try:
        address = IPv4Address(found["host"].strip())
    except AddressValueError:
        raise ValueError(f"url {url!r}: needs an IPv4 address instead of a name, for the firewall's rule") from None
    port = int(found["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"url {url!r}: {port} is no port")
    return str(address), port
