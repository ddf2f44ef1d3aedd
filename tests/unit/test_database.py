"""What the settings make of the databases' files."""

import re
from typing import Any

import pytest

from components import database, health
from settings import Role, Settings
from tests import example
from tests.unit.conftest import Run


def galera_cnf(*addresses: str, node: str = "node1", **galera: Any) -> dict[str, str]:
    """The lines of a node's 60-galera.cnf; node1 has the first address, node2 the second."""
    settings = Settings.parse(example.settings(lambda raw: raw["database"].update(galera=galera)))
    nodes = {f"node{number}": address for number, address in enumerate(addresses, 1)}
    text = database.configuration(
        node,
        addresses=nodes,
        cluster="test",
        database=settings.database,
        max_connections=500,
        mycat=False,
    )
    return dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("10.0.0.1", "10.0.0.2", "10.0.0.3")], ids=["alone", "three"])
@pytest.mark.parametrize(
    ("galera", "flush", "binlog"),
    [({}, "1", "1"), ({"durability": "full"}, "1", "1"), ({"durability": "relaxed"}, "2", "0")],
    ids=["default", "full", "relaxed"],
)
def test_what_is_acknowledged_is_on_disk(
    addresses: tuple[str, ...], galera: dict[str, Any], flush: str, binlog: str
) -> None:
    """However many databases there are: all of them may lose their power in the same second."""
    lines = galera_cnf(*addresses, **galera)
    assert (lines["innodb_flush_log_at_trx_commit"], lines["sync_binlog"]) == (flush, binlog)


def test_tables_that_galera_does_not_replicate_are_refused() -> None:
    lines = galera_cnf("10.0.0.1")
    assert (lines["enforce_storage_engine"], lines["innodb_force_primary_key"]) == ("InnoDB", "ON")
    lines = galera_cnf("10.0.0.1", requirePrimaryKey=False)
    assert lines["enforce_storage_engine"] == "InnoDB"
    assert "innodb_force_primary_key" not in lines


def test_reads_wait_for_what_is_committed_if_that_is_wanted() -> None:
    assert galera_cnf("10.0.0.1")["wsrep_sync_wait"] == "0"
    assert galera_cnf("10.0.0.1", wsrepSyncWait=15)["wsrep_sync_wait"] == "15"


@pytest.mark.parametrize(
    ("node", "donors"), [("node1", "node3,node2,"), ("node2", "node3,node1,"), ("node3", "node2,node1,")]
)
def test_a_single_writer_is_the_last_one_to_be_donor(node: str, donors: str) -> None:
    """And nobody is excluded: the comma at the end."""
    assert galera_cnf("10.0.0.1", "10.0.0.2", "10.0.0.3", node=node)["wsrep_sst_donor"] == donors


def test_a_lone_database_has_no_donor() -> None:
    assert "wsrep_sst_donor" not in galera_cnf("10.0.0.1")


def test_a_donor_goes_on_serving_unless_rsync_is_wanted() -> None:
    lines = galera_cnf("10.0.0.1")
    assert (lines["wsrep_sst_method"], lines["wsrep_sst_auth"]) == ("mariabackup", "mysql:")
    lines = galera_cnf("10.0.0.1", stateTransfer="rsync")
    assert lines["wsrep_sst_method"] == "rsync"
    assert "wsrep_sst_auth" not in lines


def test_a_health_check_never_waits_for_what_is_committed() -> None:
    """A node that is busy would be out of rotation, and then the next one."""
    asked = health.checks([Role.MYSQL, Role.MYCAT], "10.0.0.1", "x")
    assert asked["/mysql"]["init_command"] == "SET SESSION wsrep_sync_wait = 0"
    assert "init_command" not in asked["/mycat"]


