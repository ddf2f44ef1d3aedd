"""`stackctl status`: what is made of what machines and EC2 say. The machines are played; what runs on them is not
(test_machine_report.py).
"""

import ast
import asyncio
import csv
import io
import json
import re
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from botocore.exceptions import EndpointConnectionError
from rich.console import Console

from stackctl import cli, diagnosis, life, reports, ssh, status, status_tables
from stackctl.diagnosis import Status
from stackctl.project import StackError
from stackctl.pulumi import Pulumi
from stackctl.ssh import Host, SshError
from tests import example

ROOT = Path(__file__).parents[2]
VIP, SUBNET = "192.168.106.249", "subnet-1"
CLUSTER, OTHER_CLUSTER = "6a9c2e1d-0000-11f0-8000-000000000001", "6a9c2e1d-0000-11f0-8000-000000000002"
MEMBERS = [f"00000000-0000-11f0-8000-00000000000{n}" for n in (1, 2, 3)]
ADDRESSES = {"node1": "192.168.106.251", "node2": "192.168.106.252", "node3": "192.168.106.253"}
GONE = "192.168.106.253, port 22: no answer within 15 s"


def grastate(position: int, cluster: str = CLUSTER, left_last: int = 0) -> str:
    return (
        f"# GALERA saved state\nversion: 2.1\nuuid:    {cluster}\nseqno:   {position}\nsafe_to_bootstrap: {left_last}\n"
    )


def gvwstate(*members: str) -> str:
    listed = "".join(f"member: {member} 0\n" for member in members)
    return f"my_uuid: {members[0]}\n#vwbeg\nview_id: 3 {members[0]} 5\nbootstrap: 0\n{listed}#vwend\n"


