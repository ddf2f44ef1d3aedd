"""Mycat's settings: contradictions are refused by name, the user's own files are looked at."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import cluster, mycat_files
from settings import Settings, SettingsError
from settings.backends import Backends, data_hosts, pools
from settings.mycat import Mycat
from tests import example
from tests.unit.test_settings import put

Change = Callable[[dict[str, Any]], Any]
SERVER = """<!DOCTYPE mycat:server SYSTEM "server.dtd">
<mycat:server xmlns:mycat="http://io.mycat/">
  <user name="health"><property name="password">secret-health</property></user>
</mycat:server>
"""
SCHEMA = """<!DOCTYPE mycat:schema SYSTEM "schema.dtd">
<mycat:schema xmlns:mycat="http://io.mycat/">
  <schema name="shop" dataNode="one"/>
  <dataNode name="one" dataHost="host" database="shop"/>
  <dataHost name="host" balance="0" maxCon="9" minCon="1" dbType="mysql" dbDriver="native">
    <heartbeat>select 1</heartbeat>
    <writeHost host="w" url="10.0.0.7:3307" user="u" password="p"/>
  </dataHost>
</mycat:schema>
"""
RULE = '<mycat:rule xmlns:mycat="http://io.mycat/"/>'


def after(*changes: Change) -> dict[str, Any]:
    raw = example.settings(example.with_mycat)
    for change in changes:
        change(raw)
    return raw


def refusal(*changes: Change) -> str:
    with pytest.raises(SettingsError) as error:
        Settings.parse(after(*changes))
    return str(error.value)


def without(path: str) -> Change:
    def change(raw: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        place: Any = raw
        for part in parents:
            place = place[int(part)] if part.isdigit() else place[part]
        del place[int(last) if last.isdigit() else last]

    return change


def external(raw: dict[str, Any]) -> Any:
    for machine in raw["machines"]:
        machine["roles"] = [role for role in machine["roles"] if role != "mycat"]
    raw["mycat"] = {"external": [{"name": "m1", "address": "10.0.0.1"}, {"name": "m2", "address": "10.0.0.2"}]}
    for name in ("mycat", "mycatReport", "mycatDatabase"):
        del raw["secrets"][name]


def sessions(number: int) -> Change:
    return put("haproxy/mycat", {"serverMaxConnections": number})


def data_nodes(number: int) -> list[dict[str, str]]:
    """The example's and more, on its three data hosts in turn."""
    return [{"name": f"dn{i}", "dataHost": f"dh{(i - 1) % 3 + 1}", "database": f"app{i}"} for i in range(1, number + 1)]


def on_one_host(raw: dict[str, Any]) -> None:
    """A session may need three connections of it."""
    del raw["mycat"]["dataHosts"][1:]
    for node in raw["mycat"]["dataNodes"]:
        node["dataHost"] = "dh1"


def on_one_host_with(connections: int) -> Change:
    def change(raw: dict[str, Any]) -> None:
        on_one_host(raw)
        raw["mycat"]["dataHosts"][0]["maxConnections"] = connections

    return change


def function(value: dict[str, Any]) -> Change:
    return put("mycat/functions/0", {"name": "modulo-3", **value})


def test_the_example_is_accepted() -> None:
    mycat = Settings.parse(after()).mycat
    assert mycat is not None
    assert mycat.source.version == "1.6.7.6"
    assert mycat.schemas_of(mycat.users[0]) == ("app",)


