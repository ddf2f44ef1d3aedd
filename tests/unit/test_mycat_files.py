"""Mycat's XML says what the settings say, whatever is in them, in the order that its document types demand."""

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import mycat_files
from components.template import render
from settings import Settings, backends
from settings.base import unprintable
from tests import example
from tests.unit.test_mycat_settings import after
from tests.unit.test_settings import put

NMTOKEN = re.compile(r"[\w.:-]+")
#: Attributes that Mycat's document types declare, and the ones of them that are required or name tokens.
SCHEMA_DTD = {
    "schema": ("name", {"name", "checkSQLschema", "dataNode", "sqlMaxLimit"}),
    "table": ("name dataNode", {"name", "dataNode", "rule", "primaryKey", "type"}),
    "dataNode": ("name dataHost database", {"name", "dataHost", "database"}),
    "dataHost": (
        "name balance maxCon minCon dbType dbDriver",
        {"name", "balance", "maxCon", "minCon", "writeType", "dbType", "dbDriver", "switchType", "slaveThreshold"}
        | {"maxRetryCount", "tempReadHostAvailable"},
    ),
    "heartbeat": ("", set()),
    "writeHost": ("host url user password", {"host", "url", "user", "password"}),
    "readHost": ("host url user password", {"host", "url", "user", "password"}),
}


def files(*changes: Any) -> dict[str, str]:
    settings = Settings.parse(after(*changes))
    return mycat_files.configuration(settings, settings.machines[0])


def parsed(name: str, *changes: Any) -> ET.Element:
    return ET.fromstring(files(*changes)[name])


def properties(element: ET.Element | None) -> dict[str, str]:
    assert element is not None
    return {item.get("name", ""): item.text or "" for item in element.findall("property")}


def test_server_xml_listens_on_the_machine_and_lets_nobody_else_in() -> None:
    root = parsed("server.xml")
    system = properties(root.find("system"))
    assert system["bindIp"] == "192.168.106.251"
    assert (system["serverPort"], system["managerPort"]) == ("8066", "9066")
    assert system["nonePasswordLogin"] == "0"
    assert [item.tag for item in root] == ["system", "user", "user", "user"]
    assert not list(root.iter("whitehost"))
    assert "usingDecrypt" not in files()["server.xml"]


def test_users_have_their_schemas_and_rights() -> None:
    users = {user.get("name"): user for user in parsed("server.xml").findall("user")}
    assert properties(users["app"]) == {
        "password": "secret-mycat", "schemas": "app", "defaultSchema": "app", "readOnly": "false",
    }  # fmt: skip
    assert properties(users["report"])["readOnly"] == "true"
    assert properties(users["health"])["password"] == "secret-health"
    assert [(item.get("name"), item.get("dml")) for item in users["health"].iter("schema")] == [("app", "0000")]


def test_network_buffers_fit_into_the_memory() -> None:
    for mib in (32, 128, 4096):
        system = properties(parsed("server.xml", put("mycat/directMemoryMib", mib)).find("system"))
        used = int(system["bufferPoolPageSize"]) * int(system["bufferPoolPageNumber"])
        assert used <= mib * 2**20 / 2
        assert used > 0


def test_what_waits_for_clients_fits_into_the_network_buffers() -> None:
    for sessions in (10, 400, 1000):
        system = properties(
            parsed("server.xml", put("haproxy/mycat", {"serverMaxConnections": sessions})).find("system")
        )
        assert system["enableWriteQueueFlowControl"] == "true"
        most, again = int(system["writeQueueStopThreshold"]), int(system["writeQueueRecoverThreshold"])
        assert 0 < again < most
        buffers = int(system["bufferPoolPageSize"]) * int(system["bufferPoolPageNumber"]) // 4096
        assert most * sessions <= buffers