def statistics(*servers: dict[str, str]) -> str:
    """HAProxy's, with the columns that count here."""
    columns = ["pxname", "svname", "scur", "status", "check_status", "check_code", "last_chk", "check_desc", "tracked"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerow({"pxname": "mysql", "svname": "FRONTEND", "scur": "7", "status": "OPEN"})
    writer.writerows(servers)
    writer.writerow({"pxname": "mysqlservers", "svname": "BACKEND", "scur": "7", "status": "UP"})
    return f"# {text.getvalue()}\n"


def server(name: str, state: str = "UP", backend: str = "mysqlservers", **more: str) -> dict[str, str]:
    return {"pxname": backend, "svname": name, "scur": "2", "status": state, **more}


DOWN = {"check_status": "L7STS", "check_code": "503", "check_desc": "Layer7 wrong status", "last_chk": "Unavailable"}


class Played:
    """A stack of three machines: two balance and have a Mycat, all store; node1 holds the VIP. All is well."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {name: self._machine(name) for name in ADDRESSES}
        self.interfaces: list[dict[str, Any]] | Exception = [self.interface("node1")]
        self.resources = [_stack(subnetId=SUBNET), *map(_ready, ADDRESSES)]
        self.asked: list[dict[str, Any]] = []

    def _machine(self, name: str) -> dict[str, Any]:
        active = {"state": "active", "pid": "7"}
        galera = {
            "wsrep_cluster_status": "Primary", "wsrep_local_state_comment": "Synced", "wsrep_cluster_size": "3",
            "wsrep_ready": "ON", "wsrep_cluster_state_uuid": CLUSTER, "wsrep_last_committed": "41", "read_only": "0",
        }  # fmt: skip
        mysql = {
            "mariadb": active,
            "status": "".join(f"{key}\t{value}\n" for key, value in galera.items()),
            "statusProblem": "",
            "statusLater": "",
            "certificate": "",
            "grastate": grastate(-1),
            "gvwstate": gvwstate(*MEMBERS),
            "waits": "node2 has a cluster: joining it\n",
        }
        if name == "node3":
            return {"mysql": mysql}
        servers = [server(node) for node in ADDRESSES]
        servers += [server(node, backend="mycat_servers") for node in ("node1", "node2")]
        balancer = {
            "keepalived": active, "haproxy": active, "vrrp": "backup\n", "vrrpProblem": "",
            "stated": "backup 7 8 9\n", "claimed": None, "addresses": "",
            "statistics": statistics(*servers), "statisticsProblem": "", "certificate": "",
        }  # fmt: skip
        if name == "node1":
            balancer |= {
                "vrrp": "master\n",
                "stated": "master 7 8 9\n",
                "claimed": "master 7 8 9\n",
                "addresses": f"2: ens5    inet {VIP}/32 scope global ens5\n",
            }
        return {"lb": balancer, "mysql": mysql, "mycat": {"mycat": active, "problem": ""}}

    def interface(self, name: str, subnet: str = SUBNET, address: str | None = None) -> dict[str, Any]:
        primary = address or ADDRESSES[name]
        return {
            "NetworkInterfaceId": f"eni-{name}",
            "SubnetId": subnet,
            "PrivateIpAddress": primary,
            "PrivateIpAddresses": [{"PrivateIpAddress": primary}, {"PrivateIpAddress": VIP}],
        }

    def change(self, name: str, part: str, **more: Any) -> None:
        self.said[name][part] |= more

    def galera(self, name: str, **more: str) -> None:
        known = dict(line.split("\t") for line in self.said[name]["mysql"]["status"].splitlines())
        self.change(name, "mysql", status="".join(f"{key}\t{value}\n" for key, value in (known | more).items()))

    def stop(self, name: str, state: str = "inactive", **more: Any) -> None:
        problem = "ERROR 2002 (HY000): Can't connect to local server"
        self.change(name, "mysql", mariadb={"state": state, "pid": "0"}, status="", statusProblem=problem, **more)

    # What status uses

    async def run(self, host: Host, command: str, *, stdin: str, timeout: float) -> str:
        assert "KEY" not in command + stdin
        *program, question = shlex.split(command)
        assert program == ["exec", "python3", "-I", "-"]
        ast.parse(stdin)
        self.asked.append(json.loads(question))
        said = self.said[next(name for name, address in ADDRESSES.items() if address == host.address)]
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, str) else json.dumps(said)

    def client(self, service_name: Any, /, *, config: object = None) -> "Played":
        assert service_name == "ec2"
        return self

    def describe_network_interfaces(self, **wanted: Any) -> dict[str, Any]:
        if isinstance(self.interfaces, Exception):
            raise self.interfaces
        return {"NetworkInterfaces": self.interfaces}


def _stack(**outputs: Any) -> dict[str, Any]:
    return {"urn": "urn:pulumi:s::mycat-ha::pulumi:pulumi:Stack::s", "type": "pulumi:pulumi:Stack", "outputs": outputs}


def _ready(name: str) -> dict[str, Any]:
    said = json.dumps({"device": "ens5", "hostKey": "ssh-ed25519 AAAA"})
    urn = f"urn:pulumi:s::mycat-ha::a$mycat-ha:machine:Machine$command:remote:Command::{name}-ready"
    return {"urn": urn, "type": "command:remote:Command", "outputs": {"stdout": said}}


class _Pulumi:
    class stack:  # noqa: N801
        name = "s"


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    config = example.settings(example.with_mycat)
    config["secrets"]["sshPrivateKey"] = "KEY"
    monkeypatch.setattr(ssh, "run", played.run)
    monkeypatch.setattr(status, "settings_and_state", lambda _: (config, played.resources))
    monkeypatch.setattr(status, "connect_stack", lambda _: played)
    monkeypatch.setattr(life, "existing", lambda stack, region_env: _Pulumi)
    return played


def found() -> Status:
    return status.status(cast("Pulumi", _Pulumi))


def words(status: Status) -> list[str]:
    """Of each problem, the worst first."""
    for problem in status.problems:
        assert problem.do
    return [f"{problem.machine or 'all'}: {problem.what}" for problem in status.problems]


def shown(status: Status) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    status_tables.show(status, console)
    return cast("io.StringIO", console.file).getvalue()


# -- whole --------------------------------------------------------------------------------------------------------


def test_a_whole_stack(played: Played) -> None:
    one = found()
    assert (one.whole, words(one)) == (True, [])
    assert (one.vip.agreed, one.vip.ec2.machine, one.vip.masters, one.vip.on_device) == (
        True, "node1", ("node1",), ("node1",),
    )  # fmt: skip
    text = shown(one)
    assert "node1 holds it, as EC2, VRRP and its network device say" in text
    assert text.splitlines()[-1] == "stack s is whole"
    assert "! " not in text


def test_each_machine_is_asked_for_its_roles_and_by_its_address(played: Played) -> None:
    found()
    assert sorted((one["address"], one["roles"], one["vip"], one["healthPort"]) for one in played.asked) == [
        (ADDRESSES["node1"], ["lb", "mycat", "mysql"], VIP, 48700),
        (ADDRESSES["node2"], ["lb", "mycat", "mysql"], VIP, 48700),
        (ADDRESSES["node3"], ["mysql"], VIP, 48700),
    ]


def test_the_sessions_of_all_balancers_are_added_up_for_people(played: Played) -> None:
    row = next(line for line in shown(found()).splitlines() if "mysqlservers/node3" in line)
    assert row.split() == ["mysqlservers/node3", "UP", "node1,", "node2", "4"]


# -- machines that do not answer ----------------------------------------------------------------------------------


def test_a_machine_that_does_not_answer_is_a_row_and_the_others_are_told(played: Played) -> None:
    played.said["node3"] = SshError(GONE)
    one = found()
    assert words(one) == [f"node3: it cannot be asked: {GONE}"]
    assert [machine.error for machine in one.machines] == [None, None, GONE]
    assert [bool(machine.database) for machine in one.machines] == [True, True, False]
    text = shown(one)
    assert re.search(rf"! node3 +{re.escape(GONE)}", text)
    assert re.search(r"! node3 +cannot be asked", text)
    assert "node1     active" in text


def test_machines_are_asked_side_by_side(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is answered when the last one has been asked."""
    asked = 0
    all_asked = asyncio.Event()

    async def run(host: Host, command: str, *, stdin: str, timeout: float) -> str:
        nonlocal asked
        asked += 1
        if asked == len(ADDRESSES):
            all_asked.set()
        async with asyncio.timeout(5):
            await all_asked.wait()
        assert timeout == status.SECONDS <= 15
        return await played.run(host, command, stdin=stdin, timeout=timeout)

    monkeypatch.setattr(ssh, "run", run)
    assert found().whole


def test_a_server_on_a_machine_that_cannot_be_asked_is_no_second_problem(played: Played) -> None:
    played.said["node3"] = SshError(GONE)
    for name in ("node1", "node2"):
        down = server("node3", "DOWN", **DOWN)
        played.change(name, "lb", statistics=statistics(server("node1"), server("node2"), down))
    assert words(found()) == [f"node3: it cannot be asked: {GONE}"]


def test_a_machine_that_up_has_not_reached_yet_is_a_row_too(played: Played) -> None:
    played.resources = played.resources[:-1]
    assert words(found()) == [
        "node3: it cannot be asked: the state has no host key of it: `stackctl up` has never connected to it"
    ]


@pytest.mark.parametrize("said", ["", "no JSON", '{"mysql": {}}', '{"mysql": null}', "[]7"])
def test_an_answer_that_is_not_understood_is_a_row_too(played: Played, said: str) -> None:
    played.said["node3"] = said
    (only,) = words(found())
    assert only.startswith("node3: it cannot be asked: its answer is not understood")


def test_the_holder_cannot_be_asked(played: Played) -> None:
    played.said["node1"] = SshError("gone")
    one = found()
    assert not one.vip.agreed
    assert words(one)[0] == (
        f"all: {VIP}: EC2 has it at node1, which cannot be asked; by VRRP nobody is master, "
        "and it is on the device of nobody"
    )
    assert one.problems[0].do.startswith("see to node1: ")
    assert "node1: it cannot be asked: gone" in words(one)


def test_what_a_machine_says_does_nothing_to_a_terminal(played: Played) -> None:
    played.said["node3"] = SshError("\x1b[2J\x07[red]no")
    text = shown(found())
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]no" in text


