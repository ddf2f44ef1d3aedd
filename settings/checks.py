"""What sections of the settings have to agree on with each other, and with AWS.

Every check yields ``KEY: reason``, with the key as below ``mycat-ha:`` in a stack file.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from constants import HAPROXY_HEALTH_PORT, HAPROXY_PEERS_PORT
from settings import backends, certificates, extra, own_files
from settings.base import NAMESPACE, unprintable
from settings.mycat import contradictions
from settings.secret_names import AUTHORITY_KEY, GALERA_KEY, KEYS, STATISTICS_KEY, TLS_KEY, VRRP, needed_secrets
from settings.services import MOST_CONNECTIONS, RESERVED_CONNECTIONS, Certificate, share_problems, user_problems
from settings.topology import Role

if TYPE_CHECKING:
    from settings import Settings

_OWN_PORTS = {22: "SSH", HAPROXY_HEALTH_PORT: "HAProxy's own health check"}


def problems(settings: "Settings") -> Iterator[str]:
    """Everything that does not fit together."""
    for check in _CHECKS:
        yield from check(settings)


def _topology(settings: "Settings") -> Iterator[str]:
    machines = settings.machines
    for what in ("name", "address"):
        for value, count in Counter(str(getattr(machine, what)) for machine in machines).items():
            if count > 1:
                yield f"machines: {count} machines have the {what} {value}; each needs its own"
    for index, machine in enumerate(machines):
        if refusal := settings.network.refusal(machine.address):
            yield f"machines[{index}].address: {refusal}"
        if len(set(machine.roles)) < len(machine.roles):
            yield f"machines[{index}].roles: a role is named twice"
    balancers = settings.of_role(Role.LB)
    if len(balancers) < 2:
        yield f"machines: {len(balancers)} with role lb; high availability needs at least two"
    priorities = Counter(settings.priority(balancer) for balancer in balancers)
    for priority, count in priorities.items():
        if count > 1:
            yield f"machines: {count} load balancers have the priority {priority}; VRRP needs them to differ"


def _virtual_ip(settings: "Settings") -> Iterator[str]:
    address = settings.vip.address
    if refusal := settings.network.refusal(address):
        yield f"vip.address: {refusal}"
    for machine in settings.machines:
        if machine.address == address:
            yield f"vip.address: {address} is the address of machine {machine.name}; the VIP needs one of its own"
    try:
        settings.vip.script()
    except (OSError, ValueError) as error:
        yield f"vip.notify: {settings.vip.notify}: {error}"


def _ec2_endpoint(settings: "Settings") -> Iterator[str]:
    if settings.network.ec2_endpoint and settings.vip.ec2_endpoint:
        yield (
            f"network.ec2Endpoint: the load balancers would not use it, because vip.ec2Endpoint names "
            f"{settings.vip.ec2_endpoint}; leave one of them out"
        )


def _access(settings: "Settings") -> Iterator[str]:
    bastion, network = settings.access.bastion, settings.network
    if bastion and bastion.create and network.subnet_id:
        yield (
            f"access.bastion.create: {network.subnet_id} is an existing subnet, which has no public one beside it that "
            "this project knows; name an existing bastion (host, address), or connect directly (access.deployer)"
        )


def _database(settings: "Settings") -> Iterator[str]:
    nodes = len(settings.of_role(Role.MYSQL))
    if settings.database.external and nodes:
        yield f"database.external: {nodes} machines have the role mysql as well; use one or the other"
    if not settings.database.external:
        if nodes == 0:
            yield "machines: none with role mysql, and database.external is empty; port 3306 needs servers"
        elif nodes == 2:
            yield "machines: 2 with role mysql; two Galera nodes lose their quorum with either one, use three (or one)"
    if settings.database.backup and not nodes:
        yield "database.backup: the databases are external ones, which are backed up where they are; leave it out"
    mycat = settings.mycat
    yield from user_problems(settings.database, mycat.database_user if mycat and not mycat.external else None)


_NO_RSA_KEY = "not an RSA private key in PEM without a password, of 2048 bits or more"


def _tls(settings: "Settings") -> Iterator[str]:
    tls = settings.database.tls
    if tls is None:
        return
    if settings.database.external:
        yield "database.tls: database.external are servers whose TLS is not the stack's; leave one of them out"
        return
    yield from _certificate(settings, "database.tls", tls, TLS_KEY)
    if tls.required:
        yield from _mycat_without_tls(settings)


def _statistics_tls(settings: "Settings") -> Iterator[str]:
    if tls := settings.haproxy.statistics.tls:
        yield from _certificate(settings, "haproxy.statistics.tls", tls, STATISTICS_KEY)


def _certificate(settings: "Settings", place: str, own: Certificate, key: str) -> Iterator[str]:
    secrets = {name: secret.get_secret_value() for name, secret in settings.secrets.items()}
    if own.certificate and own.authority and secrets.get(key):
        yield from certificates.problems(
            place, own.certificate, own.authority, (key, secrets[key]), settings.vip.address, own.names
        )
    elif not own.certificate:
        for name in (key, AUTHORITY_KEY):
            if secrets.get(name) and not certificates.is_rsa_key(secrets[name]):
                yield f"secrets.{name}: {_NO_RSA_KEY}"


def _galera_tls(settings: "Settings") -> Iterator[str]:
    if not settings.database.galera.tls:
        return
    if settings.database.external:
        yield "database.galera.tls: database.external are no nodes of the stack's; leave one of them out"
    key = settings.secrets.get(GALERA_KEY)
    if key and not certificates.is_rsa_key(key.get_secret_value()):
        yield f"secrets.{GALERA_KEY}: {_NO_RSA_KEY}"


def _mycat_without_tls(settings: "Settings") -> Iterator[str]:
    mycat = settings.mycat
    if mycat is None or mycat.external or list(_mycat(settings)):
        return
    own = {str(settings.vip.address), *(str(machine.address) for machine in settings.of_role(Role.MYSQL))}
    if led_to := [address for address, _ in backends.backends(mycat, settings.machines).servers if address in own]:
        key = "mycat.files" if mycat.files else "mycat.dataHosts"
        yield f"database.tls.required: {key} leads Mycat to {led_to[0]}, and it speaks no TLS; leave one of them out"


def _sessions(settings: "Settings") -> Iterator[str]:
    """Mycat has a connection to the databases for whatever HAProxy lets in: a pool that is empty looks like a dead
    database to it."""
    if list(_mycat(settings)):  # its own files may be unreadable
        return
    sessions = settings.mycat_sessions()
    for host in settings.data_hosts():
        if host.serves(sessions):
            continue
        if not host.serves(1):
            yield f"{host.key}: {host.most} is too few; set {host.needs(1)} or more"
            continue
        most = next(fewer for fewer in range(sessions, 0, -1) if host.serves(fewer))
        yield (
            f"haproxy.mycat.serverMaxConnections: {sessions} sessions of a Mycat need {host.needs(sessions)} "
            f"connections (one for each of {max(1, host.nodes)} data nodes, and a tenth more), and {host.key} allows "
            f"{host.most}; set {most} or less, leave it out, or raise the other"
        )


def _connections(settings: "Settings") -> Iterator[str]:
    """The limits of HAProxy and of Mycat have to fit under the databases' own."""
    if settings.database.external or list(_mycat(settings)):  # Mycat's own files may be unreadable
        return
    mysql, given = settings.haproxy.mysql, settings.database.galera.max_connections
    most, needed = given or MOST_CONNECTIONS, settings.connections_that_may_come()
    if needed <= most:
        return
    parts = [f"{mysql.server_max_connections} of haproxy.mysql.serverMaxConnections"]
    if count := settings.read_backends():
        parts.append(f"{count * mysql.server_max_connections} of haproxy.mysql.readPort in {count} backends")
    if from_mycat := settings.most_from_mycat():
        where = (
            "maxCon in mycat.files"
            if settings.mycat and settings.mycat.files
            else "maxConnections of mycat.dataHosts; else what haproxy.mycat.serverMaxConnections needs, or 440"
        )
        count = len(settings.of_role(Role.MYCAT))
        parts.append(f"{from_mycat} of {count} Mycats with {from_mycat // count} each ({where})")
    parts.append(f"{RESERVED_CONNECTIONS} for administrators and what goes wrong")
    do = f"set {needed} or more, leave it out, or lower the others" if given else "lower them"
    yield (
        f"database.galera.maxConnections: {needed} connections may come to each database "
        f"({', '.join(parts)}), and it takes {most} at most; {do}"
    )


