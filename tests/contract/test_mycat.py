"""What the program and the tests rely on in Mycat, with real databases behind it.

The same tests run on the stand-in and, with MYCAT_ARCHIVE=path, on a real Mycat: a difference between the two is a
fault of the stand-in. What the stand-in refuses, and says so, is in one place: `TestStandIn`.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.servers import (
    DATABASES,
    RULE,
    USERS,
    Database,
    Mycat,
    ask,
    copy_database,
    install_database,
    running,
    schema_xml,
    server_xml,
    unpack,
)
from toolchain import mycat as toolchain_mycat

TABLES = ("orders", "country", "note")


@pytest.fixture(scope="module")
def archive() -> toolchain_mycat.Archive:
    return toolchain_mycat.install()


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Where a user without rights gets to, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="mycat-contract-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def distribution(archive: toolchain_mycat.Archive, scratch: Path) -> Path:
    return unpack(archive.path, scratch / "distribution")


@pytest.fixture(scope="module")
def installed(scratch: Path) -> Path:
    return install_database(scratch / "installed")


@pytest.fixture(scope="module")
def database(installed: Path) -> Iterator[Database]:
    server = copy_database(installed, installed.with_name("first"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def mycat(distribution: Path, database: Database, scratch: Path) -> Iterator[Mycat]:
    """The one that most tests share, with a session's tables in place."""
    made = home(distribution, scratch)
    with running(made, server=server_xml(made), schema=schema_xml(database.port), rule=RULE):
        with made.login("root", "r00t", "APP") as client:
            for table in TABLES:
                ask(client, f"CREATE TABLE {table} (id INT PRIMARY KEY, text VARCHAR(40))")
        yield made


@pytest.fixture
def other(distribution: Path, scratch: Path) -> Iterator[Mycat]:
    """One that a test has for itself, not started."""
    made = home(distribution, scratch)
    yield made
    made.stop()


@pytest.fixture
def client(mycat: Mycat, database: Database) -> Iterator["pymysql.Connection[Any]"]:
    for name in DATABASES:
        for (table,) in database.ask(f"SHOW TABLES FROM {name}"):
            database.ask(f"DELETE FROM {name}.{table}")
    with mycat.login("root", "r00t", "APP") as connection:
        yield connection


def home(distribution: Path, scratch: Path) -> Mycat:
    return Mycat(distribution, Path(tempfile.mkdtemp(prefix="home-", dir=scratch)))


def everywhere(database: Database, table: str) -> dict[str, list[Any]]:
    """The ids of the table's rows in each database that has it."""
    there = [name for name in DATABASES if database.ask(f"SHOW TABLES FROM {name} LIKE '{table}'")]
    return {name: [row[0] for row in database.ask(f"SELECT id FROM {name}.{table} ORDER BY id")] for name in there}


def refused(client: "pymysql.Connection[Any]", statement: str) -> tuple[int, str]:
    with pytest.raises(pymysql.Error) as raised:
        ask(client, statement)
    return raised.value.args[0], raised.value.args[1]


