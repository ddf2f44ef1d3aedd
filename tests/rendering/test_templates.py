"""Rendered configurations, judged by the programs that have to read them: the pinned builds, on this machine."""

import importlib.util
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pymysql
import pytest

from components import cluster, database, health, mycat_files
from components.template import FILES, render, sql_string
from constants import MYSQL_EXTRA_PORT
from settings import Role, Settings, extra, services
from tests import example
from tests.rendering.conftest import Judge
from tests.servers import BOUND, LOOPBACK, Database, ask, connect, free_port, install_database, unpack
from tests.unit.test_health import Responder
from toolchain import mycat as toolchain_mycat

HOSTILE = [
    "pa'ss",
    'qu"ote',
    "back\\slash",
    "sp ace",
    "ha#sh",
    "$HOME",
    "${x}",
    "%[src]",
    "semi;colon",
    "ü-€-日本",
    "a:b",
    "\\'\"",
]


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Where a user without rights gets to, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="mycat-rendering-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def settings(change: Callable[[dict[str, Any]], Any] | None = None) -> Settings:
    return Settings.parse(example.settings(change))


def haproxy_cfg(settings: Settings) -> str:
    return cluster.haproxy_cfg(settings, settings.machines[0], settings.secrets["statistics"].get_secret_value())


def keepalived_conf(settings: Settings) -> str:
    vrrp = settings.secrets.get("vrrp")
    return cluster.keepalived_conf(settings, settings.machines[0], "ens5", vrrp.get_secret_value() if vrrp else None)


def unchecked_external(raw: dict[str, Any]) -> None:
    example.external_databases(raw)
    raw["database"]["externalCheckUser"] = None


def by_name(raw: dict[str, Any]) -> None:
    """One that no name server knows, and one by its address."""
    example.external_databases(raw)
    name = {"name": "db1", "host": "db1.cluster-x1.eu-central-1.rds.amazonaws.invalid", "within": ["10.0.0.0/24"]}
    raw["database"]["external"][0] = name


def checked_by_their_health_ports(
    raw: dict[str, Any], servers: Callable[[dict[str, Any]], Any] = example.external_databases
) -> Any:
    """With everything in a path that one may hold."""
    servers(raw)
    path = "/it's?$HOME&%20=(x)~!*+,;:@"
    raw["database"] |= {"externalWriterCheck": {"port": 9200, "path": path}, "externalReaderCheck": {"port": 9200}}
    raw["haproxy"]["mysql"] = {"readPort": 3308}


def external_web_servers(raw: dict[str, Any]) -> None:
    server = {"name": "web", "address": "10.0.0.80", "port": 8080}
    raw["http"] = {"backends": {"servers": {"external": [server], "checkPath": "/health?of=all"}}}
    raw["http"]["defaultBackend"] = "servers"


def hostile_rules(raw: dict[str, Any]) -> None:
    """Everything that a path may hold, and what looks like an option."""
    example.static_and_dynamic(raw)
    hostile = ["-i", "-f", "--", "$HOME", "it's", "%20", "a;b", "a,b", "(x)", "~!*&=+@:"]
    raw["http"]["rules"][0]["pathSuffixes"] = hostile
    raw["http"]["rules"][0]["pathPrefixes"] = [f"/{text}" for text in hostile]
    raw["http"]["statistics"] = {"uri": "/it's?$HOME", "realm": 'it\'s # \\ a "realm" $HOME'}


def external_mycat(raw: dict[str, Any]) -> Any:
    raw["mycat"] = {"external": [{"name": "m1", "address": "10.0.0.1"}, {"name": "m2", "address": "10.0.0.2"}]}


