"""Failovers: the VIP moves when it must, stays when it can, and no acknowledged write is lost."""

import functools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import SEEK_END
from pathlib import Path

import boto3
import pytest

from drills.drill import Result, drill
from drills.faults import FAULTS
from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from tests.conftest import Stackctl
from tests.stack.clients import (
    FOLDER,
    adverts,
    booted,
    condition,
    connects,
    haproxy,
    journal,
    login,
    main_pid,
    mariadb,
    shell,
    status,
)
from tests.stack.whole import Machine, make_whole, masters, pair, states

CLIENT = "client"


def stays(region: Region, stack: Stack, name: str, seconds: float = 5) -> None:
    """Whoever would take the VIP does it within 1 s: all take part in VRRP again, and that has adverts of 0.2 s."""
    make_whole(region, stack, CLIENT)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert stack.holder(region) == name
        time.sleep(0.2)
    assert masters(region, stack) == [name]


def give(region: Region, stack: Stack, name: str) -> None:
    """Let this balancer be master."""
    others = [machine["instanceId"] for machine in stack.of_role("lb") if machine["name"] != name]
    for other in others:
        region.exec(other, ["systemctl", "stop", "keepalived"])
    try:
        wait_until(lambda: stack.holder(region) == name, f"{name} to hold the VIP", 20)
    finally:
        for other in others:
            region.exec(other, ["systemctl", "start", "keepalived"])
    make_whole(region, stack, CLIENT)


def run(region: Region, stack: Stack, fault: str) -> Result:
    result = drill(region, stack, FAULTS[fault], print)
    assert result.ledger.acknowledged > 0
    assert result.broken == []
    return result


def restarted(region: Region, stack: Stack, unit: str, fault: str) -> Result:
    """Run a drill whose fault is to a service of the holder, and prove that it ended the process that was there."""
    machine = pair(region, stack)[0]
    before = main_pid(region, machine["instanceId"], unit)
    assert before != "0"
    result = drill(region, stack, FAULTS[fault], print)
    assert result.machine == machine["name"]
    assert main_pid(region, machine["instanceId"], unit) not in {before, "0"}
    assert result.ledger.acknowledged > 0
    assert result.broken == []
    return result


def test_adverts_are_vrrp_3_from_balancer_to_balancer_five_times_a_second(region: Region, stack: Stack) -> None:
    holder, listener = pair(region, stack)
    heard = adverts(region, listener["instanceId"], 16)
    assert len(heard) == 16
    for advert in heard:
        assert (advert["version"], advert["router"], advert["interval"], advert["password"]) == (3, 249, 20, "")
        assert advert["source"] == holder["address"]
        assert advert["destination"] == listener["address"]
        assert advert["addresses"] == [stack.vip]
    assert 2.5 < heard[-1]["at"] - heard[0]["at"] < 3.5


def test_a_power_cut_moves_the_vip_and_the_machine_that_returns_does_not_take_it_back(
    region: Region, stack: Stack
) -> None:
    machine = pair(region, stack)[0]
    before = booted(region, machine["instanceId"])
    result = run(region, stack, "power-cut")
    assert result.machine == machine["name"]
    assert booted(region, machine["instanceId"]) != before
    stays(region, stack, result.moved_to)


def test_after_a_failover_nothing_has_to_change(region: Region, stack: Stack, stackctl: Stackctl) -> None:
    """The state of before it describes the stack of after it: neither a preview nor a refresh sees the VIP's move."""
    assert " unchanged" in stackctl("preview", stack.name, "--", "--expect-no-changes")
    holder, peer = pair(region, stack)
    region.power_cut(holder["instanceId"])
    wait_until(lambda: stack.holder(region) == peer["name"], "the VIP to move", 20)
    region.power_on(holder["instanceId"])
    make_whole(region, stack, CLIENT)
    assert stack.holder(region) == peer["name"]
    for command in ("preview", "refresh", "up"):
        assert " unchanged" in stackctl(command, stack.name, "--", "--expect-no-changes")
    assert stack.holder(region) == peer["name"]


def test_haproxy_killed_once_is_restarted_and_the_vip_stays(region: Region, stack: Stack) -> None:
    result = restarted(region, stack, "haproxy", "haproxy-kill")
    assert result.moved_to == result.machine