# -- the VIP ------------------------------------------------------------------------------------------------------


def test_ec2_and_vrrp_do_not_agree(played: Played) -> None:
    played.interfaces = [played.interface("node2")]
    one = found()
    assert (one.vip.agreed, one.vip.ec2.machine) == (False, "node2")
    assert words(one) == [
        f"all: {VIP}: they do not agree: EC2 has it at node2; by VRRP node1 is master, and it is on the device of node1"
    ]
    assert "which node1 claims it" in one.problems[0].do
    assert "! VIP" in shown(one)


def test_two_say_that_they_are_master(played: Played) -> None:
    played.change("node2", "lb", vrrp="master\n", addresses=played.said["node1"]["lb"]["addresses"])
    one = found()
    assert one.vip.masters == one.vip.on_device == ("node1", "node2")
    (only,) = words(one)
    assert only == (
        f"all: {VIP}: there is more than one master; they do not agree: EC2 has it at node1; "
        "by VRRP node1 and node2 are master, and it is on the device of node1, node2"
    )
    assert "IP protocol 112" in one.problems[0].do


def test_nobody_holds_it(played: Played) -> None:
    played.interfaces = []
    assert words(found())[0].startswith(f"all: {VIP}: nobody holds it: EC2 has it at no interface; by VRRP node1")


def test_a_stranger_holds_it(played: Played) -> None:
    played.interfaces = [played.interface("x", address="192.168.106.9")]
    one = found()
    assert (one.vip.ec2.machine, one.vip.ec2.interface) == (None, "eni-x")
    assert f"{VIP}: a stranger holds it: EC2 has it at eni-x" in words(one)[0]


def test_the_same_address_in_another_subnet_is_another_one(played: Played) -> None:
    played.interfaces = [played.interface("node2", "subnet-2"), played.interface("node1")]
    assert found().whole


def test_nobody_is_master(played: Played) -> None:
    fault = {"vrrp": "fault\n", "addresses": ""}
    played.change("node1", "lb", **fault)
    one = found()
    assert "by VRRP nobody is master" in words(one)[0]
    assert "node1: keepalived is in FAULT: HAProxy does not serve, or its network is down" in words(one)


def test_the_master_does_not_have_it_on_its_device(played: Played) -> None:
    played.change("node1", "lb", addresses="")
    one = found()
    assert (
        "they do not agree: EC2 has it at node1; by VRRP node1 is master, and it is on the device of nobody"
        in (words(one)[0])
    )
    assert one.problems[0].do == "`systemctl restart keepalived` on node1"


