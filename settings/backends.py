"""The databases behind Mycat: what the firewall lets Mycat reach, and what its user gets rights on."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from settings.base import unprintable
from settings.mycat import Mycat
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


def pools(mycat: Mycat, machines: Iterable[MachineSettings]) -> dict[tuple[str, int], int]:
    """How many connections one Mycat that is not external opens at most, by address and port of the database server.

    The user's own files have to have been checked, as for ``backends``.
    """
    found: dict[tuple[str, int], int] = {}
    if mycat.directory:
        root = ET.fromstring((mycat.directory / "schema.xml").read_text(encoding="utf-8"))
        for data_host in root.iter("dataHost"):
            most = data_host.get("maxCon", "")
            for server in (element for element in data_host.iter() if element.tag in ("writeHost", "readHost")):
                place = _server(server.get("url", ""))
                found[place] = found.get(place, 0) + (int(most) if most.isdecimal() else 0)
        return found
    addresses = {machine.name: str(machine.address) for machine in machines}
    for host in mycat.data_hosts:
        for write_host in host.write_hosts:
            for each in (write_host, *write_host.read_hosts):
                place = (addresses[each.machine] if each.machine else str(each.address), each.port)
                found[place] = found.get(place, 0) + host.max_connections
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
    """The names in a `database` attribute, which may be several: `a,b` and `db$0-3` (Mycat's SplitUtil)."""
    for part in attribute.split(","):
        text = part.strip()
        several = _SEVERAL.fullmatch(text)
        if several:
            first, last = int(several[2]), int(several[3])
            if not 0 <= last - first < _MOST:
                raise ValueError(f"database {text!r}: the range has to go up, and to {_MOST} databases at most")
            names = [f"{several[1]}{number}" for number in range(first, last + 1)]
        else:
            names = [text]
        for name in names:
            _check_database(name)
        yield from names


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