def test_a_short_one_is_enough() -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["mycat"] = {
            **{key: raw["mycat"][key] for key in ("version", "sha256", "url")},
            "users": [{"name": "app", "secret": "mycat"}],
            "schemas": [{"name": "app", "dataNode": "dn"}],
            "dataNodes": [{"name": "dn", "dataHost": "dh", "database": "app"}],
            "dataHosts": [{"name": "dh", "writeHosts": [{"machine": "node3"}]}],
        }

    assert Settings.parse(after(change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # who is there
        (without("mycat"), ["mycat: missing", "node1", "role mycat"]),
        (
            lambda raw: [m.update(roles=["lb", "mysql"]) for m in raw["machines"][:2]],
            ["mycat: no machine has the role"],
        ),
        (without("mycat/sha256"), ["mycat: sha256: missing"]),
        (put("mycat/sha256", "12"), ["mycat.sha256"]),
        (without("mycat/url"), ["mycat: url: missing"]),
        (without("mycat/users"), ["mycat: users", "or files"]),
        (without("mycat/dataHosts"), ["mycat: dataHosts"]),
        (put("mycat/heapMib", 1), ["mycat.heapMib", "64"]),
        (put("mycat/colour", "red"), ["mycat.colour"]),
        (put("mycat/databaseUser", "app"), ["mycat.databaseUser", "another user"]),
        # secrets
        (without("secrets/mycat"), ["secrets.mycat: missing (for Mycat's user app)"]),
        (without("secrets/mycatReport"), ["secrets.mycatReport: missing", "report"]),
        (without("secrets/mycatDatabase"), ["secrets.mycatDatabase: missing", "database user mycat"]),
        (without("secrets/health"), ["secrets.health: missing"]),
        (put("secrets/mycat", "blank "), ["mycat.users[0].secret", "blank"]),
        (put("secrets/mycat", "a\x7f"), ["secrets.mycat", "control"]),
        (put("secrets/mycat", "a\ud800"), ["secrets.mycat"]),
        # names
        (put("mycat/users/1/name", "app"), ["mycat.users: 2 are named app"]),
        (put("mycat/users/0/name", "health"), ["mycat.users[0].name: health"]),
        (put("mycat/users/0/name", "a b"), ["mycat.users[0].name", "a b"]),
        (put("mycat/users/0/schemas", ["shop"]), ["mycat.users[0].schemas: there is no schema shop"]),
        (put("mycat/schemas/0/name", "a$b"), ["mycat.schemas[0].name"]),
        (put("mycat/dataNodes/0/name", "dn$1-3"), ["mycat.dataNodes[0].name"]),
        (put("mycat/dataNodes/1/name", "dn1"), ["mycat.dataNodes: 2 are named dn1"]),
        (put("mycat/dataHosts/1/name", "dh1"), ["mycat.dataHosts: 2 are named dh1"]),
        (put("mycat/schemas/0/tables/1/name", "ORDERS"), ["mycat.schemas[0].tables: 2 are named ORDERS"]),
        # tables
        (put("mycat/schemas/0/dataNode", "dn9"), ["mycat.schemas[0].dataNode: there is no data node dn9"]),
        (put("mycat/schemas/0", {"name": "app"}), ["mycat.schemas[0]: has neither tables nor a dataNode"]),
        (
            put("mycat/schemas/0/tables/0/rule", "by-name"),
            ["mycat.schemas[0].tables[0].rule: there is no rule by-name"],
        ),
        (without("mycat/schemas/0/tables/0/rule"), ["mycat.schemas[0].tables[0]: 3 dataNodes need a rule"]),
        (put("mycat/schemas/0/tables/0/global", True), ["mycat.schemas[0].tables[0]: global and rule exclude"]),
        (
            put("mycat/schemas/0/tables/0/dataNodes", ["dn1", "dn2"]),
            ["mycat.schemas[0].tables[0].dataNodes: 2 data nodes", "function of rule by-id knows the places 0, 1, 2"],
        ),
        (
            put("mycat/schemas/0/tables/0/dataNodes", ["dn1", "dn2", "dn4"]),
            ["tables[0].dataNodes: there is no data node"],
        ),
        (put("mycat/schemas/0/tables/0/dataNodes", ["dn1", "dn1", "dn2"]), ["tables[0].dataNodes: 2 are named dn1"]),
        (put("mycat/schemas/0/tables/2/dataNodes", []), ["mycat.schemas[0].tables[2].dataNodes"]),
        # rules and functions
        (put("mycat/rules/0/function", "f"), ["mycat.rules[0].function: there is no function f"]),
        (put("mycat/functions/0/count", 2), ["tables[0].dataNodes: 3 data nodes", "0, 1"]),
        # its statements and HAProxy's patience
        *(
            (
                lambda raw, key=key: [
                    put("mycat/sqlExecuteTimeout", 300)(raw),
                    put("haproxy/mycat", {"timeouts": {key: 300}})(raw),
                ],
                ["mycat.sqlExecuteTimeout: 300 s", "300 s of silence", f"haproxy.mycat.timeouts.{key}"],
            )
            for key in ("client", "server")
        ),
        (
            lambda raw: put("keepalived/mode", "recipe")(raw) or put("mycat/sqlExecuteTimeout", 60)(raw),
            ["mycat.sqlExecuteTimeout: 60 s", "haproxy.mycat.timeouts.client", "haproxy.mycat.timeouts.server"],
        ),
        # its pools and the databases
        (
            lambda raw: (put("database/galera/maxConnections", 1000)(raw), sessions(100)(raw)),
            [
                "database.galera.maxConnections: 1110 connections may come to each database",
                "400 of haproxy.mysql.serverMaxConnections, 660 of 2 Mycats with 330 each",
                "maxConnections of mycat.dataHosts",
                "haproxy.mycat.serverMaxConnections",
                "set 1110 or more",
            ],
        ),
        (
            lambda raw: (put("mycat/dataHosts/1/maxConnections", 100)(raw), sessions(400)(raw)),
            [
                "haproxy.mycat.serverMaxConnections: 400 sessions of a Mycat need 440 connections",
                "mycat.dataHosts[1].maxConnections allows 100",
                "set 91 or less",
            ],
        ),
        (
            on_one_host_with(4),
            ["mycat.dataHosts[0].maxConnections: 4 is too few; set 5 or more"],
        ),
        (put("mycat/functions/0/count", 0), ["mycat.functions[0].count"]),
        (function({"kind": "mod-log", "count": 3}), ["mycat.functions[0]", "mod-long, hash-int or range"]),
        (function({"kind": "mod-long"}), ["mycat.functions[0].count"]),
        (function({"kind": "mod-long", "count": 3, "map": {}}), ["mycat.functions[0].map"]),
        (function({"kind": "hash-int", "map": {}}), ["mycat.functions[0].map"]),
        (function({"kind": "hash-int", "map": {"a": 0, "b": 2}}), ["3 data nodes", "places 0, 2"]),
        (function({"kind": "hash-int", "map": {"a=b": 0}}), ["mycat.functions[0]", "a=b"]),
        (function({"kind": "hash-int", "map": {"#a": 0}}), ["mycat.functions[0]", "#a"]),
        (function({"kind": "hash-int", "map": {" a": 0}}), ["mycat.functions[0]", "blank"]),
        (
            function({"kind": "range", "ranges": [{"from": 9, "to": 3, "node": 0}]}),
            ["mycat.functions[0].ranges[0]", "9"],
        ),
        (
            function({"kind": "range", "ranges": [{"from": 0, "to": 9, "node": 0}, {"from": 9, "to": 12, "node": 1}]}),
            ["mycat.functions[0]", "overlap"],
        ),
        (
            function({"kind": "range", "ranges": [{"from": 0, "to": 9, "node": 0}], "defaultNode": 1}),
            ["mycat.functions[0]", "defaultNode"],
        ),
        (
            function({"kind": "range", "ranges": [{"from": -5, "to": 9, "node": 0}]}),
            ["mycat.functions[0].ranges[0].from"],
        ),
        (function({"class": "rm -rf"}), ["mycat.functions[0].class", "rm -rf"]),
        (function({"class": "a.B", "properties": {"x": "a\nb"}}), ["mycat.functions[0].properties.x", "control"]),
        # data hosts
        (put("mycat/dataNodes/0/dataHost", "dh9"), ["mycat.dataNodes[0].dataHost: there is no data host dh9"]),
        (put("mycat/dataHosts/0/writeHosts", []), ["mycat.dataHosts[0].writeHosts"]),
        (
            put("mycat/dataHosts/0/writeHosts/0/machine", "node9"),
            ["mycat.dataHosts[0].writeHosts[0].machine: there is no machine node9"],
        ),
        (
            lambda raw: (
                raw["machines"].append({"name": "web1", "address": "192.168.106.200", "roles": ["web"]})
                or raw["mycat"]["dataHosts"][0]["writeHosts"][0].update(machine="web1")
            ),
            ["mycat.dataHosts[0].writeHosts[0].machine: web1 has no role mysql"],
        ),
        (
            put("mycat/dataHosts/0/writeHosts/0", {"machine": "node1", "readHosts": [{"machine": "node9"}]}),
            ["mycat.dataHosts[0].writeHosts[0].readHosts[0].machine: there is no machine node9"],
        ),
        (
            put("mycat/dataHosts/0/writeHosts/0", {"name": "x"}),
            ["mycat.dataHosts[0].writeHosts[0]", "machine or address"],
        ),
        (
            put("mycat/dataHosts/0/writeHosts/0", {"machine": "node1", "address": "10.0.0.1"}),
            ["mycat.dataHosts[0].writeHosts[0]", "either machine or address"],
        ),
        (put("mycat/dataHosts/0/writeHosts/0/port", 3307), ["mycat.dataHosts[0].writeHosts[0]", "3306"]),
        (put("mycat/dataHosts/0/writeHosts/1/machine", "node1"), ["mycat.dataHosts[0].writeHosts: 2 are named node1"]),
        (put("mycat/dataHosts/0/balance", 4), ["mycat.dataHosts[0].balance"]),
        (put("mycat/dataHosts/0/switchType", 0), ["mycat.dataHosts[0].switchType"]),
        (
            lambda raw: raw["mycat"]["dataHosts"][0].update(minConnections=200, maxConnections=199),
            ["mycat.dataHosts[0]", "minConnections"],
        ),
        (put("mycat/dataHosts/0/heartbeat", ""), ["mycat.dataHosts[0].heartbeat"]),
        # external
        (put("mycat/external", [{"name": "m", "address": "10.0.0.1"}]), ["mycat: external", "version"]),
        (
            lambda raw: [external(raw), raw["machines"][0]["roles"].append("mycat")],
            ["mycat.external: 1 machines have the role mycat"],
        ),
        (
            lambda raw: [external(raw), raw["mycat"]["external"][0].update(port=8067)],
            ["mycat: external", "same port", "externalCheckPort"],
        ),
    ],
)
def test_contradictions_are_refused_by_name(change: Change, words: list[str]) -> None:
    message = refusal(change)
    assert message.startswith("mycat-ha:")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        (lambda raw: None, 300),
        (example.seed_mode, 55),
        (put("haproxy/mycat", {"timeouts": {"server": 100}}), 95),
        (put("mycat/sqlExecuteTimeout", 1200), 1200),
        (put("mycat/sqlExecuteTimeout", 59), 59),
    ],
)
def test_a_statements_limit_lies_below_haproxys(change: Change, seconds: int) -> None:
    settings = Settings.parse(after(change))
    server_xml = mycat_files.configuration(settings, settings.machines[0])["server.xml"]
    assert f'<property name="sqlExecuteTimeout">{seconds}<' in server_xml