class TestLogin:
    @pytest.mark.parametrize(
        ("user", "password", "schema", "code"),
        [
            ("root", "wrong", None, 1045),
            ("root", "", None, 1045),
            ("nobody", "r00t", None, 1045),
            ("nobody", "", None, 1045),
            ("root", "r00t", "NOWHERE", 1049),
            ("root", "r00t", "app", 1049),
            ("only", "0nly", "APP", 1044),
        ],
    )
    def test_is_refused(self, mycat: Mycat, user: str, password: str, schema: str | None, code: int) -> None:
        with pytest.raises(pymysql.OperationalError) as raised:
            mycat.login(user, password, schema)
        assert raised.value.args[0] == code

    def test_shows_the_schemas(self, mycat: Mycat) -> None:
        with mycat.login("root", "r00t") as client:
            assert sorted(ask(client, "SHOW DATABASES")) == [("APP",), ("OTHER",)]
            assert ask(client, "SELECT DATABASE()") == [(None,)]
            assert refused(client, "SELECT * FROM note")[0] == 3000
            ask(client, "USE APP")
            assert ask(client, "SELECT DATABASE()") == [("APP",)]
            assert refused(client, "USE NOWHERE")[0] == 1049
            client.select_db("OTHER")
            client.ping()
        with mycat.login("only", "0nly") as client:
            assert ask(client, "SHOW DATABASES") == [("OTHER",)]

    def test_by_the_command_line(self, mycat: Mycat) -> None:
        command = ["mariadb", "--no-defaults", "--protocol=tcp", "--host=127.0.0.1", f"--port={mycat.port}"]
        for password, status in (("r00t", 0), ("wrong", 1)):
            done = subprocess.run(
                [*command, "--user=root", "--batch", "--skip-column-names", "APP"],
                input="SELECT 1;\nSHOW TABLES;\n",
                env={**os.environ, "MYSQL_PWD": password},
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
            assert done.returncode == status, done.stderr
            assert done.stdout.split() == (["1", "country", "note", "orders"] if status == 0 else [])
            assert ("1045" in done.stderr) == (status == 1)

    def test_on_the_managers_port(self, mycat: Mycat) -> None:
        assert "mycat" in mycat.manage("show @@version")[0][0]
        assert [row[:2] for row in mycat.manage("show @@datanode")] == [
            ("dn1", "h1/app1"),
            ("dn2", "h1/app2"),
            ("dn3", "h1/app3"),
        ]
        assert mycat.manage("show @@heartbeat")[0][0] == "w0"
        with pytest.raises(pymysql.Error, match="Unsupported statement"):
            mycat.manage("show @@nonsense")


class TestStatements:
    def test_that_connectors_begin_with(self, client: "pymysql.Connection[Any]") -> None:
        for statement in (
            "SET NAMES utf8mb4",
            "SET autocommit=1",
            "SET sql_mode='STRICT_TRANS_TABLES'",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SHOW VARIABLES",
            "SHOW WARNINGS",
            "SHOW COLLATION",
            "select @@version_comment limit 1",
            "select USER()",
            "SELECT @@session.auto_increment_increment AS a, @@character_set_client AS c, @@max_allowed_packet AS m",
            "/* a comment */SELECT @@session.tx_isolation",
        ):
            ask(client, statement)
        assert refused(client, "SET nonsense=1")[0] == 1193
        assert refused(client, "")[0] == 1148

    def test_of_a_table_on_one_node(self, client: "pymysql.Connection[Any]", database: Database) -> None:
        ask(client, "INSERT INTO note VALUES (1, 'an apostrophe''s; -- text'), (2, 'WHERE id=3')")
        ask(client, "update NOTE set text = concat(text, '!') where id = 2")
        assert everywhere(database, "note") == {"app2": [1, 2]}
        assert ask(client, "SELECT text FROM APP.note WHERE id = 1") == [("an apostrophe's; -- text",)]
        assert ask(client, "SELECT text FROM `note` n WHERE n.id IN (2) -- the end") == [("WHERE id=3!",)]
        ask(client, "DELETE FROM note")
        assert ask(client, "SELECT * FROM note") == []

    @pytest.mark.parametrize("table", TABLES)
    def test_that_insert_or_update(self, client: "pymysql.Connection[Any]", table: str) -> None:
        for text in ("first", "second"):
            ask(
                client,
                f"INSERT INTO {table} (id, text) VALUES (4, '{text}') ON DUPLICATE KEY UPDATE text = VALUES(text)",
            )
            assert ask(client, f"SELECT id, text FROM {table} WHERE id = 4") == [(4, text)]

    def test_with_any_character(self, client: "pymysql.Connection[Any]") -> None:
        ask(client, "SET NAMES utf8mb4")
        ask(client, "INSERT INTO note (id, text) VALUES (1, 'Grüße')")
        assert ask(client, "SELECT text FROM note WHERE text = 'Grüße'") == [("Grüße",)]

    def test_with_a_large_answer(self, client: "pymysql.Connection[Any]") -> None:
        ask(client, "INSERT INTO note (id, text) VALUES " + ",".join(f"({i}, 'row {i}')" for i in range(5000)))
        assert len(ask(client, "SELECT * FROM note")) == 5000

    def test_of_a_global_table(self, client: "pymysql.Connection[Any]", database: Database) -> None:
        with client.cursor() as cursor:
            assert cursor.execute("INSERT INTO country (id, text) VALUES (1, 'one')") == 1
        ask(client, "UPDATE country SET text = 'two' WHERE id = 1")
        assert everywhere(database, "country") == {name: [1] for name in DATABASES}
        assert ask(client, "SELECT * FROM country") == [(1, "two")]
        ask(client, "INSERT INTO note VALUES (1, 'x')")
        assert ask(client, "SELECT c.text FROM note n JOIN country c ON n.id = c.id") == [("two",)]
        with client.cursor() as cursor:
            assert cursor.execute("DELETE FROM country WHERE id = 1") == 1
        assert everywhere(database, "country") == {name: [] for name in DATABASES}

    def test_of_a_sharded_table(self, client: "pymysql.Connection[Any]", database: Database) -> None:
        ask(client, "INSERT INTO orders (text, id) VALUES ('a, (b)', 1)")
        with client.cursor() as cursor:
            assert (
                cursor.execute("INSERT INTO orders (id, text) VALUES (2, 'two'), (3, NULL), (-4, now()), (5, '5')") == 4
            )
        assert everywhere(database, "orders") == {"app1": [3], "app2": [-4, 1], "app3": [2, 5]}
        assert ask(client, "SELECT text FROM orders WHERE id = 1") == [("a, (b)",)]
        assert ask(client, "SELECT id FROM orders WHERE text = '5' AND orders.id = 5") == [(5,)]
        assert sorted(ask(client, "SELECT id FROM orders WHERE id IN (1, 2)")) == [(1,), (2,)]
        assert sorted(ask(client, "SELECT id FROM orders WHERE id = 1 OR id = 3")) == [(1,), (3,)]
        assert sorted(ask(client, "SELECT id FROM orders")) == [(-4,), (1,), (2,), (3,), (5,)]
        assert ask(client, "SELECT COUNT(*) FROM orders") == [(5,)]
        with client.cursor() as cursor:
            assert cursor.execute("UPDATE orders SET text = 'z' WHERE id = 2") == 1
            assert cursor.execute("UPDATE orders SET text = 'z'") in (4, 5)
            assert cursor.execute("DELETE FROM orders WHERE id = 2") == 1
            assert cursor.execute("DELETE FROM orders") == 4

    @pytest.mark.parametrize(
        ("statement", "code", "words"),
        [
            ("INSERT INTO orders VALUES (1, 'x')", 1064, "insert must provide ColumnList"),
            ("INSERT INTO orders (text) VALUES ('x')", 1064, "sharding column:ID not provided"),
            ("INSERT INTO orders (id, text) SELECT 3, 'x'", 1064, "not supported"),
            ("UPDATE orders SET id = 9 WHERE id = 1", 1064, "Sharding column can't be updated ORDERS->ID"),
            ("REPLACE INTO note VALUES (1, 'x')", 1064, "ReplaceStatement can't be supported"),
            ("REPLACE INTO orders (id, text) VALUES (1, 'x')", 1064, "ReplaceStatement can't be supported"),
            ("SELECT * FROM unlisted", 1064, "can't find table define in schema UNLISTED"),
            ("INSERT INTO unlisted VALUES (1)", 1064, "can't find table define in schema UNLISTED"),
            ("SELECT * FROM app1.note", 1064, "can't find table define in schema APP1.NOTE"),
            ("CREATE TABLE unlisted (id INT)", 1064, "op table not in schema----UNLISTED"),
            ("DROP TABLE unlisted", 1064, "op table not in schema----UNLISTED"),
            ("CREATE DATABASE app4", 1064, "op table not in schema----DATABASE"),
            ("SELECT * FROM note WHERE", 1064, ""),
            ("SELECT nonsense FROM note", 1054, "Unknown column 'nonsense'"),
            ("SAVEPOINT a", 1047, "Unsupported statement"),
        ],
    )
    def test_that_are_refused(self, client: "pymysql.Connection[Any]", statement: str, code: int, words: str) -> None:
        said = refused(client, statement)
        assert said[0] == code
        assert words in said[1]
        assert ask(client, "SELECT id FROM note") == [], "the session goes on"

    def test_of_a_schema_with_a_node_for_all_else(self, mycat: Mycat, database: Database) -> None:
        with mycat.login("root", "r00t", "OTHER") as client:
            ask(client, "CREATE TABLE anything (id INT)")
            ask(client, "INSERT INTO anything VALUES (7)")
            assert ask(client, "SELECT * FROM anything") == [(7,)]
            assert everywhere(database, "anything") == {"app3": [7]}
            ask(client, "REPLACE INTO anything VALUES (8)")
            assert ask(client, "SELECT id FROM APP.note") == []
            ask(client, "DROP TABLE anything")
        assert everywhere(database, "anything") == {}

    def test_that_define_tables(self, client: "pymysql.Connection[Any]", database: Database) -> None:
        ask(client, "ALTER TABLE country ADD COLUMN extra INT")
        for name in DATABASES:
            assert database.ask(f"SHOW COLUMNS FROM {name}.country LIKE 'extra'")
        ask(client, "ALTER TABLE country DROP COLUMN extra")
        ask(client, "INSERT INTO orders (id) VALUES (1), (2)")
        ask(client, "TRUNCATE TABLE orders")
        assert everywhere(database, "orders") == {name: [] for name in DATABASES}

    def test_of_who_may_only_read(self, mycat: Mycat, client: "pymysql.Connection[Any]") -> None:
        ask(client, "INSERT INTO note VALUES (1, 'x')")
        with mycat.login("reader", "reader") as reader:
            assert ask(reader, "SELECT id FROM note") == [(1,)], "in the schema that is the user's default"
            for statement in (
                "INSERT INTO note VALUES (2, 'x')",
                "DELETE FROM note",
                "DROP TABLE note",
                "TRUNCATE note",
            ):
                assert refused(reader, statement) == (1495, "User readonly")
            ask(reader, "SET NAMES utf8")
        assert ask(client, "SELECT id FROM note") == [(1,)]


class TestTransactions:
    @pytest.mark.parametrize("begin", ["BEGIN", "START TRANSACTION", "SET autocommit=0"])
    def test_commit_and_rollback(self, client: "pymysql.Connection[Any]", database: Database, begin: str) -> None:
        for end, left in (("ROLLBACK", []), ("COMMIT", [1])):
            ask(client, begin)
            ask(client, "INSERT INTO note (id) VALUES (1)")
            ask(client, "INSERT INTO orders (id) VALUES (1), (2)")
            assert ask(client, "SELECT id FROM note") == [(1,)]
            assert everywhere(database, "note") == {"app2": []}
            ask(client, end)
            assert everywhere(database, "note") == {"app2": left}
        assert everywhere(database, "orders") == {"app1": [], "app2": [1], "app3": [2]}

    def test_follow_each_other_without_autocommit(self, client: "pymysql.Connection[Any]", database: Database) -> None:
        """What docs/mycat.md recommends: a real Mycat's BEGIN comes too late now and then."""
        ask(client, "SET autocommit=0")
        for number in range(300):
            ask(client, f"INSERT INTO note (id) VALUES ({number})")
            ask(client, "ROLLBACK")
        assert everywhere(database, "note") == {"app2": []}

    def test_end_with_the_session(self, mycat: Mycat, client: "pymysql.Connection[Any]") -> None:
        gone = mycat.login("root", "r00t", "APP")
        ask(gone, "BEGIN")
        ask(gone, "INSERT INTO note (id) VALUES (1)")
        gone.close()
        ask(client, "SET SESSION innodb_lock_wait_timeout=5")
        ask(client, "INSERT INTO note (id) VALUES (1)")
        assert ask(client, "SELECT id FROM note") == [(1,)]

    def test_can_only_be_rolled_back_after_an_error(self, client: "pymysql.Connection[Any]") -> None:
        ask(client, "BEGIN")
        ask(client, "INSERT INTO note (id) VALUES (1)")
        assert refused(client, "INSERT INTO note (id) VALUES (1)")[0] == 1062
        code, words = refused(client, "INSERT INTO note (id) VALUES (2)")
        assert (code, words[:38]) == (1003, "Transaction error, need to rollback. e")
        ask(client, "COMMIT")
        assert ask(client, "SELECT id FROM note") == []


class TestFailures:
    def test_with_every_database_down(self, other: Mycat) -> None:
        """It starts, and answers what it can by itself: that is what the health checks look at."""
        with (
            running(other, server=server_xml(other), schema=schema_xml(1), rule=RULE),
            other.login("root", "r00t", "APP") as client,
        ):
            for statement in ("SELECT 1", "select 1", "SELECT 1 FROM dual"):
                assert ask(client, statement) == [("1",)]
            assert len(ask(client, "SHOW DATABASES")) == 2
            for statement in ("SELECT * FROM note", "INSERT INTO note (id) VALUES (1)", "SELECT now()"):
                assert refused(client, statement)[0] == 1184
            client.ping()

    def test_the_next_write_host_takes_over(self, other: Mycat, installed: Path, database: Database) -> None:
        first = copy_database(installed, installed.with_name("second"))
        first.start()
        try:
            for server in (first, database):
                server.ask("CREATE TABLE IF NOT EXISTS app2.note (id INT PRIMARY KEY, text VARCHAR(40))")
            database.ask("DELETE FROM app2.note")
            files = {"server": server_xml(other), "schema": schema_xml(first.port, database.port), "rule": RULE}
            with running(other, **files), other.login("root", "r00t", "APP") as client:
                ask(client, "INSERT INTO note (id) VALUES (1)")
                ask(client, "BEGIN")
                ask(client, "INSERT INTO note (id) VALUES (2)")
                assert everywhere(first, "note") == {"app2": [1]}
                first.stop()
                refused(client, "INSERT INTO note (id) VALUES (3)")
                refused(client, "COMMIT")
                self.soon(client, "INSERT INTO note (id) VALUES (4)")
                assert everywhere(database, "note") == {"app2": [4]}
                first.start()
                time.sleep(1.5)
                ask(client, "INSERT INTO note (id) VALUES (5)")
                assert everywhere(first, "note") == {"app2": [1]}, "it does not go back by itself"
                noted = (other.home / "conf/dnindex.properties").read_text()
                assert "h1=1" in noted.splitlines()
            with running(other, **files), other.login("root", "r00t", "APP") as client:
                assert ask(client, "SELECT id FROM note ORDER BY id") == [(4,), (5,)], "not after a restart either"
        finally:
            first.stop()

    @staticmethod
    def soon(client: "pymysql.Connection[Any]", statement: str) -> None:
        for _ in range(50):
            try:
                ask(client, statement)
                return
            except pymysql.OperationalError as error:
                if error.args[0] not in (1003, 1184):
                    raise
                time.sleep(0.2)
        pytest.fail("no write host after 10 s")


class TestReload:
    def test_keeps_sessions_and_refuses_what_is_broken(self, other: Mycat, database: Database) -> None:
        for name in ("app2", "app3"):
            database.ask(f"CREATE TABLE IF NOT EXISTS {name}.note (id INT PRIMARY KEY, text VARCHAR(40))")
            database.ask(f"DELETE FROM {name}.note")
        good = schema_xml(database.port)
        try:
            with (
                running(other, server=server_xml(other), schema=good, rule=RULE),
                other.login("root", "r00t", "APP") as client,
            ):
                ask(client, "INSERT INTO note (id) VALUES (1)")
                for broken in (
                    "<broken",
                    good.replace('dataNode="dn2"', 'dataNode="dn9"'),
                    good.replace("by-id", "by-x"),
                ):
                    other.configure(schema=broken)
                    for statement in ("reload @@config", "reload @@config_all"):
                        with pytest.raises(pymysql.Error, match=r"1003.*Reload config failure"):
                            other.manage(statement)
                    assert ask(client, "SELECT id FROM note") == [(1,)]

                other.configure(
                    schema=schema_xml(database.port, note="dn3"), server=server_xml(other, USERS.replace("0nly", "n3w"))
                )
                other.manage("reload @@config")
                ask(client, "INSERT INTO note (id) VALUES (2)")
                other.login("only", "n3w").close()
                with pytest.raises(pymysql.OperationalError):
                    other.login("only", "0nly")

                other.configure(
                    schema=schema_xml(database.port).replace('dn2" dataHost', 'dn7" dataHost').replace("dn2", "dn7")
                )
                other.manage("reload @@config_all")
                ask(client, "INSERT INTO note (id) VALUES (3)")
                assert everywhere(database, "note")["app2"] == [1, 3]
                assert everywhere(database, "note")["app3"] == [2]
                with pytest.raises(pymysql.Error, match=r"unfinished db transactions"):
                    other.manage("reload @@config_all")
        finally:
            database.ask("DROP TABLE app3.note")


class TestStart:
    GOOD = schema_xml(1)

    @pytest.mark.parametrize(
        ("schema", "rule", "words"),
        [
            ("<broken", RULE, "XML|SAXParse"),
            (GOOD, "<broken", "XML|SAXParse"),
            (GOOD.replace('rule="by-id"', 'rule="by-x"'), RULE, "rule by-x is not found!"),
            (GOOD.replace('dataNode="dn2"', 'dataNode="dn9"'), RULE, "'dn9' is not found!|\"datanode\" is null"),
            (GOOD.replace('dataHost="h1"', 'dataHost="h2"'), RULE, "dataHost:h2 not exists!"),
            (GOOD.replace('name="OTHER"', 'name="ELSE"'), RULE, "OTHER refered by user .* is not exist"),
            (GOOD.replace('dataNode="dn1,dn2,dn3" rule', 'dataNode="dn1,dn2" rule'), RULE, "Illegal table conf"),
            (GOOD.replace('name="note"', 'name="ORDERS"'), RULE, "table ORDERS duplicated!"),
            (GOOD, RULE.replace("<algorithm>modulo-3", "<algorithm>modulo-4"), "can't find function of name :modulo-4"),
        ],
        ids=["schema", "rules", "rule", "node", "host", "user", "count", "twice", "function"],
    )
    def test_is_refused_in_words(self, other: Mycat, schema: str, rule: str, words: str) -> None:
        other.configure(server=server_xml(other), schema=schema, rule=rule)
        assert other.launch().wait(20) == 1
        assert re.search(words, other.words()), other.words()[-2000:]

    @pytest.mark.parametrize("taken", ["port", "manager"])
    def test_on_a_port_in_use(self, other: Mycat, taken: str) -> None:
        with socket.create_server(("127.0.0.1", getattr(other, taken))):
            other.configure(server=server_xml(other), schema=self.GOOD, rule=RULE)
            assert other.launch().wait(20) == 255
        assert "in use" in other.words()


class TestStandIn:
    """What it refuses that a real Mycat does, and how it says what it is."""

    @pytest.fixture(autouse=True)
    def _only(self, archive: toolchain_mycat.Archive) -> None:
        if not archive.stand_in:
            pytest.skip("this is a real Mycat")

    def test_says_so(self, mycat: Mycat) -> None:
        assert "THIS IS NOT MYCAT" in (mycat.home / "said").read_text()
        assert "standin" in mycat.manage("show @@version")[0][0]

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT id FROM orders ORDER BY id",
            "SELECT MAX(id) FROM orders",
            "SELECT COUNT(*), text FROM orders GROUP BY text",
            "SELECT DISTINCT text FROM orders",
            "SELECT id FROM orders LIMIT 1",
            "SELECT o.id FROM orders o JOIN note n ON o.id = n.id",
            "INSERT INTO orders (id) VALUES (1 + 1)",
            "CREATE INDEX i ON note (text)",
            "/*!mycat:sql=select 1 from note*/ SELECT 1",
        ],
    )
    def test_refuses(self, client: "pymysql.Connection[Any]", statement: str) -> None:
        code, words = refused(client, statement)
        assert code == 1235
        assert words.startswith("This is the stand-in for Mycat: ")

    @pytest.mark.parametrize(
        "users",
        [
            '<firewall><whitehost><host host="127.0.0.1" user="root"/></whitehost></firewall>' + USERS,
            USERS.replace(
                '<property name="password">0nly',
                '<property name="usingDecrypt">1</property><property name="password">0nly',
            ),
        ],
        ids=["firewall", "decrypt"],
    )
    def test_does_not_start_with(self, other: Mycat, users: str) -> None:
        other.configure(server=server_xml(other, users), schema=TestStart.GOOD, rule=RULE)
        assert other.launch().wait(20) == 1
        assert "the stand-in for Mycat does not cover" in other.words()
