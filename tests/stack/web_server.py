"""A web server that answers every GET with what it was asked, as JSON.   web_server.py NAME PORT"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = {
            "server": sys.argv[1],
            "path": self.path,
            "host": self.headers["Host"],
            "forwardedFor": self.headers.get_all("X-Forwarded-For", []),
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[2])), Echo).serve_forever()
