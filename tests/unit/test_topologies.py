"""Other shapes than the recipe's: dedicated tiers, databases elsewhere, more balancers; mail and the seed mode."""

import json
import re
from typing import Any

import pytest

from components import cluster
from settings import Role, Settings, SettingsError
from tests import example
from tests.example import EGRESS, INGRESS
from tests.unit.conftest import Recorder, Run


def rules(recorded: Recorder, kind: str, group: str) -> set[tuple[str, Any, str]]:
    """Protocol, port and peer of a group's rules."""
    return {
        (
            rule.inputs["ipProtocol"],
            rule.inputs.get("fromPort"),
            rule.inputs.get("cidrIpv4") or rule.inputs["referencedSecurityGroupId"],
        )
        for rule in recorded.of_type(kind)
        if rule.inputs["securityGroupId"] == f"firewall-{group}-id"
    }


def test_dedicated_tiers_share_no_group(run_program: Run) -> None:
    recorded = run_program(example.settings(example.dedicated_tiers))
    groups = {r.name: r.inputs["securityGroups"] for r in recorded.of_type("aws:ec2/networkInterface:NetworkInterface")}
    assert groups["lb1-eni"] == groups["lb2-eni"] == ["firewall-machine-id", "firewall-lb-id"]
    assert groups["db1-eni"] == groups["db3-eni"] == ["firewall-machine-id", "firewall-mysql-id"]
    assert ("tcp", 3306, "firewall-lb-id") in rules(recorded, INGRESS, "mysql")
    assert not any(peer.startswith("10.") for _, _, peer in rules(recorded, INGRESS, "mysql"))
    names = [command.name for command in recorded.of_type("command:remote:Command")]
    assert not [name for name in names if name.startswith("lb") and "mariadb" in name]
    assert not [name for name in names if name.startswith("db") and ("haproxy" in name or "keepalived" in name)]


def test_external_databases_are_the_only_ones_that_balancers_reach(run_program: Run) -> None:
    recorded = run_program(example.settings(example.external_databases))
    assert {r.name for r in recorded.of_type("aws:ec2/securityGroup:SecurityGroup")} == {
        "firewall-machine",
        "firewall-lb",
    }
    assert rules(recorded, EGRESS, "lb") == {
        ("112", None, "firewall-lb-id"),
        ("tcp", 3306, "10.0.0.1/32"),
        ("tcp", 3306, "10.0.0.2/32"),
    }
    settings = Settings.parse(example.settings(example.external_databases))
    text = cluster.haproxy_cfg(settings, settings.machines[0], "secret-statistics")
    assert "server db2 10.0.0.2:3306" in text
    assert "option mysql-check user probe\n" in text


