"""The VPC's name resolver (AWS's is at the VPC's base address plus two): asks this computer's own.

Questions come in by a socket in the router's namespace and leave from the host, so that whatever name server this
computer uses will do, one on its loopback included.
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


def serve(namespace: str, address: IPv4Address) -> None:
    """Answer at ``address``, over UDP and TCP, until the namespace is gone."""
    where = (str(address), _PORT)
    datagrams = in_namespace(namespace, lambda: socketserver.ThreadingUDPServer(where, _Datagram))
    streams = in_namespace(namespace, lambda: socketserver.ThreadingTCPServer(where, _Stream))
    for server in (datagrams, streams):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _ask(kind: socket.SocketKind, question: bytes) -> bytes | None:
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