@pytest.mark.parametrize(
    ("change", "connections"),
    [
        (lambda raw: None, 400 + 2 * 3 * 440 + 50),
        (sessions(50), 400 + 2 * 3 * 55 + 50),
        (put("mycat/dataHosts/0/maxConnections", 250), 400 + 2 * (250 + 2 * 440) + 50),
        (lambda raw: raw["mycat"].update(dataNodes=data_nodes(20)), 400 + 2 * 3 * 440 + 50),
        (put("mycat/dataHosts/0/writeHosts", [{"address": "10.9.9.9"}]), 400 + 2 * 2 * 440 + 50),
        (
            lambda raw: [put(f"mycat/dataHosts/{i}/writeHosts", [{"machine": f"node{i + 1}"}])(raw) for i in range(3)],
            400 + 2 * 440 + 50,
        ),
        (put("haproxy/mysql", {"serverMaxConnections": 1000}), 1000 + 2 * 3 * 440 + 50),
        (put("database/galera/maxConnections", 1300), 1300),
        (external, 500),
    ],
)
def test_databases_have_room_for_all_that_may_come(change: Change, connections: int) -> None:
    assert Settings.parse(after(change)).max_connections() == max(500, connections)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda raw: None, 400),
        (sessions(250), 250),
        (on_one_host, 133),
        (put("mycat/dataHosts/0/maxConnections", 100), 91),
        (on_one_host_with(100), 30),
        (put("database/galera/maxConnections", 1000), 83),
        (lambda raw: raw["mycat"].update(dataNodes=data_nodes(20)), 57),
        (external, 400),
    ],
)
def test_a_mycat_gets_as_many_sessions_as_find_connections(change: Change, expected: int) -> None:
    settings = Settings.parse(after(change))
    assert settings.mycat_sessions() == expected
    text = cluster.haproxy_cfg(settings, settings.machines[0], "secret")
    backend = text[text.index("\nbackend mycat_servers") :]
    assert f" maxconn {expected} " in backend