def test_ec2_does_not_answer(played: Played) -> None:
    played.interfaces = EndpointConnectionError(endpoint_url="https://ec2")
    one = found()
    (only,) = words(one)
    assert "EC2 cannot be asked who holds it (Could not connect to the endpoint URL" in only
    assert "by VRRP node1 is master" in only
    assert one.machines[0].balancer
    assert one.machines[0].balancer.claimed


def test_a_stack_whose_up_has_never_succeeded(played: Played) -> None:
    played.resources[0] = _stack()
    assert "EC2 cannot be asked who holds it (the state does not say in which subnet" in words(found())[0]


def test_a_claim_of_an_earlier_mastership_does_not_count(played: Played) -> None:
    played.change("node1", "lb", claimed="master 1 2 3\n")
    balancer = found().machines[0].balancer
    assert balancer
    assert not balancer.claimed


# -- balancers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"keepalived": {"state": "failed", "pid": "0"}, "vrrp": "stop\n"}, "keepalived is failed"),
        ({"vrrp": "silent\n"}, "keepalived does not answer"),
        ({"vrrp": "stop\n"}, "keepalived takes no part in VRRP (stop)"),
        ({"vrrp": ""}, "keepalived takes no part in VRRP (unknown)"),
        (
            {"haproxy": {"state": "failed", "pid": "0"}, "statistics": "", "statisticsProblem": "Connection refused"},
            "haproxy is failed",
        ),
        ({"statistics": "", "statisticsProblem": "timed out"}, "haproxy does not answer: timed out"),
        ({"statistics": ""}, "haproxy names no server that it has"),
    ],
)
def test_what_is_wrong_with_a_balancer(played: Played, change: dict[str, Any], wrong: str) -> None:
    played.change("node2", "lb", **change)
    one = found()
    assert words(one) == [f"node2: {wrong}"]
    assert re.search(r"! node2 ", shown(one))


def test_a_backend_is_down(played: Played) -> None:
    """Its machine says that it is well: it may be the way there."""
    down = server("node3", "DOWN 1/2", **DOWN)
    played.change("node2", "lb", statistics=statistics(server("node1"), server("node2"), down))
    one = found()
    assert words(one) == ["node3: mysqlservers/node3 is DOWN for node2 (Layer7 wrong status 503: Unavailable)"]
    rows = [line.split() for line in shown(one).splitlines() if "mysqlservers/node3" in line]
    assert rows[0][:5] == ["!", "mysqlservers/node3", "DOWN", "1/2", "node2"]
    assert rows[1][:3] == ["mysqlservers/node3", "UP", "node1"]
    assert one.machines[1].balancer
    assert one.machines[1].balancer.servers[2] == reports.Server(
        "mysqlservers", "node3", "DOWN", "DOWN 1/2", "Layer7 wrong status 503: Unavailable", 2
    )


@pytest.mark.parametrize("state", ["MAINT", "MAINT (via mysqlservers/node1)", "DRAIN"])
def test_a_server_that_is_set_aside(played: Played, state: str) -> None:
    for name in ("node1", "node2"):
        played.change(name, "lb", statistics=statistics(server("node1"), server("node2"), server("node3", state)))
    one = found()
    assert words(one) == [f"node3: mysqlservers/node3 is {state.partition(' ')[0]} for node1, node2"]
    assert "state ready" in one.problems[0].do


def test_a_server_of_the_read_port_is_the_one_that_it_follows(played: Played) -> None:
    rows = [
        server("node3", "DOWN", **DOWN),
        server("node3", "DOWN", "mysqlreaders", tracked="mysqlservers/node3", **DOWN),
    ]
    up = [server("node1"), server("node2"), server("node1", backend="mysqlreaders", tracked="mysqlservers/node1")]
    played.change("node2", "lb", statistics=statistics(*up, *rows))
    balancer = found().machines[1].balancer
    assert balancer
    assert [one.sessions for one in balancer.servers] == [4, 2, 4]
    assert words(found()) == ["node3: mysqlservers/node3 is DOWN for node2 (Layer7 wrong status 503: Unavailable)"]


def test_a_server_whose_last_check_failed_is_still_up(played: Played) -> None:
    played.change("node2", "lb", statistics=statistics(server("node3", "UP 1/2", **DOWN)))
    assert found().whole


def test_a_server_without_a_check_is_no_problem(played: Played) -> None:
    played.change("node2", "lb", statistics=statistics(server("web", "no check", "static")))
    one = found()
    assert one.whole
    assert one.machines[1].balancer
    assert one.machines[1].balancer.servers[0].state == "UNCHECKED"


