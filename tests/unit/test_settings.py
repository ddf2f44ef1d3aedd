"""Wrong settings are refused one by one, naming the key; a secret's value is never shown."""

import json
import re
from collections.abc import Callable
from typing import Any

import pulumi
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from settings import Role, Settings, SettingsError
from settings.base import Section
from settings.services import Galera, Haproxy, Keepalived
from settings.topology import Access, Network, VirtualIp
from tests import example

Change = Callable[[dict[str, Any]], Any]


def refusal(change: Change) -> str:
    with pytest.raises(SettingsError) as error:
        Settings.parse(example.settings(change))
    return str(error.value)


def put(path: str, value: Any) -> Change:
    """A change that sets ``a.b[0].c``-like ``path``, given as ``a/b/0/c``."""

    def change(raw: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        place: Any = raw
        for part in parents:
            place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
        place[int(last) if last.isdigit() else last] = value

    return change


SECTIONS: dict[str, type[Section]] = {
    "network": Network,
    "access": Access,
    "vip": VirtualIp,
    "haproxy": Haproxy,
    "keepalived": Keepalived,
    "database.galera": Galera,
}
EXTERNAL = {"external": [{"name": "x", "address": "10.0.0.1"}]}
ADOPTED = {"subnetId": "subnet-0abc", "subnetCidr": "192.168.106.128/25"}


def attached(*ranges: str) -> list[dict[str, Any]]:
    return [{"id": "pcx-0123", "destinations": list(ranges)}]


def bastion(network: dict[str, Any] | None = None, **keys: Any) -> Change:
    def change(raw: dict[str, Any]) -> None:
        raw["access"] |= {"deployer": [], "bastion": keys}
        raw["network"] = network or raw["network"]

    return change


def mycat_databases_user(name: str) -> Change:
    def change(raw: dict[str, Any]) -> None:
        example.with_mycat(raw)
        raw["mycat"]["databaseUser"] = name

    return change


def database_user(**changes: Any) -> Change:
    def change(raw: dict[str, Any]) -> None:
        raw["database"]["users"] = [{"name": "reader", "secret": "reader", "rights": {"app": ["SELECT"]}, **changes}]
        raw["secrets"]["reader"] = "secret-reader"

    return change


def beside(*changes: Change) -> Change:
    def change(raw: dict[str, Any]) -> None:
        for each in changes:
            each(raw)

    return change


def elsewhere(mysql: dict[str, Any], **database: Any) -> Change:
    """External databases that are checked by a login, and what is different."""

    def change(raw: dict[str, Any]) -> None:
        example.external_databases(raw)
        raw["database"] |= database
        raw["haproxy"]["mysql"] = mysql

    return change


def external_server(**keys: Any) -> Change:
    return elsewhere({}, external=[{"name": "db", **keys}])


def two_endpoints(raw: dict[str, Any]) -> None:
    raw["network"]["ec2Endpoint"] = True
    raw["vip"]["ec2Endpoint"] = "https://vpce.example"


def test_a_bastion_for_everybody_has_to_be_said_twice() -> None:
    raw = example.settings(bastion(create=True, cidrs=["0.0.0.0/0"], openToEverybody=True))
    assert Settings.parse(raw).access.bastion is not None


def test_the_example_is_accepted() -> None:
    settings = Settings.parse(example.settings())
    assert [settings.priority(machine) for machine in settings.of_role(Role.LB)] == [150, 100]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            put("machines/0/address", "192.168.107.251"),
            ["machines[0].address", "192.168.107.251", "192.168.106.128/25"],
        ),
        (put("machines/0/address", "192.168.106.131"), ["machines[0].address", "192.168.106.131", "reserves"]),
        (put("machines/0/address", "192.168.106.255"), ["machines[0].address", "reserves"]),
        (put("machines/0/address", "not-an-address"), ["machines[0].address", "not-an-address"]),
        (put("machines/1/address", "192.168.106.251"), ["machines", "192.168.106.251", "2 machines"]),
        (put("machines/1/name", "node1"), ["machines", "node1", "2 machines"]),
        (put("machines/1/name", "Node 1"), ["machines[1].name", "Node 1"]),
        (put("machines/1/roles", ["mysql"]), ["machines", "role lb", "at least two"]),
        (put("machines/1/roles", ["lbb"]), ["machines[1].roles[0]", "lbb"]),
        (put("machines/1/roles", []), ["machines[1].roles"]),
        (put("machines/2/roles", ["web"]), ["mysql", "quorum"]),
        (put("machines/1/priority", 150), ["priority 150"]),
        (put("machines/1/priority", 255), ["machines[1].priority", "254", "255"]),
        (put("vip/address", "192.168.106.251"), ["vip.address", "node1"]),
        (put("vip/address", "192.168.1.9"), ["vip.address", "192.168.1.9"]),
        (put("vip/ec2Endpoint", "ec2.amazonaws.com"), ["vip.ec2Endpoint"]),
        (put("haproxy/mysql", {"port": 70000}), ["haproxy.mysql.port", "65535", "70000"]),
        (put("haproxy/mysql", {"port": 0}), ["haproxy.mysql.port"]),
        (put("haproxy/mysql", {"port": "abc"}), ["haproxy.mysql.port", "abc"]),
        (put("haproxy/mysql", {"port": 8888}), ["haproxy.mysql.port", "haproxy.statistics.port", "8888"]),
        (put("haproxy/mysql", {"singleWriterFailback": True}), ["haproxy.mysql.singleWriterFailback", "singleWriter"]),
        (
            put("haproxy/mysql", {"singleWriter": True, "port": 8890}),
            ["haproxy.mysql.port: 8890", "peers"],
        ),
        (
            put("database/galera/maxConnections", 400),
            ["database.galera.maxConnections: 450", "400 of haproxy.mysql.serverMaxConnections", "50", "set 450"],
        ),
        (
            put("haproxy/mysql", {"serverMaxConnections": 100_000}),
            ["database.galera.maxConnections: 100050", "100000 at most; lower them"],
        ),
        (put("haproxy/mysql", {"readPort": 3306}), ["haproxy.mysql.port and haproxy.mysql.readPort", "3306"]),
        (put("haproxy/mysql", {"readPort": 8889}), ["haproxy.mysql.readPort: 8889", "health check"]),
        (put("haproxy/mysql", {"readPort": 3308, "readBalance": "fastest"}), ["haproxy.mysql.readBalance", "fastest"]),
        (
            lambda raw: [
                raw["haproxy"].update(mysql={"readPort": 3308}),
                raw["database"]["galera"].update(maxConnections=800),
            ],
            ["database.galera.maxConnections: 850", "400 of haproxy.mysql.readPort in 1 backends", "set 850"],
        ),
        (put("haproxy/mysql", {"proxyProtocol": "maybe"}), ["haproxy.mysql.proxyProtocol", "maybe"]),
        (
            beside(example.external_databases, put("haproxy/mysql", {"proxyProtocol": True})),
            ["haproxy.mysql.proxyProtocol: the databases are external ones"],
        ),
        (put("haproxy/sha256", "1234"), ["haproxy.sha256", "1234"]),
        (put("haproxy/timeouts", {"connect": -1}), ["haproxy.timeouts.connect"]),
        (put("haproxy/colour", "red"), ["haproxy.colour", "unknown key"]),
        (put("keepalived/mode", "slow"), ["keepalived.mode", "slow"]),
        (put("keepalived/virtualRouterId", 0), ["keepalived.virtualRouterId"]),
        (put("keepalived/mode", "recipe"), ["secrets.vrrp", "missing"]),
        (put("access/clients", []), ["access.clients"]),
        (put("access/clients", ["0.0.0.0/0"]), ["access", "clients", "everybody"]),
        (put("access/clients", ["10.20.0.1/24"]), ["access.clients[0]"]),
        (put("access/deployer", []), ["access", "deployer", "bastion"]),
        (put("network/subnetCidr", "192.168.107.0/25"), ["network", "subnetCidr", "vpcCidr"]),
        (put("network/subnetCidr", "192.168.106.0/25"), ["network", "overlap"]),
        (put("network/subnetId", "subnet-0123"), ["network", "subnetId"]),
        (bastion(), ["access.bastion", "host and address", "create"]),
        (bastion(host="b", address="10.0.0.2", cidrs=["10.0.0.0/8"]), ["access.bastion", "cidrs", "create"]),
        (bastion(create=True), ["access.bastion", "cidrs"]),
        (bastion(create=True, cidrs=["198.51.100.0/24"], host="b"), ["access.bastion", "host", "existing"]),
        (bastion(create=True, cidrs=["0.0.0.0/0"]), ["access.bastion", "0.0.0.0/0", "openToEverybody"]),
        (
            put("access/bastion", {"create": True, "cidrs": ["198.51.100.0/24"]}),
            ["access", "deployer", "bastion.cidrs"],
        ),
        (bastion(network=ADOPTED, create=True, cidrs=["198.51.100.0/24"]), ["access.bastion.create", "subnet-0abc"]),
        (put("network/attachments", [{"id": "vpn-1", "destinations": ["10.9.0.0/16"]}]), ["network.attachments[0].id"]),
        (put("network/attachments", [{"id": "tgw-1", "destinations": []}]), ["network.attachments[0].destinations"]),
        (put("network/attachments", attached("0.0.0.0/0")), ["network", "attachments", "0.0.0.0/0", "NAT"]),
        (put("network/attachments", attached("192.168.0.0/16")), ["attachments", "192.168.0.0/16", "vpcCidr"]),
        (put("network/attachments", attached("10.9.0.0/16", "10.9.0.0/16")), ["attachments", "10.9.0.0/16", "twice"]),
        (two_endpoints, ["network.ec2Endpoint", "vip.ec2Endpoint", "https://vpce.example"]),
        (put("network", {**ADOPTED, "ec2Endpoint": True}), ["network", "ec2Endpoint", "subnetId", "vip.ec2Endpoint"]),
        (put("network", {**ADOPTED, "attachments": attached("10.9.0.0/16")}), ["network", "attachments", "subnetId"]),
        (put("secrets/database", ""), ["secrets.database", "missing"]),
        (put("database", {**EXTERNAL, "externalCheckUser": None}), ["database.external", "role mysql"]),
        (
            put("database", EXTERNAL),
            ["database", "externalCheckUser", "missing", "externalWriterCheck", "max_connect_errors"],
        ),
        (
            elsewhere({"singleWriter": True}),
            ["haproxy.mysql.singleWriter: ", "replica", "Set database.externalWriterCheck", "leave singleWriter out"],
        ),
        (
            elsewhere({"singleWriter": True, "readPort": 3308}, externalReaderCheck={"port": 9200}),
            ["haproxy.mysql.singleWriter: ", "Set database.externalWriterCheck"],
        ),
        (
            elsewhere({"singleWriter": True, "singleWriterFailback": True}, externalWriterCheck={"port": 9200}),
            ["haproxy.mysql.singleWriterFailback: database.externalWriterCheck", "leave it out"],
        ),
        (
            elsewhere({}, externalReaderCheck={"port": 9200}),
            ["database.externalReaderCheck: ", "haproxy.mysql.readPort"],
        ),
        (
            elsewhere(
                {},
                external=[{"name": "a", "address": "10.0.0.1"}, {"name": "b", "address": "10.0.0.1", "port": 3307}],
                externalWriterCheck={"port": 9200},
            ),
            ["database.external: with database.externalWriterCheck", "same port", "externalCheckUser: null"],
        ),
        (elsewhere({}, externalWriterCheck={"port": 0}), ["database.externalWriterCheck.port"]),
        (elsewhere({}, externalWriterCheck={"path": "/"}), ["database.externalWriterCheck.port", "required"]),
        (
            elsewhere({}, externalWriterCheck={"port": 9200, "path": '/"\r\nGET'}),
            ["database.externalWriterCheck.path"],
        ),
        (external_server(host="db.example.com"), ["database.external[0]", "host db.example.com", "give within"]),
        (external_server(), ["database.external[0]", "address, host: give one"]),
        (
            external_server(host="db.example.com", address="10.0.0.1", within=["10.0.0.0/24"]),
            ["database.external[0]", "address, host: give one"],
        ),
        (
            external_server(address="10.0.0.1", within=["10.0.0.0/24"]),
            ["database.external[0]", "within, securityGroup: only of a host"],
        ),
        (external_server(host="db.example.com", within=["0.0.0.0/0"]), ["database.external[0]", "within: 0.0.0.0/0"]),
        (external_server(host="db_1.example.com", within=["10.0.0.0/24"]), ["database.external[0].host"]),
        (external_server(host="db.example.com", securityGroup="default"), ["database.external[0].securityGroup"]),
        (put("database/externalWriterCheck", {"port": 9200}), ["database.externalWriterCheck: there are no"]),
        (put("database/externalReaderCheck", {"port": 9200}), ["database.externalReaderCheck: there are no"]),
        (put("database/galera", {"suspectTimeout": 5}), ["database.galera", "suspectTimeout"]),
        (put("database/galera", {"durability": "lax"}), ["database.galera.durability", "'full' or 'relaxed'"]),
        (put("database/galera", {"wsrepSyncWait": 16}), ["database.galera.wsrepSyncWait", "15"]),
        (put("database/schemas", ["a b"]), ["database.schemas[0]", "a b"]),
        (put("database/schemas", ["a" * 65]), ["database.schemas[0]"]),
        (put("database/schemas", ["a_" * 30]), ["database.schemas[0]", "too long", "each _ counts twice"]),
        (put("database/schemas", ["app"]), ["database.schemas: 2 are named app"]),
        (put("database/schemas", ["Sys"]), ["database.schemas[0]: Sys is MariaDB's own"]),
        (put("database/schemas", ["mycat_ha"]), ["database.schemas[0]: mycat_ha is the one in which"]),
        (database_user(requireTls=True), ["database.users[0].requireTls: reader could not log in: set database.tls"]),
        (database_user(name="a" * 81), ["database.users[0].name"]),
        (database_user(name="it's"), ["database.users[0].name", "it's"]),
        (put("database/user", "root"), ["database.user: root is MariaDB's own"]),
        (put("database/user", "health"), ["database.user: health is the one of the health checks"]),
        (put("database/schema", "mysql"), ["database.schema: mysql is MariaDB's own"]),
        (put("database/schema", "mycat_ha"), ["database.schema: mycat_ha is the one in which `up`"]),
        (mycat_databases_user("root"), ["mycat.databaseUser: root is MariaDB's own"]),
        (mycat_databases_user("app"), ["mycat.databaseUser: app is database.user"]),
        (database_user(name="app"), ["database.users[0].name: app is database.user"]),
        (database_user(name="root"), ["database.users[0].name: root is MariaDB's own"]),
        (database_user(name="mysql"), ["database.users[0].name: mysql"]),
        (database_user(name="mariadb.sys"), ["database.users[0].name: mariadb.sys"]),
        (database_user(name="health"), ["database.users[0].name: health", "health checks"]),
        (database_user(name="haproxy-check"), ["database.users[0].name: haproxy-check", "HAProxy's checks"]),
        (
            beside(example.with_mycat, database_user(name="mycat")),
            ["database.users[0].name: mycat is mycat.databaseUser"],
        ),
        (
            lambda raw: [database_user()(raw), raw["database"].update(users=2 * raw["database"]["users"])],
            ["database.users: 2 are named reader"],
        ),
        (database_user(rights={"shop": ["SELECT"]}), ["database.users[0].rights.shop", "no schema shop"]),
        (database_user(rights={"app": []}), ["database.users[0].rights.app"]),
        (database_user(rights={"app": ["SELCT"]}), ["database.users[0].rights.app[0]", "SELCT", "'SELECT'"]),
        (database_user(rights={"app": ["GRANT OPTION"]}), ["database.users[0].rights.app[0]", "GRANT OPTION"]),
        (database_user(rights={"app": ["SUPER"]}), ["database.users[0].rights.app[0]", "SUPER"]),
        (
            database_user(rights={"app": ["SELECT", "ALL PRIVILEGES"]}),
            ["database.users[0].rights.app: ALL PRIVILEGES has the others in it"],
        ),
        (
            lambda raw: [database_user()(raw), raw["secrets"].pop("reader")],
            ["secrets.reader: missing (for database user reader)"],
        ),
        (
            beside(example.external_databases, put("database/schemas", ["shop"])),
            ["database.schemas", "external"],
        ),
        (
            beside(example.external_databases, database_user()),
            ["database.users", "external"],
        ),
        (put("surprise", {}), ["surprise"]),
    ],
)
def test_wrong_settings_are_refused_by_name(change: Change, words: list[str]) -> None:
    message = refusal(change)
    assert message.startswith("mycat-ha:")
    for word in words:
        assert word in message


