"""HTTP servers at addresses inside the region's network."""

import logging
import os
import socket
import struct
import threading
from ipaddress import IPv4Address
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from localregion.kernel import listening_socket

log = logging.getLogger("localregion")


def serve(namespace: str, address: IPv4Address, application: Any) -> None:
    """Serve a WSGI application on port 80 of an address in a network namespace, in a thread of its own."""
    serve_on(listening_socket(namespace, address, 80), application)


def serve_on(listening: socket.socket, application: Any) -> None:
    """Serve a WSGI application on a socket that listens, in a thread of its own; takes the socket."""
    host, port = listening.getsockname()
    server = make_server(host, port, application, threaded=True, fd=listening.fileno(), request_handler=_Handler)
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
