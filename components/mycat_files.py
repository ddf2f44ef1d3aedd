"""Mycat's configuration: XML built as XML, so that no name and no password can break out of its place."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping

from constants import MYCAT_MANAGER_PORT, MYCAT_PORT
from settings import MachineSettings, Settings
from settings import backends as settings_backends
from settings.backends import Backends
from settings.mycat import HEALTH_USER, DataHost, Function, HashInt, ModLong, Mycat, Range, Server, Table, User
from settings.own_files import read

#: Of one network buffer, in MiB; Mycat's own default. How many there are follows from the memory that it may use.
BUFFER_MIB = 2
#: What Mycat divides them into; its own default (bufferPoolChunkSize). A buffer that waits for a client has one.
CHUNK_KIB = 4
NAMESPACE = "http://io.mycat/"

__all__ = ["Backends", "backends", "configuration", "map_file"]


def configuration(settings: Settings, machine: MachineSettings) -> dict[str, str]:
    """The files of Mycat on ``machine`` by name; server.xml and schema.xml hold passwords."""
    mycat = settings.mycat
    assert mycat is not None
    if mycat.directory:
        return read(mycat.directory)
    return {
        "server.xml": _server(settings, mycat, machine),
        "schema.xml": _schema(settings, mycat),
        "rule.xml": _rules(mycat),
        **{map_file(function): text for function in mycat.functions if (text := _map(function))},
    }


def backends(settings: Settings) -> Backends:
    """The databases behind Mycat, from the settings or from the user's own schema.xml."""
    assert settings.mycat is not None
    return settings_backends.backends(settings.mycat, settings.machines)