def test_no_server_works_is_worse_than_one_that_is_down(played: Played) -> None:
    downs = [server(f"db{n}", "DOWN", **DOWN) for n in (1, 2)]
    played.change("node2", "lb", statistics=statistics(*downs))
    assert words(found()) == [
        "node2: its HAProxy has no server that works for mysqlservers",
        "all: mysqlservers/db1 is DOWN for node2 (Layer7 wrong status 503: Unavailable)",
        "all: mysqlservers/db2 is DOWN for node2 (Layer7 wrong status 503: Unavailable)",
    ]


def test_a_server_whose_name_leads_nowhere(played: Played) -> None:
    played.change("node2", "lb", statistics=statistics(server("db1"), server("db2", "MAINT (resolution)")))
    one = found()
    assert words(one) == ["all: mysqlservers/db2 is MAINT for node2 (its name leads to no address)"]
    assert "name servers" in one.problems[0].do


def test_a_replica_elsewhere_is_no_problem_as_long_as_another_database_may_write(played: Played) -> None:
    replica = server("db2", "DOWN", **DOWN)
    played.change("node2", "lb", statistics=statistics(server("db1"), replica))
    assert found().whole
    unreachable = server("db2", "DOWN", check_status="L4CON", check_desc="Layer4 connection problem")
    played.change("node2", "lb", statistics=statistics(server("db1"), unreachable))
    assert words(found()) == ["all: mysqlservers/db2 is DOWN for node2 (Layer4 connection problem)"]
    played.change("node2", "lb", statistics=statistics(server("db1"), server("db2", "DOWN", "mysqlreaders", **DOWN)))
    assert len(found().problems) == 2


# -- databases ----------------------------------------------------------------------------------------------------


def test_a_node_is_not_primary(played: Played) -> None:
    played.galera("node3", wsrep_cluster_status="non-Primary", wsrep_local_state_comment="Initialized",
                  wsrep_cluster_size="1", wsrep_ready="OFF")  # fmt: skip
    for name in ("node1", "node2"):
        played.galera(name, wsrep_cluster_size="2")
    one = found()
    assert words(one) == [
        "node3: wsrep_cluster_status is non-Primary; it is not synced: Initialized; wsrep_ready is OFF"
    ]
    assert re.search(r"! node3 +active +non-Primary +Initialized +1 +no +41", shown(one))


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"wsrep_local_state_comment": "Donor/Desynced"}, "it is not synced: Donor/Desynced"),
        ({"read_only": "1"}, "it is read-only, so the balancers send nobody there"),
    ],
)
def test_a_node_that_takes_no_clients(played: Played, change: dict[str, str], wrong: str) -> None:
    played.galera("node2", **change)
    assert words(found()) == [f"node2: {wrong}"]


def test_a_node_that_holds_up_the_writes_of_all_is_told_first(played: Played) -> None:
    """Everything else looks well."""
    played.galera("node3", wsrep_flow_control_requested="true", wsrep_local_recv_queue="31")
    played.change("node3", "mysql", statusLater=played.said["node3"]["mysql"]["status"])
    played.change("node2", "mycat", problem="it has not answered in time")
    one = found()
    assert words(one) == [
        "node3: it holds up the writes of all: 31 wait here, and it applies none (Galera's flow control)",
        "node2: Mycat does not answer: it has not answered in time",
    ]
    assert one.problems[0].do.endswith("`systemctl kill --signal=KILL mariadb`")
    assert re.search(r"! node3 +active +Primary +Synced, holds up writes +3 +yes +41", shown(one))


@pytest.mark.parametrize(
    ("days", "wrong"),
    [
        (40, []),
        (20, ["node3: its certificate for TLS expires on {}"]),
        (-1, ["node3: its certificate for TLS has expired on {}"]),
    ],
)
def test_a_certificate_that_nobody_has_replaced(played: Played, days: int, wrong: list[str]) -> None:
    end = datetime.now(UTC) + timedelta(days)
    played.change("node3", "mysql", certificate=f"notAfter={end:%b %d %H:%M:%S %Y} GMT\n")
    one = found()
    assert words(one) == [each.format(f"{end:%Y-%m-%d}") for each in wrong]
    assert [database.certificate_expires for _, database in diagnosis._databases(one.machines)] == [
        None, None, f"{end:%Y-%m-%dT%H:%M:%S}+00:00",
    ]  # fmt: skip
    assert all("`stackctl up s`" in problem.do for problem in one.problems)


