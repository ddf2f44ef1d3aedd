"""What a load balancer gets: the recipe's settings in today's words, builds, files, and scripts that meet a failure."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import cluster, database
from components.template import render, verbatim
from settings import Settings, SettingsError
from tests import example
from tests.unit.conftest import Run
from tests.unit.test_http import section

#: By section: the recipe's words, and the line of haproxy.cfg that stands for them.
HAPROXY = {
    "global": {
        "log 127.0.0.1 local0 info": "log 127.0.0.1:514 local0 info",
        "maxconn 4096": "maxconn 4096",
        "chroot /var/lib/haproxy": "chroot /var/lib/haproxy",
        "user haproxy": "user haproxy",
        "group haproxy": "group haproxy",
        "stats socket": "stats socket /run/haproxy/admin.sock mode 600 level admin expose-fd listeners",
        "node": "node node1",
        "description": "description 'node1-haproxy'",
    },
    "defaults common": {
        "log global": "log global",
        "option dontlognull": "option dontlognull",
        "option redispatch": "option redispatch 1",
        "retries 3": "retries 3",
        "maxconn 2000": "maxconn 2000",
        "timeout http-request 10s": "timeout http-request 10000ms",
        "timeout queue 1m": "timeout queue 60000ms",
        "timeout connect 10s": "timeout connect 1000ms",
        "timeout client 1m": "timeout client 60000ms",
        "timeout server 1m": "timeout server 60000ms",
        "timeout http-keep-alive 10s": "timeout http-keep-alive 10000ms",
        "timeout check 10s": "timeout check 1000ms",
    },
    "defaults tcp from common": {"mode tcp": "mode tcp", "option tcplog": "option tcplog"},
    "defaults http from common": {
        "mode http": "mode http",
        "option httplog": "option httplog",
        "errorfiles": "errorfile 503 /etc/haproxy/errorfiles/503.http",
    },
    "listen statistics from http": {
        "bind *:8888": "bind *:8888",
        "stats enable": "stats enable",
        "stats auth admin:admin": "stats auth 'admin:secret-statistics'",
        "stats uri /admin?stats": "stats uri /admin?stats",
        "stats hide-version": "stats hide-version",
        "stats refresh 30s": "stats refresh 30000ms",
        "stats admin if TRUE": "stats admin if TRUE",
        "stats realm Hapadmin": "stats realm 'Hapadmin'",
    },
    "frontend mysql from tcp": {
        "bind *:3306": "bind 192.168.106.249:3306",
        "option tcpka": "option tcpka",
        "default_backend mysqlservers": "default_backend mysqlservers",
    },
    "backend mysqlservers from tcp": {
        "balance roundrobin": "balance roundrobin",
        "option tcpka": "option tcpka",
        "check port 3306": "tcp-check connect port 3306 linger",
        "the responder on 48700": """tcp-check send "GET "'/mysql'" HTTP/1.0\\r\\n\\r\\n\"""",
        "inter 2000ms rise 2 fall 3 weight 10 maxconn 400": "default-server check inter 500ms fastinter 250ms "
        "downinter 1000ms rise 2 fall 2 weight 10 maxconn 400 on-marked-down shutdown-sessions",
        "server mysql3": "server node3 192.168.106.253:3306 port 48700",
    },
    "frontend mycat from tcp": {
        "bind *:3307": "bind 192.168.106.249:3307",
        "option tcpka": "option tcpka",
        "listen mycat_servers": "default_backend mycat_servers",
    },
    "backend mycat_servers from tcp": {
        "balance roundrobin": "balance roundrobin",
        "option tcpka": "option tcpka",
        "option httpchk OPTIONS": "http-check send meth OPTIONS uri * ver HTTP/1.1 hdr Host www",
        "2xx": "http-check expect status 200",
        "server mycat_02": "server node2 192.168.106.252:8066 port 48700",
        "8066 itself": "http-check connect port 8066",
        "inter 2000ms rise 2 fall 3 weight 10 maxconn 400": "default-server check inter 2000ms fastinter 500ms "
        "rise 2 fall 3 weight 10 maxconn 400 on-marked-down shutdown-sessions",
    },
}
KEEPALIVED = {
    "router_id AcroUC-node1": "router_id node1",
    "interval 2": "interval 1",
    "state BACKUP": "state BACKUP",
    "interface eth0": "interface ens5",
    "mcast_src_ip 192.168.106.251": "unicast_src_ip 192.168.106.251",
    "virtual_router_id 249": "virtual_router_id 249",
    "priority 150": "priority 150",
    "nopreempt": "nopreempt",
    "advert_int 1": "advert_int 0.2",
    "VRRPv2": "vrrp_version 3",
    "virtual_ipaddress": "192.168.106.249/32 dev ens5",
    "track_script": "chk_haproxy",
    "notify_master": 'notify_master "/usr/local/lib/mycat-ha/vrrp-notify master"',
    "notify_backup": 'notify_backup "/usr/local/lib/mycat-ha/vrrp-notify backup"',
    "notify_fault": 'notify_fault "/usr/local/lib/mycat-ha/vrrp-notify fault"',
}
Change = Callable[[dict[str, Any]], Any]