def test_a_new_data_node_restarts_neither_databases_nor_mycat() -> None:
    """It is taken by a reload of each Mycat and of HAProxy: what a restart would be needed for is as before."""
    before, after_it = (Settings.parse(after(put("mycat/dataNodes", data_nodes(number)))) for number in (3, 4))
    assert after_it.mycat_sessions() < before.mycat_sessions()
    assert after_it.max_connections() == before.max_connections()
    servers = [mycat_files.configuration(one, one.machines[0])["server.xml"] for one in (before, after_it)]
    assert servers[0] == servers[1]


@given(
    st.none() | st.integers(1, 1000),
    st.lists(st.none() | st.integers(40, 3000), min_size=3, max_size=3),
    st.integers(3, 12),
    st.none() | st.integers(600, 5000),
)
def test_no_sessions_that_are_let_in_empty_a_pool(
    given_sessions: int | None, pools: list[int | None], nodes: int, database: int | None
) -> None:
    """However the settings are: either they are refused, or there is a connection for every statement and check."""

    def change(raw: dict[str, Any]) -> None:
        raw["mycat"]["dataNodes"] = data_nodes(nodes)
        for host, most in zip(raw["mycat"]["dataHosts"], pools, strict=True):
            host.update({} if most is None else {"maxConnections": most})
        if given_sessions:
            sessions(given_sessions)(raw)
        if database:
            put("database/galera/maxConnections", database)(raw)

    try:
        settings = Settings.parse(after(change))
    except SettingsError:
        assert given_sessions or database
        return
    most = settings.mycat_sessions()
    hosts = ET.fromstring(mycat_files.configuration(settings, settings.machines[0])["schema.xml"])
    total = 0
    for host in hosts.iter("dataHost"):
        own = sum(node.get("dataHost") == host.get("name") for node in hosts.iter("dataNode"))
        assert int(host.get("maxCon", "")) > most * own
        total += int(host.get("maxCon", ""))
    assert 400 + 2 * total + 50 <= settings.max_connections()


