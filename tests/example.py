"""Settings of the seed's topology, as plain values, for tests that need a whole stack of them."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from components.template import render
from constants import MYSQL_CHECK_USER
from settings import services
from settings.certificates import new_key
from settings.secret_names import TLS_KEYS

INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"

_SETTINGS: dict[str, Any] = {
    "network": {
        "vpcCidr": "192.168.106.0/24",
        "subnetCidr": "192.168.106.128/25",
        "natSubnetCidr": "192.168.106.0/28",
    },
    "machines": [
        {"name": "node1", "address": "192.168.106.251", "roles": ["lb", "mysql"]},
        {"name": "node2", "address": "192.168.106.252", "roles": ["lb", "mysql"]},
        {"name": "node3", "address": "192.168.106.253", "roles": ["mysql"]},
    ],
    "access": {
        "clients": ["10.20.0.0/24"],
        "administrators": ["10.30.0.0/24"],
        "deployer": ["100.64.0.0/10"],
        "sshPublicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample example",
    },
    "vip": {"address": "192.168.106.249"},
    "haproxy": {"version": "3.0.11", "sha256": "a" * 64, "url": "https://www.haproxy.org/haproxy-3.0.11.tar.gz"},
    "keepalived": {"version": "2.3.4", "sha256": "b" * 64, "url": "https://www.keepalived.org/keepalived-2.3.4.tar.gz"},
    "database": {"galera": {}},
    "secrets": {
        "sshPrivateKey": "secret-ssh-key",
        "statistics": "secret-statistics",
        "database": "secret-database",
        "health": "secret-health",
    },
}


def settings(change: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """A fresh copy, changed by ``change``."""
    raw = copy.deepcopy(_SETTINGS)
    if change:
        change(raw)
    return raw


def static_and_dynamic(raw: dict[str, Any]) -> None:
    """The recipe's web servers: static files apart from everything else."""
    raw["machines"] += [
        {"name": "web1", "address": "192.168.106.241", "roles": ["web"]},
        {"name": "web2", "address": "192.168.106.242", "roles": ["web"]},
    ]
    raw["http"] = {
        "backends": {
            "static": {"machines": ["web1"], "serverMaxConnections": 3000},
            "dynamic": {"machines": ["web2"], "serverMaxConnections": 1000},
        },
        "rules": [
            {
                "backend": "static",
                "pathPrefixes": ["/static", "/images", "/javascript", "/stylesheets"],
                "pathSuffixes": [".jpg", ".gif", ".png", ".css", ".js", ".html"],
                "hostPrefixes": ["img.", "imgs.", "video.", "videos.", "ftp.", "image.", "download."],
            },
            {"backend": "dynamic", "pathSuffixes": [".php"]},
        ],
        "defaultBackend": "dynamic",
    }


def four_balancers(raw: dict[str, Any]) -> None:
    raw["machines"] += [{"name": f"lb{i}", "address": f"192.168.106.20{i}", "roles": ["lb"]} for i in (1, 2)]


def dedicated_tiers(raw: dict[str, Any]) -> None:
    """Two machines that balance, three that store, nothing beside each other."""
    roles = {"lb1": "lb", "lb2": "lb", "db1": "mysql", "db2": "mysql", "db3": "mysql"}
    raw["machines"] = [
        {"name": name, "address": f"192.168.106.{200 + i}", "roles": [role]}
        for i, (name, role) in enumerate(roles.items())
    ]


def external_databases(raw: dict[str, Any]) -> None:
    raw["machines"] = [{**machine, "roles": ["lb"]} for machine in raw["machines"][:2]]
    servers = [{"name": "db1", "address": "10.0.0.1"}, {"name": "db2", "address": "10.0.0.2"}]
    raw["database"] = {"external": servers, "externalCheckUser": "probe"}
    del raw["secrets"]["database"], raw["secrets"]["health"]


def mail(raw: dict[str, Any]) -> None:
    raw["keepalived"]["mail"] = {
        "to": ["ops@example.com", "dba@example.com"],
        "sender": "vrrp@example.com",
        "smtpServer": "10.0.0.25",
    }


def created_bastion(raw: dict[str, Any]) -> None:
    del raw["access"]["deployer"]
    raw["access"]["bastion"] = {"create": True, "cidrs": ["203.0.113.0/24"]}


