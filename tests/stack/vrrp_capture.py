"""Print the first VRRP adverts that reach this machine, a JSON line each.   vrrp_capture.py COUNT"""

import json
import socket
import sys
import time

VRRP = 112

with socket.socket(socket.AF_INET, socket.SOCK_RAW, VRRP) as wire:
    wire.settimeout(15)
    for _ in range(int(sys.argv[1])):
        packet = wire.recv(2048)
        advert = packet[(packet[0] & 15) * 4 :]
        addresses = advert[8 : 8 + 4 * advert[3]]
        print(
            json.dumps(
                {
                    "at": time.monotonic(),
                    "source": socket.inet_ntoa(packet[12:16]),
                    "destination": socket.inet_ntoa(packet[16:20]),
                    "version": advert[0] >> 4,
                    "router": advert[1],
                    "priority": advert[2],
                    "authentication": advert[4],
                    "interval": advert[5],  # seconds; in VRRPv3 hundredths
                    "addresses": [socket.inet_ntoa(addresses[i : i + 4]) for i in range(0, len(addresses), 4)],
                    "password": advert[8 + len(addresses) :].rstrip(b"\0").decode(errors="replace"),
                }
            ),
            flush=True,
        )
