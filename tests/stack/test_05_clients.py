"""The clients that applications have, through the VIP; and the statistics page in a browser that a person would use."""

import struct
import subprocess
import time

import pytest

from drills.stack import Stack
from localregion.client import Region, wait_until
from tests.conftest import ROOT
from tests.stack.clients import CLIENTS, administrator, browse, java, login


@pytest.mark.parametrize("tier", ["mysql", "mycat"])
@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_reads_what_it_wrote(region: Region, stack: Stack, client: str, tier: str) -> None:
    at, ask = login(stack, tier), CLIENTS[client]
    table = f"client_{client.replace('-', '_')}"
    ask(region, at, f"CREATE TABLE IF NOT EXISTS {table} (id INT PRIMARY KEY, name VARCHAR(40)) CHARSET utf8mb4")
    ask(region, at, f"DELETE FROM {table}")
    ask(region, at, f"INSERT INTO {table} (id, name) VALUES (1, 'Zoë')")
    # Another database may answer each time, and apply a row a moment after the one that took it.
    wait_until(lambda: ask(region, at, f"SELECT name FROM {table} WHERE id = 1") == "Zoë", "the row", 10)


@pytest.mark.parametrize("tier", ["mysql", "mycat"])
@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_gets_in_with_a_wrong_password(region: Region, stack: Stack, client: str, tier: str) -> None:
    right = login(stack, tier)
    wrong = type(right)(right.address, right.port, right.user, "wrong", right.schema)
    assert CLIENTS[client](region, right, "SELECT 1") == "1"
    with pytest.raises((RuntimeError, AssertionError), match=r"1045|Access denied"):
        CLIENTS[client](region, wrong, "SELECT 1")


def test_a_java_client_carries_on_after_a_power_cut(region: Region, stack: Stack) -> None:
    at, holder = login(stack, "mysql"), stack.holder(region)
    # Far longer than it takes: the client is stopped when it has worked again for a while.
    client = region.popen(
        "client", java(at, "SELECT @@hostname", 300), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdin is not None
    assert client.stdout is not None
    moments: dict[str, list[float]] = {"ok": [], "failed": []}
    try:
        client.stdin.write(f"{at.password}\n")
        client.stdin.flush()
        assert "\tok\t" in client.stdout.readline()
        cut = time.time()
        region.power_cut(stack.machine(holder)["instanceId"])
        for line in client.stdout:
            milliseconds, outcome, _ = line.split("\t", 2)
            moments[outcome].append(int(milliseconds) / 1000 - cut)
            if outcome == "ok" and moments["ok"][-1] > 15:
                break
        assert stack.holder(region) != holder
    finally:
        client.kill()
        client.wait()
        client.stdin.close()
        client.stdout.close()
        region.power_on(stack.machine(holder)["instanceId"])
    assert moments["ok"], moments
    assert moments["ok"][-1] > 15, moments
    assert all(moment < 15 for moment in moments["failed"]), moments["failed"]


def test_the_statistics_page_in_a_browser(region: Region, stack: Stack) -> None:
    picture = ROOT / ".local/statistics.png"
    picture.unlink(missing_ok=True)
    page = browse(region, "office", stack.statistics_url, administrator(stack), picture)
    assert f"on {stack.holder(region)}" in page
    assert "mysqlservers" in page
    for node in stack.of_role("mysql"):
        assert node["name"] in page
    image = picture.read_bytes()
    assert struct.unpack(">8x4x4sII", image[:24]) == (b"IHDR", 1400, 1000)
    assert len(image) > 50_000


def test_a_browser_that_does_not_log_in_sees_nothing(region: Region, stack: Stack) -> None:
    picture = ROOT / ".local/refused.png"
    assert "mysqlservers" in browse(region, "office", stack.statistics_url, administrator(stack), picture)
    page = browse(region, "office", stack.statistics_url, f"{stack.statistics_user}:wrong", picture)
    assert "mysqlservers" not in page