def test_a_haproxy_that_hangs_is_restarted_and_the_vip_stays(region: Region, stack: Stack) -> None:
    result = restarted(region, stack, "haproxy", "haproxy-hang")
    assert result.moved_to == result.machine


def test_haproxy_that_cannot_be_started_moves_the_vip(region: Region, stack: Stack) -> None:
    result = run(region, stack, "haproxy-gone")
    stays(region, stack, result.moved_to)


def test_keepalived_killed_once_leaves_one_holder(region: Region, stack: Stack) -> None:
    """Its peer may take over before systemd has restarted it, or not; either way there is one that all agree about."""
    result = restarted(region, stack, "keepalived", "keepalived-kill")
    make_whole(region, stack, CLIENT)
    holder = stack.holder(region)
    assert masters(region, stack) == [holder]
    assert holder in {machine["name"] for machine in stack.of_role("lb")}
    # If it has moved, it has moved once: what the restarted one left on its interface brings it back to nobody.
    if holder != result.machine:
        assert result.moved_to == holder
    stays(region, stack, holder)


def test_a_keepalived_that_hangs_gives_the_vip_away_once_and_is_started_again(region: Region, stack: Stack) -> None:
    holder, peer = pair(region, stack)
    machine = holder["instanceId"]
    before = main_pid(region, machine, "keepalived")
    seen = [holder["name"]]

    def again() -> bool:
        if stack.holder(region) != seen[-1]:
            seen.append(stack.holder(region))
        return main_pid(region, machine, "keepalived") not in {before, "0"}

    shell(region, machine, "pkill --signal STOP --exact keepalived")
    wait_until(again, "systemd to kill keepalived and to start it again", 60)
    assert seen == [holder["name"], peer["name"]]
    assert shell(region, machine, f"ps -o pid= --ppid {before} -p {before} || true") == "", "a part of it is left"
    stays(region, stack, peer["name"])


def test_nothing_is_killed_when_haproxy_has_all_the_connections_it_may_have(region: Region, stack: Stack) -> None:
    machine = pair(region, stack)[0]
    moment = time.time()
    worker = "pgrep --uid haproxy --exact haproxy"
    before = shell(region, machine["instanceId"], worker)
    script = (
        "import socket, sys\n"
        "sockets = []\n"
        "for _ in range(30):\n"
        "    sockets.append(socket.socket())\n"
        "    sockets[-1].setblocking(False)\n"
        "    sockets[-1].connect_ex((sys.argv[1], int(sys.argv[2])))\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", script, stack.vip, str(stack.port)]
    haproxy(region, stack, "set maxconn global 10")
    crowd = region.popen(CLIENT, argv, stdin=subprocess.PIPE)
    try:
        wait_until(lambda: "\nCurrConns: 10\n" in haproxy(region, stack, "show info"), "the limit to be reached", 10)
        health = "curl -s -m 1 http://127.0.0.1:8889/health"
        assert region.exec(machine["instanceId"], ["bash", "-c", health], check=False).returncode != 0
        time.sleep(6)  # of which each second has a check
        assert shell(region, machine["instanceId"], worker) == before
        assert journal(region, machine["instanceId"], "check-haproxy", moment) == []
        assert stack.holder(region) == machine["name"]
    finally:
        crowd.communicate()
        haproxy(region, stack, "set maxconn global 4096")