def _server(settings: Settings, mycat: Mycat, machine: MachineSettings) -> str:
    root = _root("server")
    pages = mycat.direct_memory_mib // 2 // BUFFER_MIB
    waiting = max(4, pages * BUFFER_MIB * 1024 // CHUNK_KIB // settings.haproxy.mycat.server_max_connections)
    # Without a comment: as in the server.xml of the distribution.
    _properties(
        ET.SubElement(root, "system"),
        {
            "bindIp": str(machine.address),
            "serverPort": str(MYCAT_PORT),
            "managerPort": str(MYCAT_MANAGER_PORT),
            "charset": "utf8mb4",
            "nonePasswordLogin": "0",
            "useHandshakeV10": "1",
            "removeGraveAccent": "1",
            "strictTxIsolation": "true",
            "useGlobleTableCheck": "0",
            "useSqlStat": "0",
            "useOffHeapForMerge": "0",
            "sqlExecuteTimeout": str(settings.sql_execute_timeout()),
            # 10 s would hide a dead database for as long; together with maxRetryCount in schema.xml.
            "dataNodeHeartbeatPeriod": "2000",
            # A client that does not read what it has asked for: Mycat stops reading from the databases when more
            # buffers than these are waiting, if it knows the first key (from 1.6.7.6 on). It only looks once a period.
            "enableWriteQueueFlowControl": "true",
            "writeQueueStopThreshold": str(waiting),
            "writeQueueRecoverThreshold": str(waiting // 4),
            "processorCheckPeriod": "50",
            "bufferPoolPageSize": str(BUFFER_MIB * 1024 * 1024),
            "bufferPoolPageNumber": str(pages),
        },
    )
    for user in mycat.users:
        _user(root, settings, mycat, user)
    # No rights on any row: Mycat answers the check's statement itself.
    health = ET.SubElement(root, "user", name=HEALTH_USER)
    names = [schema.name for schema in mycat.schemas]
    _properties(
        health,
        {
            "password": settings.secrets[HEALTH_USER].get_secret_value(),
            "schemas": ",".join(names),
            "readOnly": "true",
        },
    )
    privileges = ET.SubElement(health, "privileges", check="true")
    for name in names:
        ET.SubElement(privileges, "schema", name=name, dml="0000")
    return _text(root)


def _user(root: ET.Element, settings: Settings, mycat: Mycat, user: User) -> None:
    schemas = mycat.schemas_of(user)
    _properties(
        ET.SubElement(root, "user", name=user.name),
        {
            "password": settings.secrets[user.secret].get_secret_value(),
            "schemas": ",".join(schemas),
            "defaultSchema": schemas[0],
            "readOnly": "true" if user.read_only else "false",
        },
    )


def _schema(settings: Settings, mycat: Mycat) -> str:
    root = _root("schema")
    for schema in mycat.schemas:
        element = ET.SubElement(
            root, "schema", name=schema.name, checkSQLschema="true", sqlMaxLimit=str(schema.sql_max_limit)
        )
        if schema.data_node:
            element.set("dataNode", schema.data_node)
        for table in schema.tables:
            ET.SubElement(element, "table", _table(table))
    for node in mycat.data_nodes:
        ET.SubElement(root, "dataNode", name=node.name, dataHost=node.data_host, database=node.database)
    addresses = {machine.name: str(machine.address) for machine in settings.machines}
    login = {
        "user": mycat.database_user,
        "password": settings.secrets["mycatDatabase"].get_secret_value(),
    }
    sessions = settings.mycat_sessions()
    for host, connections in zip(mycat.data_hosts, settings.data_hosts(), strict=True):
        _data_host(root, host, connections.pool(sessions), addresses, login)
    return _text(root)


def _table(table: Table) -> dict[str, str]:
    attributes = {"name": table.name, "dataNode": ",".join(table.data_nodes)}
    if table.primary_key:
        attributes["primaryKey"] = table.primary_key
    if table.global_:
        attributes["type"] = "global"
    if table.rule:
        attributes["rule"] = table.rule
    return attributes


def _data_host(
    root: ET.Element, host: DataHost, pool: int, addresses: Mapping[str, str], login: Mapping[str, str]
) -> None:
    element = ET.SubElement(
        root,
        "dataHost",
        name=host.name,
        maxCon=str(pool),
        minCon=str(host.min_connections),
        balance=str(host.balance),
        writeType="0",
        dbType="mysql",
        dbDriver="native",
        switchType=str(host.switch_type),
        slaveThreshold="100",
        maxRetryCount="1",
        # Read hosts go on while the write host is down.
        tempReadHostAvailable="1",
    )
    ET.SubElement(element, "heartbeat").text = host.heartbeat

    def attributes(server: Server) -> dict[str, str]:
        address = addresses[server.machine] if server.machine else str(server.address)
        return {"host": server.label, "url": f"{address}:{server.port}", **login}

    for write_host in host.write_hosts:
        writer = ET.SubElement(element, "writeHost", attributes(write_host))
        for read_host in write_host.read_hosts:
            ET.SubElement(writer, "readHost", attributes(read_host))


def _rules(mycat: Mycat) -> str:
    root = _root("rule")
    for rule in mycat.rules:
        element = ET.SubElement(ET.SubElement(root, "tableRule", name=rule.name), "rule")
        ET.SubElement(element, "columns").text = rule.column
        ET.SubElement(element, "algorithm").text = rule.function
    for function in mycat.functions:
        java_class, properties = _function(function)
        _properties(ET.SubElement(root, "function", {"name": function.name, "class": java_class}), properties)
    return _text(root)


def _function(function: Function) -> tuple[str, Mapping[str, str]]:
    """The class behind a function and its properties."""
    match function:
        case ModLong():
            return "io.mycat.route.function.PartitionByMod", {"count": str(function.count)}
        case HashInt():
            numbers = all(re.fullmatch(r"-?[0-9]{1,9}", value) for value in function.map)
            return "io.mycat.route.function.PartitionByFileMap", {
                "mapFile": map_file(function),
                "type": "0" if numbers else "1",
                "defaultNode": str(-1 if function.default_node is None else function.default_node),
            }
        case Range():
            return "io.mycat.route.function.AutoPartitionByLong", {
                "mapFile": map_file(function),
                "defaultNode": str(-1 if function.default_node is None else function.default_node),
            }
        case _:
            return function.class_, function.properties


def map_file(function: Function) -> str:
    return f"partition-{function.name}.txt"


def _map(function: Function) -> str:
    """The lines of the file that a function reads; empty if it reads none."""
    lines: Iterable[str]
    match function:
        case HashInt():
            lines = (f"{value}={place}\n" for value, place in function.map.items())
        case Range():
            lines = (f"{interval.from_}-{interval.to}={interval.node}\n" for interval in function.ranges)
        case _:
            lines = ()
    return "".join(lines)


def _root(name: str) -> ET.Element:
    return ET.Element(f"mycat:{name}", {"xmlns:mycat": NAMESPACE})


def _properties(parent: ET.Element, properties: Mapping[str, str]) -> None:
    for name, value in properties.items():
        ET.SubElement(parent, "property", name=name).text = value


def _text(root: ET.Element) -> str:
    """The document, with the type that Mycat checks it against."""
    ET.indent(root)
    kind = root.tag.removeprefix("mycat:")
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE mycat:{kind} SYSTEM "{kind}.dtd">\n'
    return head + ET.tostring(root, encoding="unicode") + "\n"
