"""The control socket: how the command line and the tests talk to the region's process.

A JSON object a line: ``{"verb": …, "arguments": {…}}``, answered by ``{"result": …}`` or ``{"error": …}``.
"""

import json
import logging
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("localregion")


def serve_control(path: Path, verbs: Mapping[str, Callable[..., Any]]) -> None:
    """Answer on a Unix socket from now on, in a thread of its own."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    server = _Server(str(path), verbs)
    threading.Thread(target=server.serve_forever, daemon=True).start()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128  # a machine each may be asked at the same moment; socketserver's own is 5

    def __init__(self, path: str, verbs: Mapping[str, Callable[..., Any]]) -> None:
        self.verbs = verbs
        super().__init__(path, _Handler)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        for line in self.rfile:
            try:
                request = json.loads(line)
                verb = self.server.verbs.get(request["verb"])
                if verb is None:
                    raise LookupError(f"no such verb: {request['verb']}")
                answer = {"result": verb(**request.get("arguments", {}))}
            except Exception as error:
                log.info("control: %s: %s", line[:200], error)
                answer = {"error": f"{error}" or type(error).__name__}
            self.wfile.write(json.dumps(answer).encode() + b"\n")
