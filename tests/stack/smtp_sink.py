"""A mail server that keeps what it gets: RFC 5321's commands, one JSON line on standard output for each mail.

python tests/stack/smtp_sink.py ADDRESS PORT
"""

import json
import socketserver
import sys


class Session(socketserver.StreamRequestHandler):
    timeout = 30

    def handle(self) -> None:
        mail: dict[str, object] = {"peer": self.client_address[0]}
        recipients: list[str] = []
        self._say("220 sink ready")
        while words := self._line().split(maxsplit=1):
            verb, rest = words[0].upper(), words[1] if len(words) > 1 else ""
            if verb in {"HELO", "EHLO"}:
                mail["helo"] = rest
            elif verb == "MAIL":
                mail["sender"] = rest.partition(":")[2].strip("<> ")
            elif verb == "RCPT":
                recipients.append(rest.partition(":")[2].strip("<> "))
            elif verb == "DATA":
                self._say("354 go on")
                text = iter(self._line, ".")
                print(json.dumps({**mail, "recipients": recipients, "text": "\n".join(text)}), flush=True)
            elif verb == "QUIT":
                self._say("221 bye")
                return
            self._say("250 ok")

    def _line(self) -> str:
        return self.rfile.readline().decode(errors="replace").rstrip("\r\n")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer((sys.argv[1], int(sys.argv[2])), Session) as server:
        server.serve_forever()