def seed_mode(raw: dict[str, Any]) -> None:
    raw["keepalived"]["mode"] = "seed"
    raw["secrets"]["vrrp"] = "1111"


def with_mycat(raw: dict[str, Any]) -> None:
    """Mycat on the balancers, with a table of each kind over the three databases."""
    for machine in raw["machines"][:2]:
        machine["roles"] = ["lb", "mycat", "mysql"]
    raw["mycat"] = {
        "version": "1.6.7.6",
        "sha256": "c" * 64,
        "url": "https://example.com/mycat-1.6.7.6.tar.gz",
        "users": [
            {"name": "app", "secret": "mycat"},
            {"name": "report", "secret": "mycatReport", "schemas": ["app"], "readOnly": True},
        ],
        "schemas": [
            {
                "name": "app",
                "dataNode": "dn1",
                "tables": [
                    {"name": "orders", "primaryKey": "id", "rule": "by-id", "dataNodes": ["dn1", "dn2", "dn3"]},
                    {"name": "countries", "primaryKey": "id", "global": True, "dataNodes": ["dn1", "dn2", "dn3"]},
                    {"name": "settings", "dataNodes": ["dn1"]},
                ],
            }
        ],
        "rules": [{"name": "by-id", "column": "id", "function": "modulo-3"}],
        "functions": [{"name": "modulo-3", "kind": "mod-long", "count": 3}],
        "dataNodes": [{"name": f"dn{i}", "dataHost": f"dh{i}", "database": f"app{i}"} for i in (1, 2, 3)],
        "dataHosts": [
            {"name": f"dh{i}", "writeHosts": [{"machine": f"node{n}"} for n in order]}
            for i, order in ((1, (1, 2, 3)), (2, (2, 3, 1)), (3, (3, 1, 2)))
        ],
    }
    raw["secrets"] |= {
        "mycat": "secret-mycat",
        "mycatReport": "secret-report",
        "mycatDatabase": "secret-mycat-database",
    }


def database_users(raw: dict[str, Any]) -> None:
    """Two, and a schema of their own."""
    raw["database"] |= {
        "schemas": ["my_shop"],
        "users": [
            {"name": "report-reader", "secret": "reportReader", "rights": {"app": ["SELECT"], "my_shop": ["SELECT"]}},
            {"name": "shop", "secret": "shop", "rights": {"my_shop": ["ALL PRIVILEGES"]}},
        ],
    }
    raw["secrets"] |= {"reportReader": "secret-report-reader", "shop": "secret-shop"}


@cache
def tls_keys() -> dict[str, str]:
    """The secrets that TLS needs."""
    return {name: new_key() for name in sorted(TLS_KEYS)}


def with_galera_tls(raw: dict[str, Any], tls: str = "required") -> None:
    raw["database"].setdefault("galera", {})["tls"] = tls
    raw["secrets"] |= tls_keys()


def with_tls(raw: dict[str, Any], **tls: Any) -> None:
    raw["database"]["tls"] = tls
    raw["secrets"] |= tls_keys()


def with_statistics_tls(raw: dict[str, Any], **tls: Any) -> None:
    raw["haproxy"].setdefault("statistics", {})["tls"] = tls
    raw["secrets"] |= tls_keys()


def users_sql(**changes: Any) -> str:
    """What makes the users of the database `shop`, without Mycat; all passwords are `x`, unless ``changes`` say so.

    ``users`` are those of `database.users`, each without a secret.
    """
    users = [services.DatabaseUser(secret="x", **user) for user in changes.pop("users", ())]
    arguments = {
        "schemas": (),
        "users": users,
        "user_passwords": {user.name: "x" for user in users},
        "privileges": services.PRIVILEGES,
        "own_schema": services.OWN_SCHEMA,
        "schema": "shop",
        "user": "owner",
        "password": "x",
        "health_password": "x",
        "health_hosts": ["localhost"],
        "check_user": MYSQL_CHECK_USER,
        "check_hosts": [],
        "tls_required": False,
        "mycat_user": None,
        "mycat_databases": (),
        "mycat_password": "x",
    }
    return render("mariadb/users.sql.j2", **{**arguments, **changes})