def lines_of_ones_own(raw: dict[str, Any]) -> None:
    """In every section that can have any."""
    example.with_mycat(raw)
    example.static_and_dynamic(raw)
    raw["haproxy"]["extra"] = {
        "global": ["nbthread 2", "tune.bufsize 32768", "log 127.0.0.1:514 local0 err", 'setenv MINE "a b"'],
        "defaults": ["timeout client-fin 10s", "option contstats"],
        "statistics": ["option dontlog-normal"],
        "mysql": ["tcp-request connection reject if { src 10.9.0.0/16 }", "rate-limit sessions 1000"],
        "mysqlservers": ["timeout queue 5s", "stick-table type ip size 1m expire 1h", "stick on src"],
        "mycat": ["no option dontlognull"],
        "mycat_servers": ["fullconn 100"],
        "http-in": ["acl mine path_beg /mine", "http-request deny if mine", "use_backend static if { path / }"],
        "healthcheck": ["option dontlog-normal"],
        "http-statistics": ["option dontlog-normal"],
        "static": ["hash-type consistent", "http-reuse always"],
    }


def shares(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    example.static_and_dynamic(raw)
    raw["haproxy"] |= {
        "mysql": {"balance": "first", "servers": {"node1": {"weight": 0}, "node3": {"weight": 256, "backup": True}}},
        "mycat": {"balance": "random", "servers": {"node2": {"backup": True}}},
    }
    raw["http"]["backends"]["static"] |= {"balance": "uri", "servers": {"web1": {"weight": 3}}}


def statistics_over_tls(raw: dict[str, Any]) -> None:
    example.static_and_dynamic(raw)
    example.with_statistics_tls(raw)


def balanced(by: str) -> Callable[[dict[str, Any]], Any]:
    return lambda raw: raw["haproxy"].update(mysql={"balance": by})


HAPROXY = {
    "shares": shares,
    **{f"balance {by}": balanced(by) for by in get_args(services.Balance)},
    "lines of one's own": lines_of_ones_own,
    "the recipe's topology": lambda raw: None,
    "single writer": lambda raw: raw["haproxy"].update(mysql={"singleWriter": True}),
    "single writer with failback": lambda raw: raw["haproxy"].update(
        mysql={"singleWriter": True, "singleWriterFailback": True}
    ),
    "a read port": lambda raw: raw["haproxy"].update(mysql={"readPort": 3308, "readBalance": "roundrobin"}),
    "a read port beside a single writer": lambda raw: raw["haproxy"].update(
        mysql={"singleWriter": True, "readPort": 3308}
    ),
    "a read port beside a single writer with failback": lambda raw: raw["haproxy"].update(
        mysql={"singleWriter": True, "singleWriterFailback": True, "readPort": 3308}
    ),
    "dedicated tiers": example.dedicated_tiers,
    "external servers": example.external_databases,
    "external servers without a check user": unchecked_external,
    "external servers that say who may write": checked_by_their_health_ports,
    "external servers by name": by_name,
    "external servers by name with a read port": lambda raw: [
        checked_by_their_health_ports(raw, by_name),
        raw["haproxy"]["mysql"].update(singleWriter=True),
    ],
    "a single writer of external servers": lambda raw: [
        checked_by_their_health_ports(raw),
        raw["haproxy"]["mysql"].update(singleWriter=True),
    ],
    "four balancers": example.four_balancers,
    "static and dynamic web servers": example.static_and_dynamic,
    "external web servers": external_web_servers,
    "hostile rules": hostile_rules,
    "other ports": lambda raw: raw["haproxy"].update(mysql={"port": 13306}, statistics={"port": 18888}),
    "statistics over TLS": statistics_over_tls,
    "Mycat": example.with_mycat,
    "external Mycat": external_mycat,
    "external Mycat without a responder": lambda raw: [
        external_mycat(raw),
        raw["mycat"].update(externalCheckPort=None),
    ],
}


@pytest.mark.parametrize("variant", HAPROXY)
def test_haproxy_takes_every_variant_without_a_warning(judge_haproxy: Judge, variant: str) -> None:
    wanted = settings(HAPROXY[variant])
    assert judge_haproxy(haproxy_cfg(wanted)) == ""


@pytest.mark.parametrize("section", ["global", "defaults", "mysqlservers"])
def test_haproxy_judges_the_lines_of_ones_own(judge_haproxy: Judge, section: str) -> None:
    wanted = settings(lambda raw: raw["haproxy"].update(extra={section: ["colour red"]}))
    assert re.search("status 1: .*unknown keyword 'colour'", judge_haproxy(haproxy_cfg(wanted)), re.DOTALL)


@pytest.mark.parametrize("password", HOSTILE)
def test_haproxy_takes_any_password(judge_haproxy: Judge, password: str) -> None:
    wanted = settings(lambda raw: raw["secrets"].update(statistics=password))
    assert judge_haproxy(haproxy_cfg(wanted)) == ""


def seed_with_mail(raw: dict[str, Any]) -> None:
    example.seed_mode(raw)
    example.mail(raw)


KEEPALIVED = {
    "fast": lambda raw: None,
    "seed": example.seed_mode,
    "mail": example.mail,
    "seed with mail": seed_with_mail,
    "no startup delay": lambda raw: raw["keepalived"].update(startupDelay=0),
    "four balancers": example.four_balancers,
    "lines of one's own": lambda raw: raw["keepalived"].update(
        extra={
            "global_defs": ["vrrp_rlimit_rttime 20000", "vrrp_notify_fifo /run/vrrp-events"],
            "vrrp_instance": ["track_interface {", "    lo", "}", "debug 2"],
        }
    ),
}


@pytest.mark.parametrize("variant", KEEPALIVED)
def test_keepalived_takes_every_variant(judge_keepalived: Judge, variant: str) -> None:
    wanted = settings(KEEPALIVED[variant])
    assert judge_keepalived(keepalived_conf(wanted)) == ""


@pytest.mark.parametrize("section", ["global_defs", "vrrp_instance"])
def test_keepalived_judges_the_lines_of_ones_own(judge_keepalived: Judge, section: str) -> None:
    wanted = settings(lambda raw: raw["keepalived"].update(extra={section: ["colour red"]}))
    assert re.search("status .*Unknown keyword 'colour'", judge_keepalived(keepalived_conf(wanted)), re.DOTALL)


def test_keepalived_says_no_to_a_keyword_it_does_not_know(judge_keepalived: Judge) -> None:
    text = keepalived_conf(settings())
    assert "status" in judge_keepalived(text.replace("nopreempt", "nopreemption"))
    the_recipes = text.replace("    router_id", "    notificationd LVS_DEVEL\n    router_id", 1)
    assert "Unknown keyword 'notificationd'" in judge_keepalived(the_recipes)


@pytest.mark.parametrize(
    ("ours", "the_recipes", "words"),
    [
        ("global\n", "global\n    nbproc 1\n", "nbproc is not supported"),
        ("timeout connect 1000ms", "contimeout 5000", "'contimeout' directive is not supported"),
        ("timeout client 60000ms", "clitimeout 50000", "'clitimeout' directive is not supported"),
        ("timeout server 60000ms", "srvtimeout 50000", "'srvtimeout' directive is not supported"),
        ("option httpchk\n", "option httpchk OPTIONS * HTTP/1.1\\r\\nHost:\\ www\n", "is unsupported"),
    ],
    ids=["nbproc", "contimeout", "clitimeout", "srvtimeout", "httpchk"],
)
def test_haproxy_says_no_to_the_recipes_own_settings(
    judge_haproxy: Judge, ours: str, the_recipes: str, words: str
) -> None:
    text = haproxy_cfg(settings(example.with_mycat))
    assert ours in text
    assert words in judge_haproxy(text.replace(ours, the_recipes, 1))


def galera_cnf(*lines: str) -> str:
    """With ``lines`` of a user's own."""
    wanted = settings(lambda raw: raw["database"].update(extra=list(lines)))
    addresses = {machine.name: str(machine.address) for machine in wanted.machines}
    return database.configuration(
        "node1", addresses=addresses, cluster="test", database=wanted.database, max_connections=500, mycat=True
    )


def test_mariadb_takes_the_configuration_and_refuses_a_misspelt_one(judge_mariadb: Judge) -> None:
    text = galera_cnf()
    assert not re.search("^status|error", judge_mariadb(text), re.IGNORECASE)  # it warns of what --help cannot know
    assert "unknown variable" in judge_mariadb(text.replace("max_connections", "max_conections"))


def test_mariadb_takes_lines_of_ones_own(judge_mariadb: Judge) -> None:
    lines = ("max_allowed_packet = 64M", "slow-query-log", "loose-not_yet = 1", "innodb_io_capacity=2000 # SSD")
    assert not re.search("^status", judge_mariadb(galera_cnf(*lines)))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_alowed_packet = 64M", "unknown variable 'max_alowed_packet=64M'"),
        ("sql_mode = STRICT_NOTHING", "Error while setting value 'STRICT_NOTHING' to 'sql_mode'"),
        ("long_query_time = soon", "Invalid decimal value for option 'long_query_time'"),
        # These it would start with, but without InnoDB and the plugin.
        ("innodb_flush_method = quickly", "Error while setting value 'quickly' to 'innodb-flush-method'"),
        ("plugin_load_add = not_there", "Can't open shared library"),
    ],
)
def test_mariadb_judges_the_lines_of_ones_own(judge_mariadb: Judge, line: str, words: str) -> None:
    said = judge_mariadb(galera_cnf(line))
    assert said.startswith("status")
    assert words in said