def test_a_balancer_that_is_no_longer_master_lets_go_of_the_databases(region: Region, stack: Stack) -> None:
    """A transaction that came by the VIP ends with the mastership, and its locks with it."""
    at = login(stack, "mysql")
    mariadb(region, at, "CREATE TABLE IF NOT EXISTS held (n INT PRIMARY KEY); REPLACE INTO held VALUES (1)")
    script = (
        "import json, pymysql, sys\n"
        "with pymysql.connect(**json.loads(sys.stdin.readline())) as c, c.cursor() as cursor:\n"
        "    cursor.execute('SELECT n FROM held WHERE n = 1 FOR UPDATE')\n"
        "    sys.stdin.read()\n"
    )
    settings = {"host": at.address, "port": at.port, "user": at.user, "password": at.password, "database": at.schema}

    def open_transactions() -> int:
        sql = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_rows_locked > 0"
        nodes = [node["instanceId"] for node in stack.of_role("mysql")]
        return sum(int(region.exec(node, ["mariadb", "-N", "-e", sql]).stdout) for node in nodes)

    holder, peer = pair(region, stack)
    client = region.popen(CLIENT, [sys.executable, "-c", script], stdin=subprocess.PIPE, text=True)
    assert client.stdin is not None
    try:
        client.stdin.write(json.dumps(settings) + "\n")
        client.stdin.flush()
        wait_until(lambda: open_transactions() == 1, "the transaction to hold its lock", 20)
        region.exec(holder["instanceId"], ["systemctl", "stop", "keepalived"])
        wait_until(lambda: open_transactions() == 0, "the lock to go", 5)
        assert client.poll() is None, "the client has let go of it itself"
    finally:
        region.exec(holder["instanceId"], ["systemctl", "start", "keepalived"])
        client.kill()
        client.communicate()
    stays(region, stack, peer["name"])


