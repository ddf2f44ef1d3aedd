"""Which secrets a stack needs. The settings' checks demand them, stackctl generates them."""

from collections.abc import Iterable, Mapping
from typing import Any

from settings.mycat import Mycat
from settings.services import Database, Mode
from settings.topology import Role

SSH_KEY = "sshPrivateKey"
VRRP = "vrrp"
#: Private keys in PEM: of the stack's own authority, of the databases for their clients, and for each other.
AUTHORITY_KEY, TLS_KEY, GALERA_KEY = "databaseAuthorityKey", "databaseTlsKey", "galeraTlsKey"
#: Of the load balancers for their statistics pages.
STATISTICS_KEY = "statisticsTlsKey"
#: Those of certificates that the program makes.
TLS_KEYS = frozenset({AUTHORITY_KEY, TLS_KEY, GALERA_KEY, STATISTICS_KEY})
#: What is a text of several lines.
KEYS = TLS_KEYS | {SSH_KEY}


def needed_secrets(sections: Mapping[str, Any]) -> dict[str, str]:
    """The keys of ``mycat-ha:secrets`` that a stack needs, with what each is for.

    ``sections`` are the settings as they stand in a stack file, by section. They need be neither complete nor right:
    stackctl generates secrets before the settings can be checked. What is wrong is left to the settings' own checks.
    """
    machines = _maps(sections.get("machines"))
    mycat, database = _map(sections.get("mycat")), _map(sections.get("database"))
    has_databases = any(Role.MYSQL in _list(machine.get("roles")) for machine in machines)
    has_mycat = any(Role.MYCAT in _list(machine.get("roles")) for machine in machines)

    needed = {SSH_KEY: "SSH to the machines", "statistics": "the statistics page"}
    needed |= _of_tls(_map(_map(sections.get("haproxy")).get("statistics")), STATISTICS_KEY, "the statistics page")
    if has_databases:
        user = database.get("user", Database.model_fields["user"].default)
        needed |= {"database": f"database user {user}", "health": "the database's health check"}
        needed |= _of_users("database user", database.get("users"))
        needed |= _of_tls(database, TLS_KEY, "the databases")
        if _map(database.get("galera")).get("tls"):
            needed[GALERA_KEY] = "TLS between the databases"
    if has_mycat and mycat:
        needed["health"] = "the health checks"
        needed |= _of_users("Mycat's user", mycat.get("users"))
        # The user's own files hold their own passwords, but the stack's databases need to know one.
        if has_databases or mycat.get("dataHosts"):
            user = mycat.get("databaseUser", Mycat.model_fields["database_user"].default)
            needed["mycatDatabase"] = f"database user {user} of Mycat"
    if _map(sections.get("keepalived")).get("mode") in (Mode.RECIPE, "seed"):
        needed[VRRP] = "VRRPv2's PASS authentication"
    return needed


def _of_tls(section: Mapping[str, Any], key: str, whose: str) -> dict[str, str]:
    tls = section.get("tls")
    if not isinstance(tls, Mapping):
        return {}
    own = {} if tls.get("certificate") else {AUTHORITY_KEY: "the authority that signs the stack's certificates"}
    return {key: f"TLS of {whose}", **own}


def _of_users(what: str, users: Any) -> dict[str, str]:
    return {
        user["secret"]: f"{what} {user.get('name')}" for user in _maps(users) if isinstance(user.get("secret"), str)
    }


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else ()


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in _list(value) if isinstance(item, Mapping)]