def test_what_is_refused_of_mariadbs_options_is_there_in_mariadb() -> None:
    """A misspelt entry of the table would refuse nothing."""
    argv = ["mariadbd", "--no-defaults", "--verbose", "--help"]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    said = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^(?:  (?:-., )?--)?([a-z][a-z0-9-]+)", said, re.MULTILINE))
    assert {name for name in extra.MYSQLD if name.replace("_", "-").removesuffix("*") not in known} == {"wsrep*"}


@pytest.fixture(scope="module")
def server(scratch: Path) -> Iterator[Database]:
    running = Database(install_database(scratch / "database"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("password", HOSTILE)
def test_mariadb_reads_a_password_as_it_was_written(server: Database, password: str) -> None:
    with connect(server.port, "app", "app") as connection:
        ((hexadecimal,),) = ask(connection, f"SELECT HEX({sql_string(password)})")
    assert bytes.fromhex(hexadecimal).decode() == password


def as_root(server: Database, statements: str) -> str:
    """What it says to a machine's root, with modes that the user may have set for all sessions."""
    of_a_user = "SET sql_mode = 'ORACLE,NO_BACKSLASH_ESCAPES', autocommit = 0"
    argv = ["mariadb", "--no-defaults", "--batch", "-uroot", f"--socket={server.folder / 's'}"]
    argv.append(f"--init-command={of_a_user}")
    done = subprocess.run(argv, input=statements, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("schema", ["my_app", "My_Upper_App"])
def test_a_grant_is_for_its_database_only_and_a_wider_one_is_taken_back(server: Database, schema: str) -> None:
    """Also when there is nothing to take back, and by every `up` again."""
    similar = schema.replace("_", "x")
    sql = example.users_sql(schema=schema, mycat_user="router", mycat_databases=(schema,))
    wider = "".join(f"GRANT ALL PRIVILEGES ON `{schema}`.* TO '{user}'@'%';" for user in ("owner", "router"))

    pattern = schema.lower().replace("_", r"\_")
    as_root(server, f"CREATE DATABASE `{similar}`;")
    try:
        for statements in (sql, wider + sql, sql):
            as_root(server, statements)
            for user in ("owner", "router"):
                with connect(server.port, user, "x", schema) as session:
                    rights = [grant for (grant,) in ask(session, "SHOW GRANTS") if "ON *.*" not in grant]
                    assert rights == [f"GRANT ALL PRIVILEGES ON `{pattern}`.* TO `{user}`@`%`"]
                    with pytest.raises(pymysql.Error, match="1044"):
                        ask(session, f"USE `{similar}`")
    finally:
        as_root(server, f"DROP DATABASE `{similar}`; DROP DATABASE `{schema}`; DROP USER owner, router;")


def rights(server: Database, user: str) -> set[str] | None:
    """Those on schemas; None: there is no such user."""
    if not server.ask(f"SELECT 1 FROM mysql.user WHERE user = '{user}' AND host = '%'"):
        return None
    grants = [grant for (grant,) in server.ask(f"SHOW GRANTS FOR '{user}'@'%'")]
    return {grant.removesuffix(f" TO `{user}`@`%`").removeprefix("GRANT ") for grant in grants[1:]}


@pytest.fixture
def shop(server: Database) -> Iterator[None]:
    """What is there before; and afterwards everything is as it was."""
    as_root(server, "CREATE DATABASE myxapp; CREATE TABLE myxapp.t (id INT PRIMARY KEY);")
    try:
        yield
    finally:
        as_root(server, example.users_sql())  # drops whom it has made
        gone = ("shop", "my_app", "myxapp", services.OWN_SCHEMA)
        as_root(server, "".join(f"DROP DATABASE IF EXISTS `{name}`;" for name in gone) + "DROP USER owner;")


@pytest.mark.usefixtures("shop")
def test_users_have_the_rights_of_the_settings_and_no_others(server: Database) -> None:
    def up(schemas: tuple[str, ...] = ("my_app",), **users: Any) -> None:
        wanted = [{"name": name.replace("_", "-"), "rights": granted} for name, granted in users.items()]
        for _ in range(2):  # an unchanged one changes nothing
            as_root(server, example.users_sql(schemas=schemas, users=wanted))

    up(
        report_er={"my_app": ["SELECT"], "shop": ["INSERT", "CREATE TEMPORARY TABLES"]},
        dba={"shop": ["ALL PRIVILEGES"]},
    )
    assert rights(server, "report-er") == {
        r"SELECT ON `my\_app`.*",
        "INSERT, CREATE TEMPORARY TABLES ON `shop`.*",
    }
    assert rights(server, "dba") == {"ALL PRIVILEGES ON `shop`.*"}
    with connect(server.port, "report-er", "x", "my_app") as session:
        for statement, error in (("CREATE TABLE t (id INT PRIMARY KEY)", 1142), ("SELECT * FROM myxapp.t", 1142)):
            with pytest.raises(pymysql.Error, match=str(error)):
                ask(session, statement)

    # One is added and one taken away; what a person has granted beyond goes, on whatever schema.
    as_root(
        server,
        "GRANT ALL PRIVILEGES ON `my_app`.* TO 'report-er'@'%' WITH GRANT OPTION;"
        "GRANT DROP ON shop.* TO 'report-er'@'%' WITH GRANT OPTION; GRANT EXECUTE ON `o``dd`.* TO 'report-er'@'%';",
    )
    up(report_er={"my_app": ["SELECT", "UPDATE"]}, dba={"shop": ["SELECT"]})
    assert rights(server, "report-er") == {r"SELECT, UPDATE ON `my\_app`.*"}
    assert rights(server, "dba") == {"SELECT ON `shop`.*"}

    # Of a schema that is no longer one of the stack's only the rights go; a user goes, and one without rights stays.
    as_root(server, "CREATE TABLE my_app.t (id INT PRIMARY KEY);")
    up((), report_er={})
    assert rights(server, "report-er") == set()
    assert rights(server, "dba") is None
    assert server.ask("SELECT * FROM my_app.t") == []
    as_root(server, "CREATE USER 'report-er2'@'%';")  # whom a person has made
    up(())
    assert rights(server, "report-er") is None
    assert rights(server, "report-er2") == set()
    as_root(server, "DROP USER 'report-er2'@'%';")


@pytest.mark.usefixtures("shop")
def test_a_right_that_stays_is_there_after_every_statement(server: Database) -> None:
    look = r"SELECT COUNT(*) AS has FROM mysql.db WHERE user = 'reader' AND db = 'my\\_app' AND Select_priv = 'Y';"

    def up(*privileges: str) -> str:
        sql = example.users_sql(schemas=("my_app",), users=[{"name": "reader", "rights": {"my_app": privileges}}])
        return as_root(server, re.sub("^(?!DELIMITER).*;$", lambda line: line[0] + look, sql, flags=re.MULTILINE))

    up("SELECT")
    for privileges in (["SELECT"], ["SELECT", "INSERT"], ["ALL PRIVILEGES"], ["DROP", "SELECT"]):
        said = up(*privileges).splitlines()
        assert len(said) > 20
        assert said == ["has", "1"] * (len(said) // 2)


@pytest.mark.usefixtures("shop")
def test_a_changed_password_ends_no_session(server: Database) -> None:
    users = [{"name": "reader", "rights": {"shop": ["SELECT"]}}]
    as_root(server, example.users_sql(users=users))
    with connect(server.port, "reader", "x", "shop") as session:
        as_root(server, example.users_sql(users=users, user_passwords={"reader": HOSTILE[-1]}))
        assert ask(session, "SELECT CURRENT_USER()") == [("reader@%",)]
        with pytest.raises(pymysql.Error, match="1045"):
            connect(server.port, "reader", "x")
        connect(server.port, "reader", HOSTILE[-1], "shop").close()


@pytest.mark.usefixtures("shop")
def test_a_user_that_has_become_another_one_of_the_stacks_is_not_dropped(server: Database) -> None:
    as_root(server, example.users_sql(users=[{"name": "router"}, {"name": "owner2"}]))
    as_root(server, example.users_sql(user="owner2", mycat_user="router"))
    as_root(server, example.users_sql())  # nor later, when the stack has no such user
    assert rights(server, "owner2") == {"ALL PRIVILEGES ON `shop`.*"}
    assert rights(server, "router") == set()
    as_root(server, "DROP USER owner2, router;")


def test_every_right_on_a_schema_that_mariadb_knows_is_a_setting(server: Database) -> None:
    """One that is not could not be revoked."""
    as_root(server, "CREATE USER everything; GRANT ALL PRIVILEGES ON shop.* TO everything;")
    as_root(server, f"REVOKE {', '.join(services.PRIVILEGES)} ON shop.* FROM everything;")
    try:
        assert rights(server, "everything") == set()
    finally:
        as_root(server, "DROP USER everything;")


@pytest.mark.parametrize(
    ("copied", "note", "needed"),
    [
        (None, None, True),
        ("server_version = {own}", None, False),
        ("server_version = 10.6.18-MariaDB-0+deb11u1-log", None, True),  # a donor that is upgraded after this node
        ("server_version = {own}", "10.6.18-MariaDB", True),  # what there is stays
        ("server_version =", None, True),
    ],
    ids=["no copy", "the same version", "an older donor", "a note of its own", "a torn copy"],
)
def test_the_system_tables_of_a_copy_are_upgraded_if_they_are_older(
    server: Database, tmp_path: Path, copied: str | None, note: str | None, needed: bool
) -> None:
    """As MariaDB's own upgrade decides by what is there after a state transfer by mariadb-backup."""
    data = server.folder / "data"
    files = {data / "xtrabackup_info": copied, data / "mysql_upgrade_info": note}
    (data / "mysql_upgrade_info").unlink(missing_ok=True)
    try:
        for file, content in files.items():
            if content is not None:
                file.write_text(content.format(own=server.ask("SELECT VERSION()")[0][0]) + "\n")
        program = ["bash", str(FILES / "mariadb/note-version")]
        subprocess.run(program, env={**os.environ, "MYCAT_HA_DATA": str(data)}, check=True)
        asked = ["mariadb-upgrade", "--no-defaults", "-uroot", f"--socket={server.folder / 's'}"]
        done = subprocess.run([*asked, "--check-if-upgrade-is-needed"], capture_output=True, text=True, check=False)
        assert (done.returncode == 0, done.stderr) == (needed, "")
    finally:
        for file in files:
            file.unlink(missing_ok=True)


@dataclass
class WithOptions(Database):
    options: tuple[str, ...] = ()

    def command(self) -> list[str]:
        return [*super().command(), *self.options]


def test_a_full_database_still_lets_its_responder_and_root_in(scratch: Path, tmp_path: Path) -> None:
    """Else the balancers would take it for dead, and end the sessions that fill it."""
    extra = free_port()
    text = database.configuration(
        "node1",
        addresses={"node1": LOOPBACK},
        cluster="test",
        database=settings().database,
        max_connections=10,
        mycat=False,
    ).replace(str(MYSQL_EXTRA_PORT), str(extra))
    names = "max_connections|extra_port|extra_max_connections|skip_name_resolve"
    options = tuple(f"--{name}={value}" for name, value in re.findall(f"^({names}) = (.*)$", text, re.MULTILINE))
    running = WithOptions(install_database(scratch / "full"), options=options)
    running.start()
    sessions: list[pymysql.Connection[Any]] = []
    try:
        sql = example.users_sql(health_hosts=["localhost", LOOPBACK], check_hosts=[LOOPBACK])
        as_root = ["mariadb", "--no-defaults", "--batch", "-uroot", f"--socket={running.folder / 's'}"]
        subprocess.run(as_root, input=sql, text=True, check=True)
        sessions += [connect(running.port, "owner", "x", "shop") for _ in range(10)]
        with pytest.raises(pymysql.Error, match="1040"):
            connect(running.port, "owner", "x", "shop")
        asked = health.checks([Role.MYSQL], LOOPBACK, "x")
        asked["/mysql"]["port"] = {MYSQL_EXTRA_PORT: extra}[asked["/mysql"]["port"]]
        (tmp_path / "health.json").write_text(json.dumps(asked))
        responder = Responder(tmp_path / "health.json")
        try:
            # A server without Galera; but it has been asked.
            assert responder.ask("GET", "/mysql")[:2] == (503, "wsrep_ready is off: the node does not take queries\n")
        finally:
            responder.stop()
        subprocess.run([*as_root, "--execute", "SELECT 1"], check=True)
    finally:
        for session in sessions:
            session.close()
        running.stop()


@pytest.fixture
def strict(server: Database) -> Iterator["pymysql.Connection[Any]"]:
    """A session in app1, with what the configuration says of engines and keys."""
    text = database.configuration(
        "node1",
        addresses={"node1": "10.0.0.1"},
        cluster="test",
        database=settings().database,
        max_connections=500,
        mycat=False,
    )
    lines = re.findall("^(enforce_storage_engine|innodb_force_primary_key) = (.*)$", text, re.MULTILINE)
    with connect(server.port, "app", "app") as administrator:
        try:
            for name, value in lines:
                ask(administrator, f"SET GLOBAL {name} = {value}")
            with connect(server.port, "app", "app", "app1") as session:
                yield session
        finally:
            ask(administrator, "SET GLOBAL enforce_storage_engine = DEFAULT, GLOBAL innodb_force_primary_key = DEFAULT")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE TABLE t (n INT PRIMARY KEY) ENGINE=MyISAM", r"1290.*NO_ENGINE_SUBSTITUTION"),
        ("CREATE TABLE t (PRIMARY KEY (n)) ENGINE=Aria AS SELECT 1 AS n", r"1290.*NO_ENGINE_SUBSTITUTION"),
        ("ALTER TABLE good ENGINE=MyISAM", r"1290.*NO_ENGINE_SUBSTITUTION"),
        ("CREATE TABLE t (n INT)", r"1173.*requires a primary key"),
        ("CREATE TABLE t AS SELECT 1 AS n", r"1173.*requires a primary key"),
        ("ALTER TABLE good DROP PRIMARY KEY", r"1173.*requires a primary key"),
    ],
)
def test_mariadb_refuses_tables_that_galera_does_not_replicate(
    strict: "pymysql.Connection[Any]", statement: str, words: str
) -> None:
    ask(strict, "CREATE TABLE IF NOT EXISTS good (n INT PRIMARY KEY)")
    with pytest.raises(pymysql.Error, match=words):
        ask(strict, statement)


def test_a_table_of_another_engine_can_be_converted_and_dropped(
    server: Database, strict: "pymysql.Connection[Any]"
) -> None:
    for name in ("old", "older"):
        ask(strict, f"SET STATEMENT enforce_storage_engine = NULL FOR CREATE TABLE {name} (n INT) ENGINE=MyISAM")
    ask(strict, "ALTER TABLE old ADD PRIMARY KEY (n), ENGINE=InnoDB")
    ask(strict, "DROP TABLE old, older")


def every_kind_of_function(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    nodes = ["dn1", "dn2", "dn3"]
    functions: list[dict[str, Any]] = [
        {"name": "numbers", "kind": "hash-int", "map": {"1": 0, "2": 1}, "defaultNode": 2},
        {"name": "words", "kind": "hash-int", "map": {"K\u00f6ln": 0, "\u5317\u4eac": 1, "a b": 2}},
        {
            "name": "ranges",
            "kind": "range",
            "ranges": [{"from": i * 10, "to": i * 10 + 9, "node": i} for i in range(3)],
        },
        {"name": "other", "class": "io.mycat.route.function.PartitionByMurmurHash", "properties": {"count": "3"}},
    ]
    raw["mycat"]["functions"] += functions
    for function in functions:
        name = function["name"]
        raw["mycat"]["rules"].append({"name": name, "column": "id", "function": name})
        raw["mycat"]["schemas"][0]["tables"].append({"name": f"t_{name}", "rule": name, "dataNodes": nodes})


def hostile_passwords(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    for number, password in enumerate([*HOSTILE, "<a/>", "]]>", "&amp;", "-->"]):
        raw["secrets"][f"hostile{number}"] = password
        raw["mycat"]["users"].append({"name": f"u{number}", "secret": f"hostile{number}"})
    raw["secrets"] |= {"health": "".join(HOSTILE), "mycatDatabase": "".join(HOSTILE)}


@pytest.fixture(scope="module")
def mycat(scratch: Path) -> Path:
    """A Mycat's prefix, as templates/mycat/build.sh.j2 makes it."""
    prefix = unpack(toolchain_mycat.install().path, scratch / "distribution")
    subprocess.run(
        ["bash", "-exc", render("mycat/build.sh.j2")],
        cwd=prefix,
        env={**os.environ, "PREFIX": str(scratch / "mycat")},
        check=True,
    )
    return scratch / "mycat"


@pytest.fixture
def mycat_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The machines' program, with its paths in a folder and Mycat under the test's own user."""
    spec = importlib.util.spec_from_file_location("mycat_apply", FILES / "mycat/mycat_apply.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mycat_apply", program)
    spec.loader.exec_module(program)
    start = tmp_path / "mycat-run"
    start.write_text(render("mycat/run.sh.j2", heap_mib=256, direct_memory_mib=64))
    start.chmod(0o755)
    me = pwd.getpwuid(os.getuid())
    for name, value in {"TRIAL": tmp_path / "trial", "PROGRAM": (start, start), "AS_MYCAT": BOUND}.items():
        monkeypatch.setattr(program, name, value)
    monkeypatch.setattr(program.pwd, "getpwnam", lambda _: me)
    return program


@pytest.mark.parametrize("change", [example.with_mycat, every_kind_of_function, hostile_passwords])
def test_mycat_takes_every_variant(
    mycat: Path, mycat_apply: ModuleType, change: Callable[[dict[str, Any]], Any]
) -> None:
    wanted = settings(change)
    files = mycat_files.configuration(wanted, wanted.machines[0])
    mycat_apply.try_out(str(mycat), mycat_apply.Configuration(files))


def test_mycat_refuses_a_rule_that_is_not_there(mycat: Path, mycat_apply: ModuleType) -> None:
    wanted = settings(example.with_mycat)
    files = mycat_files.configuration(wanted, wanted.machines[0])
    files["schema.xml"] = files["schema.xml"].replace('rule="by-id"', 'rule="by-x"')
    with pytest.raises(mycat_apply.RefusedError, match="by-x"):
        mycat_apply.try_out(str(mycat), mycat_apply.Configuration(files))
