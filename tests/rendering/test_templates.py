"""Rendered configurations, judged by the programs that have to read them: the pinned builds on a real machine."""

import json
from collections.abc import Callable
from typing import Any

import pulumi
import pytest

from components import database, haproxy, keepalived, mycat_files
from components.template import sql_string
from drills.stack import Stack
from localregion.client import Region
from settings import Settings
from tests import example

Judge = Callable[[str, str], str]
HOSTILE = [
    "pa'ss",
    'qu"ote',
    "back\\slash",
    "sp ace",
    "ha#sh",
    "$HOME",
    "${x}",
    "%[src]",
    "semi;colon",
    "ü-€-日本",
    "a:b",
    "\\'\"",
]


@pytest.fixture(scope="module")
def judge(region: Region, stack: Stack) -> Judge:
    """The words of the real program about a configuration; empty if it has none."""
    machine = stack.of_role("lb")[0]["instanceId"]
    commands = {
        "haproxy": "cat >/tmp/judged && /opt/haproxy/current/sbin/haproxy -c -f /tmp/judged 2>&1; echo =$?",
        "keepalived": "cat >/tmp/judged && /opt/keepalived/current/sbin/keepalived -t -f /tmp/judged 2>&1; echo =$?",
        "mariadb": "cat >/tmp/judged && mariadbd --defaults-file=/tmp/judged --wsrep-on=OFF --wsrep-provider=none "
        "--user=mysql --verbose --help 2>&1 >/dev/null | grep -i error; echo =0",
    }

    def run(program: str, text: str) -> str:
        said = region.exec(machine, ["bash", "-c", commands[program]], input=text).stdout
        words, _, status = said.rpartition("=")
        return words.strip() if status.strip() == "0" else f"status {status}{words}"

    return run


def settings(change: Callable[[dict[str, Any]], Any] | None = None) -> Settings:
    return Settings.parse(example.settings(change))


def unchecked_external(raw: dict[str, Any]) -> None:
    example.external_databases(raw)
    raw["database"]["externalCheckUser"] = None


def external_web_servers(raw: dict[str, Any]) -> None:
    server = {"name": "web", "address": "10.0.0.80", "port": 8080}
    raw["http"] = {"backends": {"servers": {"external": [server], "checkPath": "/health?of=all"}}}
    raw["http"]["defaultBackend"] = "servers"


def hostile_rules(raw: dict[str, Any]) -> None:
    """Everything that a path may hold, and what looks like an option."""
    example.static_and_dynamic(raw)
    hostile = ["-i", "-f", "--", "$HOME", "it's", "%20", "a;b", "a,b", "(x)", "~!*&=+@:"]
    raw["http"]["rules"][0]["pathSuffixes"] = hostile
    raw["http"]["rules"][0]["pathPrefixes"] = [f"/{text}" for text in hostile]
    raw["http"]["statistics"] = {"uri": "/it's?$HOME", "realm": 'it\'s # \\ a "realm" $HOME'}


def external_mycat(raw: dict[str, Any]) -> Any:
    raw["mycat"] = {"external": [{"name": "m1", "address": "10.0.0.1"}, {"name": "m2", "address": "10.0.0.2"}]}


HAPROXY = {
    "the recipe's topology": lambda raw: None,
    "single writer": lambda raw: raw["haproxy"].update(mysql={"singleWriter": True}),
    "dedicated tiers": example.dedicated_tiers,
    "external servers": example.external_databases,
    "external servers without a check user": unchecked_external,
    "four balancers": example.four_balancers,
    "static and dynamic web servers": example.static_and_dynamic,
    "external web servers": external_web_servers,
    "hostile rules": hostile_rules,
    "other ports": lambda raw: raw["haproxy"].update(mysql={"port": 13306}, statistics={"port": 18888}),
    "Mycat": example.with_mycat,
    "external Mycat": external_mycat,
    "external Mycat without a responder": lambda raw: [
        external_mycat(raw),
        raw["mycat"].update(externalCheckPort=None),
    ],
}


@pytest.mark.parametrize("variant", HAPROXY)
def test_haproxy_takes_every_variant_without_a_warning(judge: Judge, variant: str) -> None:
    wanted = settings(HAPROXY[variant])
    assert judge("haproxy", haproxy.configuration(wanted, wanted.machines[0])) == ""


@pytest.mark.parametrize("password", HOSTILE)
def test_haproxy_takes_any_password(judge: Judge, password: str) -> None:
    wanted = settings(lambda raw: raw["secrets"].update(statistics=password))
    assert judge("haproxy", haproxy.configuration(wanted, wanted.machines[0])) == ""


def seed_with_mail(raw: dict[str, Any]) -> None:
    example.seed_mode(raw)
    example.mail(raw)


KEEPALIVED = {
    "fast": lambda raw: None,
    "seed": example.seed_mode,
    "mail": example.mail,
    "seed with mail": seed_with_mail,
    "no startup delay": lambda raw: raw["keepalived"].update(startupDelay=0),
    "four balancers": example.four_balancers,
}