@pytest.mark.parametrize("given_mib", [None, 300])
def test_the_heap_is_an_eighth_of_the_machine_or_as_set(tmp_path: Path, given_mib: int | None) -> None:
    (tmp_path / "conf").mkdir()
    for name in ("server.xml", "schema.xml", "rule.xml"):
        (tmp_path / "conf" / name).write_text("x")
    text = render("mycat/run.sh.j2", heap_mib=given_mib, direct_memory_mib=128)
    started = subprocess.run(
        ["bash", "-c", text.replace("exec /usr/bin/java", "echo"), "mycat-run", "/opt/mycat", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    total = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    assert f"-Xmx{given_mib or max(256, total // 8)}m " in started


def test_schema_xml_has_its_parts_in_order_and_only_declared_attributes() -> None:
    root = parsed("schema.xml")
    assert [item.tag for item in root] == ["schema", *["dataNode"] * 3, *["dataHost"] * 3]
    for item in root.iter():
        if item is root:
            continue
        required, declared = SCHEMA_DTD[item.tag]
        assert set(required.split()) <= set(item.keys()) <= declared, item.tag
    for host in root.iter("dataHost"):
        assert [item.tag for item in host] == ["heartbeat", "writeHost", "writeHost", "writeHost"]


def test_tables_are_sharded_global_or_in_one_place() -> None:
    tables = {item.get("name"): item.attrib for item in parsed("schema.xml").iter("table")}
    everywhere = {"dataNode": "dn1,dn2,dn3", "primaryKey": "id"}
    assert tables["orders"] == {"name": "orders", "rule": "by-id", **everywhere}
    assert tables["countries"] == {"name": "countries", "type": "global", **everywhere}
    assert tables["settings"] == {"name": "settings", "dataNode": "dn1"}


def test_hosts_are_machines_or_addresses() -> None:
    change = put(
        "mycat/dataHosts/0/writeHosts",
        [
            {"machine": "node1", "readHosts": [{"machine": "node3", "name": "r"}]},
            {"address": "10.0.0.9", "port": 3310},
        ],
    )
    host = parsed("schema.xml", change).find("dataHost")
    assert host is not None
    assert [(item.get("host"), item.get("url")) for item in host.iter() if item.get("host")] == [
        ("node1", "192.168.106.251:3306"),
        ("r", "192.168.106.253:3306"),
        ("10.0.0.9-3310", "10.0.0.9:3310"),
    ]
    assert {item.get("user") for item in host.iter("writeHost")} == {"mycat"}


@pytest.mark.parametrize(
    ("function", "java_class", "expected", "lines"),
    [
        ({"kind": "mod-long", "count": 3}, "PartitionByMod", {"count": "3"}, None),
        (
            {"kind": "hash-int", "map": {"10000": 0, "10010": 1, "-5": 2}},
            "PartitionByFileMap",
            {"mapFile": "partition-modulo-3.txt", "type": "0", "defaultNode": "-1"},
            "10000=0\n10010=1\n-5=2\n",
        ),
        (
            {"kind": "hash-int", "map": {"北京": 0, "köln": 1}, "defaultNode": 2},
            "PartitionByFileMap",
            {"mapFile": "partition-modulo-3.txt", "type": "1", "defaultNode": "2"},
            "北京=0\nköln=1\n",
        ),
        (
            {
                "kind": "range",
                "ranges": [
                    {"from": 500, "to": 999, "node": 2},
                    {"from": 0, "to": 99, "node": 0},
                    {"from": 100, "to": 499, "node": 1},
                ],
                "defaultNode": 0,
            },
            "AutoPartitionByLong",
            {"mapFile": "partition-modulo-3.txt", "defaultNode": "0"},
            "500-999=2\n0-99=0\n100-499=1\n",
        ),
    ],
)
def test_functions_and_their_files(
    function: dict[str, Any], java_class: str, expected: dict[str, str], lines: str | None
) -> None:
    found = files(put("mycat/functions/0", {"name": "modulo-3", **function}))
    root = ET.fromstring(found["rule.xml"])
    assert [item.tag for item in root] == ["tableRule", "function"]
    assert (root.findtext("./tableRule/rule/columns"), root.findtext("./tableRule/rule/algorithm")) == (
        "id",
        "modulo-3",
    )
    element = root.find("function")
    assert element is not None
    assert element.get("class") == f"io.mycat.route.function.{java_class}"
    assert properties(element) == expected
    assert found.get("partition-modulo-3.txt") == lines


hostile = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    lambda text: text == text.strip() and not unprintable(text)
) | st.sampled_from(["<a/>", "]]>", "&amp;", "&#10;", "\"'><", "<!--", "${user.home}", "%x;", "-->", "a\\b", "日本"])


@given(user=hostile, database=hostile, heartbeat=hostile)
def test_any_password_and_any_text_arrives_as_it_is(user: str, database: str, heartbeat: str) -> None:
    found = files(
        put("secrets/mycat", user),
        put("secrets/mycatDatabase", database),
        put("mycat/dataHosts/0/heartbeat", heartbeat),
    )
    users = {item.get("name"): item for item in ET.fromstring(found["server.xml"]).iter("user")}
    assert set(users) == {"app", "report", "health"}
    assert properties(users["app"])["password"] == user
    schema = ET.fromstring(found["schema.xml"])
    assert {item.get("password") for item in schema.iter("writeHost")} == {database}
    assert schema.findtext("./dataHost[@name='dh1']/heartbeat") == heartbeat


label = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.-]{0,20}\Z")


