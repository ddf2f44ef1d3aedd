"""Backups: made on the node whose turn it is, tried, and put in the place of what the databases have."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest

from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from tests.conftest import NAME, NET, Stackctl, create_words
from tests.stack.clients import login, mariadb, servers

BUCKET = "backups"
TIMERS = ["systemctl", "list-timers", "--all", "--no-legend", "database-backup@*"]


def test_a_backup_brings_back_what_was_there_when_it_was_made(
    region: Region, stack: Stack, stackctl: Stackctl, aws: boto3.Session
) -> None:
    words, nodes, at = create_words(NAME, NET), stack.of_role("mysql"), login(stack, "mysql")

    def listed() -> list[dict[str, Any]]:
        return list(json.loads(stackctl("database", "backups", stack.name, "--json")))

    def rows(node: dict[str, Any]) -> str:
        sql = "SELECT GROUP_CONCAT(word ORDER BY word) FROM app.kept"
        return region.exec(node["instanceId"], ["mariadb", "-N", "-e", sql]).stdout.strip()

    place: Any = {"LocationConstraint": aws.region_name}
    aws.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
    mariadb(region, at, "CREATE TABLE kept (word VARCHAR(20) PRIMARY KEY)")
    mariadb(region, at, "INSERT INTO kept VALUES ('before'); CREATE TABLE during (n INT PRIMARY KEY)")
    try:
        stackctl("create", *words, "--set", f"database.backup={{bucket: {BUCKET}}}")
        for node in nodes:
            assert len(region.exec(node["instanceId"], TIMERS).stdout.splitlines()) == 2
        wait_until(listed, "the first backup", 120)

        with ThreadPoolExecutor() as pool:
            making = pool.submit(stackctl, "database", "backup", stack.name)
            written = 0
            while not making.done():  # every database takes clients and writes meanwhile
                mariadb(region, at, f"INSERT INTO during VALUES ({written})")
                assert {state for state, _ in servers(region, stack, "mysqlservers").values()} == {"UP"}
                written += 1
            assert "complete after" in making.result()
        assert written
        for node in nodes:  # of which one does it
            region.exec(node["instanceId"], ["systemctl", "start", "database-backup@test.service"], timeout=240)
        newest, *older = listed()
        assert older
        assert newest["node"] == nodes[-1]["name"]  # the one that is written to is the first
        assert newest["restored"]["problem"] == ""
        assert newest["restored"]["tables"] > 30

        mariadb(region, at, "INSERT INTO kept VALUES ('since')")
        said = stackctl("database", "restore", stack.name, newest["id"], "--yes")
        assert f"{newest['id']} is restored, and all databases are synced" in said
        assert [rows(node) for node in nodes] == ["before"] * len(nodes)
        wait_until(lambda: stack.problems(region) == [], "the stack", 60)
        mariadb(region, at, "INSERT INTO kept VALUES ('afterwards')")
        for node in nodes:
            wait_until(lambda node=node: rows(node) == "afterwards,before", node["name"], 10)  # type: ignore[misc]

        # What was there before the restore is not lost (docs/databases.md, "Backups").
        back = "mv /var/lib/mysql /var/lib/mysql.restored && mv /var/lib/mysql.before-* /var/lib/mysql"
        for script in ("systemctl stop mariadb", back, "systemctl --no-block start mariadb"):
            for node in nodes:
                region.exec(node["instanceId"], ["bash", "-c", script], timeout=120)
        wait_until(lambda: stack.problems(region) == [], "the stack as it was", 120)
        assert [rows(node) for node in nodes] == ["before,since"] * len(nodes)
    finally:
        stackctl("create", *words)
        for node in nodes:
            region.exec(node["instanceId"], ["bash", "-c", "rm -rf /var/lib/mysql.*"], check=False)
    for node in nodes:
        assert region.exec(node["instanceId"], TIMERS).stdout == ""
    assert stack.problems(region) == []


def test_a_bucket_that_cannot_be_written_fails_up_and_is_named(
    region: Region, stack: Stack, stackctl: Stackctl
) -> None:
    words = create_words(NAME, NET)
    try:
        said = stackctl("create", *words, "--set", "database.backup={bucket: of-somebody-else}", check=False)
        assert "S3, for of-somebody-else: " in said
    finally:
        stackctl("create", *words)
    with pytest.raises(RegionError):
        region.exec(stack.of_role("mysql")[0]["instanceId"], ["systemctl", "is-enabled", "database-backup@run.timer"])
