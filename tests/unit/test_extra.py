"""Lines that a user adds: literally where they belong, and refused by key where they contradict the stack's own."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import cluster, database
from settings import Settings, SettingsError, extra
from tests import example
from tests.unit.test_http import section

#: Of the stack's own lines in haproxy.cfg, what a user may have more of.
FURTHER = ("log ", "acl ", "http-request ", "tcp-request ", "capture ", "use_backend ", "lua-load ")
#: Around lines of the stack's; nobody can add these.
CONDITIONS = (".if ", ".endif")
PREFIXES = ("", "loose-", "skip_", "enable-", "disable_", "maximum-", "autoset-", "loose_skip-", "skip-loose-")


def everything(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    example.static_and_dynamic(raw)
    raw["haproxy"]["mysql"] = {"singleWriter": True, "singleWriterFailback": True, "readPort": 3308}
    example.mail(raw)


def recipe(raw: dict[str, Any]) -> None:
    example.seed_mode(raw)
    example.mail(raw)


def settings(place: str, lines: Any, change: Any = everything) -> Settings:
    """``place``: the key of ``lines``, as in ``haproxy.extra.global``."""
    raw = example.settings(change)
    *parents, last = place.split(".")
    where = raw
    for key in parents:
        where = where.setdefault(key, {})
    where[last] = lines
    return Settings.parse(raw)


def refused(place: str, lines: Any, change: Any = everything) -> str:
    with pytest.raises(SettingsError) as error:
        settings(place, lines, change)
    return str(error.value)


def haproxy_cfg(wanted: Settings) -> str:
    return cluster.haproxy_cfg(wanted, wanted.machines[0], "secret")


def keepalived_conf(wanted: Settings) -> str:
    return cluster.keepalived_conf(wanted, wanted.machines[0], "ens5", "secret")


def galera_cnf(wanted: Settings) -> str:
    addresses = {f"node{number}": f"10.0.0.{number}" for number in (1, 2, 3)}
    return database.configuration(
        "node1", addresses=addresses, cluster="test", database=wanted.database, max_connections=500, mycat=True
    )


MADE = {"database": galera_cnf, "haproxy": haproxy_cfg, "keepalived": keepalived_conf}


@cache
def without_extra(program: str) -> list[str]:
    return MADE[program](Settings.parse(example.settings(everything))).split("\n")


def own_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def stacks_lines() -> Iterator[tuple[str, str]]:
    """Every line of the stack's own in a section that lines can be added to, with the key of that section."""
    place = ""
    keys = {"backend": 1, "frontend": 1, "listen": 1, "global": 0}
    for line in own_lines(haproxy_cfg(Settings.parse(example.settings(everything)))):
        words = line.split()
        if words[0] in keys:
            place = words[keys[words[0]]].partition("-node")[0]
        elif words[0] in ("userlist", "peers", "defaults"):
            place = "defaults" if line == "defaults common" else ""
        elif place not in ("", "health") and not line.startswith((*FURTHER, *CONDITIONS)):
            yield f"haproxy.extra.{place}", line
    for change in (recipe, example.mail):
        text = keepalived_conf(Settings.parse(example.settings(change)))
        for name, head in (("global_defs", "global_defs {"), ("vrrp_instance", "vrrp_instance VI_haproxy {")):
            block = text[text.index(head) + len(head) : text.index("\n}", text.index(head))]
            for line in re.findall(r"^    (\w.*)$", block, re.MULTILINE):  # what stands deeper is part of one of these
                if not line.startswith("#"):
                    yield f"keepalived.extra.{name}", line
    for transfer in ("rsync", "mariabackup"):
        for line in own_lines(galera_cnf(settings("database.galera.stateTransfer", transfer))):
            if line != "[mysqld]":
                yield "database.extra", line


