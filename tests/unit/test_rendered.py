"""The whole of each configuration that a balancer gets, and of the databases' users.sql, line by line, as it is in the
folder `rendered`.

A change of a template shows there what it does. After one that is meant: `python -m tests.unit.test_rendered`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import cluster
from settings import Settings
from tests import example

FOLDER = Path(__file__).parent / "rendered"


def _everything(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    example.static_and_dynamic(raw)
    raw["http"]["backends"]["dynamic"]["checkPath"] = "/alive"


def _seed_with_mail(raw: dict[str, Any]) -> None:
    example.seed_mode(raw)
    example.mail(raw)


def _nothing_of_its_own(raw: dict[str, Any]) -> None:
    example.external_databases(raw)
    raw["mycat"] = {"external": [{"name": "mycat1", "address": "10.0.0.11"}], "externalCheckPort": None}


def _haproxy(change: Callable[[dict[str, Any]], Any] | None) -> str:
    settings = Settings.parse(example.settings(change))
    return cluster.haproxy_cfg(settings, settings.machines[0], settings.secrets["statistics"].get_secret_value())


def _keepalived(change: Callable[[dict[str, Any]], Any] | None) -> str:
    settings = Settings.parse(example.settings(change))
    vrrp = settings.secrets.get("vrrp")
    return cluster.keepalived_conf(settings, settings.machines[0], "ens5", vrrp.get_secret_value() if vrrp else None)


def _single_writer(raw: dict[str, Any]) -> None:
    raw["haproxy"]["mysql"] = {"singleWriter": True}


def _users() -> str:
    rights = {"app": ["SELECT"], "my_shop": ["ALL PRIVILEGES"]}
    return example.users_sql(
        schema="app",
        user="app",
        schemas=("my_shop",),
        users=[{"name": "report-reader", "rights": rights}, {"name": "nobody", "requireTls": True}],
        check_hosts=["192.168.106.251"],
        mycat_user="mycat",
        mycat_databases=("app1",),
    )


CONFIGURATIONS: dict[str, Callable[[], str]] = {
    "haproxy.cfg": lambda: _haproxy(None),
    "haproxy-everything.cfg": lambda: _haproxy(_everything),
    "haproxy-external.cfg": lambda: _haproxy(_nothing_of_its_own),
    "haproxy-single-writer.cfg": lambda: _haproxy(_single_writer),
    "keepalived.conf": lambda: _keepalived(None),
    "keepalived-seed-mail.conf": lambda: _keepalived(_seed_with_mail),
    "users.sql": _users,
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_line_by_line_what_was_looked_at(name: str) -> None:
    assert CONFIGURATIONS[name]().splitlines() == (FOLDER / name).read_text().splitlines()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, render in CONFIGURATIONS.items():
        (FOLDER / name).write_text(render())
