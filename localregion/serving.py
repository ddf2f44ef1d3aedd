"""HTTP servers at addresses inside the region's network."""

import logging
import threading
from ipaddress import IPv4Address
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from localregion.kernel import listening_socket

log = logging.getLogger("localregion")


def serve(namespace: str, address: IPv4Address, application: Any) -> None:
    """Serve a WSGI application on port 80 of an address in a network namespace, in a thread of its own."""
    listening = listening_socket(namespace, address, 80)
    server = make_server(str(address), 80, application, threaded=True, fd=listening.fileno(), request_handler=_Handler)
    listening.detach()
    threading.Thread(target=server.serve_forever, daemon=True).start()


class _Handler(WSGIRequestHandler):
    """Keeps connections open, as AWS does, and writes no line for each request."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
        log.debug("%s %s %s", self.command, self.path, code)
