"""A client that connects to argv's address and port 100 times a second, until its standard input ends.

Each connection waits for the server's first byte, as every client of MySQL does. The output, as JSON: how many there
were, the errors of those that were not made, how long the slowest one took to be made (seconds), and how many were made
but heard nothing.
"""

import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

#: Seconds; longer than TCP waits until it repeats a packet.
LIMIT = 3


def attempt(at: tuple[str, int]) -> tuple[str, float, bool]:
    """The error, how long it took to be made, and whether it has heard the server."""
    began = time.monotonic()
    try:
        connection = socket.create_connection(at, LIMIT)
    except OSError as error:
        return str(error), 0, False
    took = time.monotonic() - began
    with connection:
        try:
            return "", took, connection.recv(1) != b""
        except OSError:
            return "", took, False


def main() -> None:
    at = sys.argv[1], int(sys.argv[2])
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    with ThreadPoolExecutor(100) as pool:
        attempts, due = [], time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            attempts.append(pool.submit(attempt, at))
            due += 0.01
    done = [future.result() for future in attempts]
    errors = [error for error, _, _ in done if error]
    unheard = sum(1 for error, _, heard in done if not error and not heard)
    print(json.dumps([len(done), errors, max(took for _, took, _ in done), unheard]))


if __name__ == "__main__":
    main()
