"""A client that connects to a MySQL server ten times a second and reads, until its standard input ends.

The first line of standard input has PyMySQL's settings as JSON. The output: how many attempts there were, and of each
that failed when it began and ended (CLOCK_MONOTONIC, seconds) and what went wrong.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymysql


def attempt(settings: dict[str, Any]) -> tuple[float, float, str]:
    """When it began, when it ended, and what went wrong; empty if it has read."""
    began, problem = time.monotonic(), ""
    try:
        with pymysql.connect(connect_timeout=10, read_timeout=10, **settings) as server, server.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    return began, time.monotonic(), problem


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    with ThreadPoolExecutor(20) as pool:
        attempts = []
        while not ended.wait(0.1):
            attempts.append(pool.submit(attempt, settings))
    done = [future.result() for future in attempts]
    print(json.dumps([len(done), [each for each in done if each[-1]]]))


if __name__ == "__main__":
    main()