@pytest.mark.parametrize(("place", "line"), sorted(set(stacks_lines())))
def test_what_the_stack_writes_itself_is_refused(place: str, line: str) -> None:
    said = refused(place, [line] + (["}"] if line.endswith("{") else []))
    assert f"mycat-ha:{place}[0]: " in said
    assert " belongs to the stack: " in said


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        ("database.extra", ["max_allowed_packet = 64M", "# why", "slow-query-log", "loose-innodb_io_capacity=2000"]),
        ("database.extra", ["plugin_load_add = server_audit", "server_audit_logging=ON # %s {{ x }}"]),
        ("database.extra", ["port-open-timeout=1"]),
        ("haproxy.extra.global", ["nbthread 2", "log 10.0.0.9 local1", "tune.bufsize 32768", "no strict-limits"]),
        ("haproxy.extra.defaults", ["timeout client-fin 10s", "option contstats"]),
        ("haproxy.extra.statistics", ["backlog 100"]),
        ("haproxy.extra.mysql", ["tcp-request connection reject if { src 10.9.0.0/16 }", "no log"]),
        ("haproxy.extra.mysqlservers", ["timeout queue 5s", "fullconn 100"]),
        ("haproxy.extra.mysqlread", ["tcp-request connection reject if { src 10.9.0.0/16 }"]),
        ("haproxy.extra.mysqlreaders", ["timeout queue 6s"]),
        ("haproxy.extra.mycat", ["backlog 100"]),
        ("haproxy.extra.mycat_servers", ["stick-table type ip size 1m", "stick on src"]),
        ("haproxy.extra.http-in", ['http-response set-header X-By "{{ node }} %[src]"', "acl mine path /x"]),
        ("haproxy.extra.healthcheck", ["backlog 100"]),
        ("haproxy.extra.http-statistics", ["backlog 100"]),
        ("haproxy.extra.dynamic", ["timeout tunnel 1h"]),
        ("haproxy.extra.static", ["errorfile 503 /etc/haproxy/errorfiles/503.http", "http-reuse always"]),
        ("keepalived.extra.global_defs", ["vrrp_rlimit_rttime 20000", "! {"]),
        ("keepalived.extra.vrrp_instance", ["track_interface {", "  ens6 weight 0", "}", "debug 2"]),
    ],
)  # fmt: skip
def test_a_line_stands_literally_before_the_stacks_own(place: str, lines: list[str]) -> None:
    wanted = settings(place, lines)
    program, _, name = place.partition(".extra")
    text = MADE[program](wanted)
    heads = r"\[mysqld\]|global|defaults common|\w+ [\w-]+ from \w+|global_defs \{|vrrp_instance \w+ \{"
    literal = "".join(f"\n    {line}" for line in lines)
    *before, _ = text.split(literal)
    # There is a backend of readers for each server that may be the writer.
    assert len(before) == (3 if name == ".mysqlreaders" else 1)
    for head in (part.splitlines()[-1] for part in before):
        assert re.fullmatch(heads, head)
        assert (name.removeprefix(".") or "mysqld") in head


@given(st.sampled_from(sorted(extra.MYSQLD)), st.sampled_from(PREFIXES), st.data())
def test_no_way_to_write_an_option_gets_past(name: str, prefix: str, data: st.DataObject) -> None:
    whole = name.removeprefix("skip_").replace("*", "_on")
    letters = [data.draw(st.sampled_from([c, c.upper(), c.replace("_", "-")])) for c in prefix + whole]
    written = "".join(letters) + data.draw(st.sampled_from(["", "=1", " = 1", "  =1", "# x", " #=1"]))
    said = list(extra.mysqld(["max_allowed_packet=1M", data.draw(st.sampled_from(["", "  "])) + written]))
    assert len(said) == 1
    assert said[0].startswith("database.extra[1]: ")
    assert " belongs to the stack: " in said[0]


@pytest.mark.parametrize(
    "line", ["bind-addr=0.0.0.0", "datad = /x", "innodb_flush_log_at=2", "sock=/x", "wsrep-prov=none"]
)
def test_a_beginning_that_mariadbd_completes_is_refused(line: str) -> None:
    assert " belongs to the stack: " in refused("database.extra", [line])


