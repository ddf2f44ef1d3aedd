#!/usr/bin/python3
"""User data of moved_address.py's machines: @ROLE@ is ``server`` or ``client``, @VIP@ the address that moves."""

import json
import os
import socket
import subprocess
import threading
import time
import urllib.request

VIP, ROLE = "@VIP@", "@ROLE@"
METADATA = "http://169.254.169.254/latest"
UDP, TCP = 9999, 9998


def say(words: str) -> None:
    with open("/dev/console", "w") as console:  # noqa: PTH123
        console.write(f"PROBE {time.time():.3f} {words}\n")


def metadata(path: str) -> str:
    ask = urllib.request.Request(f"{METADATA}/api/token", method="PUT")
    ask.add_header("X-aws-ec2-metadata-token-ttl-seconds", "300")
    token = urllib.request.urlopen(ask, timeout=2).read().decode()
    get = urllib.request.Request(f"{METADATA}/meta-data/{path}")
    get.add_header("X-aws-ec2-metadata-token", token)
    return str(urllib.request.urlopen(get, timeout=2).read().decode())


def serve() -> None:
    """Have the address on the device all the time, as two machines that both think they are master."""
    route = json.loads(subprocess.run(["ip", "-j", "route", "show", "default"], capture_output=True, check=True).stdout)
    device = route[0]["dev"]
    subprocess.run(["ip", "address", "replace", f"{VIP}/32", "dev", device], check=True)
    name = metadata("local-ipv4").encode()
    threading.Thread(target=answer_datagrams, args=(name,)).start()
    threading.Thread(target=answer_connections, args=(name,)).start()
    mac = metadata("mac").strip("/")
    say("ready")
    before = None
    while True:
        has = VIP in metadata(f"network/interfaces/macs/{mac}/local-ipv4s").split()
        if has is not before:
            say(f"metadata has it{'' if has else ' not'}")
        before = has
        time.sleep(0.05)


def answer_datagrams(name: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((VIP, UDP))
        while True:
            server.sendto(name, server.recvfrom(64)[1])


def answer_connections(name: bytes) -> None:
    server = socket.create_server((VIP, TCP))
    while True:
        threading.Thread(target=answer_connection, args=(server.accept()[0], name)).start()


def answer_connection(connection: socket.socket, name: bytes) -> None:
    with connection:
        while connection.recv(1):
            connection.sendall(name + b"\n")


def ask() -> None:
    """Who answers a datagram, a hundred times a second; a connection is kept on the side."""
    threading.Thread(target=keep_a_connection).start()
    say("ready")
    last = b""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:  # a new port each time: nothing is tracked
            client.settimeout(0.1)
            try:
                client.sendto(b"?", (VIP, UDP))
                answer = client.recv(64)
            except OSError:
                continue
        if answer != last:
            say(f"answered by {answer.decode()}")
        last = answer
        time.sleep(0.01)


def keep_a_connection() -> None:
    while True:
        try:
            with socket.create_connection((VIP, TCP), 2) as connection, connection.makefile() as lines:
                peer = ""
                while True:
                    connection.sendall(b"?")
                    answer = lines.readline().strip()
                    if not answer:
                        raise ConnectionError("closed by the other side")
                    if answer != peer:
                        say(f"kept connection is answered by {answer}")
                    peer = answer
                    time.sleep(0.05)
        except OSError as error:
            if not isinstance(error, ConnectionRefusedError):
                say(f"kept connection: {type(error).__name__}: {error}")
            time.sleep(0.2)


if os.fork() == 0:  # cloud-init waits for its user data's end
    os.setsid()
    serve() if ROLE == "server" else ask()