def test_a_switchover_there_and_back_fails_no_new_connection(region: Region, stack: Stack, stackctl: Stackctl) -> None:
    """And it ends the sessions of the holder before, which had their time. A target that is not fit is refused."""
    holder, peer = pair(region, stack)
    on_vip = f"ss --no-header --tcp --numeric state established src {stack.vip}"
    argv = [sys.executable, str(FOLDER / "newcomers.py"), stack.vip, str(stack.port)]
    client = region.popen(CLIENT, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for before, after in ((holder, peer), (peer, holder)):
            stackctl("switchover", stack.name, after["name"], "--wait", "1")
            assert stack.holder(region) == after["name"]
            assert masters(region, stack) == [after["name"]]
            assert shell(region, before["instanceId"], on_vip) == ""
    finally:
        said, _ = client.communicate(timeout=60)
    count, errors, slowest, unheard = json.loads(said)
    assert count > 300
    assert errors == []
    assert slowest < 0.9, "TCP has repeated a lost packet, which it does after a second"
    # One at each move may be made at the holder before and go on at the next one.
    assert unheard <= 2

    shell(region, peer["instanceId"], "systemctl stop keepalived")
    try:
        refusal = stackctl("switchover", stack.name, peer["name"], check=False)
    finally:
        shell(region, peer["instanceId"], "systemctl start keepalived")
    assert "refused, and nothing was changed" in refusal
    assert "its keepalived does not run" in " ".join(refusal.split())
    stays(region, stack, holder["name"], 2)


def test_status_tells_of_a_machine_without_power_and_of_all_others(region: Region, stack: Stack) -> None:
    holder, peer = pair(region, stack)
    region.power_cut(holder["instanceId"])
    try:
        wait_until(lambda: stack.holder(region) == peer["name"], "the VIP to move", 20)
        code, said = condition(stack)
    finally:
        region.power_on(holder["instanceId"])
    assert code == 1
    assert [machine["name"] for machine in said["machines"] if machine["error"]] == [holder["name"]]
    assert {problem["machine"] for problem in said["problems"]} == {holder["name"]}
    assert (said["vip"]["ec2"]["machine"], said["vip"]["masters"]) == (peer["name"], [peer["name"]])
    make_whole(region, stack, CLIENT)
    assert condition(stack)[0] == 0


def test_status_tells_of_a_database_that_holds_up_the_writes_of_all(region: Region, stack: Stack) -> None:
    """By Galera's own words for its flow control; and what it says to do helps."""
    writer, *_, stuck = stack.of_role("mysql")
    table = f"{stack.schema}.held_up"
    mariadb(region, login(stack, "mysql"), f"CREATE OR REPLACE TABLE {table} (n INT PRIMARY KEY)")
    held = f"SET wsrep_on = OFF; LOCK TABLES {table} WRITE; SELECT SLEEP(90)"
    holder = "SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(90)'"
    found = f'mariadb -N -e "{holder}"'
    seen = f"SET wsrep_sync_wait = 7; SELECT * FROM {table}"
    session = region.popen(stuck["instanceId"], ["mariadb", "-e", f"{seen}; {held}"])
    writes = None
    try:
        wait_until(lambda: "KILL" in shell(region, stuck["instanceId"], found), "the lock", 20)
        each = f'for n in {{1..100}}; do mariadb -e "INSERT INTO {table} VALUES ($n)"; done'
        writes = region.popen(writer["instanceId"], ["bash", "-e", "-c", each])

        def told() -> bool:
            problems = {one["machine"]: one["what"] for one in condition(stack)[1]["problems"]}
            return problems.keys() == {stuck["name"]} and "holds up the writes of all" in problems[stuck["name"]]

        wait_until(told, "it to be told, and nothing else", 60)
        assert writes.poll() is None
        shell(region, stuck["instanceId"], f"{found} | mariadb")
        assert writes.wait(30) == 0
    finally:
        shell(region, stuck["instanceId"], f"{found} | mariadb")
        for process in filter(None, (session, writes)):
            process.kill()
            process.wait()
    wait_until(lambda: condition(stack)[0] == 0, "the stack to be whole", 30)


@pytest.mark.parametrize(("place", "takes_it_back"), [(0, True), (1, False)], ids=["higher priority", "lower priority"])
def test_a_frozen_machine_loses_the_vip(region: Region, stack: Stack, place: int, takes_it_back: bool) -> None:
    """When it goes on there are two masters, and of those VRRP keeps the one of higher priority (RFC 9568, 6.4.3)."""
    frozen, other = stack.of_role("lb")[place], stack.of_role("lb")[1 - place]
    give(region, stack, frozen["name"])
    result = run(region, stack, "freeze")
    assert (result.machine, result.moved_to) == (frozen["name"], other["name"])
    stays_with = frozen if takes_it_back else other
    wait_until(lambda: stack.holder(region) == stays_with["name"], "the VIP to be where it stays", 10)
    stays(region, stack, stays_with["name"])


def test_a_database_that_pauses_for_a_second_stays_in_the_cluster(region: Region, stack: Stack) -> None:
    """Three times: the computer of the tests may pause by itself for as long as is too much."""
    pausing, other = (stack.of_role("mysql")[place]["instanceId"] for place in (-1, 0))
    asked = "mariadb --batch --skip-column-names --execute \"SHOW STATUS LIKE 'wsrep_cluster_conf_id'\""
    kept = []
    for _ in range(3):
        before = shell(region, other, asked)
        shell(region, pausing, "pkill -STOP -x mariadbd; sleep 1.1; pkill -CONT -x mariadbd")
        assert make_whole(region, stack, CLIENT) == []
        kept.append(shell(region, other, asked) == before)
    assert any(kept)


def claim_by_peer(region: Region, stack: Stack, during: Callable[[Machine, float], None]) -> list[str]:
    """Stop keepalived on the holder; ``during`` sees the peer and the moment. What the peer's claim has logged."""
    holder, peer = pair(region, stack)
    moment = time.time()
    region.exec(holder["instanceId"], ["systemctl", "stop", "keepalived"])
    try:
        during(peer, moment)
        wait_until(lambda: stack.holder(region) == peer["name"], "the VIP to move", 60)
        claimed = f"claimed {stack.vip} for {peer['eniId']}"
        wait_until(lambda: claimed in " ".join(journal(region, peer["instanceId"], "claim-vip", moment)), "the claim")
    finally:
        region.clear_faults()
        region.exec(holder["instanceId"], ["systemctl", "start", "keepalived"])
    stays(region, stack, peer["name"])
    return journal(region, peer["instanceId"], "claim-vip", moment)


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        ({"throttle_rate": 1}, "RequestLimitExceeded"),
        ({"error_rate": 1}, "InternalError"),
        ({"hang": True}, "no answer from"),
    ],
    ids=["throttled", "failing", "hanging"],
)
def test_a_sick_api_delays_the_claim_and_does_not_prevent_it(
    region: Region, stack: Stack, fault: dict[str, float], refusal: str
) -> None:
    """The first two attempts are refused, however long they take; the API recovers, and the claim succeeds."""
    refused = re.compile(rf"attempt \d+: {refusal}")

    def recover_after_two(peer: Machine, moment: float) -> None:
        def attempts() -> int:
            return sum(1 for line in journal(region, peer["instanceId"], "claim-vip", moment) if refused.match(line))

        wait_until(lambda: attempts() >= 2, "two attempts to be refused", 30)
        assert stack.holder(region) != peer["name"], "it has moved although every call was refused"
        region.api()

    region.api(**fault, roles_only=True)
    said = claim_by_peer(region, stack, recover_after_two)
    assert sum(1 for line in said if refused.match(line)) >= 2