def test_a_certificate_of_a_statistics_page_that_nobody_has_replaced(played: Played) -> None:
    end = datetime.now(UTC) + timedelta(20)
    played.change("node2", "lb", certificate=f"notAfter={end:%b %d %H:%M:%S %Y} GMT\n")
    one = found()
    assert words(one) == [f"node2: its certificate for the statistics page expires on {end:%Y-%m-%d}"]
    assert "haproxy.statistics.tls.certificate" in one.problems[0].do


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, None),
        ({"hours": 27}, "older than 26 hours"),
        ({"newest": None}, "there is no backup yet"),
        ({"units": {"run": "failed", "test": "inactive"}}, "node3: the last backup has failed"),
        ({"units": {"run": "inactive", "test": "failed"}}, "node3: the last trial of a backup has failed"),
        ({"tried": {"id": "x", "problem": "zstd failed"}}, "could not be restored for a trial: zstd failed"),
        ({"problem": "S3, for b: denied"}, "nobody can say which backups there are: S3, for b: denied"),
    ],
)
def test_backups(played: Played, change: dict[str, Any], wrong: str | None) -> None:
    begun = datetime.now(UTC) - timedelta(hours=change.get("hours", 25))
    told = {
        "newest": {"id": f"{begun:%Y-%m-%dT%H-%M-%SZ}"},
        "tried": {"id": "x", "problem": ""},
        "alarmHours": 26,
        **{key: value for key, value in change.items() if key in {"newest", "tried"}},
    }
    units = {"run": "inactive", "test": "inactive"}
    said = {"newest": json.dumps(told), "problem": "", "units": units}
    played.said["node3"]["backup"] = said | {key: change[key] for key in ("problem", "units") if key in change}
    one = found()
    assert len(one.problems) == (0 if wrong is None else 1)
    if wrong:
        assert wrong in words(one)[0]
        assert one.problems[0].see == "docs/databases.md#backups"


def test_a_database_that_sees_the_backups_is_enough(played: Played) -> None:
    told = {"newest": {"id": f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"}, "tried": None, "alarmHours": 26}
    units = {"run": "inactive", "test": "inactive"}
    played.said["node1"]["backup"] = {"newest": "", "problem": "it is down", "units": units}
    played.said["node2"]["backup"] = {"newest": json.dumps(told), "problem": "", "units": units}
    assert found().whole


def test_a_node_that_catches_up_under_load_is_well(played: Played) -> None:
    played.galera("node3", wsrep_flow_control_requested="true", wsrep_local_recv_queue="31")
    later = played.said["node3"]["mysql"]["status"].replace("wsrep_last_committed\t41", "wsrep_last_committed\t42")
    played.change("node3", "mysql", statusLater=later)
    assert found().whole


def test_mariadbd_is_down_with_its_position(played: Played) -> None:
    played.stop("node3", grastate=grastate(40), gvwstate=None)
    for name in ("node1", "node2"):
        played.galera(name, wsrep_cluster_size="2")
        down = server("node3", "DOWN", **DOWN)
        played.change(name, "lb", statistics=statistics(server("node1"), server("node2"), down))
    one = found()
    assert words(one) == ["node3: mariadb is inactive"], (
        "its server and the cluster's size are no problems of their own"
    )
    database = one.machines[2].database
    assert database
    assert (database.running, database.cluster, database.position, database.to_be_recovered) == (
        False, CLUSTER, 40, False,
    )  # fmt: skip
    assert (database.view, database.safe_to_bootstrap, database.waits) == (None, False, None)
    assert re.search(r"! node3 +inactive +does not run +40 \(grastate.dat\)\s", shown(one))


def test_mariadbd_is_down_without_a_position(played: Played) -> None:
    """After a power cut; nothing is recovered to find out."""
    played.stop("node3", "failed", grastate=grastate(-1), gvwstate=gvwstate(*MEMBERS))
    one = found()
    assert words(one) == [
        "node3: mariadb is failed; its position is not written down (grastate.dat has -1) and has to be recovered"
    ]
    database = one.machines[2].database
    assert database
    assert (database.position, database.to_be_recovered) == (None, True)
    assert database.view == reports.View(f"3 {MEMBERS[0]} 5", 3)
    assert "the start recovers the position" in one.problems[0].do
    assert "has to be recovered, last view of 3" in " ".join(shown(one).split())


def test_a_node_that_waits_says_for_whom(played: Played) -> None:
    played.stop("node3", "activating", grastate=grastate(-1), waits="waiting: node1 is not here\n")
    one = found()
    assert words(one)[0].startswith("node3: mariadb is activating, waiting: node1 is not here; ")
    assert "it says for whom it waits" in one.problems[0].do


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"grastate": None}, (None, None, False, None)),
        ({"grastate": "# GALERA saved st"}, (None, None, False, "grastate.dat is torn")),
        ({"grastate": grastate(-1, reports.NO_CLUSTER)}, (None, None, False, None)),
        ({"grastate": grastate(7, left_last=1)}, (CLUSTER, 7, False, None)),
    ],
    ids=["no file", "torn", "no data", "left last"],
)
def test_what_the_files_of_a_stopped_node_say(
    played: Played, files: dict[str, Any], expected: tuple[str | None, int | None, bool, str | None]
) -> None:
    played.stop("node3", **files)
    database = found().machines[2].database
    assert database
    assert (database.cluster, database.position, database.to_be_recovered, database.error) == expected


