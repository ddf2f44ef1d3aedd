"""HTTP proxying: what the settings refuse, and what haproxy.cfg and the firewall make of them."""

from collections.abc import Callable
from typing import Any

import pytest

from components import cluster
from settings import Settings, SettingsError
from tests import example
from tests.example import EGRESS, INGRESS
from tests.unit.conftest import Run

Change = Callable[[dict[str, Any]], Any]


def with_http(change: Change | None = None) -> dict[str, Any]:
    raw = example.settings(example.static_and_dynamic)
    if change:
        change(raw["http"])
    return raw


def rendered(raw: dict[str, Any]) -> str:
    settings = Settings.parse(raw)
    return cluster.haproxy_cfg(settings, settings.machines[0], "secret-statistics")


def section(text: str, name: str) -> list[str]:
    """The lines of one section of haproxy.cfg, comments left out."""
    for block in text.split("\n\n"):
        lines = [line.strip() for line in block.splitlines() if not line.strip().startswith("#")]
        if lines and lines[0].startswith(name):
            return lines[1:]
    raise AssertionError(f"no section {name}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda http: http["rules"][0].update(backend="cdn"), ["http.rules[0].backend", "cdn", "static, dynamic"]),
        (lambda http: http.update(defaultBackend="cdn"), ["http.defaultBackend", "cdn", "static, dynamic"]),
        (lambda http: http.pop("defaultBackend"), ["http.defaultBackend"]),
        (lambda http: http.update(backends={}), ["http.backends"]),
        (lambda http: http["backends"].update(static={}), ["http.backends.static", "no servers"]),
        (lambda http: http["backends"]["static"].update(machines=["web9"]), ["machines[0]", "web9", "web1, web2"]),
        (lambda http: http["backends"]["static"].update(machines=["node3"]), ["machines[0]", "node3", "role web"]),
        (lambda http: http["backends"]["static"].update(machines=["web1", "web1"]), ["backends.static", "web1", "2"]),
        (
            lambda http: http["backends"]["static"].update(external=[{"name": "web1", "address": "10.0.0.1"}]),
            ["http.backends.static", "web1", "name of its own"],
        ),
        (
            lambda http: http["backends"]["static"].update(external=[{"name": "x", "address": "192.168.106.242"}]),
            ["http.backends.static.external[0].address", "192.168.106.242", "web2"],
        ),
        (
            lambda http: http["backends"].update(statistics={"machines": ["web1"]}),
            ["http.backends.statistics", "already"],
        ),
        (lambda http: http["backends"].update({"Bad Name": {"machines": ["web1"]}}), ["http.backends.Bad Name"]),
        (lambda http: http["rules"].append({"backend": "static"}), ["http.rules[2]", "matches nothing"]),
        (lambda http: http["rules"][0].update(pathPrefixes=["static"]), ["http.rules[0].pathPrefixes[0]", "static"]),
        (lambda http: http["rules"][0].update(pathPrefixes=["/a b"]), ["http.rules[0].pathPrefixes[0]", "/a b"]),
        (lambda http: http["rules"][0].update(pathPrefixes=["/a\nb"]), ["http.rules[0].pathPrefixes[0]"]),
        (lambda http: http["rules"][0].update(pathSuffixes=['.j"g']), ["http.rules[0].pathSuffixes[0]"]),
        (lambda http: http["rules"][0].update(pathSuffixes=[""]), ["http.rules[0].pathSuffixes[0]"]),
        (lambda http: http["rules"][0].update(hostPrefixes=["img. x"]), ["http.rules[0].hostPrefixes[0]", "img. x"]),
        (lambda http: http["rules"][0].update(hostPrefixes=["-f"]), ["http.rules[0].hostPrefixes[0]", "-f"]),
        (lambda http: http.update(port=8888), ["http.port", "haproxy.statistics.port", "8888"]),
        (lambda http: http.update(port=1099), ["http.port", "http.healthCheckPort", "1099"]),
        (lambda http: http.update(statistics={"port": 3306}), ["http.statistics.port", "haproxy.mysql.port"]),
        (lambda http: http.update(healthCheckPort=8889), ["http.healthCheckPort", "8889", "own health check"]),
        (lambda http: http.update(port=22), ["http.port", "22", "SSH"]),
        (lambda http: http.update(captures=[{"header": "Ho st", "length": 9}]), ["http.captures[0].header", "Ho st"]),
        (lambda http: http.update(captures=[{"header": "Host", "length": 0}]), ["http.captures[0].length"]),
        (lambda http: http.update(statistics={"uri": "/a\nb"}), ["http.statistics.uri"]),
        (
            lambda http: http["backends"]["static"].update(servers={"web2": {"backup": True}}),
            ["http.backends.static.servers.web2: no server of this name; there are web1"],
        ),
        (
            lambda http: http["backends"]["static"].update(servers={"web1": {"backup": True}}),
            ["http.backends.static.servers: all are backups"],
        ),
        (lambda http: http["backends"]["static"].update(balance="fair"), ["http.backends.static.balance"]),
        (lambda http: http.update(colour="red"), ["http.colour", "unknown key"]),
    ],
)
def test_contradictions_are_refused_by_name(change: Change, words: list[str]) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.parse(with_http(change))
    for word in words:
        assert word in str(refusal.value)


def test_without_the_section_there_is_nothing_of_it() -> None:
    text = rendered(example.settings())
    assert "http-in" not in text
    assert "1099" not in text
    assert "1080" not in text