def test_a_slow_api_delays_the_claim_and_does_not_prevent_it(region: Region, stack: Stack) -> None:
    region.api(latency_ms=600, jitter_ms=300, roles_only=True)
    said = claim_by_peer(region, stack, lambda *_: None)
    assigned = [re.search(r"EC2 has assigned .* \((\d+) ms\)", line) for line in said]
    took = [int(found[1]) for found in assigned if found]
    assert took
    assert min(took) >= 600


def test_clients_follow_when_the_move_takes_effect_late(region: Region, stack: Stack) -> None:
    """The API has said yes, and for a while packets still go to the old interface."""
    late = 6.0

    def not_yet(peer: Machine, moment: float) -> None:
        wait_until(lambda: stack.holder(region) == peer["name"], "the API to say that the VIP has moved", 20)
        moved = time.monotonic()
        assert not connects(region, CLIENT, stack.vip, stack.port)
        assert time.monotonic() - moved < late, "too slow to have seen it"

    region.api(effect_delay_ms=late * 1000, roles_only=True)
    claim_by_peer(region, stack, not_yet)
    assert connects(region, CLIENT, stack.vip, stack.port)


def test_a_claim_needs_no_metadata_service(region: Region, stack: Stack) -> None:
    """The credentials of the last reconcile are enough."""

    def answers(machine: Machine) -> bool:
        script = "curl -fsS -m 1 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token"
        return region.exec(machine["instanceId"], ["bash", "-c", script], check=False).returncode == 0

    peer = pair(region, stack)[1]
    assert answers(peer)
    region.imds(peer["instanceId"])
    assert not answers(peer)

    def still_down(peer: Machine, moment: float) -> None:
        wait_until(lambda: stack.holder(region) == peer["name"], "the VIP to move", 30)
        assert not answers(peer)

    claim_by_peer(region, stack, still_down)
    assert answers(peer)


def test_an_address_that_has_drifted_away_comes_back(region: Region, stack: Stack, aws: boto3.Session) -> None:
    holder, peer = pair(region, stack)
    moment = time.time()
    aws.client("ec2").assign_private_ip_addresses(
        NetworkInterfaceId=peer["eniId"], PrivateIpAddresses=[stack.vip], AllowReassignment=True
    )
    assert stack.holder(region) == peer["name"]
    assert masters(region, stack) == [holder["name"]]
    wait_until(lambda: stack.holder(region) == holder["name"], "the reconcile timer to bring the VIP back", 90)
    said = " ".join(journal(region, holder["instanceId"], "claim-vip", moment))
    assert f"drift: {peer['eniId']} holds {stack.vip}" in said
    assert journal(region, holder["instanceId"], "vrrp-notify", moment) == []


def test_balancers_that_do_not_hear_each_other_do_not_fight(region: Region, stack: Stack) -> None:
    """Two masters: the one of higher priority keeps the address, the other one soon leaves it there."""
    names = {machine["name"] for machine in stack.of_role("lb")}
    machines = [machine["instanceId"] for machine in stack.of_role("lb")]
    moment = time.time()

    def claims() -> int:
        said = [line for machine in machines for line in journal(region, machine, "claim-vip", moment)]
        return sum(1 for line in said if line.startswith(f"claimed {stack.vip}"))

    fault = region.drop(*machines, protocol="112")
    try:
        wait_until(lambda: set(masters(region, stack)) == names, "both to be master", 20)
        wait_until(lambda: claims() >= 1, "the second master to claim the VIP", 20)
        # Four minutes of the timer's, without its waiting; systemd has a limit for how often a unit may be started.
        for _ in range(16):
            for machine in machines:
                shell(region, machine, "systemctl reset-failed reconcile-vip; systemctl start reconcile-vip")
        assert set(masters(region, stack)) == names, "the split has healed by itself"
        # Without a rule it would be 32 and more.
        assert 1 <= claims() <= 5
        assert stack.holder(region) == stack.of_role("lb")[0]["name"]
    finally:
        region.undrop(fault)
    make_whole(region, stack, CLIENT)
    assert masters(region, stack) == [stack.holder(region)]