def test_half_a_view_is_none() -> None:
    assert reports.view(gvwstate(*MEMBERS).removesuffix("#vwend\n")) is None


def test_a_mariadbd_that_runs_and_does_not_answer_has_no_position(played: Played) -> None:
    """Its grastate.dat says -1, as that of every node that runs."""
    played.change("node3", "mysql", status="", statusProblem="mariadb has not answered within 3 s")
    one = found()
    assert words(one) == ["node3: mariadbd does not answer: mariadb has not answered within 3 s"]
    assert one.machines[2].database
    assert not one.machines[2].database.to_be_recovered


def test_a_node_without_a_cluster_has_no_position_yet(played: Played) -> None:
    played.galera("node3", wsrep_last_committed="18446744073709551615", wsrep_cluster_state_uuid=reports.NO_CLUSTER)
    database = found().machines[2].database
    assert database
    assert (database.position, database.cluster) == (None, None)


def test_no_database_is_primary_is_the_worst(played: Played) -> None:
    played.stop("node1", grastate=grastate(40))
    played.stop("node2", "failed", grastate=grastate(-1))
    played.stop("node3", grastate=grastate(41, left_last=1), gvwstate=None)
    one = found()
    assert words(one)[0] == "all: no database is in a primary component"
    assert "(node1 is at 40, node2 is at to be recovered, node3 is at 41)" in one.problems[0].do
    assert one.problems[0].do.endswith("If one never comes back: `stackctl database recover s`")
    assert len(one.problems) == 4


def test_no_database_that_can_be_asked_is_primary(played: Played) -> None:
    played.stop("node1", "activating", grastate=grastate(40), waits="waiting: nothing is known of node3\n")
    played.stop("node2", "activating", grastate=grastate(40), waits="waiting: nothing is known of node3\n")
    played.said["node3"] = SshError(GONE)
    one = found()
    assert words(one)[0] == "all: no database that can be asked is in a primary component"
    assert "`stackctl database recover s`" in one.problems[0].do


def test_two_clusters(played: Played) -> None:
    played.galera("node3", wsrep_cluster_state_uuid=OTHER_CLUSTER, wsrep_cluster_size="1")
    one = found()
    assert words(one)[0] == f"all: the databases are 2 clusters: node1, node2 in {CLUSTER}; node3 in {OTHER_CLUSTER}"
    assert f"cluster {OTHER_CLUSTER}: node3" in shown(one)


def test_all_are_primary_and_do_not_see_each_other(played: Played) -> None:
    played.galera("node3", wsrep_cluster_size="1")
    assert words(found()) == [
        "all: the cluster does not have all of its 3 nodes: node1 counts 3, node2 counts 3, node3 counts 1"
    ]


# -- Mycat --------------------------------------------------------------------------------------------------------


def test_a_mycat_that_does_not_run(played: Played) -> None:
    played.change("node2", "mycat", mycat={"state": "failed", "pid": "0"}, problem="OperationalError: refused")
    assert words(found()) == ["node2: mycat is failed"]


def test_a_mycat_that_does_not_answer(played: Played) -> None:
    played.change("node2", "mycat", problem="it has not answered in time")
    one = found()
    assert words(one) == ["node2: Mycat does not answer: it has not answered in time"]
    assert re.search(r"! node2 +active +it has not answered in time", shown(one))


# -- for programs, and for people ---------------------------------------------------------------------------------

#: Every field of `stackctl status --json`, and what it may be. A change here is a change for whoever reads it.
SHAPE = {
    "version": "int",
    "stack": "str",
    "whole": "bool",
    "problems": [{"machine": "str|null", "what": "str", "do": "str", "see": "str"}],
    "vip": {
        "address": "str",
        "ec2": {"machine": "str|null", "interface": "str|null", "error": "str|null"},
        "masters": ["str"],
        "on_device": ["str"],
        "agreed": "bool",
        "verdict": "str",
    },
    "machines": [
        {
            "name": "str",
            "address": "str",
            "roles": ["str"],
            "error": "str|null",
            "balancer": {
                "keepalived": "str",
                "haproxy": "str",
                "vrrp": "str",
                "claimed": "bool",
                "has_vip": "bool",
                "error": "str|null",
                "servers": [
                    {
                        "backend": "str",
                        "name": "str",
                        "state": "str",
                        "status": "str",
                        "reason": "str|null",
                        "sessions": "int",
                    }
                ],
                "certificate_expires": "str|null",
            },
            "database": {
                "mariadb": "str",
                "running": "bool",
                "error": "str|null",
                "cluster_status": "str|null",
                "local_state": "str|null",
                "cluster_size": "int|null",
                "ready": "bool|null",
                "read_only": "bool|null",
                "certificate_expires": "str|null",
                "queue": "int|null",
                "holds_writes": "bool",
                "cluster": "str|null",
                "position": "int|null",
                "to_be_recovered": "bool",
                "safe_to_bootstrap": "bool|null",
                "view": {"id": "str", "members": "int"},
                "waits": "str|null",
            },
            "mycat": {"mycat": "str", "answers": "bool", "reason": "str|null"},
            "backup": {
                "error": "str|null",
                "newest": "str|null",
                "begun": "str|null",
                "alarm_hours": "int|null",
                "tried": "str|null",
                "trial_problem": "str|null",
                "failed": ["str"],
            },
        }
    ],
}
#: Objects that may be null.
PARTS = {"balancer", "database", "mycat", "backup", "view"}


