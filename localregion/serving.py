"""HTTP servers at addresses inside the region's network."""

import logging
import os
import socket
import ssl
import struct
import threading
from ipaddress import IPv4Address
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from localregion.kernel import listening_socket

log = logging.getLogger("localregion")
_GREETING = 10  # seconds for TLS to be agreed on


def serve(namespace: str, address: IPv4Address, application: Any, tls: ssl.SSLContext | None = None) -> None:
    """Serve a WSGI application on port 80 of an address in a network namespace, or on 443, in a thread of its own."""
    serve_on(listening_socket(namespace, address, 443 if tls else 80), application, tls)


def serve_on(listening: socket.socket, application: Any, tls: ssl.SSLContext | None = None) -> None:
    """Serve a WSGI application on a socket that listens, in a thread of its own; takes the socket."""
    host, port = listening.getsockname()
    handler = _over(tls) if tls else _Handler
    server = make_server(host, port, application, threaded=True, fd=listening.fileno(), request_handler=handler)
    listening.detach()
    threading.Thread(target=server.serve_forever, daemon=True).start()


class _Handler(WSGIRequestHandler):
    """One request for each connection, and no line in the log for it.

    An application that raises ConnectionError ends the connection without an answer: ConnectionResetError by a RST,
    any other by a FIN.
    """

    protocol_version = "HTTP/1.1"

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:  # noqa: ARG002
        self.close_connection = True
        if isinstance(error, ConnectionResetError):
            # Not to linger at all makes close(2) send a RST; what socketserver would do first sends a FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
        log.debug("%s %s %s", self.command, self.path, code)


def _over(tls: ssl.SSLContext) -> type[_Handler]:
    class Handler(_Handler):
        def setup(self) -> None:
            """In the connection's own thread: a client that dies before it has greeted must not stop the others."""
            self.request.settimeout(_GREETING)
            self.request = tls.wrap_socket(self.request, server_side=True)
            self.request.settimeout(None)
            super().setup()

        def finish(self) -> None:
            """The server knows of the socket below only, and would leave this one to the garbage collector."""
            super().finish()
            self.request.close()

    return Handler