def test_a_machine_that_reboots_has_everything_again(region: Region, stack: Stack) -> None:
    holder, peer = pair(region, stack)
    machine = holder["instanceId"]
    before = booted(region, machine)
    region.exec(machine, ["systemctl", "--no-block", "reboot"])
    # It hands over; what is left to systemd's limit for leave-service takes 30 s.
    wait_until(lambda: stack.holder(region) == peer["name"], "the VIP to be handed over", 20)

    def again() -> bool:
        try:
            return booted(region, machine) != before
        except RegionError:
            return False

    wait_until(again, "the machine to boot again", 120)
    # Nothing of it is helped with: whatever is not there by itself is missing.
    assert make_whole(region, stack, CLIENT) == []
    units = ["haproxy", "keepalived", "mariadb", "rsyslog", "mycat-ha-health.socket", "reconcile-vip.timer"]
    assert region.exec(machine, ["systemctl", "is-active", *units]).stdout.split() == ["active"] * len(units)
    assert stack.holder(region) == peer["name"]

    assert shell(region, machine, "sysctl -n net.ipv4.ip_nonlocal_bind net.ipv4.ip_forward").split() == ["1", "1"]
    worker = shell(region, machine, "pgrep -u haproxy -x haproxy | tail -n 1")
    assert shell(region, machine, f"readlink /proc/{worker}/root") == "/var/lib/haproxy"
    # A page that nobody has: HAProxy answers with its error page, and writes it down.
    path = f"after-the-reboot-{before}"
    page = shell(region, machine, f"curl -s -m 5 http://127.0.0.1:8888/{path}")
    assert page == shell(region, machine, "sed '1,/^\\r*$/d' /etc/haproxy/errorfiles/503.http") != ""
    logged = f"grep -c {path} /var/log/haproxy.log || true"
    wait_until(lambda: shell(region, machine, logged) == "1", "the request in HAProxy's log", 10)


def written(region: Region, stack: Stack) -> str:
    """A new row's text, committed on every database."""
    text = f"row of {time.time()}"
    sql = "CREATE TABLE IF NOT EXISTS outlives (n INT PRIMARY KEY, what VARCHAR(60))"
    mariadb(region, login(stack, "mysql"), f"{sql}; REPLACE INTO outlives VALUES (1, '{text}')")
    return text


def has_outlived(region: Region, stack: Stack, text: str) -> None:
    for node in stack.of_role("mysql"):
        sql = f"SET wsrep_sync_wait=7; SELECT what FROM {stack.schema}.outlives WHERE n = 1"
        assert region.exec(node["instanceId"], ["mariadb", "-N", "-e", sql]).stdout.strip() == text


def test_a_power_cut_of_all_databases_needs_nobody(region: Region, stack: Stack) -> None:
    text = written(region, stack)
    nodes = [node["instanceId"] for node in stack.of_role("mysql")]
    for node in nodes:
        region.power_cut(node)
    assert not any(machine["powered"] for machine in region.machines() if machine["id"] in nodes)
    for node in nodes:
        region.power_on(node)
    assert make_whole(region, stack, CLIENT, 700) == []
    has_outlived(region, stack, text)


def test_a_clean_full_stop_needs_nobody(region: Region, stack: Stack) -> None:
    """But the one who starts the databases again: a stop by hand is not undone by itself."""
    text = written(region, stack)
    nodes = [node["instanceId"] for node in stack.of_role("mysql")]
    for node in nodes:
        region.exec(node, ["systemctl", "stop", "mariadb"], timeout=60)
    for node in nodes:
        assert shell(region, node, "systemctl is-active mariadb || true") == "inactive"
    for node in nodes:
        region.exec(node, ["systemctl", "--no-block", "start", "mariadb"])
    assert make_whole(region, stack, CLIENT, 700) == []
    has_outlived(region, stack, text)


