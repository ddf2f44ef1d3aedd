"""A server that speaks just enough of MySQL's protocol to log in to, and fails in every way that is asked of it."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

SALT = b"abcdefghijklmnopqrst"
OK = b"\x00\x00\x00\x02\x00\x00\x00"
EOF = b"\xfe\x00\x00\x02\x00"
Rows = Sequence[str]


class SqlError(Exception):
    """What a statement is answered with: (number, words)."""


class FakeMysql:
    """``answers`` gives the rows (of one column) of a statement, or raises SqlError."""

    def __init__(
        self, password: str, answers: Callable[[str], Rows] | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.password = password
        self.connections = 0
        self.statements: list[str] = []
        self._answers = answers or (lambda statement: ["1"] if statement.upper().startswith("SELECT") else [])
        self._mode = "answering"
        self._open: list[socket.socket] = []
        self._host = host
        self._listener = socket.create_server((host, port))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.become("stopped")

    def become(self, mode: str) -> None:
        """answering, frozen, dripping, refusing, stopped."""
        was, self._mode = self._mode, mode
        if mode == "stopped":
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        if mode in {"stopped", "refusing"}:
            self.hang_up()
        elif was == "stopped":
            self._listener = socket.create_server((self._host, self.port))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def hang_up(self) -> None:
        """Close what is open, as a restart does."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if self._mode == "refusing":
                    connection.close()
                    continue
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, EOFError, ValueError):
            greeting = (
                b"\x0a5.6.29-mycat-fake\x00\x01\x00\x00\x00" + SALT[:8] + b"\x00\xff\xf7\x2d\x02\x00\x08\x00\x15"
                + bytes(10) + SALT[8:] + b"\x00mysql_native_password\x00"
            )  # fmt: skip
            self._send(connection, 0, greeting)
            number, login = self._receive(connection)
            name, _, rest = login[32:].partition(b"\x00")
            token = rest[1 : 1 + rest[0]]
            if token != _scramble(self.password):
                return self._send(connection, number + 1, _error(1045, f"Access denied for user '{name.decode()}'"))
            self._send(connection, number + 1, OK)
            while True:
                _, command = self._receive(connection)
                if command[0] == 1:
                    return None
                self._answer(connection, command[1:].decode() if command[0] == 3 else "")

    def _answer(self, connection: socket.socket, statement: str) -> None:
        self.statements.append(statement)
        try:
            rows = self._answers(statement)
        except SqlError as error:
            return self._send(connection, 1, _error(*error.args))
        if not rows:
            return self._send(connection, 1, OK)
        column = b"\x03def\x00\x00\x00\x01c\x00\x0c\x2d\x00\xff\x00\x00\x00\xfd\x00\x00\x00\x00\x00"
        packets = [b"\x01", column, EOF, *(_string(row.encode()) for row in rows), EOF]
        for number, packet in enumerate(packets, start=1):
            self._send(connection, number, packet)
        return None

    def _send(self, connection: socket.socket, number: int, payload: bytes) -> None:
        data = len(payload).to_bytes(3, "little") + bytes([number % 256]) + payload
        while self._mode == "frozen":
            time.sleep(0.02)
        if self._mode == "dripping":
            for byte in data:
                if self._mode != "dripping":
                    break
                connection.sendall(bytes([byte]))
                time.sleep(0.3)
            raise EOFError
        connection.sendall(data)

    def _receive(self, connection: socket.socket) -> tuple[int, bytes]:
        head = _exactly(connection, 4)
        return head[3], _exactly(connection, int.from_bytes(head[:3], "little"))


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += (more := connection.recv(count - len(data)))
        if not more:
            raise EOFError
    return data


def _scramble(password: str) -> bytes:
    """mysql_native_password: SHA1(password) XOR SHA1(salt + SHA1(SHA1(password)))."""
    once = hashlib.sha1(password.encode()).digest()
    mask = hashlib.sha1(SALT + hashlib.sha1(once).digest()).digest()
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))


def _error(number: int, words: str) -> bytes:
    return b"\xff" + number.to_bytes(2, "little") + b"#HY000" + words.encode()


def _string(data: bytes) -> bytes:
    return (bytes([len(data)]) if len(data) < 251 else b"\xfc" + len(data).to_bytes(2, "little")) + data
