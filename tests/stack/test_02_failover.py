"""Failovers: the VIP moves when it must, stays when it can, and no acknowledged write is lost."""

import time
from itertools import pairwise

import boto3
import pytest

from drills.drill import Result, drill
from drills.faults import FAULTS
from drills.stack import Stack
from localregion.client import Region, wait_until
from tests.conftest import Stackctl
from tests.stack.clients import adverts, mycat_serves


def test_adverts_are_vrrp_3_from_balancer_to_balancer_five_times_a_second(region: Region, stack: Stack) -> None:
    stack.wait_whole(region)
    holder = stack.holder(region)
    listener = next(machine for machine in stack.of_role("lb") if machine["name"] != holder)
    heard = adverts(region, listener["instanceId"], 16)
    for advert in heard:
        assert (advert["version"], advert["router"], advert["interval"], advert["password"]) == (3, 249, 20, "")
        assert advert["source"] == stack.machine(holder)["address"]
        assert advert["destination"] == listener["address"]
        assert advert["addresses"] == [stack.vip]
    assert 2.5 < heard[-1]["at"] - heard[0]["at"] < 3.5


def give(region: Region, stack: Stack, name: str) -> None:
    """Let this balancer be master."""
    stack.wait_whole(region)
    others = [machine["instanceId"] for machine in stack.of_role("lb") if machine["name"] != name]
    for other in others:
        region.exec(other, ["systemctl", "stop", "keepalived"])
    try:
        wait_until(lambda: stack.holder(region) == name, f"{name} to hold the VIP", 20)
    finally:
        for other in others:
            region.exec(other, ["systemctl", "start", "keepalived"])
    time.sleep(3)  # they listen for 2 s before they take part


def run(region: Region, stack: Stack, fault: str) -> Result:
    result = drill(region, stack, FAULTS[fault], print)
    assert result.ledger.acknowledged > 0
    assert not result.ledger.lost
    assert (result.moved_to != result.machine) is FAULTS[fault].moves
    return result


def test_a_power_cut_moves_the_vip_and_the_machine_that_returns_does_not_take_it_back(
    region: Region, stack: Stack
) -> None:
    result = run(region, stack, "power-cut")
    assert stack.holder(region) == result.moved_to


def test_after_a_failover_nothing_has_to_change(stack: Stack, stackctl: Stackctl) -> None:
    for command in ("preview", "refresh", "up"):
        assert " unchanged" in stackctl(command, stack.name, "--", "--expect-no-changes")


def test_haproxy_killed_once_is_restarted_and_the_vip_stays(region: Region, stack: Stack) -> None:
    run(region, stack, "haproxy-kill")


def test_a_haproxy_that_hangs_is_restarted_and_the_vip_stays(region: Region, stack: Stack) -> None:
    run(region, stack, "haproxy-hang")


def test_haproxy_that_cannot_be_started_moves_the_vip(region: Region, stack: Stack) -> None:
    run(region, stack, "haproxy-gone")


def test_keepalived_killed_once_leaves_one_holder(region: Region, stack: Stack) -> None:
    """Its peer may take over before systemd has restarted it, or not; either way clients go on."""
    result = drill(region, stack, FAULTS["keepalived-kill"], print)
    assert not result.ledger.lost


@pytest.mark.parametrize(("place", "takes_it_back"), [(0, True), (1, False)], ids=["higher priority", "lower priority"])
def test_a_frozen_machine_loses_the_vip(region: Region, stack: Stack, place: int, takes_it_back: bool) -> None:
    """When it goes on there are two masters, and of those VRRP keeps the one of higher priority (RFC 9568, 6.4.3)."""
    frozen, other = stack.of_role("lb")[place], stack.of_role("lb")[1 - place]
    give(region, stack, frozen["name"])
    result = run(region, stack, "freeze")
    assert (result.machine, result.moved_to) == (frozen["name"], other["name"])
    stays_with = frozen if takes_it_back else other
    wait_until(lambda: stack.holder(region) == stays_with["name"], "the VIP to be where it stays", 10)
    time.sleep(3)
    assert stack.holder(region) == stays_with["name"]


@pytest.mark.parametrize(
    "faults",
    [
        {"latency_ms": 400, "jitter_ms": 300},
        {"throttle_rate": 0.6},
        {"error_rate": 0.6},
        {"effect_delay_ms": 700},
    ],
    ids=lambda faults: next(iter(faults)),
)
def test_a_sick_api_delays_the_claim_and_does_not_prevent_it(
    region: Region, stack: Stack, faults: dict[str, float]
) -> None:
    stack.wait_whole(region)
    holder = stack.holder(region)
    peer = next(m["name"] for m in stack.of_role("lb") if m["name"] != holder)
    region.api(**faults, roles_only=True)
    try:
        region.exec(stack.machine(holder)["instanceId"], ["systemctl", "stop", "keepalived"])
        wait_until(lambda: stack.holder(region) == peer, "the VIP to move", 60)
    finally:
        region.api()
        region.exec(stack.machine(holder)["instanceId"], ["systemctl", "start", "keepalived"])
    time.sleep(3)
    assert stack.holder(region) == peer