def test_the_recipes_frontends_in_todays_syntax() -> None:
    text = rendered(with_http())
    front = section(text, "frontend http-in from http")
    for line in (
        "bind 192.168.106.249:80",
        "maxconn 4000",
        "option httpclose",
        "option logasap",
        "option forwardfor except 127.0.0.0/8",
        "capture request header Host len 20",
        "capture request header Referer len 60",
        "acl rule-1 path_beg -i -- '/static' '/images' '/javascript' '/stylesheets'",
        "acl rule-1 path_end -i -- '.jpg' '.gif' '.png' '.css' '.js' '.html'",
        "acl rule-1 hdr_beg(host) -i -- 'img.' 'imgs.' 'video.' 'videos.' 'ftp.' 'image.' 'download.'",
        "acl rule-2 path_end -i -- '.php'",
        "default_backend dynamic",
    ):
        assert line in front
    assert front.index("use_backend static if rule-1") < front.index("use_backend dynamic if rule-2")
    assert "option dontlognull" in section(text, "defaults common")
    assert "server web1 192.168.106.241:80" in section(text, "backend static")
    for line in ("balance roundrobin", "option http-server-close"):
        assert line in section(text, "backend static")
    assert any(line.endswith("rise 2 fall 3 maxconn 3000") for line in section(text, "backend static"))
    assert any(line.endswith("rise 2 fall 3 maxconn 1000") for line in section(text, "backend dynamic"))
    statistics = section(text, "listen http-statistics from http")
    for line in (
        "bind *:1080",
        "stats enable",
        "stats hide-version",
        "stats uri '/haproxyadmin?stats'",
        "stats realm 'Haproxy Statistics'",
        "stats auth 'admin:secret-statistics'",
        "stats admin if TRUE",
    ):
        assert line in statistics


def test_the_recipes_backend_and_a_check_that_asks_for_a_page() -> None:
    def one(http: dict[str, Any]) -> None:
        http["backends"] = {"servers": {"machines": ["web1", "web2"], "checkPath": "/ready"}}
        http.update(rules=[], defaultBackend="servers")

    assert section(rendered(with_http(one)), "backend servers from http") == [
        "balance roundrobin",
        "option http-server-close",
        "option httpchk",
        "http-check send meth GET uri '/ready' ver HTTP/1.1 hdr Host node1",
        "http-check expect status 200-399",
        "default-server check inter 2000ms rise 2 fall 3 maxconn 2000",
        "server web1 192.168.106.241:80",
        "server web2 192.168.106.242:80",
    ]


def test_the_health_check_fails_for_every_backend_that_requests_can_reach() -> None:
    def unused(http: dict[str, Any]) -> None:
        http["backends"]["next"] = {"machines": ["web1"], "port": 8080}

    health = section(rendered(with_http(unused)), "frontend healthcheck from http")
    assert "http-request deny deny_status 503 if { nbsrv(static) eq 0 }" in health
    assert "http-request deny deny_status 503 if { nbsrv(dynamic) eq 0 }" in health
    assert not any("nbsrv(next)" in line for line in health)
    for line in ("bind *:1099", "option httpclose", "option forwardfor except 127.0.0.0/8", "default_backend dynamic"):
        assert line in health


def test_a_quote_in_a_prefix_stays_a_character() -> None:
    front = section(rendered(with_http(lambda http: http["rules"][1].update(pathSuffixes=["/it's"]))), "frontend http")
    assert r"acl rule-2 path_end -i -- '/it'\''s'" in front


def test_the_firewall_lets_clients_to_the_balancers_and_only_those_to_the_web_servers(run_program: Run) -> None:
    def elsewhere(http: dict[str, Any]) -> None:
        server = {"address": "10.0.0.80", "port": 8080}
        http["backends"]["static"]["external"] = [{"name": "old", **server}]
        http["backends"]["dynamic"]["external"] = [{"name": "older", **server}]

    recorded = run_program(with_http(elsewhere))

    def openings(group: str) -> set[tuple[int | None, str]]:
        return {
            (rule.inputs.get("fromPort"), rule.inputs.get("cidrIpv4") or rule.inputs["referencedSecurityGroupId"])
            for rule in recorded.of_type(INGRESS)
            if rule.inputs["securityGroupId"] == group
        }

    assert openings("firewall-web-id") == {(80, "firewall-lb-id")}
    assert {(80, "10.20.0.0/24"), (1080, "10.30.0.0/24"), (1099, "10.30.0.0/24")} <= openings("firewall-lb-id")
    outside = [rule.inputs for rule in recorded.of_type(EGRESS) if rule.inputs.get("cidrIpv4") == "10.0.0.80/32"]
    assert [(rule["securityGroupId"], rule["fromPort"]) for rule in outside] == [("firewall-lb-id", 8080)]


def test_no_service_is_installed_on_a_web_machine(run_program: Run) -> None:
    """What every machine has is all that it has."""
    commands = [r.name for r in run_program(with_http()).of_type("command:remote:Command") if r.name.startswith("web")]
    of_all = (
        *("in-service", "leave-service-file", "metadata-rules-file", "metadata-unit-file", "nftables"),
        *("ready", "tools", "upgrades"),
    )
    assert sorted(commands) == [f"{web}-{command}" for web in ("web1", "web2") for command in of_all]


def test_a_backend_has_its_own_way_to_choose_a_server() -> None:
    def change(http: dict[str, Any]) -> None:
        other = {"name": "other", "address": "10.0.0.80"}
        shares = {"web1": {"weight": 20}, "other": {"backup": True}}
        http["backends"]["static"].update(balance="uri", external=[other], servers=shares)

    lines = section(rendered(with_http(change)), "backend static")
    assert "balance uri" in lines
    assert [line for line in lines if line.startswith("server ")] == [
        "server web1 192.168.106.241:80 weight 20",
        "server other 10.0.0.80:80 backup",
    ]
