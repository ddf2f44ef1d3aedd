"""As the recipe's under xinetd: 200 on port 48700 while Mycat greets on 8066, else 503.   mycat_responder.py ADDRESS"""

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Health(BaseHTTPRequestHandler):
    def do_OPTIONS(self) -> None:
        try:
            with socket.create_connection((sys.argv[1], 8066), 1) as mycat:
                healthy = bool(mycat.recv(1))
        except OSError:
            healthy = False
        self.send_response(200 if healthy else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], 48700), Health).serve_forever()
