#!/usr/bin/env python3
"""group-tls MODE PEER...: would a Galera node with `database.galera.tls` MODE be understood by its peers?

MODE is `disabled`, `preferred` or `required`, each PEER an IPv4 address. A peer that does not listen on the group's
port has no say: it will start with what it is given then. Ends with 1, and says why, if one would not be understood.
"""

import socket
import ssl
import sys

GROUP_PORT = 4567
ANSWER = 3.0  # seconds; a node says at once who it is


def takes(peer: str, *, tls: bool) -> bool:
    """Without TLS the node that is connected to speaks first (gcomm, gmcast_proto.cpp: its handshake)."""
    try:
        with socket.create_connection((peer, GROUP_PORT), ANSWER) as connection:
            if not tls:
                return bool(connection.recv(1))
            # Only whether, not who: the nodes verify each other.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(connection):
                return True
    except OSError:
        return False


def main(mode: str, *peers: str) -> int:
    if mode == "preferred":
        return 0
    tls = mode == "required"
    # One that hangs takes neither, and says nothing about its configuration.
    deaf = [peer for peer in peers if not takes(peer, tls=tls) and takes(peer, tls=not tls)]
    if deaf:
        change, what = ("required", "without TLS") if tls else ("none", "with TLS only")
        print(
            f"database.galera.tls: {change} is not possible yet: {', '.join(deaf)} can be reached {what} by other "
            "nodes; set it to preferred, run `up`, and then set this",
            file=sys.stderr,
        )
    return 1 if deaf else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
