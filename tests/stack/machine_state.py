"""What a machine says of itself, as one line of JSON. Runs on a machine of a stack: standard library only.

python3 - VIP UNIT...
"""

import csv
import json
import socket
import subprocess
import sys

ADMIN_SOCKET = "/run/haproxy/admin.sock"
#: Where netplan and networkd have what they configure.
NETWORK = ("/etc/netplan", "/run/netplan", "/lib/netplan", "/etc/systemd/network", "/run/systemd/network")


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False).stdout.strip()


def units(names: list[str]) -> dict[str, str]:
    """As `systemctl is-active` says; "queued" for one that will be started, as during a boot."""
    texts = output("systemctl", "show", "--property=Id,ActiveState,Job", *names).split("\n\n")
    shown = [dict(line.split("=", 1) for line in text.splitlines()) for text in texts]
    found = {unit["Id"]: unit for unit in shown if unit}
    return {name: _state(found.get(name, {})) for name in names}


def _state(unit: dict[str, str]) -> str:
    state = unit.get("ActiveState", "unknown")
    return "queued" if state == "inactive" and unit.get("Job", "0") not in {"", "0"} else state


def galera() -> dict[str, str]:
    sql = (
        "SELECT LOWER(variable_name), variable_value FROM information_schema.global_status"
        " WHERE variable_name IN ('wsrep_cluster_size', 'wsrep_local_state_comment')"
    )
    return dict(line.split("\t", 1) for line in output("mariadb", "--batch", "-N", "-e", sql).splitlines())


def vrrp() -> str:
    """What keepalived last reported, while it lives: master, backup, fault, stop; empty if it has said nothing yet."""
    return output("/usr/local/lib/mycat-ha/vrrp-state")


def servers() -> dict[str, str]:
    """The state of each server of each of HAProxy's backends, by ``backend/server``."""
    try:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(3)
            admin.connect(ADMIN_SOCKET)
            admin.sendall(b"show stat\n")
            text = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
    except OSError:
        return {}
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return {f"{r['pxname']}/{r['svname']}": r["status"] for r in rows if r["svname"] not in {"FRONTEND", "BACKEND"}}


def addresses(vip: str) -> list[str]:
    """The VIP with its prefix, for each device that has it."""
    return [line.split()[3] for line in output("ip", "-4", "-o", "address", "show", "to", f"{vip}/32").splitlines()]


def configured(vip: str) -> list[str]:
    """The files of the machine's own network configuration that name the VIP."""
    return output("grep", "-rlwF", vip, *NETWORK).splitlines()


def main() -> None:
    vip, *names = sys.argv[1:]
    found = {
        "units": units(names),
        "galera": galera() if "mariadb.service" in names else {},
        "vrrp": vrrp() if "keepalived.service" in names else "",
        "vip": addresses(vip),
        "configured": configured(vip),
        "servers": servers() if "haproxy.service" in names else {},
    }
    print(json.dumps(found))


main()
