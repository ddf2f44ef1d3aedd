#!/usr/bin/python3
"""Answers a load balancer's health checks over HTTP: is this machine's database, or its Mycat, usable by clients?

``OPTIONS *``, ``GET /`` and ``GET /mycat`` ask Mycat; ``GET /mysql`` asks MariaDB and Galera. 200 means yes; 503 means
no, with the reason; 404 means that there is no such service here. An answer comes within a second, whatever hangs:
the service is asked over a connection that is kept, and its last answer is good for 200 ms, so that many balancers
cost no more than one. The database's answers name its cluster (X-Galera-Cluster, a UUID). Started by systemd with the
listening socket (sd_listen_fds(3)).
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pymysql

FRESH = 0.2  # seconds for which an answer is good
PATIENCE = 0.4  # seconds that one step of asking may take
LIMIT = 0.9  # seconds until a caller is told no
DONOR, JOINED, SYNCED = "2", "3", "4"  # wsrep_local_state
#: Files of leave-service, by request target: until how many seconds after the boot it is so.
LEAVING = os.environ.get("MYCAT_HA_LEAVING", "/run/mycat-ha-leaving")


class Service:
    """One service, its connection, and its last answer."""

    def __init__(self, settings: dict[str, Any], usable: Callable[["Service"], str]) -> None:
        # PyMySQL would make Latin-1 of it.
        self._settings = {**settings, "password": settings["password"].encode()}
        self._usable = usable
        self._connection: pymysql.Connection[Any] | None = None
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1)
        self._asking: Future[str] | None = None
        self._asked = -FRESH
        #: The UUID of a database's cluster, as it was last said.
        self.cluster = ""

    def problem(self) -> str:
        """Why clients should not come here; empty if they may."""
        with self._lock:
            answered = self._asking is not None and self._asking.done()
            if self._asking is None or (answered and time.monotonic() - self._asked >= FRESH):
                self._asking = self._worker.submit(self._ask)
            asking = self._asking
        try:
            return asking.result(LIMIT)
        except TimeoutError:
            self._hang_up()
            return "it has not answered in time"

    def _hang_up(self) -> None:
        """A server that sends a little now and then would keep the worker for ever."""
        connection = self._connection
        if connection is not None and (channel := connection._sock) is not None:  # type: ignore[attr-defined]
            with suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)

    def _ask(self) -> str:
        problem = "it could not be asked"
        try:
            problem = self._try()
        finally:
            self._asked = time.monotonic()
            self.serves = not problem
        return problem

    def _try(self) -> str:
        for again in (True, False):
            fresh = self._connection is None
            try:
                if self._connection is None:
                    self._connection = pymysql.Connection(
                        connect_timeout=PATIENCE,
                        read_timeout=PATIENCE,
                        write_timeout=PATIENCE,
                        defer_connect=True,
                        **self._settings,
                    )
                    self._connection.connect()
                return self._usable(self)
            except Exception as error:
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection._force_close()  # type: ignore[attr-defined]  # no QUIT: it may hang
                # A kept connection may have been closed by a restart: that alone is no reason.
                closed = isinstance(error, pymysql.err.OperationalError) and error.args[0] in (2006, 2013)
                if fresh or not again or not closed or "timed out" in str(error):
                    return f"{type(error).__name__}: {error}"
        return "unreachable"

    def rows(self, query: str) -> tuple[Any, ...]:
        assert self._connection is not None
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return tuple(cursor.fetchall())


def database(service: Service) -> str:
    """Galera lets clients in when this node belongs to the primary component and has caught up with it."""
    status = dict(
        service.rows(
            "SHOW GLOBAL STATUS WHERE Variable_name IN "
            "('wsrep_ready', 'wsrep_cluster_status', 'wsrep_local_state', 'wsrep_local_state_comment',"
            " 'wsrep_cluster_state_uuid')"
        )
    )
    service.cluster = status.get("wsrep_cluster_state_uuid", "")
    if status.get("wsrep_ready") != "ON":
        return "wsrep_ready is off: the node does not take queries"
    if status.get("wsrep_cluster_status") != "Primary":
        return f"wsrep_cluster_status is {status.get('wsrep_cluster_status')}"
    read_only, method, desynced = service.rows("SELECT @@read_only, @@wsrep_sst_method, @@wsrep_desync")[0]
    # mariabackup lets the donor of a state transfer go on serving, also while it catches up afterwards; one that joins
    # has not served yet. What an operator has desynced is to be let alone.
    state = status.get("wsrep_local_state")
    donates = method == "mariabackup" and not desynced and (state == DONOR or (state == JOINED and service.serves))
    if state != SYNCED and not donates:
        return f"the node is not synced: {status.get('wsrep_local_state_comment')}"
    return "the server is read-only" if read_only else ""


def mycat(service: Service) -> str:
    """Mycat answers this one itself, without a database: a database that is down is not Mycat's failure."""
    return "" if service.rows("SELECT 1") else "an empty answer"


def leaving(target: str) -> str:
    """Why clients should not come here although the service works; empty if they may."""
    try:
        with open(LEAVING + target, encoding="ascii") as file:
            until = float(file.read())
    except (OSError, ValueError):
        return ""
    return "leaving service" if time.clock_gettime(time.CLOCK_BOOTTIME) < until else ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 2
    wbufsize = -1  # head and body in one: the balancer hangs up after the head
    services: ClassVar[dict[str, Service]] = {}
    aliases: ClassVar[dict[str, str]] = {"*": "/mycat", "/": "/mycat"}

    def answer(self) -> None:
        target = self.aliases.get(self.path, self.path)
        service = self.services.get(target)
        if service is None:
            status, text = 404, "no such service here"
        else:
            text = service.problem() or leaving(target)
            status = 503 if text else 200
        body = f"{text or 'ok'}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if service and service.cluster:
            self.send_header("X-Galera-Cluster", service.cluster)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    do_GET = do_OPTIONS = do_HEAD = answer  # noqa: N815

    def log_message(self, *words: object) -> None:
        """A line for each check would bury everything else."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=3)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        settings = json.load(file)
    checks = {"/mysql": database, "/mycat": mycat}
    Handler.services = {path: Service(settings[path], check) for path, check in checks.items() if path in settings}
    Server().serve_forever()


if __name__ == "__main__":
    main()