def test_who_asks_for_a_databases_health_may_log_in_from_its_own_address(run_program: Run) -> None:
    sql = run_program().named("node1-mariadb-users").stdin
    for host in ("localhost", *(f"192.168.106.25{i}" for i in (1, 2, 3))):
        assert f"CREATE USER IF NOT EXISTS 'health'@'{host}'" in sql
    for host in ("192.168.106.251", "192.168.106.252"):  # the load balancers
        assert f"CREATE USER IF NOT EXISTS 'haproxy-check'@'{host}';" in sql
    assert sql.count("PASSWORD EXPIRE;") == 2
    asked = health.checks([Role.MYSQL], "10.0.0.1", "x")["/mysql"]
    assert str(asked["port"]) == galera_cnf("10.0.0.1")["extra_port"]
    assert asked["host"] == galera_cnf("10.0.0.1")["bind_address"]


def test_a_node_keeps_its_file_until_the_one_before_it_works_with_the_new_one(run_program: Run) -> None:
    """One that mariadbd takes, but cannot start with, must not wait for the others' next start."""
    waits = run_program().depends_on
    assert {"node1-mariadb-start", "node2-mariadb-start"} <= waits["node3-mariadb-config"]
    assert "node1-mariadb-start" in waits["node2-mariadb-config"]
    assert not {name for name in waits["node1-mariadb-config"] if name.endswith("-start")}


def test_the_databases_believe_the_balancers_before_the_first_one_says_who_asks(run_program: Run) -> None:
    """Also a database that is new: its responder, without which it gets no sessions, comes after that."""
    raw = example.settings(example.dedicated_tiers)
    raw["haproxy"]["mysql"] = {"proxyProtocol": True}
    recorded = run_program(raw)
    names = {f"db{i}-mariadb-believe" for i in (1, 2, 3)}
    for name in names:
        assert "/proxy-networks 192.168.106.200 192.168.106.201'" in recorded.named(name).inputs["create"]
        assert {f"db{i}-mariadb-start" for i in (1, 2, 3)} <= recorded.depends_on[name]
    for later in ("lb1-haproxy", "db1-health-responder", "db3-health-responder"):
        assert names <= recorded.depends_on[later], later


def test_the_databases_believe_nobody_only_when_no_balancer_says_who_asks_any_more(run_program: Run) -> None:
    """Of what a balancer passes on without a word the client may have written every word."""
    recorded = run_program()
    for i in (1, 2, 3):
        name = f"node{i}-mariadb-believe"
        assert recorded.named(name).inputs["create"].endswith("/proxy-networks")
        assert "node2-keepalived-start" in recorded.depends_on[name]


def test_no_database_restarts_for_it(run_program: Run) -> None:
    raw = example.settings()
    raw["haproxy"]["mysql"] = {"proxyProtocol": True}
    off, on = run_program(), run_program(raw)
    changed = {
        command.name
        for command in on.of_type("command:remote:Command")
        if command.inputs != off.named(command.name).inputs
    }
    balancers = {f"node{i}-haproxy-config-file" for i in (1, 2)}
    assert changed == {*balancers, *(f"node{i}-mariadb-believe" for i in (1, 2, 3))}


def test_each_user_of_the_settings_has_its_own_password_and_rights(run_program: Run) -> None:
    lines = run_program(example.settings(example.database_users)).named("node1-mariadb-users").stdin.splitlines()
    assert "CREATE DATABASE IF NOT EXISTS `my_shop` CHARACTER SET utf8mb4;" in lines
    for line in (
        "ALTER USER 'report-reader'@'%' IDENTIFIED BY 'secret-report-reader' REQUIRE NONE;",
        "GRANT SELECT ON `app`.* TO 'report-reader'@'%';",
        r"GRANT SELECT ON `my\_shop`.* TO 'report-reader'@'%';",
        "ALTER USER 'shop'@'%' IDENTIFIED BY 'secret-shop' REQUIRE NONE;",
        r"GRANT ALL PRIVILEGES ON `my\_shop`.* TO 'shop'@'%';",
    ):
        assert lines.count(line) == 1