@given(name=label, user=label.filter(lambda name: name not in {"health", "report"}))
def test_any_name_that_is_accepted_is_a_name_token(name: str, user: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["mycat"]["users"][0]["name"] = user
        raw["mycat"]["rules"][0]["name"] = raw["mycat"]["schemas"][0]["tables"][0]["rule"] = name
        raw["mycat"]["dataHosts"][0]["name"] = raw["mycat"]["dataNodes"][0]["dataHost"] = f"h{name}"

    found = files(change)
    assert NMTOKEN.fullmatch(name)
    assert ET.fromstring(found["server.xml"]).find(f"./user[@name='{user}']") is not None
    assert ET.fromstring(found["schema.xml"]).find(f"./dataHost[@name='h{name}']") is not None
    assert ET.fromstring(found["rule.xml"]).find(f"./tableRule[@name='{name}']") is not None


def test_backends_are_the_data_nodes_databases_and_the_data_hosts_servers() -> None:
    settings = Settings.parse(example.settings(example.with_mycat))
    found = mycat_files.backends(settings)
    assert found.databases == ("app1", "app2", "app3")
    assert found.servers == tuple((f"192.168.106.{i}", 3306) for i in (251, 252, 253))


server = st.sampled_from(["node1", "node2", "node3"]).map(lambda name: {"machine": name}) | st.builds(
    lambda last, port: {"address": f"10.0.0.{last}", "port": port}, st.integers(1, 254), st.integers(1, 65535)
)


@given(write=server, read=server, database=st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,10}\Z"))
def test_backends_are_what_schema_xml_says(write: Any, read: Any, database: str) -> None:
    """The firewall and the grants come from the settings; Mycat reads its file."""
    settings = Settings.parse(
        after(
            put("mycat/dataHosts/0/writeHosts", [{**write, "readHosts": [read]}]),
            put("mycat/dataNodes/0/database", database),
        )
    )
    schema = mycat_files.configuration(settings, settings.machines[0])["schema.xml"]
    assert backends.parse(schema) == (mycat_files.backends(settings), [])


def test_rights_are_for_the_named_databases_only() -> None:
    """_ and % in GRANT stand for any character and any text, unless they are escaped."""
    sql = example.users_sql(schema="my_app", user="app", mycat_user="mycat", mycat_databases=("my-db", "a_b%c"))
    for name, pattern in (("my_app", r"my\_app"), ("my-db", "my-db"), ("a_b%c", r"a\_b\%c")):
        assert f"CREATE DATABASE IF NOT EXISTS `{name}` " in sql
        assert f"GRANT ALL PRIVILEGES ON `{pattern}`.* TO " in sql
