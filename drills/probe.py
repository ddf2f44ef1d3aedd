"""A client of the virtual IP that notes everything it sees. Runs inside a test host's network namespace.

    python -m drills.probe   (settings: one JSON line on standard input; observations: JSON lines on standard output)

Attempts start on a fixed beat, also while earlier ones hang, so that the resolution is the beat's and not a timeout's.
Times are CLOCK_MONOTONIC in seconds, which is one clock for all namespaces of a kernel.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pymysql

TABLE = "drill_ledger"


@dataclass(frozen=True)
class ProbeSettings:
    host: str
    port: int
    user: str
    password: str
    schema: str
    run: str
    beat: float = 0.05  # seconds between attempts of a kind
    read_timeout: float = 1.5
    write_timeout: float = 10.0


class Probe:
    """Three kinds of client: ``read`` (a new connection and a SELECT), ``write`` (a new connection and an INSERT), and
    ``session`` (one connection that is kept, and made anew when it breaks)."""

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._output = threading.Lock()

    def run(self) -> None:
        pool = ThreadPoolExecutor(max_workers=500)
        kinds = (self._read, self._write)
        beats = [threading.Thread(target=self._beat, args=(pool, attempt)) for attempt in kinds]
        session = threading.Thread(target=self._session)
        for thread in (*beats, session):
            thread.start()
        sys.stdin.read()  # the end of it is the signal to stop
        self._stop.set()
        for thread in (*beats, session):
            thread.join()
        pool.shutdown()

    def _beat(self, pool: ThreadPoolExecutor, attempt: Any) -> None:
        due, number = time.monotonic(), 0
        while not self._stop.is_set():
            pool.submit(attempt, number)
            number += 1
            due += self._settings.beat
            time.sleep(max(0.0, due - time.monotonic()))

    def _read(self, number: int) -> None:
        self._note("read", number, lambda: self._once("SELECT 1", (), self._settings.read_timeout))

    def _write(self, number: int) -> None:
        """Acknowledged means: the COMMIT was answered. Only then the observation is written, and only once."""
        insert = f"INSERT INTO {TABLE} (run, n, at) VALUES (%s, %s, NOW(6))"  # noqa: S608
        values = (self._settings.run, number)
        self._note("write", number, lambda: self._once(insert, values, self._settings.write_timeout))

    def _once(self, statement: str, values: tuple[Any, ...], timeout: float) -> None:
        with self._connect(timeout) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)

    def _connect(self, timeout: float) -> "pymysql.Connection[Any]":
        s = self._settings
        return pymysql.connect(
            host=s.host,
            port=s.port,
            user=s.user,
            password=s.password,
            database=s.schema,
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
                connection = self._connect(self._settings.read_timeout)
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")

        while not self._stop.is_set():
            if not self._note("session", number, step):
                connection = None
            number += 1
            time.sleep(self._settings.beat)

    def _note(self, kind: str, number: int, action: Any) -> bool:
        start, error = time.monotonic(), None
        try:
            action()
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"[:200]
        line = json.dumps({"kind": kind, "n": number, "start": start, "end": time.monotonic(), "error": error})
        with self._output:
            print(line, flush=True)
        return error is None


def main() -> None:
    Probe(ProbeSettings(**json.loads(sys.stdin.readline()))).run()


if __name__ == "__main__":
    main()
