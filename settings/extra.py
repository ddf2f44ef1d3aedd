"""Lines that a user adds to a section of a program's file, where they stand literally.

Whether they are right is said by the program that reads the file, on the machine, before the old file is replaced.
Refused here, at preview, is what it would take although it contradicts the stack's own lines or what the stack relies
on. The tables have the beginnings of such lines (``*`` is any text), and what to do instead; tests hold them to the
rendered files.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from settings.base import Text

Lines = tuple[Text, ...]
#: By section, named as in the file.
Sections = dict[str, Lines]
#: Beginnings of lines, and what to do instead.
Owned = Mapping[str, str]


def _refused(key: str, lines: Sequence[str], owned: Owned, words: Callable[[str], Collection[str]]) -> Iterator[str]:
    """``words``: what a line is known by. It raises ValueError for what cannot be a line of the section."""
    for index, line in enumerate(lines):
        try:
            if line.endswith("\\"):
                raise ValueError("must not end with a backslash, which may swallow the next line")
            known_by = words(line)
        except ValueError as error:
            yield f"{key}[{index}]: {error}"
            continue
        for pattern, instead in owned.items():
            if any(fnmatchcase(word, pattern) for word in known_by):
                yield f"{key}[{index}]: {pattern} belongs to the stack: {instead}"
                break


def _refused_by_section(
    key: str, sections: Mapping[str, Sequence[str]], owned: Mapping[str, Owned], words: Callable[[str], Collection[str]]
) -> Iterator[str]:
    for section, lines in sections.items():
        if section in owned:
            yield from _refused(f"{key}.{section}", lines, owned[section], words)
        else:
            yield f"{key}.{section}: no section that can have lines of yours; those are {', '.join(owned)}"


# --- MariaDB: [mysqld] ---

_DATA = "the data are where the distribution has them, in /var/lib/mysql, and are made at the first start"
_GALERA = "Galera's options are the stack's; database.galera has those that can be set"
_FOR_GOOD = "it is fixed when the first data are made"
_REACHED = "the load balancers, Mycat and the health checks have to get in"
_NOT_STARTED = "the server would not serve"

#: Options with what they are called in the manual.
MYSQLD: Owned = {
    "bind_address": "it is the machine's own; the VIP's port 3306 is HAProxy's",
    "port": "it is 3306 on the machines; haproxy.mysql.port is what clients use",
    "socket": "the stack's programs log in there",
    "extra_port": "it is the health responder's",
    "extra_max_connections": "they are the health responder's and root's",
    "skip_networking": _REACHED,
    "skip_grant_tables": "everybody would have all rights",
    "require_secure_transport": "set database.tls.required",
    "ssl": "set database.tls",
    "ssl_cert": "set database.tls",
    "ssl_key": "set database.tls",
    "tls_version": "set database.tls; it is 1.2 and 1.3 then",
    "max_connections": "set database.galera.maxConnections",
    "max_connect_errors": "health checks that hang up must not lock a load balancer out",
    "proxy_protocol_networks": "set haproxy.mysql.proxyProtocol",
    "skip_name_resolve": "users are told apart by address",
    "tcp_keepalive_time": "a client that is gone without a word is noticed after 35 s",
    "tcp_keepalive_interval": "a client that is gone without a word is noticed after 35 s",
    "tcp_keepalive_probes": "a client that is gone without a word is noticed after 35 s",
    "innodb": "Galera replicates InnoDB only",
    "read_only": "every node takes writes; HAProxy does not know of one that does not",
    "innodb_read_only": "every node takes writes; HAProxy does not know of one that does not",
    "transaction_read_only": "every node takes writes; HAProxy does not know of one that does not",
    "innodb_force_recovery": "it is for one node in an emergency, not for all of them in turn",
    "wsrep_sync_wait": "set database.galera.wsrepSyncWait",
    "wsrep_sst_method": "set database.galera.stateTransfer",
    "wsrep*": _GALERA,
    "innodb_autoinc_lock_mode": "Galera needs 2",
    "auto_increment_increment": "Galera gives each node numbers of its own",
    "auto_increment_offset": "Galera gives each node numbers of its own",
    "binlog_format": "Galera needs ROW",
    "default_storage_engine": "Galera replicates InnoDB only",
    "enforce_storage_engine": "Galera replicates InnoDB only",
    "innodb_force_primary_key": "set database.galera.requirePrimaryKey",
    "innodb_buffer_pool_size": "set database.galera.bufferPoolMib",
    "innodb_flush_log_at_trx_commit": "set database.galera.durability",
    "sync_binlog": "set database.galera.durability",
    "innodb_doublewrite": "a node that loses its power must not lose its data",
    "debug_no_sync": "a node that loses its power must not lose its data",
    "character_set_server": "it is utf8mb4; collation_server can be set",
    "lower_case_table_names": f"{_FOR_GOOD}; it is 1 with Mycat, which needs it, and 0 without",
    "innodb_page_size": _FOR_GOOD,
    "datadir": _DATA,
    "basedir": _DATA,
    "innodb_data_home_dir": _DATA,
    "innodb_data_file_path": _DATA,
    "innodb_log_group_home_dir": _DATA,
    "innodb_undo_directory": _DATA,
    "aria_log_dir_path": _DATA,
    "chroot": _DATA,
    "user": "it is mysql, to whom the data belong",
    "pid_file": "it is systemd's",
    "log_error": "the journal has it (journalctl -u mariadb), where the stack's programs look",
    "silent_startup": "the position of the data after a crash is read from the notes of a start",
    "default_password_lifetime": "the passwords of the health checks, Mycat and the application would expire",
    "help": _NOT_STARTED,
    "version": _NOT_STARTED,
    "bootstrap": _NOT_STARTED,
}


def mysqld(lines: Sequence[str]) -> Iterator[str]:
    """What is refused of ``database.extra``."""
    return _refused("database.extra", lines, MYSQLD, _options)


def _options(line: str) -> list[str]:
    """The options of the table that mariadbd may take the line for: it completes the beginning of a name."""
    if line.lstrip().startswith("#"):
        return []
    found = re.fullmatch(r" *([A-Za-z][A-Za-z0-9_-]*) *([=#].*)?", line)
    if not found:
        raise ValueError("has to be one option of [mysqld], NAME or NAME = VALUE: no section, no !include, no dot")
    option = _option(found[1])
    return [name for name in MYSQLD if fnmatchcase(option, _option(name)) or _option(name).startswith(option)]


def _option(name: str) -> str:
    """``name`` without what there is in several spellings (MariaDB manual, "Configuring MariaDB with Option Files")."""
    plain = name.lower().replace("-", "_")
    return re.sub(r"^((loose|skip|enable|disable|maximum|autoset)_)+(?=.)", "", plain)


# --- HAProxy ---

_SYSTEMD = "systemd starts HAProxy, with this in its unit"
_FIREWALL = "ports are settings, so that the firewall knows them"

_GLOBAL: Owned = {
    "no log": "the log is where logrotate looks; a further log line can be added",
    "maxconn": "set haproxy.maxConnections",
    "chroot": "HAProxy is confined to an empty folder",
    "user": "HAProxy runs as its own user",
    "group": "HAProxy runs as its own user",
    "uid": "HAProxy runs as its own user",
    "gid": "HAProxy runs as its own user",
    "stats socket": "keepalived's check and stackctl ask there",
    "unix-bind": "keepalived's check and stackctl ask at the socket where it is",
    "hard-stop-after": "set haproxy.hardStopAfter",
    "node": "it is the machine's name",
    "description": "it is the machine's name",
    "tune.lua.bool-sample-conversion": "it has to come before the stack's own lua-load",
    "localpeer": "the load balancers tell each other under their names who is the writer",
    "daemon": _SYSTEMD,
    "master-worker": _SYSTEMD,
    "pidfile": _SYSTEMD,
}

#: Of every frontend, backend and listen section.
_PROXY: Owned = {
    "mode": "it belongs to what the section is for",
    "bind": _FIREWALL,
    "disabled": "it would serve nobody",
    "dispatch": "servers are machines of the stack or external ones",
    "server": "servers are machines of the stack or external ones",
    "server-template": "servers are machines of the stack or external ones",
    "default-server": "set the servers' check, weight and serverMaxConnections",
    "default_backend": "it belongs to what the section is for",
    "monitor-uri": "HAProxy's own health check has a section of its own",
    "stats": "the statistics have a section of their own",
    "http-check": "the health checks are the stack's",
    "tcp-check": "the health checks are the stack's",
    "external-check": "the health checks are the stack's",
    "option *chk": "the health checks are the stack's",
    "option *-check": "the health checks are the stack's",
}

_DEFAULTS: Owned = {
    **_PROXY,
    "no log": "the log is where logrotate looks; a further log line can be added",
    "option dontlognull": "a port that is looked at would fill the log; add the line to a section",
    "option redispatch": "a session goes to another server at the first failed connection",
    "retries": "set haproxy.retries",
    "maxconn": "set haproxy.defaultMaxConnections",
    "timeout http-request": "set haproxy.timeouts.httpRequest",
    "timeout queue": "set haproxy.timeouts.queue",
    "timeout connect": "set haproxy.timeouts.connect",
    "timeout client": "set haproxy.timeouts.client",
    "timeout server": "set haproxy.timeouts.server",
    "timeout http-keep-alive": "set haproxy.timeouts.httpKeepAlive",
    "timeout check": "set haproxy.timeouts.check",
    "timeout tunnel": "it would be for SQL, too; add the line to a section of HTTP",
}

_STATISTICS: Owned = {
    **_PROXY,
    "maxconn": "nobody needs more of them",
    "acl metrics": "it is what asks for the password",
    "http-request": "access.administrators are the ranges that are let in, and all have to know the password",
}

_HTTP_FRONTEND: Owned = {
    **_PROXY,
    "maxconn": "set http.maxConnections",
    "option httpclose": "the recipe's frontend has it",
    "option logasap": "the recipe's frontend has it",
    "option forwardfor": "the web servers learn from it who asks",
    "acl rule-*": "these names are those of http.rules",
}

_HEALTH_CHECK: Owned = {
    **_PROXY,
    "maxconn": "nobody needs more of them",
    "option httpclose": "the recipe's frontend has it",
    "option forwardfor": "the web servers learn from it who asks",
    "http-request": "it says 503 when a backend has no server left, and nothing else",
}

_HTTP_BACKEND: Owned = {
    **_PROXY,
    "balance": "set the backend's balance",
    "option http-server-close": "the recipe's backends have it",
}

#: Of the backend with a single writer.
_WRITER: Owned = dict.fromkeys(
    ("stick*", "tcp-request", "use-server", "option redispatch"),
    "haproxy.mysql.singleWriter decides who gets a session",
)

#: Of what leads to the databases, if they believe a load balancer, known by its address, who asks.
_NAMED: Owned = {"source": "with haproxy.mysql.proxyProtocol the load balancers are known by their own addresses"}

_HAPROXY_SECTIONS = re.compile(
    "acme|backend|cache|crt-store|defaults|dynamic-update|fcgi-app|frontend|global|http-errors|listen|log-forward|"
    "log-profile|mailers|peers|program|resolvers|ring|traces|userlist"
)


def haproxy(
    sections: Mapping[str, Sequence[str]],
    *,
    single_writer: bool,
    read_port: bool,
    proxy_protocol: bool,
    mycat: bool,
    http_backends: Collection[str] | None,
) -> Iterator[str]:
    """What is refused of ``haproxy.extra``; ``http_backends``: their names, None if there is no HTTP."""
    named = _NAMED if proxy_protocol else {}
    owned: dict[str, Owned] = {
        "global": _GLOBAL,
        "defaults": {**_DEFAULTS, **named},
        "statistics": _STATISTICS,
        "mysql": _sql_frontend("mysql"),
        "mysqlservers": {**_sql_backend("mysql"), **(_WRITER if single_writer else {}), **named},
    }
    if read_port:
        backend = {**_sql_backend("mysql"), "balance": "set haproxy.mysql.readBalance", **named}
        owned |= {"mysqlread": _sql_frontend("mysql"), "mysqlreaders": backend}
    if mycat:
        owned |= {"mycat": _sql_frontend("mycat"), "mycat_servers": _sql_backend("mycat")}
    if http_backends is not None:
        owned |= {"http-in": _HTTP_FRONTEND, "healthcheck": _HEALTH_CHECK, "http-statistics": _STATISTICS}
        owned |= {name: _HTTP_BACKEND for name in http_backends if name not in owned}
    return _refused_by_section("haproxy.extra", sections, owned, _haproxy_keywords)


def _sql_frontend(setting: str) -> Owned:
    return {
        **_PROXY,
        "maxconn": "set haproxy.defaultMaxConnections",
        "use_backend": "all sessions go to the same servers",
        "timeout client": f"set haproxy.{setting}.timeouts.client",
        "timeout tunnel": f"set haproxy.{setting}.timeouts",
        "option tcpka": "a client that is gone without a word is noticed after 35 s",
    }


def _sql_backend(setting: str) -> Owned:
    return {
        **_PROXY,
        "balance": f"set haproxy.{setting}.balance",
        "timeout server": f"set haproxy.{setting}.timeouts.server",
        "timeout tunnel": f"set haproxy.{setting}.timeouts",
        "option tcpka": "a server that is gone without a word is noticed after 35 s",
    }


def _haproxy_keywords(line: str) -> list[str]:
    """The keyword, and the keyword with its next word; both also with the ``no`` before them."""
    if line.lstrip().startswith("#"):
        return []
    found = re.match(r" *(no +|default +)?([a-z][a-z0-9_.-]*)(?: +([^ ]+))?(?: |$)", line)
    if not found:
        raise ValueError(
            "has to begin with a keyword of HAProxy's, without quotes; .if and variables have no place there"
        )
    prefix, keyword, next_word = (found[1] or "").strip(), found[2], found[3] or ""
    if _HAPROXY_SECTIONS.fullmatch(keyword):
        raise ValueError(f"{keyword} begins another section; these lines are for this one")
    if keyword in {"option", "timeout", "acl", "stats"} and not re.fullmatch(r"[A-Za-z0-9_.:-]+", next_word):
        raise ValueError(f"{keyword} has to be followed by a plain word, without quotes and variables")
    return [keyword, f"{keyword} {next_word}", f"{prefix} {keyword}"]


# --- keepalived ---

_VRRP = "who becomes master is what the stack is about; set keepalived.mode and advertInterval"
_MAIL = "set keepalived.mail"
_SCRIPTS = "the stack's programs decide about health, and move the VIP"
_ARP = "nothing hears gratuitous ARP in a VPC"

KEEPALIVED: Mapping[str, Owned] = {
    "global_defs": {
        "router_id": "it is the machine's name",
        "notification_email*": _MAIL,
        "smtp_*": _MAIL,
        "enable_script_security": _SCRIPTS,
        "script_user": _SCRIPTS,
        "vrrp_version": "set keepalived.mode",
        "vrrp_startup_delay": "set keepalived.startupDelay",
        "vrrp_garp_*": _ARP,
        "vrrp_priority": "adverts have to leave in time on a busy machine",
        "vrrp_no_swap": "adverts have to leave in time on a busy machine",
        "vrrp_rx_bufs_policy": "a process that has hung must not find hundreds of adverts",
        "vrrp_strict": _VRRP,
        "net_namespace*": "the VIP is in the machine's own network",
        "instance": "the stack's programs know one keepalived",
        "use_pid_dir": "systemd's unit knows where it is",
        "include*": "write the lines themselves",
    },
    "vrrp_instance": {
        "state": _VRRP,
        "version": "set keepalived.mode",
        "*preempt*": _VRRP,
        "interface": "it is the machine's own",
        "use_vmac*": "a VPC knows the addresses of its interfaces only",
        "use_ipvlan": "a VPC knows the addresses of its interfaces only",
        "virtual_router_id": "set keepalived.virtualRouterId",
        "priority": "set the machine's priority",
        "advert_int": "set keepalived.advertInterval",
        "mcast_src_ip": "a VPC carries no multicast",
        "unicast_*": "the peers are the load balancers of the stack",
        "authentication": "set keepalived.mode and secrets.vrrp",
        "virtual_ipaddress*": "set vip.address",
        "garp_*": _ARP,
        "strict_mode": _VRRP,
        "accept": "set vip.address",
        "no_accept": "HAProxy has to get what is sent to the VIP",
        "track_script": _SCRIPTS,
        "notify*": _SCRIPTS,
        "smtp_alert*": _MAIL,
        "include*": "write the lines themselves",
    },
}


def keepalived(sections: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What is refused of ``keepalived.extra``."""
    yield from _refused_by_section("keepalived.extra", sections, KEEPALIVED, _keepalived_keyword)
    for section, lines in sections.items():
        depth = 0
        for index, line in enumerate(lines):
            if not line.strip().startswith(("#", "!")):
                depth += line.count("{") - line.count("}")
            if depth < 0:
                yield f"keepalived.extra.{section}[{index}]: a }} too many, which would end the section"
                break
        if depth > 0:
            yield f"keepalived.extra.{section}: a block is not closed; a line }} is missing"


def _keepalived_keyword(line: str) -> list[str]:
    text = line.strip()
    if text.startswith(("#", "!")) or text == "}":
        return []
    found = re.match(r"[A-Za-z0-9_.:/+-]+(?= |$)", text)
    if not found:
        raise ValueError("has to begin with a plain word, without quotes, variables and conditions")
    if not re.fullmatch(r"[^{}]*|[^{}\"'#!]*\{", text):
        raise ValueError("a block begins with a line that ends in {, and ends with a line }")
    return [found[0]]