def test_a_claim_needs_no_metadata_service(region: Region, stack: Stack) -> None:
    holder = stack.holder(region)
    peer = next(m for m in stack.of_role("lb") if m["name"] != holder)
    region.imds(peer["instanceId"])
    try:
        region.exec(stack.machine(holder)["instanceId"], ["systemctl", "stop", "keepalived"])
        wait_until(lambda: stack.holder(region) == peer["name"], "the VIP to move", 30)
    finally:
        region.imds(peer["instanceId"], down=False)
        region.exec(stack.machine(holder)["instanceId"], ["systemctl", "start", "keepalived"])


def test_an_address_that_has_drifted_away_comes_back(region: Region, stack: Stack, aws: boto3.Session) -> None:
    stack.wait_whole(region)
    time.sleep(4)
    holder = stack.holder(region)
    peer = next(m for m in stack.of_role("lb") if m["name"] != holder)
    aws.client("ec2").assign_private_ip_addresses(
        NetworkInterfaceId=peer["eniId"], PrivateIpAddresses=[stack.vip], AllowReassignment=True
    )
    assert stack.holder(region) == peer["name"]
    wait_until(lambda: stack.holder(region) == holder, "the reconcile timer to bring the VIP back", 90)


def test_balancers_that_do_not_hear_each_other_do_not_fight(region: Region, stack: Stack) -> None:
    stack.wait_whole(region)
    first, second = (m["instanceId"] for m in stack.of_role("lb"))
    fault = region.drop(first, second, protocol="112")
    try:
        holders = []
        for _ in range(60):
            holders.append(stack.holder(region))
            time.sleep(0.5)
        moves = sum(1 for earlier, later in pairwise(holders) if earlier != later)
        assert moves <= 3, holders
    finally:
        region.undrop(fault)
    time.sleep(5)
    stack.wait_whole(region)


def test_a_machine_that_reboots_has_everything_again(region: Region, stack: Stack) -> None:
    holder = stack.holder(region)
    machine = stack.machine(holder)["instanceId"]
    region.exec(machine, ["systemctl", "--no-block", "reboot"])
    time.sleep(3)
    stack.wait_whole(region)
    units = ["haproxy", "keepalived", "mariadb", "rsyslog", "mycat-ha-health.socket", "reconcile-vip.timer"]
    assert region.exec(machine, ["systemctl", "is-active", *units]).stdout.split() == ["active"] * len(units)
    assert stack.holder(region) != holder

    def shell(script: str) -> str:
        return region.exec(machine, ["bash", "-c", script]).stdout.strip()

    assert shell("sysctl -n net.ipv4.ip_nonlocal_bind net.ipv4.ip_forward").split() == ["1", "1"]
    worker = shell("pgrep -u haproxy -x haproxy | tail -n 1")
    assert shell(f"readlink /proc/{worker}/root") == "/var/lib/haproxy"
    # A page that nobody has: HAProxy answers with its error page, and writes it down.
    page = shell("curl -s -m 5 http://127.0.0.1:8888/after-the-reboot")
    assert page == shell("sed '1,/^\\r*$/d' /etc/haproxy/errorfiles/503.http")
    logged = "grep -c after-the-reboot /var/log/haproxy.log || true"
    wait_until(lambda: shell(logged) == "1", "the request in HAProxy's log", 10)


def test_a_power_cut_of_all_databases_needs_nobody(region: Region, stack: Stack) -> None:
    for node in stack.of_role("mysql"):
        region.power_cut(node["instanceId"])
    for node in stack.of_role("mysql"):
        region.power_on(node["instanceId"])
    stack.wait_whole(region)
    wait_for_mycat(region, stack)


def test_a_clean_full_stop_needs_nobody(region: Region, stack: Stack) -> None:
    nodes = [node["instanceId"] for node in stack.of_role("mysql")]
    for node in nodes:
        region.exec(node, ["systemctl", "stop", "mariadb"], timeout=60)
    for node in nodes:
        region.exec(node, ["systemctl", "--no-block", "start", "mariadb"])
    stack.wait_whole(region, 240)
    wait_for_mycat(region, stack)


def wait_for_mycat(region: Region, stack: Stack) -> None:
    """Mycat may wait for itself for a minute with each write host that it tries (docs/mycat.md)."""
    wait_until(lambda: mycat_serves(region, stack), "Mycat to get to its databases again", 600, pause=1)
