"""A client that connects to a MySQL server ten times a second and reads, until its standard input ends.

The first line of standard input has PyMySQL's settings as JSON. The output: how many attempts there were, and what went
wrong when, in seconds since 1970.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymysql


def attempt(settings: dict[str, Any]) -> str:
    """Empty if it has read."""
    try:
        with pymysql.connect(connect_timeout=10, read_timeout=10, **settings) as server, server.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


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
            attempts.append((time.time(), pool.submit(attempt, settings)))
    failed = [(when, problem) for when, future in attempts if (problem := future.result())]
    print(json.dumps([len(attempts), failed]))


if __name__ == "__main__":
    main()