def test_pools_of_ones_own_files_count_too(tmp_path: Path) -> None:
    again = SCHEMA.replace("</mycat:schema>", "") + SCHEMA[SCHEMA.index("  <dataHost") :].replace("9", "70")
    (tmp_path / "schema.xml").write_text(again)
    archive = {"version": "1", "sha256": "c" * 64, "url": "https://example.com/x"}
    mycat = Mycat.model_validate({**archive, "files": str(tmp_path)})
    hosts = data_hosts(mycat, ())
    assert pools(hosts, 1) == {("10.0.0.7", 3307): 79}
    assert [(host.nodes, host.serves(7), host.serves(8)) for host in hosts] == [(1, True, False), (1, True, True)]


def test_data_nodes_of_ones_own_files_are_counted_as_mycat_does(tmp_path: Path) -> None:
    several = '<dataNode name="n$1-6" dataHost="host,b$1-2" database="x,y"/>'
    (tmp_path / "schema.xml").write_text(SCHEMA.replace('<schema name="shop"', several + '<schema name="shop"'))
    archive = {"version": "1", "sha256": "c" * 64, "url": "https://example.com/x"}
    (host,) = data_hosts(Mycat.model_validate({**archive, "files": str(tmp_path)}), ())
    assert host.nodes == 1 + 2


