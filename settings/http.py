"""HTTP proxying: one frontend on the VIP, rules that choose a backend, web servers behind."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from settings.base import PATH, IPv4Address, Name, Port, Section, Target
from settings.services import Balance, Check, Share, share_problems

#: HAProxy compares it as it was sent, percent-encoded.
PathPrefix = Annotated[str, StringConstraints(pattern=rf"^/{PATH}*$")]
PathSuffix = Annotated[str, StringConstraints(pattern=rf"^{PATH}+$")]
#: The beginning of a host name (RFC 1123, 2.1).
HostPrefix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]
#: Names that sections of haproxy.cfg have already.
TAKEN = frozenset(
    {"global", "defaults", "health", "statistics", "mysql", "mysqlservers", "mysqlread", "mycat"}
    | {"http-in", "healthcheck", "http-statistics"}
)


class Capture(Section):
    """The beginning of a request header, for the log line."""

    header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]
    """The header's name."""
    length: Annotated[int, Field(ge=1, le=1024)]
    """How many characters of its value are logged."""


class HttpStatistics(Section):
    """The recipe's second statistics page, with the first one's user and password."""

    port: Port = 1080
    """The port on each load balancer and on the VIP. The default is the recipe's."""
    uri: Target = "/haproxyadmin?stats"
    """The page's path. The default is the recipe's."""
    realm: Annotated[str, StringConstraints(pattern=r"^[^\r\n]+$")] = "Haproxy Statistics"
    """What a browser shows when it asks for the password. The default is the recipe's."""


class HttpServer(Section):
    """A web server that is not a machine of the stack."""

    name: Name
    """Its name in HAProxy's configuration and on the statistics page."""
    address: IPv4Address
    """Its address, as the load balancers reach it."""
    port: Port = 80
    """Its port."""


class Backend(Section):
    """Web servers that take turns: machines of role `web` by name, all on `port`, and others by address."""

    machines: tuple[Name, ...] = ()
    """Names of machines of role `web`."""
    port: Port = 80
    """Where all of `machines` listen."""
    external: tuple[HttpServer, ...] = ()
    """Web servers that are not machines of the stack."""
    balance: Literal[Balance, "uri"] = "roundrobin"
    """How HAProxy chooses a server for a request (manual, 4.2). `uri`: the same one for the same path, for caches."""
    servers: dict[Name, Share] = Field(default_factory=dict)
    """What is different for single servers, by the name of the machine or of the external server."""
    server_max_connections: Annotated[int, Field(ge=1)] = 2000
    """Connections that one server gets at the same time; further ones wait (`maxconn` of a server)."""
    check_path: Target | None = None
    """A server is healthy when it answers this path with 2xx or 3xx. Default: when it accepts connections."""
    check: Check = Check()
    """Health checks of the servers."""

    @property
    def names(self) -> list[str]:
        """The servers'."""
        return [*self.machines, *(server.name for server in self.external)]

    @model_validator(mode="after")
    def _servers(self) -> Self:
        names = self.names
        if not names:
            raise ValueError("no servers: give machines (of role web, by name), external ones, or both")
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} servers are named {name}; each needs a name of its own")
        return self


class Rule(Section):
    """Requests that match any of the prefixes and suffixes, in upper or lower case, go to `backend`."""

    backend: Name
    """A key of `http.backends`."""
    path_prefixes: tuple[PathPrefix, ...] = ()
    """Beginnings of paths, percent-encoded as in the request."""
    path_suffixes: tuple[PathSuffix, ...] = ()
    """Ends of paths, percent-encoded as in the request."""
    host_prefixes: tuple[HostPrefix, ...] = ()
    """Beginnings of host names."""

    @model_validator(mode="after")
    def _matches_something(self) -> Self:
        if not (self.path_prefixes or self.path_suffixes or self.host_prefixes):
            raise ValueError("matches nothing: give pathPrefixes, pathSuffixes or hostPrefixes")
        return self


class Http(Section):
    """HTTP on the VIP: rules choose a backend of web servers. Off unless the section is present."""

    port: Port = 80
    """The port on the VIP."""
    max_connections: Annotated[int, Field(ge=10, le=50_000)] = 4000
    """Connections of the HTTP frontend."""
    health_check_port: Port = 1099
    """The port on each load balancer for monitors: it answers through the backends, and with 503 as soon as one of them
    has no server left."""
    statistics: HttpStatistics = HttpStatistics()
    """A second statistics page."""
    captures: tuple[Capture, ...] = (Capture(header="Host", length=20), Capture(header="Referer", length=60))
    """Request headers that are logged. The defaults are the recipe's."""
    backends: Annotated[dict[Name, Backend], Field(min_length=1)]
    """Backends by name."""
    rules: tuple[Rule, ...] = ()
    """The first rule that matches decides."""
    default_backend: Name
    """The backend, a key of `backends`, of requests that no rule matches."""

    @property
    def in_use(self) -> list[str]:
        """The backends that requests can reach."""
        return sorted({self.default_backend, *(rule.backend for rule in self.rules)})

    def problems(self, web: Mapping[str, IPv4Address]) -> Iterator[str]:
        """What contradicts itself, or the stack's ``web`` machines (addresses by name)."""
        known = ", ".join(self.backends)
        chosen = {f"rules[{i}].backend": rule.backend for i, rule in enumerate(self.rules)}
        for key, name in {**chosen, "defaultBackend": self.default_backend}.items():
            if name not in self.backends:
                yield f"http.{key}: there is no backend {name}; http.backends has {known}"
        for name, backend in self.backends.items():
            if name in TAKEN or name.startswith("mysqlreaders"):
                yield f"http.backends.{name}: HAProxy has a section of this name already; choose another"
            yield from share_problems(f"http.backends.{name}", backend.servers, backend.names)
            for index, machine in enumerate(backend.machines):
                if machine not in web:
                    yield (
                        f"http.backends.{name}.machines[{index}]: {machine} is no machine of role web; "
                        f"those are: {', '.join(web) or 'none'}"
                    )
            for index, server in enumerate(backend.external):
                for machine, address in web.items():
                    if server.address == address:
                        yield (
                            f"http.backends.{name}.external[{index}].address: {address} is machine {machine}; "
                            "name it in machines, so that the firewall knows"
                        )