def _external_checks(settings: "Settings") -> Iterator[str]:
    database, mysql = settings.database, settings.haproxy.mysql
    given = {"Writer": database.external_writer_check, "Reader": database.external_reader_check}
    keys = [f"database.external{whose}Check" for whose, check in given.items() if check]
    if not database.external:
        for key in keys:
            yield f"{key}: there are no database.external, and the stack knows its own databases; leave it out"
        return
    if database.external_reader_check and not mysql.read_port:
        yield "database.externalReaderCheck: nobody would be sent there; set haproxy.mysql.readPort, or leave it out"
    if keys and database.external_check_user and len({server.port for server in database.external}) > 1:
        yield (
            f"database.external: with {keys[0]} and externalCheckUser the servers need the same port; set "
            "externalCheckUser: null"
        )
    if not mysql.single_writer:
        return
    if not database.external_writer_check:
        yield (
            "haproxy.mysql.singleWriter: the check of database.external is a login, which does not know who may write: "
            "when the writer fails, writes would go to a replica. Set database.externalWriterCheck, a port and a path "
            "that answers 200 on the server that may write; or leave singleWriter out, and in database.external name "
            "servers only of which each may write"
        )
    elif mysql.single_writer_failback:
        yield (
            "haproxy.mysql.singleWriterFailback: database.externalWriterCheck says who writes, and HAProxy goes "
            "back to nobody; leave it out"
        )