def test_a_node_that_was_voted_out_gets_a_copy_while_the_donor_goes_on_serving(region: Region, stack: Stack) -> None:
    """Rows and users are written meanwhile: no upgrade of the system tables comes between them.

    Only when a node leaves or joins may a write be refused (1180, 1047): Galera does so until the members have agreed.
    """
    *_, donor, joiner = stack.of_role("mysql")
    table, user = f"{stack.schema}.donated", "donated@localhost"
    says = "SET wsrep_sync_wait = 0; SELECT variable_value FROM information_schema.global_status WHERE variable_name"
    state, component = f"{says} = 'wsrep_local_state_comment'", f"{says} = 'wsrep_cluster_status'"

    def sql(node: Machine, statements: str, *, check: bool = True) -> str:
        command = ["mariadb", "-N", "-e", f"SET wsrep_sync_wait = 7; {statements}"]
        return region.exec(node["instanceId"], command, check=check).stdout.strip()

    sql(donor, f"CREATE OR REPLACE TABLE {table} (n INT PRIMARY KEY, what INT); INSERT INTO {table} VALUES (0, 1)")
    # Now it cannot follow what becomes of the row.
    sql(joiner, f"SELECT what FROM {table}; SET wsrep_on = OFF; DELETE FROM {table}")
    sql(donor, f"UPDATE {table} SET what = 2")
    wait_until(lambda: sql(joiner, component, check=False) == "Disconnected", "the vote", 30)

    health = f"http://{donor['address']}:48700/mysql"
    donating = "Donor/Desynced"
    seen: list[tuple[list[str], int]] = []

    def synced() -> bool:
        write = f"INSERT INTO {table} VALUES ({len(seen) + 1}, 3); CREATE OR REPLACE USER {user}"
        states = sql(donor, f"{state}; {write}; {state}", check=False).split()
        seen.append((states, status(region, donor["instanceId"], health)))
        return sql(joiner, state, check=False) == "Synced"

    wait_until(synced, "the node that was voted out to be synced", 240)
    assert make_whole(region, stack, CLIENT) == []
    assert ([donating, donating], 200) in seen
    assert [donating] not in [states for states, _ in seen]
    acknowledged = {number: answer for number, (states, answer) in enumerate(seen, 1) if len(states) == 2}
    assert set(acknowledged.values()) == {200}
    rows = sql(donor, f"SELECT n FROM {table} ORDER BY n").split()
    assert {"0", *map(str, acknowledged)} <= set(rows)
    assert sql(joiner, f"SELECT n FROM {table} ORDER BY n").split() == rows
    assert sql(joiner, f"SELECT what FROM {table} WHERE n = 0") == "2"
    # mysql_upgrade would have written a shorter one.
    note = region.exec(joiner["instanceId"], ["cat", "/var/lib/mysql/mysql_upgrade_info"]).stdout.strip()
    assert note == sql(joiner, "SELECT VERSION()")
    sql(donor, f"DROP USER {user}")


def test_one_database_that_does_not_return_is_given_up_by_one_command(
    region: Region, stack: Stack, stackctl: Stackctl
) -> None:
    """It had the last word when all lost their power. When it returns after all, it has what the others have."""
    text = written(region, stack)
    *rest, lost = stack.of_role("mysql")
    outlives = f"REPLACE INTO {stack.schema}.outlives VALUES"
    mariadb(region, login(stack, "mysql"), "DELETE FROM outlives WHERE n > 1")
    for node in rest:
        region.exec(node["instanceId"], ["systemctl", "stop", "mariadb"], timeout=60)
    only_here = ["mariadb", "-e", f"{outlives} (2, 'only here'), (3, 'and here')"]
    # The cluster without the others has to be agreed upon first.
    wait_until(lambda: region.exec(lost["instanceId"], only_here, check=False).returncode == 0, "the last word", 30)
    for node in (*rest, lost):
        region.power_cut(node["instanceId"])
    for node in rest:
        region.power_on(node["instanceId"])

    def recover(*words: str, check: bool = False) -> str:
        return " ".join(stackctl("database", "recover", stack.name, *words, check=check).split())

    wait_until(lambda: f"--given-up {lost['name']}" in recover(), "the others to be asked, and it to be missed", 180)
    said = recover("--given-up", lost["name"])
    assert f"waiting: nothing is known of {lost['address']}" in said
    assert f"LOST is what only {lost['name']} has" in said
    assert "refused, and nothing was changed: it was not confirmed" in said
    names = " and ".join(node["name"] for node in rest)
    assert f"{names} are a cluster again, all synced" in recover("--given-up", lost["name"], "--yes", check=True)
    wait_until(lambda: mariadb(region, login(stack, "mysql"), "SELECT 1", check=False) == "1", "the service", 60)
    mariadb(region, login(stack, "mysql"), "INSERT INTO outlives VALUES (4, 'later')")

    region.power_on(lost["instanceId"])

    def synced() -> bool:
        galera = states(region, stack)[lost["name"]].get("galera", {})
        return bool(galera.get("wsrep_local_state_comment") == "Synced")

    wait_until(synced, "it to be synced, without help", 300)
    make_whole(region, stack, CLIENT, 700)
    has_outlived(region, stack, text)
    for node in (*rest, lost):
        found = shell(region, node["instanceId"], f"mariadb -N -e 'SELECT n FROM {stack.schema}.outlives ORDER BY n'")
        assert found.split() == ["1", "4"]


