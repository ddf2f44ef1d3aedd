"""The VPC's name resolver (AWS's is at the VPC's base address plus two): asks this computer's own.

Questions come in by a socket in the router's namespace and leave from the host, so that whatever name server this
computer uses will do, one on its loopback included. Which name a private address has is nobody else's to say: it has
none (RFC 6303, "Locally Served DNS Zones"; AWS's has one for each address of the VPC). Nor where the name of a VPC
endpoint leads.
"""

import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from localregion.kernel import in_namespace

_PORT = 53
_SECONDS = 4  # for each name server
_RESOLV_CONF = Path("/etc/resolv.conf")
_HEADER = 12  # bytes of a message before its question (RFC 1035, 4.1.1)
_A, _TTL = 1, 60
_REVERSE = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.in-addr\.arpa", re.IGNORECASE)


Names = Mapping[str, IPv4Address]


def serve(namespace: str, address: IPv4Address, names: Callable[[], Names] = dict) -> None:
    """Answer at ``address``, over UDP and TCP, until the namespace is gone. ``names`` gives those of the VPC's own."""
    where = (str(address), _PORT)
    handlers = {kind: type(kind.__name__, (kind,), {"names": staticmethod(names)}) for kind in (_Datagram, _Stream)}
    datagrams = in_namespace(namespace, lambda: socketserver.ThreadingUDPServer(where, handlers[_Datagram]))
    streams = in_namespace(namespace, lambda: socketserver.ThreadingTCPServer(where, handlers[_Stream]))
    for server in (datagrams, streams):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _ask(kind: socket.SocketKind, question: bytes, names: Names) -> bytes | None:
    """The answer to a message; over TCP both have their length before them."""
    if kind == socket.SOCK_DGRAM:
        return own_answer(question, names) or _forward(kind, question)
    own = own_answer(question[2:], names)
    return len(own).to_bytes(2) + own if own else _forward(kind, question)


def own_answer(question: bytes, names: Names) -> bytes | None:
    """Where one of ``names`` (in lower case) leads, or that a private address has no name; None to anything else."""
    labels, end = [], _HEADER
    while end < len(question) and (length := question[end]):
        labels.append(question[end + 1 : end + 1 + length].decode("latin-1"))
        end += 1 + length
    name = ".".join(labels)
    if address := names.get(name.lower()):
        return _leads_to(address, question, end + 5)
    reverse = _REVERSE.fullmatch(name)
    try:
        if not reverse or IPv4Address(".".join(reversed(reverse.groups()))).is_global:
            return None
    except ValueError:  # a number above 255
        return None
    end += 5  # the name's end, type and class
    # An answer, recursion available, no such name (RFC 1035, 4.1.1); one question and nothing else.
    flags = bytes([question[2] | 0x80, 0x80 | 3])
    return question[:2] + flags + b"\0\1" + bytes(6) + question[_HEADER:end]


def _leads_to(address: IPv4Address, question: bytes, end: int) -> bytes:
    """To a question that ends at ``end``; an endpoint has an IPv4 address and nothing else."""
    is_a = int.from_bytes(question[end - 4 : end - 2]) == _A
    flags = bytes([question[2] | 0x80, 0x80])  # an answer, recursion available
    # Of the name at the question's place (RFC 1035, 4.1.4), in the Internet's class.
    record = b"\xc0" + bytes([_HEADER]) + struct.pack("!2HIH", _A, 1, _TTL, 4) + address.packed
    return question[:2] + flags + struct.pack("!4H", 1, is_a, 0, 0) + question[_HEADER:end] + record * is_a


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
    names: Callable[[], Names]

    def handle(self) -> None:
        question, back = self.request
        if answer := _ask(socket.SOCK_DGRAM, question, self.names()):
            back.sendto(answer, self.client_address)


class _Stream(socketserver.BaseRequestHandler):
    names: Callable[[], Names]

    def handle(self) -> None:
        while len(question := _message(self.request)) > 2:
            if not (answer := _ask(socket.SOCK_STREAM, question, self.names())):
                return
            self.request.sendall(answer)