def many_for_each(raw: dict[str, Any]) -> None:
    raw["haproxy"]["defaultMaxConnections"] = 30000


def haproxy_cfg(change: Change = example.with_mycat) -> str:
    settings = Settings.parse(example.settings(change))
    return cluster.haproxy_cfg(settings, settings.machines[0], "secret-statistics")


def render_galera() -> str:
    return database.configuration(
        "node1",
        addresses={"node1": "10.0.0.1"},
        cluster="test",
        database=Settings.parse(example.settings()).database,
        max_connections=500,
        mycat=False,
    )


def keepalived_conf(machine: int = 0) -> list[str]:
    settings = Settings.parse(example.settings())
    text = cluster.keepalived_conf(settings, settings.machines[machine], "ens5")
    return [line.strip() for line in text.splitlines() if not line.strip().startswith("#")]


@pytest.mark.parametrize(
    ("place", "line"),
    [
        pytest.param(place, line, id=f"{place.split(' from ')[0]}: {recipe}")
        for place, lines in HAPROXY.items()
        for recipe, line in lines.items()
    ],
)
def test_haproxy_has_the_recipes_setting(place: str, line: str) -> None:
    assert line in section(haproxy_cfg(), place)


def test_haproxy_has_nothing_of_what_is_gone() -> None:
    words = {word for line in haproxy_cfg().splitlines() if not line.strip().startswith("#") for word in line.split()}
    assert not words & {"nbproc", "daemon", "pidfile", "contimeout", "clitimeout", "srvtimeout"}


def test_without_a_mycat_nothing_listens_for_it() -> None:
    assert "mycat_servers" not in haproxy_cfg(lambda raw: None)