#: Writes one number after the other through the VIP, whatever happens, and says which were acknowledged.
_NUMBERS = """
import json, pymysql, sys, time
settings = json.loads(sys.stdin.readline())
n = 0
while True:
    try:
        with pymysql.connect(connect_timeout=5, read_timeout=5, autocommit=True, **settings) as c, c.cursor() as cursor:
            while True:
                n += 1
                cursor.execute("INSERT INTO numbers VALUES (%s)", [n])
                print(n, flush=True)
    except Exception:
        time.sleep(0.2)
"""


def test_a_stop_of_all_databases_in_the_same_moment_needs_nobody(
    region: Region, stack: Stack, aws: boto3.Session, tmp_path: Path
) -> None:
    """Galera then flags none of them as the last one. First the databases alone, then all machines in one call."""
    at, nodes = login(stack, "mysql"), [node["instanceId"] for node in stack.of_role("mysql")]
    machines = [machine["instanceId"] for machine in stack.machines]
    ec2 = aws.client("ec2")

    def together() -> bool:
        want = {"wsrep_cluster_size": str(len(nodes)), "wsrep_local_state_comment": "Synced"}
        found = states(region, stack)
        return all(found[node["name"]].get("galera") == want for node in stack.of_role("mysql"))

    def services() -> None:
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(lambda node: region.exec(node, ["systemctl", "stop", "mariadb"], timeout=60), nodes))
        for node in nodes:
            region.exec(node, ["systemctl", "--no-block", "start", "mariadb"])

    def instances() -> None:
        ec2.stop_instances(InstanceIds=machines)
        ec2.get_waiter("instance_stopped").wait(InstanceIds=machines, WaiterConfig={"Delay": 2, "MaxAttempts": 60})
        ec2.start_instances(InstanceIds=machines)

    mariadb(region, at, "CREATE OR REPLACE TABLE numbers (n INT PRIMARY KEY)")
    settings = {"host": at.address, "port": at.port, "user": at.user, "password": at.password, "database": at.schema}
    with (tmp_path / "acknowledged").open("a+") as acknowledged:
        client = region.popen(
            CLIENT, [sys.executable, "-c", _NUMBERS], stdin=subprocess.PIPE, stdout=acknowledged, text=True
        )

        def written_since(begun: int) -> bool:
            return acknowledged.seek(0, SEEK_END) > begun

        try:
            assert client.stdin is not None
            client.stdin.write(json.dumps(settings) + "\n")
            client.stdin.flush()
            for stop in (services, instances):
                begun = acknowledged.seek(0, SEEK_END)
                wait_until(functools.partial(written_since, begun), "a write", 20)
                stop()
                wait_until(together, f"the databases to be together again after a stop of all {stop.__name__}", 180)
                assert make_whole(region, stack, CLIENT, 400) == []
        finally:
            client.kill()
            client.communicate()
        acknowledged.seek(0)
        numbers = {int(line) for line in acknowledged}
    stored = {int(n) for n in mariadb(region, at, "SET wsrep_sync_wait=7; SELECT n FROM numbers").split()}
    assert numbers
    assert numbers <= stored