def _single_writer(settings: "Settings") -> Iterator[str]:
    mysql = settings.haproxy.mysql
    if mysql.single_writer_failback and not mysql.single_writer:
        yield "haproxy.mysql.singleWriterFailback: only with singleWriter: true, which is what it is about"
    if mysql.single_writer and mysql.balance != "roundrobin":
        yield "haproxy.mysql.balance: with singleWriter all sessions go to one server; leave one of them out"
    if mysql.single_writer and mysql.servers:
        yield (
            "haproxy.mysql.servers: with singleWriter the order of the servers says who is the next writer; "
            "leave one of them out"
        )


def _proxy_protocol(settings: "Settings") -> Iterator[str]:
    if settings.haproxy.mysql.proxy_protocol and settings.database.external:
        yield (
            "haproxy.mysql.proxyProtocol: the databases are external ones, and whether those take the PROXY protocol "
            "from the load balancers is not known here; leave it out"
        )


def _shares(settings: "Settings") -> Iterator[str]:
    databases = settings.database.external or settings.of_role(Role.MYSQL)
    mycats = (settings.mycat.external if settings.mycat else ()) or settings.of_role(Role.MYCAT)
    haproxy = settings.haproxy
    yield from share_problems("haproxy.mysql", haproxy.mysql.servers, [server.name for server in databases])
    yield from share_problems("haproxy.mycat", haproxy.mycat.servers, [server.name for server in mycats])


def _mycat(settings: "Settings") -> Iterator[str]:
    mycat, machines = settings.mycat, settings.of_role(Role.MYCAT)
    if mycat is None:
        if machines:
            yield f"mycat: missing, and machine {machines[0].name} has the role mycat"
        return
    if mycat.external and machines:
        yield f"mycat.external: {len(machines)} machines have the role mycat as well; use one or the other"
    if not mycat.external and not machines:
        yield "mycat: no machine has the role mycat; give it to one, or name external servers, or leave the section out"
    if mycat.database_user in (settings.database.user, "health"):
        yield f"mycat.databaseUser: {mycat.database_user} is another user of the databases; Mycat needs one of its own"
    yield from contradictions(mycat, settings.machines)
    if mycat.directory:
        health = settings.secrets.get("health")
        yield from own_files.problems(mycat.directory, health.get_secret_value() if health else "")
    for key, seconds in zip(("client", "server"), settings.silence(settings.haproxy.mycat), strict=True):
        if not mycat.external and not mycat.files and settings.sql_execute_timeout() >= seconds:
            yield (
                f"mycat.sqlExecuteTimeout: {settings.sql_execute_timeout()} s would never be reached, because HAProxy "
                f"ends the session after {seconds:g} s of silence; set a shorter one, or a longer "
                f"haproxy.mycat.timeouts.{key}"
            )
    for index, user in enumerate(mycat.users):
        secret = settings.secrets.get(user.secret)
        if secret and secret.get_secret_value() != secret.get_secret_value().strip():
            yield f"mycat.users[{index}].secret: {user.secret} begins or ends with a blank, which Mycat would ignore"


