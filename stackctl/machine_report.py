"""What a machine says of itself, as one line of JSON. `stackctl status` sends this to each machine, as root's standard
input: it has to be one file of the standard library only. It reads, and changes nothing.

python3 -I - QUESTION    the question is JSON: roles, vip, address, healthPort
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LIBRARY = Path(os.environ.get("MYCAT_HA_LIBRARY", "/usr/local/lib/mycat-ha"))
RUN = Path(os.environ.get("MYCAT_HA_RUN", "/run/mycat-ha"))
UNITS = Path(os.environ.get("MYCAT_HA_UNITS", "/etc/systemd/system"))
DATA = Path(os.environ.get("MYCAT_HA_DATA", "/var/lib/mysql"))
HAPROXY = Path(os.environ.get("MYCAT_HA_HAPROXY", "/etc/haproxy"))
ADMIN_SOCKET = os.environ.get("MYCAT_HA_ADMIN_SOCKET", "/run/haproxy/admin.sock")
#: Seconds that one step may take: what hangs must not keep the rest from being told.
PATIENCE = 3.0
#: And one that asks S3.
PATIENCE_WITH_S3 = 10.0
#: Seconds after which a database that asks the others to stop writing is looked at again: does it apply anything?
SECOND_LOOK = float(os.environ.get("MYCAT_HA_SECOND_LOOK", "3"))
#: Bytes of a file or an answer that are told.
LIMIT = 1 << 20

#: As it is now, whatever the settings make statements wait for: names and values of what says whether this node takes
#: clients, and what others write.
STATUS = (
    "SET SESSION wsrep_sync_wait = 0;"
    " SELECT LOWER(variable_name), variable_value FROM information_schema.global_status WHERE variable_name IN"
    " ('wsrep_cluster_status', 'wsrep_local_state_comment', 'wsrep_cluster_size', 'wsrep_ready',"
    " 'wsrep_cluster_state_uuid', 'wsrep_last_committed', 'wsrep_local_recv_queue', 'wsrep_flow_control_requested')"
    " UNION SELECT 'read_only', @@read_only UNION SELECT 'ssl_cert', @@ssl_cert"
)


def output(*argv: str, patience: float = PATIENCE) -> tuple[str, str]:
    """What a command has printed, and what was wrong with it: empty if nothing was."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"{argv[0]} has not answered within {patience:g} s"
    except OSError as error:
        return "", f"{argv[0]}: {error.strerror}"
    return done.stdout, "" if done.returncode == 0 else done.stderr.strip() or f"exit status {done.returncode}"


def unit(name: str) -> dict[str, str]:
    said, problem = output("systemctl", "show", "--property=ActiveState,MainPID", name)
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return {"state": found.get("ActiveState") or problem, "pid": found.get("MainPID", "0")}


def text(path: Path) -> str | None:
    """None if there is no such file."""
    try:
        with path.open(errors="replace") as file:
            return file.read(LIMIT)
    except OSError:
        return None


def balancer(question: dict[str, Any]) -> dict[str, Any]:
    vrrp, problem = output(str(LIBRARY / "switch-vip"), "state")
    addresses, _ = output("ip", "-4", "-oneline", "address", "show", "to", f"{question['vip']}/32")
    try:
        statistics, unanswered = ask_haproxy("show stat"), ""
    except OSError as error:
        statistics, unanswered = "", str(error)
    return {
        "keepalived": unit("keepalived.service"),
        "haproxy": unit("haproxy.service"),
        "vrrp": vrrp,
        "vrrpProblem": problem,
        "stated": text(RUN / "vrrp"),
        "claimed": text(RUN / "claimed"),
        "addresses": addresses,
        "statistics": statistics,
        "statisticsProblem": unanswered,
        "certificate": expiry(HAPROXY / "statistics.pem") if " ssl " in (text(HAPROXY / "haproxy.cfg") or "") else "",
    }


def expiry(certificate: Path) -> str:
    return output("openssl", "x509", "-noout", "-enddate", "-in", str(certificate))[0]


def ask_haproxy(command: str) -> str:
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(PATIENCE)
        admin.connect(ADMIN_SOCKET)
        admin.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: admin.recv(65536), b"")).decode(errors="replace")


def database(_question: dict[str, Any]) -> dict[str, Any]:
    status, problem = galera()
    later = ""
    if "wsrep_flow_control_requested\ttrue" in status:
        time.sleep(SECOND_LOOK)
        later, _ = galera()
    path = dict(line.partition("\t")[::2] for line in status.splitlines()).get("ssl_cert", "")
    # The distribution's unit gives all that it runs the same identifier.
    waits, _ = output("journalctl", "--unit=mariadb", "_COMM=galera-start", "--lines=1", "--output=cat")
    return {
        "mariadb": unit("mariadb.service"),
        "status": status,
        "statusProblem": problem,
        "statusLater": later,
        "certificate": expiry(Path(path)) if path.startswith("/") else "",
        "grastate": text(DATA / "grastate.dat"),
        "gvwstate": text(DATA / "gvwstate.dat"),
        "waits": waits,
    }


def backup() -> dict[str, Any] | None:
    """None if the stack keeps no backups."""
    if not (UNITS / "database-backup@run.timer").exists():
        return None
    newest, problem = output(str(LIBRARY / "database-backup"), "newest", patience=PATIENCE_WITH_S3)
    units = {verb: unit(f"database-backup@{verb}.service")["state"] for verb in ("run", "test")}
    return {"newest": newest, "problem": problem, "units": units}


def galera() -> tuple[str, str]:
    return output("mariadb", "--batch", "--skip-column-names", "--execute", STATUS)


def mycat(question: dict[str, Any]) -> dict[str, Any]:
    """The responder asks Mycat as the balancers have it asked; its password stays there."""
    url = f"http://{question['address']}:{question['healthPort']}/mycat"
    try:
        # No proxy of the environment's.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=PATIENCE) as answer:
            problem = "" if answer.status == 200 else f"status {answer.status}"
    except urllib.error.HTTPError as error:
        problem = error.read(LIMIT).decode(errors="replace").strip() or f"status {error.code}"
    except OSError as error:
        problem = f"its health responder does not answer: {error}"
    return {"mycat": unit("mycat.service"), "problem": problem}


PARTS = {"lb": balancer, "mysql": database, "mycat": mycat}


def main() -> None:
    question = json.loads(sys.argv[1])
    with ThreadPoolExecutor() as pool:
        asked = {role: pool.submit(PARTS[role], question) for role in question["roles"] if role in PARTS}
        kept = pool.submit(backup) if "mysql" in asked else None
        said = {role: part.result() for role, part in asked.items()}
        if kept and (backups := kept.result()):
            said["backup"] = backups
        print(json.dumps(said))


if __name__ == "__main__":
    main()