@pytest.mark.parametrize("section", ["network", "machines", "access", "vip", "haproxy", "keepalived", "database"])
def test_a_missing_section_is_named(section: str) -> None:
    assert f"mycat-ha:{section}" in refusal(lambda raw: raw.pop(section))


@pytest.mark.parametrize("name", ["sshPrivateKey", "statistics", "database", "health"])
def test_a_missing_secret_is_named_with_the_command_that_sets_it(name: str) -> None:
    message = refusal(lambda raw: raw["secrets"].pop(name))
    assert f"secrets.{name}" in message
    assert f"pulumi config set --secret --path 'mycat-ha:secrets.{name}'" in message


def test_users_and_schemas_may_have_long_names() -> None:
    """And a schema may be one of Mycat's data nodes."""
    raw = example.settings(example.with_mycat)
    raw["database"] |= {
        "schemas": ["a" * 64, "b_" * 21, "app1", "with-hyphen"],
        "users": [{"name": "a." * 40, "secret": "database", "rights": {"app1": ["DELETE HISTORY", "SELECT"]}}],
    }
    assert Settings.parse(raw).database.users[0].rights == {"app1": ("DELETE HISTORY", "SELECT")}


def test_every_problem_is_reported_at_once() -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["vip"]["address"] = "192.168.106.251"
        raw["machines"][1]["name"] = "node1"

    assert {line.split(":")[1] for line in refusal(change).splitlines()} == {"machines", "vip.address"}