@pytest.mark.parametrize("variant", KEEPALIVED)
def test_keepalived_takes_every_variant(judge: Judge, variant: str) -> None:
    wanted = settings(KEEPALIVED[variant])
    assert judge("keepalived", keepalived.configuration(wanted, wanted.machines[0], "ens5")) == ""


def test_keepalived_says_no_to_a_keyword_it_does_not_know(judge: Judge) -> None:
    text = keepalived.configuration(settings(), settings().machines[0], "ens5")
    assert "status" in judge("keepalived", text.replace("nopreempt", "nopreemption"))
    the_recipes = text.replace("    router_id", "    notificationd LVS_DEVEL\n    router_id", 1)
    assert "Unknown keyword 'notificationd'" in judge("keepalived", the_recipes)


@pytest.mark.parametrize(
    ("ours", "the_recipes", "words"),
    [
        ("global\n", "global\n    nbproc 1\n", "nbproc is not supported"),
        ("timeout connect 1000ms", "contimeout 5000", "'contimeout' directive is not supported"),
        ("timeout client 60000ms", "clitimeout 50000", "'clitimeout' directive is not supported"),
        ("timeout server 60000ms", "srvtimeout 50000", "'srvtimeout' directive is not supported"),
        ("option httpchk\n", "option httpchk OPTIONS * HTTP/1.1\\r\\nHost:\\ www\n", "is unsupported"),
    ],
    ids=["nbproc", "contimeout", "clitimeout", "srvtimeout", "httpchk"],
)
def test_haproxy_says_no_to_the_recipes_own_settings(judge: Judge, ours: str, the_recipes: str, words: str) -> None:
    text = haproxy.configuration(settings(), settings().machines[0])
    assert ours in text
    assert words in judge("haproxy", text.replace(ours, the_recipes, 1))


def test_mariadb_takes_the_configuration_and_refuses_a_misspelt_one(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulumi, "get_project", lambda: "mycat-ha")
    monkeypatch.setattr(pulumi, "get_stack", lambda: "test")
    text = database.configuration(settings(), settings().machines[0])
    assert judge("mariadb", text) == ""
    assert "unknown variable" in judge("mariadb", text.replace("max_connections", "max_conections"))


@pytest.mark.parametrize("password", HOSTILE)
def test_mariadb_reads_a_password_as_it_was_written(region: Region, stack: Stack, password: str) -> None:
    machine = stack.of_role("mysql")[0]["instanceId"]
    said = region.exec(
        machine, ["mariadb", "-N", "--default-character-set=utf8mb4"], input=f"SELECT HEX({sql_string(password)})"
    )
    assert bytes.fromhex(said.stdout.strip()).decode() == password


def every_kind_of_function(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    nodes = ["dn1", "dn2", "dn3"]
    functions: list[dict[str, Any]] = [
        {"name": "numbers", "kind": "hash-int", "map": {"1": 0, "2": 1}, "defaultNode": 2},
        {"name": "words", "kind": "hash-int", "map": {"K\u00f6ln": 0, "\u5317\u4eac": 1, "a b": 2}},
        {
            "name": "ranges",
            "kind": "range",
            "ranges": [{"from": i * 10, "to": i * 10 + 9, "node": i} for i in range(3)],
        },
        {"name": "other", "class": "io.mycat.route.function.PartitionByMurmurHash", "properties": {"count": "3"}},
    ]
    raw["mycat"]["functions"] += functions
    for function in functions:
        name = function["name"]
        raw["mycat"]["rules"].append({"name": name, "column": "id", "function": name})
        raw["mycat"]["schemas"][0]["tables"].append({"name": f"t_{name}", "rule": name, "dataNodes": nodes})


def hostile_passwords(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    for number, password in enumerate([*HOSTILE, "<a/>", "]]>", "&amp;", "-->"]):
        raw["secrets"][f"hostile{number}"] = password
        raw["mycat"]["users"].append({"name": f"u{number}", "secret": f"hostile{number}"})
    raw["secrets"] |= {"health": "".join(HOSTILE), "mycatDatabase": "".join(HOSTILE)}


@pytest.mark.parametrize("change", [example.with_mycat, every_kind_of_function, hostile_passwords])
def test_mycat_takes_every_variant(region: Region, stack: Stack, change: Callable[[dict[str, Any]], Any]) -> None:
    wanted = settings(change)
    files = mycat_files.configuration(wanted, wanted.machines[0])
    script = 'exec /usr/local/lib/mycat-ha/mycat-apply "$(readlink /opt/mycat/current)" 127.0.0.1 --try'
    machine = stack.of_role("mycat")[0]["instanceId"]
    done = region.exec(machine, ["bash", "-c", script], input=json.dumps(files), timeout=120, check=False)
    assert done.returncode == 0, done.stderr