def fits(value: Any, shape: Any, place: str = "") -> None:
    if isinstance(shape, dict):
        if value is None:
            assert place.rpartition(".")[2] in PARTS, place
            return
        assert list(value) == list(shape), place
        for key, one in shape.items():
            fits(value[key], one, f"{place}.{key}")
    elif isinstance(shape, list):
        for one in value:
            fits(one, shape[0], place)
    else:
        assert (type(value).__name__ if value is not None else "null") in shape.split("|"), place


def keys(shape: Any) -> set[str]:
    if isinstance(shape, list):
        return keys(shape[0])
    return set(shape).union(*map(keys, shape.values())) if isinstance(shape, dict) else set()


def test_the_object_for_programs_is_as_it_was(played: Played) -> None:
    fits(json.loads(status.as_json(found())), SHAPE)
    played.said["node1"] = SshError("gone")
    played.stop("node3", "activating", grastate=grastate(-1), waits="waiting")
    played.interfaces = []
    units = {"run": "failed", "test": "inactive"}
    played.said["node2"]["backup"] = {"newest": "", "problem": "it is down", "units": units}
    one = json.loads(status.as_json(found()))
    fits(one, SHAPE)
    assert one["version"] == 1
    assert one["machines"][0]["balancer"] is None
    assert one["machines"][2]["database"]["view"]
    assert keys(SHAPE) == keys_of(one)


def keys_of(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    return set(value).union(*map(keys_of, value.values())) if isinstance(value, dict) else set()


def test_every_field_is_documented() -> None:
    text = (ROOT / "docs/stacks.md").read_text()
    section = text[text.index("## What `status --json` says") :].split("\n## ")[0]
    named = " ".join(re.findall("`([^`]+)`", section.partition("\n")[2]))
    assert keys(SHAPE) <= set(re.findall(r"\w+", named))


def test_what_to_read_is_there() -> None:
    sections = [value for value in vars(diagnosis).values() if isinstance(value, str) and value.startswith("docs/")]
    assert len(sections) >= 5
    for section in sections:
        file, _, anchor = section.partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], section


def test_tables_fit_into_100_columns(played: Played) -> None:
    played.said["node1"] = SshError("192.168.106.251, port 22 (through 198.51.100.7, port 22): no answer within 15 s")
    played.stop("node3", "activating", grastate=grastate(-1), waits="waiting: node1 is not here")
    played.change("node2", "lb", statistics=statistics(server("node3", "DOWN 1/2", **DOWN)))
    text = shown(found())
    assert max(map(len, text.splitlines()[:-1])) <= 100
    assert "…" not in text, "something is cut"


def test_the_worst_is_first_and_the_last_line_says_what_to_do(played: Played) -> None:
    played.change("node2", "mycat", problem="it has not answered in time")
    played.interfaces = []
    last = shown(found()).splitlines()[-1]
    assert last.startswith(f"stack s is NOT whole: {VIP}: nobody holds it")
    assert last.endswith("(docs/failover.md#when-the-vip-moves-and-when-it-does-not) (1 more above)")
    assert "Wait for vip.reconcileInterval" in last


def run_cli(monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stackctl", "status", "s", *more])
    return cli.main()


def test_exit_status(played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(monkeypatch) == 0
    assert "stack s is whole" in capsys.readouterr().out
    played.said["node3"] = SshError(GONE)
    assert run_cli(monkeypatch) == status.WRONG == 1
    assert f"node3: it cannot be asked: {GONE}" in " ".join(capsys.readouterr().out.split())


def test_json_is_all_that_is_printed(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played.said["node3"] = SshError(GONE)
    assert run_cli(monkeypatch, "--json") == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads(json.dumps(asdict(found())))
    assert said.err == ""
    assert "KEY" not in said.out


def test_what_cannot_be_asked_is_an_exit_status_of_its_own(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: object) -> None:
        raise StackError("no AWS credentials: log in")

    monkeypatch.setattr(status, "connect_stack", refused)
    assert run_cli(monkeypatch, "--json") == status.UNASKED == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no AWS credentials" in said.err


def test_incomplete_settings_are_said_in_words(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "settings_and_state", lambda _: ({"machines": []}, []))
    with pytest.raises(StackError, match=r"not complete.*'secrets'"):
        found()
