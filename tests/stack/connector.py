"""A client that connects to a MySQL server ten times a second and reads, until its standard input ends.

The first line of standard input has PyMySQL's settings as JSON. The last line of output: how many attempts there were, and
what went wrong with which.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pymysql


def attempt(settings: dict[str, object]) -> str:
    """Empty if it has read."""
    try:
        with pymysql.connect(connect_timeout=10, read_timeout=10, **settings) as connection:  # type: ignore[arg-type]
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with ThreadPoolExecutor(20) as pool:
        attempts = []
        while not ended.wait(0.1):
            attempts.append((time.time(), pool.submit(attempt, settings)))
    failed = [(when, problem) for when, future in attempts if (problem := future.result())]
    print(json.dumps([len(attempts), failed]))


if __name__ == "__main__":
    main()