@pytest.mark.parametrize(
    ("changed", "place", "line"),
    [
        ({"maxConnections": 50000}, "global", "maxconn 50000"),
        ({"defaultMaxConnections": 9000}, "defaults common", "maxconn 9000"),
        ({"retries": 5}, "defaults common", "retries 5"),
        ({"hardStopAfter": 90}, "global", "hard-stop-after 90000ms"),
        ({"timeouts": {"connect": 10}}, "defaults common", "timeout connect 10000ms"),
        ({"statistics": {"port": 8009}}, "listen statistics", "bind *:8009"),
        ({"mysql": {"timeouts": {"client": 5000}}}, "frontend mysql", "timeout client 5000000ms"),
        ({"mysql": {"timeouts": {"server": 7200}}}, "backend mysqlservers", "timeout server 7200000ms"),
        ({"mycat": {"timeouts": {"client": 1000}}}, "frontend mycat", "timeout client 1000000ms"),
        ({"mycat": {"timeouts": {"server": 2000}}}, "backend mycat_servers", "timeout server 2000000ms"),
        ({"mysql": {"balance": "leastconn"}}, "backend mysqlservers", "balance leastconn"),
        ({"mycat": {"balance": "source"}}, "backend mycat_servers", "balance source"),
        (
            {"mysql": {"servers": {"node2": {"weight": 5}, "node3": {"weight": 0, "backup": True}}}},
            "backend mysqlservers",
            "server node2 192.168.106.252:3306 port 48700 weight 5",
        ),
        (
            {"mysql": {"servers": {"node2": {"weight": 5}, "node3": {"weight": 0, "backup": True}}}},
            "backend mysqlservers",
            "server node3 192.168.106.253:3306 port 48700 weight 0 backup",
        ),
        (
            {"mycat": {"servers": {"node1": {"backup": True}}}},
            "backend mycat_servers",
            "server node1 192.168.106.251:8066 port 48700 backup",
        ),
        ({"mycat": {"port": 8066}}, "frontend mycat", "bind 192.168.106.249:8066"),
        (
            {"mycat": {"weight": 20, "serverMaxConnections": 800, "check": {"inter": 1}}},
            "backend mycat_servers",
            "default-server check inter 1000ms rise 2 fall 3 weight 20 maxconn 800 on-marked-down shutdown-sessions",
        ),
    ],
)
def test_a_setting_changes_its_line(changed: dict[str, Any], place: str, line: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.with_mycat(raw)
        raw["haproxy"].update(changed)

    assert line in section(haproxy_cfg(change), place)


SQL_SECTIONS = {
    "frontend mysql": "client",
    "backend mysqlservers": "server",
    "frontend mycat": "client",
    "backend mycat_servers": "server",
}


@pytest.mark.parametrize("place", SQL_SECTIONS)
def test_sql_may_be_silent_for_longer_than_the_database_allows(place: str) -> None:
    """MariaDB's wait_timeout is 8 hours, and nothing here changes it."""
    (line,) = (line for line in section(haproxy_cfg(), place) if line.startswith("timeout"))
    assert int(line.removeprefix(f"timeout {SQL_SECTIONS[place]} ").removesuffix("ms")) > 8 * 3600 * 1000
    assert "wait_timeout" not in render_galera()


@pytest.mark.parametrize("place", SQL_SECTIONS)
def test_in_the_recipes_mode_sql_has_the_recipes_minute(place: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.with_mycat(raw)
        example.seed_mode(raw)

    assert f"timeout {SQL_SECTIONS[place]} 60000ms" in section(haproxy_cfg(change), place)


@pytest.mark.parametrize("changed", [{"maxConnections": 250_000}, {"defaultMaxConnections": 50_000}])
def test_haproxy_may_open_two_files_for_each_connection_that_the_settings_allow(changed: dict[str, Any]) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.static_and_dynamic(raw)
        example.with_mycat(raw)
        raw["haproxy"].update({"mysql": {"readPort": 3308}, **changed})
        raw["http"]["maxConnections"] = 50_000

    connections = re.search(r"^maxconn (\d+)$", "\n".join(section(haproxy_cfg(change), "global")), re.MULTILINE)
    limit = re.search(r"^LimitNOFILE=(\d+)$", verbatim("haproxy/haproxy.service"), re.MULTILINE)
    assert connections
    assert limit
    assert 2 * int(connections[1]) + 1000 < int(limit[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: None,
        example.with_mycat,
        example.static_and_dynamic,
        many_for_each,
        lambda raw: raw["haproxy"].update(mysql={"readPort": 3308}, defaultMaxConnections=9000),
    ],
)
def test_no_frontend_can_take_the_others_connections(change: Change) -> None:
    limits: dict[str, int] = {}
    name = ""
    for line in haproxy_cfg(change).splitlines():
        if line and not line.startswith((" ", "#")):
            name = line
        elif line.strip().startswith("maxconn "):
            limits[name] = int(line.split()[1])
    names = [line for line in haproxy_cfg(change).splitlines() if line.startswith(("frontend ", "listen "))]
    assert sum(limits.get(name, limits["defaults common"]) for name in names) <= limits["global"]


@pytest.mark.parametrize(
    ("section", "changed", "words"),
    [
        ("mysql", {"servers": {"x": {}}}, "mysql.servers.x: no server of this name; there are node1, node2, node3"),
        ("mycat", {"servers": {"node3": {}}}, "mycat.servers.node3: no server of this name; there are node1, node2"),
        ("mycat", {"servers": {f"node{n}": {"backup": True} for n in (1, 2)}}, "mycat.servers: all are backups"),
        ("mysql", {"servers": {"node1": {"weight": 257}}}, "mysql.servers.node1.weight: "),
        ("mysql", {"balance": "uri"}, "mysql.balance: "),
        ("mysql", {"singleWriter": True, "balance": "leastconn"}, "mysql.balance: with singleWriter"),
        ("mysql", {"singleWriter": True, "servers": {"node2": {"weight": 1}}}, "mysql.servers: with singleWriter"),
    ],
)  # fmt: skip
def test_shares_that_contradict_are_refused_by_name(section: str, changed: dict[str, Any], words: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        example.with_mycat(raw)
        raw["haproxy"][section] = changed

    with pytest.raises(SettingsError) as error:
        haproxy_cfg(change)
    assert f"mycat-ha:haproxy.{words}" in str(error.value)


def test_external_servers_have_shares_by_name() -> None:
    def change(raw: dict[str, Any]) -> None:
        example.external_databases(raw)
        raw["haproxy"]["mysql"] = {"servers": {"db2": {"weight": 3, "backup": True}}}

    servers = [line for line in section(haproxy_cfg(change), "backend mysqlservers") if line.startswith("server ")]
    assert servers == ["server db1 10.0.0.1:3306", "server db2 10.0.0.2:3306 weight 3 backup"]


def checked_elsewhere(**mysql: Any) -> Change:
    def change(raw: dict[str, Any]) -> None:
        example.external_databases(raw)
        raw["database"] |= {
            "externalWriterCheck": {"port": 9200},
            "externalReaderCheck": {"port": 9201, "path": "/replica"},
        }
        raw["haproxy"]["mysql"] = {"readPort": 3308, **mysql}

    return change


@pytest.mark.parametrize("single", [False, True])
def test_external_servers_say_who_may_write_and_who_may_be_read(single: bool) -> None:
    """What comes of it is in tests/rendering/test_writer.py."""
    text = haproxy_cfg(checked_elsewhere(singleWriter=single))
    writers, first = section(text, "backend mysqlservers"), section(text, "backend mysqlreaders")
    for asked, backend in (("'/'", writers), ("'/replica'", first)):
        checks = [line for line in backend if line.startswith("tcp-check ")]
        assert checks[:2] == ["tcp-check connect", rf'tcp-check send "GET "{asked}" HTTP/1.0\r\n\r\n"']
        assert checks[3] == "tcp-check connect port 3306 linger"
        assert b"probe\0" in bytes.fromhex(checks[5].split()[-1])
    check = "check inter 500ms fastinter 250ms downinter 1000ms rise 2 fall 2"
    backup = ["", " backup"] if single else ["", ""]
    assert [line for line in writers if line.startswith("server ")] == [
        f"server db{i} 10.0.0.{i}:3306 port 9200{backup[i - 1]}" for i in (1, 2)
    ]
    assert [line for line in first if line.startswith("server ")] == [
        f"server db{i} 10.0.0.{i}:3306 {check} port 9201{backup[-i]}" for i in (1, 2)
    ]
    if single:
        others = section(text, "backend mysqlreaders-db2")
        assert not [line for line in others if "tcp-check" in line]
        assert [line for line in others if line.startswith("server ")] == [
            f"server db{i} 10.0.0.{i}:3306 track mysqlreaders-db1/db{i}{backup[i - 1]}" for i in (1, 2)
        ]


def test_a_name_is_asked_for_and_what_is_known_stays() -> None:
    """What comes of it is in tests/rendering/test_names.py."""

    def change(raw: dict[str, Any]) -> None:
        checked_elsewhere(singleWriter=True)(raw)
        raw["database"]["external"][1] = {"name": "db2", "host": "db.example.com", "within": ["10.0.0.0/24"]}

    text = haproxy_cfg(change)
    machine = section(text, "resolvers machine")
    assert "parse-resolv-conf" in machine
    assert {"hold timeout 20d", "hold refused 20d", "hold other 20d"} < set(machine)
    assert "server-state-file /run/haproxy/servers" in section(text, "global")
    for backend in ("mysqlservers", "mysqlreaders-db1", "mysqlreaders-db2"):
        lines = section(text, f"backend {backend}")
        assert "load-server-state-from-file global" in lines
        assert "default-server resolvers machine resolve-prefer ipv4 init-addr last,none" in lines
        assert [line.split()[2] for line in lines if line.startswith("server ")] == [
            "10.0.0.1:3306",
            "db.example.com:3306",
        ]
    text = haproxy_cfg(checked_elsewhere(singleWriter=True))
    assert "resolvers" not in text
    # Also of who may write.
    assert "load-server-state-from-file global" in section(text, "backend mysqlservers")
    for without in (haproxy_cfg(), haproxy_cfg(example.external_databases)):
        assert not {"resolvers", "server-state-file", "load-server-state-from-file"} & set(without.split())


def test_without_a_user_only_the_health_port_is_asked() -> None:
    def change(raw: dict[str, Any]) -> None:
        checked_elsewhere()(raw)
        del raw["database"]["externalCheckUser"], raw["database"]["externalReaderCheck"]

    text = haproxy_cfg(change)
    checks = [line.split()[1] for line in section(text, "backend mysqlservers") if line.startswith("tcp-check ")]
    assert checks == ["connect", "send", "expect"]
    assert "server db1 10.0.0.1:3306 track mysqlservers/db1" in section(text, "backend mysqlreaders")


@pytest.mark.parametrize(
    ("check", "seconds"), [({"inter": 0.5}, 2.5), ({"inter": 5}, 7), ({"inter": 0.05}, 2.05)], ids=str
)
def test_a_session_waits_until_every_external_server_was_asked(check: dict[str, float], seconds: float) -> None:
    text = haproxy_cfg(checked_elsewhere(singleWriter=True, check=check))
    assert f"tcp-request inspect-delay {seconds * 1000:.0f}ms" in section(text, "backend mysqlservers")


def single_writer(failback: bool) -> Change:
    return lambda raw: raw["haproxy"].update(mysql={"singleWriter": True, "singleWriterFailback": failback})


@pytest.mark.parametrize("failback", [False, True])
def test_a_single_writer_has_the_others_behind_it(failback: bool) -> None:
    backend = section(haproxy_cfg(single_writer(failback)), "backend mysql")
    ends_others = ["on-marked-up", "shutdown-backup-sessions"] if failback else []
    assert [line.split()[1:] for line in backend if line.startswith("server ")] == [
        ["node1", "192.168.106.251:3306", "port", "48700", *ends_others],
        ["node2", "192.168.106.252:3306", "port", "48700", "backup"],
        ["node3", "192.168.106.253:3306", "port", "48700", "backup"],
    ]


@pytest.mark.parametrize("failback", [False, True])
def test_who_writes_is_known_to_all_balancers_and_stays(failback: bool) -> None:
    """How that works out is in tests/rendering/test_writer.py."""
    text = haproxy_cfg(single_writer(failback))
    assert "localpeer node1" in section(text, "global")
    assert section(text, "peers balancers") == [
        "bind 192.168.106.251:8890",
        "server node1",
        "server node2 192.168.106.252:8890",
    ]
    backend = section(text, "backend mysql")
    assert "stick-table type integer size 1m peers balancers" in backend
    (redispatch,) = (line for line in backend if line.startswith("option redispatch "))
    assert int(redispatch.split()[-1]) > 100  # the most that haproxy.retries may be
    condition = " !{ srv_is_up(mysqlservers/node1) }" if failback else ""
    assert [line for line in backend if line.startswith("use-server ")] == [
        f"use-server {node} if {{ srv_conn(mysqlservers/{node}) gt 0 }}{condition}"
        for node in ("node1", "node2", "node3")[1 if failback else 0 :]
    ]
    # A session waits until the table is known, but not where the first server is the writer whenever it works.
    at_once = ["{ srv_is_up(mysqlservers/node1) }"] if failback else []
    assert [line.partition(" accept if ")[2] for line in backend if line.startswith("tcp-request content ")] == [
        "{ int(1),in_table(mysqlservers) }",
        *at_once,
        "WAIT_END",
    ]


def reads(**mysql: Any) -> Change:
    return lambda raw: raw["haproxy"].update(mysql={"readPort": 3308, **mysql})


def test_reads_go_to_all_databases_by_the_checks_of_the_others() -> None:
    text = haproxy_cfg(reads(timeouts={"client": 7200, "server": 7300}))
    assert section(text, "frontend mysqlread") == [
        "bind 192.168.106.249:3308",
        "timeout client 7200000ms",
        "option tcpka",
        "tcp-request inspect-delay 4000ms",
        "tcp-request content lua.wait_for_server mysqlreaders 3000 unless { nbsrv(mysqlreaders) gt 0 }",
        "default_backend mysqlreaders",
    ]
    assert section(text, "backend mysqlreaders") == [
        "balance leastconn",
        "timeout server 7300000ms",
        "option tcpka",
        "default-server weight 10 maxconn 400 on-marked-down shutdown-sessions",
        *(f"server node{i} 192.168.106.25{i}:3306 track mysqlservers/node{i}" for i in (1, 2, 3)),
    ]
    assert "balance roundrobin" in section(haproxy_cfg(reads(readBalance="roundrobin")), "backend mysqlreaders")
    assert "mysqlread" not in haproxy_cfg()


@pytest.mark.parametrize("single_writer", [False, True])
def test_the_databases_are_told_who_asks_if_that_is_wanted(single_writer: bool) -> None:
    """And Mycat, which does not know how, is not."""

    def change(raw: dict[str, Any]) -> None:
        example.with_mycat(raw)
        raw["haproxy"]["mysql"] = {"proxyProtocol": True, "readPort": 3308, "singleWriter": single_writer}

    text = haproxy_cfg(change)
    told = set()
    for name in re.findall(r"^backend (\S+)", text, re.MULTILINE):
        (servers,) = (line for line in section(text, f"backend {name} ") if line.startswith("default-server "))
        if servers.endswith(" send-proxy-v2"):
            told.add(name)
    readers = [f"mysqlreaders-node{i}" for i in (1, 2, 3)] if single_writer else ["mysqlreaders"]
    assert told == {"mysqlservers", *readers}
    assert "send-proxy" not in haproxy_cfg(example.with_mycat)


@pytest.mark.parametrize("failback", [False, True])
def test_the_writer_is_the_last_resort_of_reads(failback: bool) -> None:
    text = haproxy_cfg(reads(singleWriter=True, singleWriterFailback=failback))
    first = ["use_backend mysqlreaders-node1 if { srv_is_up(mysqlservers/node1) }"] if failback else []
    assert section(text, "frontend mysqlread")[4:] == [
        "tcp-request content lua.wait_for_server mysqlreaders-node1 3000 unless { nbsrv(mysqlreaders-node1) gt 0 }",
        *first,
        *(
            f"use_backend mysqlreaders-node{i} if {{ int(1),table_server_id(mysqlservers) -m int {i} }}"
            for i in (1, 2, 3)
        ),
        "default_backend mysqlreaders-node1",
    ]
    for writer in ("node1", "node2", "node3"):
        servers = [line for line in section(text, f"backend mysqlreaders-{writer}") if line.startswith("server ")]
        assert len(servers) == 3
        assert [line.split()[1] for line in servers if line.endswith(" backup")] == [writer]


def test_without_a_single_writer_there_is_nothing_of_it() -> None:
    assert not {"peers", "stick-table", "use-server", "localpeer"} & set(haproxy_cfg().split())


@pytest.mark.parametrize("recipe", KEEPALIVED)
def test_keepalived_has_the_recipes_setting(recipe: str) -> None:
    assert KEEPALIVED[recipe] in keepalived_conf()


def test_keepalived_has_nothing_of_what_is_gone() -> None:
    words = {word for line in keepalived_conf() for word in line.split()}
    gone = {"notificationd", "weight", "mcast_src_ip", "authentication", "auth_pass", "label", "notification_email"}
    assert not words & gone


def test_the_second_keepalived_differs_in_the_recipes_lines() -> None:
    first, second = set(keepalived_conf()), set(keepalived_conf(1))
    assert second - first == {"router_id node2", "priority 100", "unicast_src_ip 192.168.106.252", "192.168.106.251"}


# -- builds and files ---------------------------------------------------------------------------------------------

#: By software: version and checksum of the example, packages, and what is done with the archive, in this order.
BUILDS: dict[str, tuple[str, str, set[str], list[str]]] = {
    "haproxy": (
        "3.0.11",
        "a" * 64,
        {"build-essential", "libssl-dev", "libpcre2-dev", "liblua5.4-dev", "zlib1g-dev"},
        [
            (
                'make -j"$(nproc)" TARGET=linux-glibc USE_OPENSSL=1 USE_PCRE2=1 USE_PCRE2_JIT=1 USE_ZLIB=1 USE_LUA=1 '
                "USE_PROMEX=1 USE_SYSTEMD=1"
            ),
            'make install-bin install-man PREFIX="$PREFIX"',
            'cp -r examples/errorfiles "$PREFIX/errorfiles"',
        ],
    ),
    "keepalived": (
        "2.3.4",
        "b" * 64,
        {"build-essential", "libssl-dev"},
        [
            (
                './configure --prefix="$PREFIX" --sysconfdir="$PREFIX/etc" --with-init=systemd '
                '--with-systemdsystemunitdir="$PREFIX/lib/systemd" --disable-lvs --disable-nftables --disable-iptables'
            ),
            'make -j"$(nproc)"',
            "make install",
        ],
    ),
}
#: By resource: path, mode, and words of the commands that judge it and put it in force.
FILES = {
    "haproxy-config": (
        "/etc/haproxy/haproxy.cfg",
        "0600",
        ["/opt/software/prefix/sbin/haproxy -c -f", "/usr/local/lib/mycat-ha/reload-haproxy"],
    ),
    "haproxy-rsyslog": ("/etc/rsyslog.d/49-haproxy.conf", "0644", ["rsyslogd -N 1", "systemctl restart rsyslog"]),
    "haproxy-logrotate": ("/etc/logrotate.d/haproxy", "0644", ["logrotate --debug"]),
    "haproxy-sysctl": ("/etc/sysctl.d/90-mycat-ha.conf", "0644", ["sysctl --quiet --load=/etc/sysctl.d/"]),
    "keepalived-config": (
        "/etc/keepalived/keepalived.conf",
        "0600",
        ["/opt/software/prefix/sbin/keepalived --config-test", "systemctl reload keepalived"],
    ),
    "keepalived-check-haproxy": ("/usr/local/lib/mycat-ha/check-haproxy", "0755", ["bash -n"]),
}


@pytest.mark.parametrize("software", BUILDS)
def test_software_is_built_as_in_the_recipe(run_program: Run, software: str) -> None:
    version, checksum, packages, steps = BUILDS[software]
    script = shlex.split(run_program().named(f"node1-{software}-build").inputs["create"])[-1]
    installed = re.search(r"/usr/local/lib/mycat-ha/install-packages (.*?) >>", script)
    assert installed is not None
    assert packages <= set(installed[1].split())
    lines = [line.strip() for line in script.splitlines()]
    prefix = rf"export PREFIX=/opt/{software}/{re.escape(version)}-[0-9a-f]{{12}}-\$ID\$VERSION_ID"
    assert [line for line in lines if re.fullmatch(prefix, line)]
    places = [lines.index(step) for step in (f'if [ "$found" != {checksum} ]; then', *steps)]
    assert places == sorted(places)


def test_each_file_is_judged_and_put_in_force(run_program: Run) -> None:
    recorded = run_program()
    for name, (path, mode, commands) in FILES.items():
        words = shlex.split(recorded.named(f"node1-{name}-file").inputs["create"])
        install = words.index("/usr/local/lib/mycat-ha/install-file")
        assert words[install + 1 : install + 4] == [path, mode, "root:root"]
        for command in commands:
            assert any(command in word for word in words[install + 4 :]), (name, command)


def test_keepalived_is_on_the_device_that_the_machine_named(run_program: Run) -> None:
    assert "\n    interface ens5\n" in run_program().named("node1-keepalived-config-file").stdin


def test_a_machine_that_is_gone_without_a_word_is_noticed_within_a_minute() -> None:
    """Whatever a balancer, a Mycat or a database has open to it, silent or with something on its way (tcp(7))."""
    for file in ("haproxy/sysctl.conf", "mycat/sysctl.conf"):
        known = dict(re.findall(r"^net\.ipv4\.(tcp_\w+) = (\d+)$", verbatim(file), re.MULTILINE))
        assert _silent(known, "tcp_keepalive_intvl") < 60
        assert _on_its_way(known) < 60
    assert (
        _silent(dict(re.findall(r"^(tcp_\w+) = (\d+)$", render_galera(), re.MULTILINE)), "tcp_keepalive_interval") < 60
    )
    assert _on_its_way(dict(re.findall(r"(tcp_\w+) = (\d+)$", verbatim("mariadb/sysctl.conf"), re.MULTILINE))) < 60


def _silent(known: dict[str, str], interval: str) -> int:
    return int(known["tcp_keepalive_time"]) + int(known["tcp_keepalive_probes"]) * int(known[interval])


def _on_its_way(known: dict[str, str]) -> float:
    """The first try is repeated after 0.2 s, and each time after twice as long."""
    return 0.2 * ((2 << int(known["tcp_retries2"])) - 1)


def test_haproxy_is_a_supervised_service() -> None:
    lines = verbatim("haproxy/haproxy.service").splitlines()
    assert {"Type=notify", "Restart=always", "WantedBy=multi-user.target"} <= set(lines)
    start = next(line for line in lines if line.startswith("ExecStart="))
    assert " -Ws " in start
    assert " -p /run/haproxy/haproxy.pid " in start


def test_the_logs_size_is_looked_at_every_ten_minutes(run_program: Run) -> None:
    command = run_program().named("node1-haproxy-logrotate-timer-file")
    assert "OnCalendar=*:0/10" in command.stdin
    assert "/etc/systemd/system/logrotate.timer.d/mycat-ha.conf" in command.inputs["create"]
    assert "systemctl restart logrotate.timer" in command.inputs["create"]
    assert "maxsize 100M" in verbatim("haproxy/logrotate")


def test_the_log_is_rotated_daily() -> None:
    lines = [line.strip() for line in verbatim("haproxy/logrotate").splitlines()]
    assert lines[:2] == ["/var/log/haproxy.log {", "daily"]


# -- scripts ------------------------------------------------------------------------------------------------------


#: Writes down how it was called; fails if that was refused.
STUB = """#!/bin/bash
echo "${{0##*/}} $*" >>{root}/calls
words=$(<{root}/refused)
[[ -z $words || "${{0##*/}} $*" != "$words"* ]]
"""


class Machine:
    """A folder in place of a machine's root, and commands that do nothing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for folder in ("bin", "etc/haproxy", "etc/systemd/system", "usr/local/sbin", "run"):
            (root / folder).mkdir(parents=True)
        for software in BUILDS:
            (root / "opt" / software).mkdir(parents=True)
            (root / f"etc/systemd/system/{software}.service").touch()
        (root / "usr/local/lib/mycat-ha").mkdir(parents=True)
        library = ("usr/local/lib/mycat-ha/claim-vip", "usr/local/lib/mycat-ha/vrrp-state")
        for command in ("bin/curl", "bin/journalctl", "bin/logger", "bin/sleep", "bin/systemctl", *library):
            stub = root / command
            stub.write_text(STUB.format(root=root))
            stub.chmod(0o755)
        self.refuse()

    def refuse(self, words: str = "") -> None:
        """From now on commands that begin with ``words`` fail."""
        (self._root / "refused").write_text(words)

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        (self._root / "calls").write_text("")
        script = re.sub(r"(?<![\w./])/(etc|usr/local|opt|run)/", rf"{self._root}/\1/", script)
        environment = {**os.environ, "PATH": f"{self._root}/bin:{os.environ['PATH']}"}
        argv = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    def calls(self, command: str) -> list[str]:
        lines = (self._root / "calls").read_text().splitlines()
        return [line.removeprefix(f"{command} ") for line in lines if line.startswith(f"{command} ")]

    def link(self, path: str) -> str:
        return str((self._root / path).readlink()).removeprefix(str(self._root))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


def start(software: str, build: str) -> str:
    return render(f"{software}/start.sh.j2", prefix=f"/opt/{software}/{build}", health_port=8889, seconds=3)


@pytest.mark.parametrize("software", BUILDS)
def test_a_new_build_is_switched_to_and_started_once(machine: Machine, software: str) -> None:
    for build, restarts in (("1", 1), ("1", 0), ("2", 1)):
        done = machine.run(start(software, build))
        assert done.returncode == 0, done.stderr
        assert machine.calls("systemctl").count(f"restart {software}") == restarts
        assert f"enable --quiet {software}" in machine.calls("systemctl")
        assert machine.link(f"opt/{software}/current") == f"/opt/{software}/{build}"
        assert machine.link(f"usr/local/sbin/{software}") == f"/opt/{software}/{build}/sbin/{software}"
    if software == "haproxy":
        assert machine.link("etc/haproxy/errorfiles") == "/opt/haproxy/2/errorfiles"


def test_a_haproxy_that_does_not_answer_is_a_failure(machine: Machine) -> None:
    machine.run(start("haproxy", "1"))
    machine.refuse("curl")
    done = machine.run(start("haproxy", "2"))
    assert done.returncode == 1
    assert "HAProxy does not answer; its last words:" in done.stderr
    assert machine.link("opt/haproxy/current") == "/opt/haproxy/1"
    assert machine.calls("systemctl")[-1] == "restart haproxy"


def test_a_keepalived_that_does_not_run_is_a_failure(machine: Machine) -> None:
    machine.refuse("systemctl is-active")
    done = machine.run(start("keepalived", "1"))
    assert done.returncode == 1
    assert "keepalived does not run; its last words:" in done.stderr


def test_up_waits_until_the_master_has_the_vip_and_fails_if_that_does_not_come_to_pass(machine: Machine) -> None:
    machine.refuse("claim-vip settled")
    done = machine.run(start("keepalived", "1"))
    assert done.returncode == 1
    assert "the virtual IP is nobody's or not the master's" in done.stderr
    assert machine.calls("claim-vip") == ["settled"] * 4
    machine.refuse()
    assert machine.run(start("keepalived", "1")).returncode == 0
    assert machine.calls("claim-vip") == ["settled"] * 2