def test_balancers_reach_the_ports_that_say_who_may_write(run_program: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.external_databases(raw)
        raw["database"]["external"].append({"name": "db3", "address": "10.0.0.2", "port": 3307})
        raw["database"] |= {
            "externalCheckUser": None,
            "externalWriterCheck": {"port": 9200},
            "externalReaderCheck": {"port": 3307, "path": "/reader"},
        }
        raw["haproxy"]["mysql"] = {"readPort": 3308}

    recorded = run_program(example.settings(change))
    made = [r for r in recorded.of_type(EGRESS) if "10.0.0." in str(r.inputs.get("cidrIpv4"))]
    assert sorted((r.inputs["cidrIpv4"], r.inputs["fromPort"]) for r in made) == [
        ("10.0.0.1/32", 3306),
        ("10.0.0.1/32", 3307),
        ("10.0.0.1/32", 9200),
        ("10.0.0.2/32", 3306),
        ("10.0.0.2/32", 3307),
        ("10.0.0.2/32", 9200),
    ]


def test_balancers_reach_where_the_addresses_of_a_name_may_be(run_program: Run) -> None:
    """Two of them in one place make one rule."""
    group, own = "sg-0123456789abcdef0", "10.0.8.7/32"

    def change(raw: dict[str, Any]) -> None:
        example.external_databases(raw)
        within = ["10.0.8.0/24", own]
        raw["database"] = {
            "external": [
                {"name": "a", "host": "a.example.com", "within": within},
                {"name": "b", "host": "b.example.com", "within": within, "securityGroup": group},
                {"name": "c", "host": "c.example.com", "securityGroup": group, "port": 3307},
                {"name": "d", "address": "10.0.8.7"},
            ],
            "externalWriterCheck": {"port": 9200},
        }

    recorded = run_program(example.settings(change))
    assert sorted(rules(recorded, EGRESS, "lb"), key=str) == [
        ("112", None, "firewall-lb-id"),
        *(("tcp", port, place) for port, place in ((3306, "10.0.8.0/24"), (3306, own), (3306, group))),
        ("tcp", 3307, group),
        *(("tcp", 9200, place) for place in ("10.0.8.0/24", own, group)),
    ]
    # The other half is its owner's.
    assert group not in {r.inputs["securityGroupId"] for r in recorded.of_type(INGRESS)}


def test_more_balancers_than_two(run_program: Run) -> None:
    raw = example.settings(example.four_balancers)
    settings = Settings.parse(raw)
    balancers = settings.of_role(Role.LB)
    assert [settings.priority(balancer) for balancer in balancers] == [150, 100, 90, 80]
    for balancer in balancers:
        text = cluster.keepalived_conf(settings, balancer, "ens5")
        peers = re.search(r"unicast_peer \{(.*?)\}", text, re.DOTALL)
        assert peers is not None
        assert peers[1].split() == [str(peer.address) for peer in balancers if peer is not balancer]

    recorded = run_program(raw)
    statements = json.loads(recorded.named("cluster-vip-policy").inputs["policy"])["Statement"]
    write = next(s for s in statements if "Assign" in s["Action"])
    assert {arn.rsplit("/", 1)[1] for arn in write["Resource"]} == {f"{balancer.name}-eni" for balancer in balancers}
    better = [
        found[1].split()
        for r in recorded.of_type("command:remote:Command")
        if (found := re.search(r"BETTER='?([^'\\]*)", str(r.inputs.get("stdin"))))
    ]
    interfaces = [f"{balancer.name}-eni-id" for balancer in balancers]
    assert sorted(better, key=len) == [[], interfaces[:1], interfaces[:2], interfaces[:3]]


def test_eleven_balancers_have_eleven_priorities() -> None:
    def many(raw: dict[str, Any]) -> None:
        raw["machines"] += [{"name": f"lb{i}", "address": f"192.168.106.{140 + i}", "roles": ["lb"]} for i in range(9)]

    settings = Settings.parse(example.settings(many))
    priorities = [settings.priority(balancer) for balancer in settings.of_role(Role.LB)]
    assert len(set(priorities)) == len(priorities) == 11


def test_mail_names_everybody_and_may_leave(run_program: Run) -> None:
    raw = example.settings(example.mail)
    settings = Settings.parse(raw)
    text = cluster.keepalived_conf(settings, settings.machines[0], "ens5")
    lines = [line.strip() for line in text.splitlines()]
    for line in (
        "router_id node1",
        "ops@example.com",
        "dba@example.com",
        "notification_email_from vrrp@example.com",
        "smtp_server 10.0.0.25 25",
        "smtp_connect_timeout 30",
        "smtp_alert",
    ):
        assert line in lines
    assert ("tcp", 25, "10.0.0.25/32") in rules(run_program(raw), EGRESS, "lb")


@pytest.mark.parametrize(
    "address", ["a#b@example.com", "a!b@example.com", "$x@example.com", "a b@example.com", 'a"@example.com', "nobody"]
)
def test_an_address_that_keepalived_would_read_as_something_else_is_refused(address: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.mail(raw)
        raw["keepalived"]["mail"]["to"] = [address]

    with pytest.raises(SettingsError, match=r"keepalived\.mail\.to\[0\]"):
        Settings.parse(example.settings(change))


def test_more_addresses_than_keepalived_has_room_for_are_refused() -> None:
    def change(raw: dict[str, Any]) -> None:
        example.mail(raw)
        raw["keepalived"]["mail"]["to"] = [f"operator-number-{i}@operations.example.com" for i in range(20)]

    with pytest.raises(SettingsError, match=r"keepalived\.mail: to: too many"):
        Settings.parse(example.settings(change))


@pytest.mark.parametrize("password", ["pa ss", "11#11", "11!11", '"1111"', "$x"])
def test_a_vrrp_password_that_keepalived_would_cut_is_refused(password: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.seed_mode(raw)
        raw["secrets"]["vrrp"] = password

    with pytest.raises(SettingsError, match=r"secrets\.vrrp: only letters"):
        Settings.parse(example.settings(change))


def test_the_seed_mode_is_the_recipes() -> None:
    settings = Settings.parse(example.settings(example.seed_mode))
    text = cluster.keepalived_conf(settings, settings.machines[0], "ens5", "1111")
    lines = [line.strip() for line in text.splitlines()]
    for line in (
        "vrrp_version 2",
        "state BACKUP",
        "nopreempt",
        "interval 2",
        "virtual_router_id 249",
        "priority 150",
        "advert_int 1",
        "auth_type PASS",
        "auth_pass 1111",
        "192.168.106.249/32 dev ens5 label ens5:0",
    ):
        assert line in lines
    assert not any(line.startswith("weight") for line in lines)
