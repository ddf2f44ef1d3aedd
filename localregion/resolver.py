"""The VPC's name resolver (AWS's is at the VPC's base address plus two): asks this computer's own.

Questions come in by a socket in the router's namespace and leave from the host, so that whatever name server this
computer uses will do, one on its loopback included. Which name a private address has is nobody else's to say: it has
none (RFC 6303, "Locally Served DNS Zones"; AWS's has one for each address of the VPC).
"""

import re
import socket
import socketserver
import threading
from ipaddress import IPv4Address
from pathlib import Path

from localregion.kernel import in_namespace

_PORT = 53
_SECONDS = 4  # for each name server
_RESOLV_CONF = Path("/etc/resolv.conf")
_HEADER = 12  # bytes of a message before its question (RFC 1035, 4.1.1)
_REVERSE = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.in-addr\.arpa", re.IGNORECASE)


def serve(namespace: str, address: IPv4Address) -> None:
    """Answer at ``address``, over UDP and TCP, until the namespace is gone."""
    where = (str(address), _PORT)
    datagrams = in_namespace(namespace, lambda: socketserver.ThreadingUDPServer(where, _Datagram))
    streams = in_namespace(namespace, lambda: socketserver.ThreadingTCPServer(where, _Stream))
    for server in (datagrams, streams):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _ask(kind: socket.SocketKind, question: bytes) -> bytes | None:
    """The answer to a message; over TCP both have their length before them."""
    if kind == socket.SOCK_DGRAM:
        return no_such_name(question) or _forward(kind, question)
    denied = no_such_name(question[2:])
    return len(denied).to_bytes(2) + denied if denied else _forward(kind, question)


def no_such_name(question: bytes) -> bytes | None:
    """The answer that a private address has no name; None if the question is about anything else."""
    labels, end = [], _HEADER
    while end < len(question) and (length := question[end]):
        labels.append(question[end + 1 : end + 1 + length].decode("latin-1"))
        end += 1 + length
    reverse = _REVERSE.fullmatch(".".join(labels))
    try:
        if not reverse or IPv4Address(".".join(reversed(reverse.groups()))).is_global:
            return None
    except ValueError:  # a number above 255
        return None
    end += 5  # the name's end, type and class
    # An answer, recursion available, no such name (RFC 1035, 4.1.1); one question and nothing else.
    flags = bytes([question[2] | 0x80, 0x80 | 3])
    return question[:2] + flags + b"\0\1" + bytes(6) + question[_HEADER:end]


def _forward(kind: socket.SocketKind, question: bytes) -> bytes | None:
    for server in re.findall(r"(?m)^nameserver[ \t]+(\S+)", _RESOLV_CONF.read_text()):
        try:
            family, _, _, _, where = socket.getaddrinfo(server, _PORT, type=kind, flags=socket.AI_NUMERICHOST)[0]
            with socket.socket(family, kind) as upstream:
                upstream.settimeout(_SECONDS)
                upstream.connect(where)
                upstream.sendall(question)
                return upstream.recv(65535) if kind == socket.SOCK_DGRAM else _message(upstream)
        except OSError:
            continue
    return None


def _message(stream: socket.socket) -> bytes:
    """One message, with its length before it (RFC 1035, 4.2.2)."""
    with stream.makefile("rb") as file:
        length = file.read(2)
        return length + file.read(int.from_bytes(length))


class _Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        question, back = self.request
        if answer := _ask(socket.SOCK_DGRAM, question):
            back.sendto(answer, self.client_address)


class _Stream(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while len(question := _message(self.request)) > 2 and (answer := _ask(socket.SOCK_STREAM, question)):
            self.request.sendall(answer)