def test_external_servers_replace_the_database_machines() -> None:
    settings = Settings.parse(example.settings(example.external_databases))
    assert settings.database.external[0].port == 3306


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3),
    max_leaves=6,
)


@given(section=st.sampled_from(["network", "machines", "access", "vip", "haproxy", "keepalived"]), value=anything)
def test_any_value_for_a_section_gives_an_error_that_names_it(section: str, value: Any) -> None:
    assert f"mycat-ha:{section}" in refusal(put(section, value))


#: A secret of the wrong type, or with control characters.
bad_secret = (
    st.integers(min_value=10**9)
    | st.lists(st.just("hunter2"), min_size=1)
    | st.text(alphabet="\x00\n\t\x1f", min_size=1).map(lambda bad: f"hunter2{bad}hunter2")
)


@given(value=bad_secret)
def test_a_bad_secret_is_refused_without_being_shown(value: Any) -> None:
    message = refusal(put("secrets/statistics", value))
    assert "mycat-ha:secrets.statistics" in message
    assert "hunter2" not in message
    assert str(value) not in message


@pytest.mark.parametrize("name", ["recipe", "seed"])
def test_the_recipes_mode_has_two_names(name: str) -> None:
    raw = example.settings(example.seed_mode)
    raw["keepalived"]["mode"] = name
    assert Settings.parse(raw).keepalived.mode == "recipe"
    assert "'fast' or 'recipe'" in refusal(put("keepalived/mode", "slow"))


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("haproxy/maxConnection", "maxConnections"),
        ("haproxy/max_connections", "maxConnections"),
        ("haproxy/MAX-CONNECTIONS", "maxConnections"),
        ("haproxy/mysql/singleWritter", "singleWriter"),
        ("machines/0/adress", "address"),
        ("access/bastion/hostkey", "hostKey"),
        ("http/backends/web/checkpath", "checkPath"),
        ("http/backends/machines/chek", "check"),  # a backend with the name of a key
        ("http/rules/0/pathPrefix", "pathPrefixes"),
        ("mycat/functions/0/coumt", "count"),
        ("mycat/dataHosts/0/writeHosts/0/readHosts/0/machin", "machine"),
        ("keepalive", "keepalived"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_one_with_its_path(path: str, right: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.with_mycat(raw)
        example.static_and_dynamic(raw)
        raw["mycat"]["dataHosts"][0]["writeHosts"][0]["readHosts"] = [{"address": "10.0.0.1"}]
        raw["access"]["bastion"] = {"host": "bastion", "address": "10.0.0.2"}
        for name in ("web", "machines"):
            raw["http"]["backends"][name] = {"machines": ["web1"]}
        put(path, "hunter2")(raw)

    key = re.sub(r"/(\d+)", r"[\1]", path).replace("/", ".")
    message = refusal(change)
    assert message == f"mycat-ha:{key}: unknown key; did you mean {right}?"


def test_an_unknown_key_that_is_near_to_none_comes_with_those_that_there_are() -> None:
    message = refusal(put("vip/colour", "red"))
    known = "address, ec2Endpoint, permissionsBoundary, notify, reconcileInterval, drain"
    assert message == f"mycat-ha:vip.colour: unknown key; known: {known}"


keys = st.sampled_from(
    [
        (section, field.alias or name)
        for section, model in SECTIONS.items()
        for name, field in model.model_fields.items()
    ]
)


@given(keys, st.data())
def test_a_key_with_a_letter_too_many_is_recognised(key: tuple[str, str], data: st.DataObject) -> None:
    section, right = key
    place = data.draw(st.integers(0, len(right)))
    wrong = right[:place] + data.draw(st.sampled_from("aexyz")) + right[place:]
    assume(len(right) > 4 and right.lower() != wrong.lower())
    assert f"mycat-ha:{section}.{wrong}: unknown key; did you mean {right}?" in refusal(
        put(f"{section.replace('.', '/')}/{wrong}", 1)
    )


def test_an_unknown_section_in_pulumis_configuration_is_refused() -> None:
    raw = {**example.settings(), "htpp": {"port": 8080}}
    pulumi.runtime.set_all_config(
        {"aws:region": "eu-central-1", **{f"mycat-ha:{key}": json.dumps(value) for key, value in raw.items()}}
    )
    try:
        with pytest.raises(SettingsError, match=r"^mycat-ha:htpp: unknown key; did you mean http\?$"):
            Settings.load()
    finally:
        pulumi.runtime.set_all_config({})
