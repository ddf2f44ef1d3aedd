"""A client of the virtual IP that notes everything it sees. Runs inside a test host's network namespace.

    python -m drills.probe   (settings: one JSON line on standard input; observations: JSON lines on standard output)

Attempts start on a fixed beat, also while earlier ones hang, so that the resolution is the beat's and not a timeout's.
Times are CLOCK_MONOTONIC in seconds, which is one clock for all namespaces of a kernel.
"""

import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pymysql

TABLE = "drill_ledger"


@dataclass(frozen=True)
class Login:
    port: int
    user: str
    password: str = field(repr=False)
    schema: str


@dataclass(frozen=True)
class ProbeSettings:
    host: str
    run: str
    mysql: Login
    mycat: Login | None
    beat: float = 0.05  # seconds between attempts of a kind
    connect_beat: float = 0.01
    mycat_beat: float = 0.2
    read_timeout: float = 1.5
    connect_timeout: float = 3.0  # longer than TCP waits until it repeats its first packet
    write_timeout: float = 10.0

    @classmethod
    def parse(cls, line: str) -> "ProbeSettings":
        given = json.loads(line)
        mysql, mycat = Login(**given.pop("mysql")), given.pop("mycat")
        return cls(mysql=mysql, mycat=Login(**mycat) if mycat else None, **given)


class Probe:
    """The kinds of client, each with a beat of its own:

    ``connect``: a new connection, until the database's first byte. ``read``: a new connection and a SELECT.
    ``write``: a new connection and an INSERT. ``session``: one connection that is kept, and made anew when it breaks.
    ``mycat``: a new connection to Mycat and a SELECT, if there is one.
    """

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._output = threading.Lock()

    def run(self) -> None:
        s = self._settings
        pool = ThreadPoolExecutor(max_workers=800)
        kinds = [(self._connects, s.connect_beat), (self._read, s.beat), (self._write, s.beat)]
        if s.mycat:
            kinds.append((partial(self._mycat, s.mycat), s.mycat_beat))
        beats = [threading.Thread(target=self._beat, args=(pool, *kind)) for kind in kinds]
        session = threading.Thread(target=self._session)
        for thread in (*beats, session):
            thread.start()
        sys.stdin.read()  # the end of it is the signal to stop
        self._stop.set()
        for thread in (*beats, session):
            thread.join()
        pool.shutdown()

    def _beat(self, pool: ThreadPoolExecutor, attempt: Any, beat: float) -> None:
        due, number = time.monotonic(), 0
        while not self._stop.is_set():
            pool.submit(attempt, number)
            number += 1
            due += beat
            time.sleep(max(0.0, due - time.monotonic()))

    def _connects(self, number: int) -> None:
        def connect() -> None:
            s = self._settings
            with socket.create_connection((s.host, s.mysql.port), s.connect_timeout) as connection:
                if not connection.recv(1):
                    raise ConnectionError("closed before the database's first byte")

        self._note("connect", number, connect)

    def _read(self, number: int) -> None:
        """The database knows the client by the address of the balancer that it came through."""
        sql = "SELECT SUBSTRING_INDEX(USER(), '@', -1)"
        self._note("read", number, lambda: self._once(self._settings.mysql, sql, (), self._settings.read_timeout))

    def _write(self, number: int) -> None:
        """Acknowledged means: the COMMIT was answered. Only then the observation is written, and only once."""
        s = self._settings
        insert = f"INSERT INTO {TABLE} (run, n, at) VALUES (%s, %s, NOW(6))"  # noqa: S608
        self._note("write", number, lambda: self._once(s.mysql, insert, (s.run, number), s.write_timeout))

    def _mycat(self, login: Login, number: int) -> None:
        def once() -> None:
            self._once(login, "SELECT 1", (), self._settings.read_timeout)

        self._note("mycat", number, once)

    def _once(self, login: Login, statement: str, values: tuple[Any, ...], timeout: float) -> str | None:
        """The first column of the first row."""
        with self._connect(login, timeout) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            row = cursor.fetchone()
        return str(row[0]) if row else None

    def _connect(self, login: Login, timeout: float) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            host=self._settings.host,
            port=login.port,
            user=login.user,
            password=login.password,
            database=login.schema,
            connect_timeout=timeout,
            read_timeout=timeout,
            write_timeout=timeout,
            autocommit=True,
            # Not spoken here; and preparing for it costs 26 ms of processor a connection, more than all the rest.
            ssl_disabled=True,
        )

    def _session(self) -> None:
        connection: pymysql.Connection[Any] | None = None
        number = 0

        def step() -> None:
            nonlocal connection
            if connection is None:
                connection = self._connect(self._settings.mysql, self._settings.read_timeout)
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")

        while not self._stop.is_set():
            if not self._note("session", number, step):
                connection = None
            number += 1
            time.sleep(self._settings.beat)

    def _note(self, kind: str, number: int, action: Any) -> bool:
        start, error, said = time.monotonic(), None, None
        try:
            said = action()
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"[:200]
        seen = {"kind": kind, "n": number, "start": start, "end": time.monotonic(), "error": error, "by": said}
        with self._output:
            print(json.dumps(seen), flush=True)
        return error is None


def main() -> None:
    Probe(ProbeSettings.parse(sys.stdin.readline())).run()


if __name__ == "__main__":
    main()