def test_external_servers_need_nothing_else() -> None:
    settings = Settings.parse(after(external))
    assert settings.mycat is not None
    assert [server.port for server in settings.mycat.external] == [8066, 8066]
    assert settings.mycat.external_check_port == 48700


def test_a_function_may_be_any_class() -> None:
    change = function({"class": "io.mycat.route.function.PartitionByMurmurHash", "properties": {"seed": 0, "count": 2}})
    settings = Settings.parse(after(change))
    rules = mycat_files.configuration(settings, settings.machines[0])["rule.xml"]
    assert '<function name="modulo-3" class="io.mycat.route.function.PartitionByMurmurHash">' in rules
    assert '<property name="seed">0</property>' in rules


class TestOwnFiles:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        for name, text in (("server.xml", SERVER), ("schema.xml", SCHEMA), ("rule.xml", RULE), (".hidden", "")):
            (tmp_path / name).write_text(text)
        (tmp_path / "partition-enum.txt").write_text("1=0\n")
        return tmp_path

    @staticmethod
    def use(directory: Path) -> Change:
        def change(raw: dict[str, Any]) -> None:
            kept = {key: raw["mycat"][key] for key in ("version", "sha256", "url")}
            raw["mycat"] = {**kept, "files": str(directory)}

        return change

    def test_are_used_as_they_are(self, directory: Path) -> None:
        settings = Settings.parse(after(self.use(directory)))
        assert mycat_files.configuration(settings, settings.machines[0]) == {
            "server.xml": SERVER,
            "schema.xml": SCHEMA,
            "rule.xml": RULE,
            "partition-enum.txt": "1=0\n",
        }
        assert mycat_files.backends(settings) == Backends(("shop",), (("10.0.0.7", 3307),))

    def test_replace_the_settings(self, directory: Path) -> None:
        message = refusal(lambda raw: raw["mycat"].update(files=str(directory)))
        assert "mycat-ha:mycat: files are used as they are: leave out users, schemas" in message

    @pytest.mark.parametrize("name", ["server.xml", "schema.xml", "rule.xml"])
    def test_must_be_there_and_be_xml(self, directory: Path, name: str) -> None:
        (directory / name).write_text("<mycat:")
        assert f"mycat-ha:mycat.files: {name}: " in refusal(self.use(directory))
        (directory / name).unlink()
        assert f"has no {name}" in refusal(self.use(directory))

    def test_must_let_the_health_check_in(self, directory: Path) -> None:
        for text in (SERVER.replace("secret-health", "other"), SERVER.replace('"health"', '"h"')):
            (directory / "server.xml").write_text(text)
            message = refusal(self.use(directory))
            assert "mycat.files: server.xml needs a user health whose password is secrets.health" in message
            assert "secret-health" not in message

    @pytest.mark.parametrize(
        ("url", "server"),
        [
            ("10.0.0.8:3306", ("10.0.0.8", 3306)),
            ("jdbc:mysql://10.0.0.8:3310", ("10.0.0.8", 3310)),
            ("jdbc:mysql://10.0.0.8:3310/shop?useSSL=true", ("10.0.0.8", 3310)),
            ("jdbc:sqlserver://10.0.0.8:1433;database=shop", ("10.0.0.8", 1433)),
            ("jdbc:oracle:thin:@10.0.0.8:1521:shop", ("10.0.0.8", 1521)),
        ],
    )
    def test_name_their_servers(self, directory: Path, url: str, server: tuple[str, int]) -> None:
        (directory / "schema.xml").write_text(SCHEMA.replace("10.0.0.7:3307", url))
        assert mycat_files.backends(Settings.parse(after(self.use(directory)))).servers == (server,)

    @pytest.mark.parametrize("kind", ["writeHost", "readHost"])
    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("db.example.com:3306", "needs an IPv4 address instead of a name"),
            ("localhost:3306", "needs an IPv4 address instead of a name"),
            ("jdbc:mysql://db.example.com:3306/shop", "needs an IPv4 address instead of a name"),
            ("jdbc:mysql://10.0.0.8,10.0.0.9:3306/shop", "needs an IPv4 address instead of a name"),
            ("10.0.0.8", "needs ADDRESS:PORT"),
            ("10.0.0.8:", "needs ADDRESS:PORT"),
            ("[2001:db8::1]:3306", "needs ADDRESS:PORT"),
            ("10.0.0.8:70000", "70000 is no port"),
            ("10.0.0.300:3306", "needs an IPv4 address"),
            ("", "needs ADDRESS:PORT"),
        ],
    )
    def test_must_name_servers_that_the_firewall_can_let_out_to(
        self, directory: Path, kind: str, url: str, reason: str
    ) -> None:
        text = SCHEMA.replace("10.0.0.7:3307", url)
        if kind == "readHost":
            host = f'<readHost host="r" url="{url}" user="u" password="hunter2"/>'
            text = re.sub(r"(<writeHost [^/]*)/>", rf"\1>{host}</writeHost>", SCHEMA)
        (directory / "schema.xml").write_text(text)
        message = refusal(self.use(directory))
        place = f"mycat-ha:mycat.files: schema.xml: dataHost host, {kind} {kind[0]}: url {url!r}: "
        assert message.startswith(place)
        assert reason in message
        assert "hunter2" not in message

    @pytest.mark.parametrize(
        ("attribute", "names"),
        [
            ("my-db", ("my-db",)),
            ("shop_1", ("shop_1",)),
            ("100%", ("100%",)),
            ("a, b", ("a", "b")),
            ("shop$0-3", ("shop0", "shop1", "shop2", "shop3")),
            ("a,shop$9-10", ("a", "shop10", "shop9")),
            ("магазин", ("магазин",)),
        ],
    )
    def test_name_their_databases(self, directory: Path, attribute: str, names: tuple[str, ...]) -> None:
        (directory / "schema.xml").write_text(SCHEMA.replace('database="shop"', f'database="{attribute}"'))
        assert mycat_files.backends(Settings.parse(after(self.use(directory)))).databases == names

    @pytest.mark.parametrize(
        "attribute", ["", "a`b", "a\\b", "a/b", "a.b", "shop$", "shop$3-1", "shop$0-9999999", "x" * 65, "a,,b"]
    )
    def test_must_name_databases_that_can_be_made(self, directory: Path, attribute: str) -> None:
        (directory / "schema.xml").write_text(SCHEMA.replace('database="shop"', f'database="{attribute}"'))
        assert refusal(self.use(directory)).startswith("mycat-ha:mycat.files: schema.xml: dataNode one: database ")

    def test_must_be_files(self, directory: Path, tmp_path: Path) -> None:
        assert "mycat-ha:mycat.files: " in refusal(self.use(directory / "nowhere"))
        (directory / "zkconf").mkdir()
        assert "mycat-ha:mycat.files: zkconf: not a file" in refusal(self.use(directory))

    def test_must_not_bring_what_mycat_writes(self, directory: Path) -> None:
        (directory / "dnindex.properties").write_text("")
        assert "mycat-ha:mycat.files: dnindex.properties" in refusal(self.use(directory))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)


@given(
    key=st.sampled_from(["users", "schemas", "rules", "functions", "dataNodes", "dataHosts", "files", "heapMib"]),
    value=anything.filter(lambda value: value not in (None, [], {}, "")),
)
def test_any_value_is_accepted_or_refused_by_its_key(key: str, value: Any) -> None:
    try:
        Settings.parse(after(put(f"mycat/{key}", value)))
    except SettingsError as error:
        assert "mycat-ha:mycat" in str(error)  # noqa: PT017  (most values are refused, a number of MiB is not)