def _ports(settings: "Settings") -> Iterator[str]:
    haproxy, http = settings.haproxy, settings.http
    own = _OWN_PORTS | ({HAPROXY_PEERS_PORT: "HAProxy's peers"} if haproxy.mysql.single_writer else {})
    ports = {
        "haproxy.mysql.port": haproxy.mysql.port,
        "haproxy.mycat.port": haproxy.mycat.port,
        "haproxy.statistics.port": haproxy.statistics.port,
    }
    if haproxy.mysql.read_port:
        ports["haproxy.mysql.readPort"] = haproxy.mysql.read_port
    if http:
        ports |= {
            "http.port": http.port,
            "http.healthCheckPort": http.health_check_port,
            "http.statistics.port": http.statistics.port,
        }
    for port, count in Counter(ports.values()).items():
        keys = " and ".join(key for key, value in ports.items() if value == port)
        if count > 1:
            yield f"{keys}: all are {port}; each frontend needs a port of its own"
        if port in own:
            yield f"{keys}: {port} is the port of {own[port]} on every load balancer"


def _http(settings: "Settings") -> Iterator[str]:
    if settings.http:
        yield from settings.http.problems({machine.name: machine.address for machine in settings.of_role(Role.WEB)})


def _extra(settings: "Settings") -> Iterator[str]:
    if settings.database.extra and settings.database.external:
        yield "database.extra: the databases are external ones, whose configuration is not the stack's"
    yield from extra.mysqld(settings.database.extra)
    yield from extra.haproxy(
        settings.haproxy.extra,
        single_writer=settings.haproxy.mysql.single_writer,
        read_port=settings.haproxy.mysql.read_port is not None,
        proxy_protocol=settings.haproxy.mysql.proxy_protocol,
        mycat=settings.mycat is not None,
        http_backends=settings.http.backends if settings.http else None,
    )
    yield from extra.keepalived(settings.keepalived.extra)


def _secrets(settings: "Settings") -> Iterator[str]:
    needed = needed_secrets(settings.model_dump(mode="json", by_alias=True, exclude={"secrets"}))
    for name, use in needed.items():
        secret = settings.secrets.get(name)
        if secret is None or not secret.get_secret_value():
            yield (
                f"secrets.{name}: missing (for {use}); "
                f"set it with: pulumi config set --secret --path '{NAMESPACE}:secrets.{name}'"
            )
    for name, secret in settings.secrets.items():
        value = secret.get_secret_value()
        if name not in KEYS and unprintable(value):
            yield f"secrets.{name}: must not contain control characters or line breaks"
    vrrp = settings.secrets.get(VRRP)
    if vrrp and len(vrrp.get_secret_value()) > 8:
        yield "secrets.vrrp: longer than 8 characters; VRRPv2 would silently use the first 8 only (RFC 2338, 5.3.6)"
    if vrrp and not re.fullmatch(r"[A-Za-z0-9+/_.-]*", vrrp.get_secret_value()):
        yield "secrets.vrrp: only letters, digits and + / _ . - (keepalived.conf takes others as comments or quotes)"


_CHECKS: tuple[Callable[["Settings"], Iterator[str]], ...] = (
    _topology,
    _virtual_ip,
    _ec2_endpoint,
    _access,
    _database,
    _tls,
    _statistics_tls,
    _galera_tls,
    _external_checks,
    _single_writer,
    _proxy_protocol,
    _shares,
    _mycat,
    _sessions,
    _connections,
    _ports,
    _http,
    _extra,
    _secrets,
)