@pytest.mark.parametrize(
    ("place", "lines", "words"),
    [
        ("database.extra", ["[mysqld]"], "one option of [mysqld]"),
        ("database.extra", ["!includedir /etc/x"], "one option of [mysqld]"),
        ("database.extra", ["x.bind_address = 0.0.0.0"], "one option of [mysqld]"),
        ("database.extra", ["--port=1"], "one option of [mysqld]"),
        ("database.extra", ["\tport = 1"], "control characters"),
        ("database.extra", ["a=1\nport=1"], "control characters"),
        ("database.extra", ["proxy-protocol-networks=*"], "set haproxy.mysql.proxyProtocol"),
        ("database.extra", ["max_connections = 900"], "set database.galera.maxConnections"),
        ("database.extra", ["a = b\\"], "must not end with a backslash"),
        ("haproxy.extra.globl", ["nbthread 2"], "those are global, defaults, statistics, mysql, mysqlservers, "),
        ("haproxy.extra.health", ["log global"], "no section that can have lines of yours"),
        ("haproxy.extra.mysql", ["backend mine"], "backend begins another section"),
        ("haproxy.extra.mysql", ["  global"], "global begins another section"),
        ("haproxy.extra.mysql", ["'bind' :1"], "has to begin with a keyword"),
        ("haproxy.extra.mysql", ["b\\ind :1"], "has to begin with a keyword"),
        ("haproxy.extra.mysql", ['"${X}" :1'], "has to begin with a keyword"),
        ("haproxy.extra.mysql", [".if defined(X)"], "has to begin with a keyword"),
        ("haproxy.extra.mysql", [""], "has to begin with a keyword"),
        ("haproxy.extra.mysql", ["timeout 'client' 1s"], "timeout has to be followed by a plain word"),
        ("haproxy.extra.mysql", ["timeout client 1s"], "set haproxy.mysql.timeouts.client"),
        ("haproxy.extra.mysql", ["no option tcpka"], "option tcpka belongs to the stack"),
        ("haproxy.extra.mysqlservers", ["option redis-check"], "the health checks are the stack's"),
        ("haproxy.extra.mysqlreaders", ["balance first"], "set haproxy.mysql.readBalance"),
        ("haproxy.extra.mysqlservers", ["stick on src"], "haproxy.mysql.singleWriter decides"),
        ("haproxy.extra.mysqlservers", ["server x 10.0.0.9:3306"], "servers are machines of the stack"),
        ("haproxy.extra.global", ["no log"], "no log belongs to the stack"),
        ("haproxy.extra.http-in", ["acl rule-1 path /"], "acl rule-* belongs to the stack"),
        ("haproxy.extra.statistics", ["http-request allow"], "access.administrators"),
        ("keepalived.extra.vrrp_instance", ["priority 200"], "set the machine's priority"),
        ("keepalived.extra.vrrp_instance", ["notify /bin/true"], "notify* belongs to the stack"),
        ("keepalived.extra.vrrp_instance", ["'state' MASTER"], "has to begin with a plain word"),
        ("keepalived.extra.vrrp_instance", ["@node1 state MASTER"], "has to begin with a plain word"),
        ("keepalived.extra.vrrp_instance", ["}", "vrrp_instance x {"], "a } too many"),
        ("keepalived.extra.vrrp_instance", ["track_interface {"], "a block is not closed"),
        ("keepalived.extra.vrrp_instance", ["debug 1 # {", "}"], "a block begins with a line that ends in {"),
        ("keepalived.extra.vrrp_script", ["weight 1"], "those are global_defs, vrrp_instance"),
        ("keepalived.extra.global_defs", ["include /etc/x"], "write the lines themselves"),
    ],
)  # fmt: skip
def test_what_is_no_line_for_the_section_is_refused_in_words(place: str, lines: Sequence[str], words: str) -> None:
    said = refused(place, lines)
    assert f"mycat-ha:{place}" in said
    assert words in said


def test_what_decides_about_the_writer_is_free_without_one() -> None:
    def without(raw: dict[str, Any]) -> None:
        everything(raw)
        del raw["haproxy"]["mysql"]

    assert "\n    stick on src\n" in haproxy_cfg(settings("haproxy.extra.mysqlservers", ["stick on src"], without))


@pytest.mark.parametrize("section", ["defaults", "mysqlservers", "mysqlreaders"])
def test_the_databases_have_to_know_the_balancers_that_say_who_asks(section: str) -> None:
    def proxied(raw: dict[str, Any]) -> None:
        everything(raw)
        raw["haproxy"]["mysql"]["proxyProtocol"] = True

    place, lines = f"haproxy.extra.{section}", ["source 10.0.0.9"]
    assert "source belongs to the stack: with haproxy.mysql.proxyProtocol" in refused(place, lines, proxied)
    assert "\n    source 10.0.0.9\n" in haproxy_cfg(settings(place, lines))


def test_a_section_that_the_stack_does_not_have_is_refused() -> None:
    said = refused("haproxy.extra.mycat", ["no log"], lambda raw: None)
    assert "those are global, defaults, statistics, mysql, mysqlservers" in said
    assert "http-in" not in said


def test_external_databases_have_no_file_here() -> None:
    said = refused("database.extra", ["max_allowed_packet=64M"], example.external_databases)
    assert "mycat-ha:database.extra: the databases are external ones" in said


@given(
    st.sampled_from(["database.extra", "haproxy.extra.mysql", "keepalived.extra.vrrp_instance"]), st.text(max_size=30)
)
def test_any_text_is_refused_by_its_key_or_stays_one_line(place: str, text: str) -> None:
    program, _, _ = place.partition(".")
    try:
        made = MADE[program](settings(place, [text])).split("\n")
    except SettingsError as error:
        said = str(error)
    else:
        assert [line for line in made if line not in without_extra(program)] in ([], [f"    {text}"])
        return
    assert said.startswith(f"mycat-ha:{place}")


def test_haproxys_sections_keep_their_own_lines() -> None:
    wanted = settings("haproxy.extra.defaults", ["option contstats"])
    assert section(haproxy_cfg(wanted), "defaults common")[:2] == ["option contstats", "log global"]
