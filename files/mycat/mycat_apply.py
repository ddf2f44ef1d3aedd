#!/usr/bin/python3
"""mycat-apply PREFIX ADDRESS [--try]: put a configuration of Mycat in force without losing a working one.

The configuration comes as JSON on standard input, the text of each file by its name; it has passwords in it. It is
staged beside the running one; tried with a Mycat of its own on loopback (PREFIX/lib); swapped in one step; reloaded, or
restarted where Mycat can take the change no other way; and asked for. If that fails the old one is back and in force.
ADDRESS is where Mycat answers if server.xml does not say so. With --try nothing is changed after the trial. Exit
status 1: refused, with Mycat's words.
"""

import contextlib
import copy
import ctypes
import hashlib
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

LIVE, PREVIOUS = Path("/etc/mycat"), Path("/etc/mycat.previous")
CURRENT = Path("/opt/mycat/current")
HOME = Path("/var/lib/mycat")
TRIAL = Path("/run/mycat-try")
#: The trial ends with this program, however that ends.
AS_MYCAT = ("setpriv", "--reuid=mycat", "--regid=mycat", "--clear-groups", "--pdeathsig=KILL")
#: What Mycat itself writes where its configuration is: which write host is in use, and slots of sharded tables.
OWN = ("dnindex.properties", "ruledata")
REQUIRED = ("server.xml", "schema.xml", "rule.xml")
#: What the running Mycat was last made to take; empty while that is in doubt.
IN_FORCE = Path("/var/lib/mycat-ha/mycat.json")
PROGRAM = (Path("/etc/systemd/system/mycat.service"), Path("/usr/local/lib/mycat-ha/mycat-run"))
USER = "health"
ET.register_namespace("mycat", "http://io.mycat/")
TRIAL_SECONDS = 60
GATE_SECONDS = 30
#: In the error while connections of an earlier reload of all are still open (Mycat's ReloadConfig.java).
BUSY = "unfinished db transactions"


class RefusedError(Exception):
    """The configuration does not work; the text says why."""


@dataclass
class Configuration:
    """What has to be known of a configuration to start it, ask it, and tell how to change to it."""

    files: dict[str, str]
    server: ET.Element = field(init=False)

    def __post_init__(self) -> None:
        try:
            self.server = ET.fromstring(self.files["server.xml"])
            self._schema = ET.fromstring(self.files["schema.xml"])
        except KeyError as missing:
            raise RefusedError(f"there is no {missing}") from None
        except ET.ParseError as error:
            raise RefusedError(f"server.xml or schema.xml is not XML: {error}") from None

    def system(self, name: str, default: str) -> str:
        found = self.server.findall(f"./system/property[@name='{name}']")
        return (found[-1].text or "").strip() if found else default

    def login(self) -> tuple[str, set[str]]:
        """The health user's password, and the schemas that it has to find."""
        values = {
            item.get("name"): (item.text or "").strip() for item in self.server.findall(f"./user[@name='{USER}']/*")
        }
        if not values.get("password"):
            raise RefusedError(f"server.xml has no user {USER} with a password")
        return str(values["password"]), {name.strip() for name in (values.get("schemas") or "").split(",") if name}

    def secrets(self) -> set[str]:
        texts = {item.text for item in self.server.iter("property") if item.get("name") == "password"}
        texts |= {item.get("password") for item in self._schema.iter()}
        return {text.strip() for text in texts if text and text.strip()}

    def digests(self, prefix: str) -> dict[str, str]:
        """By how much has to be done when they change: ``restart``, ``all``, ``reload``."""
        system = [ET.tostring(item) for item in self.server.iter("system")]
        hosts = [ET.tostring(item) for kind in ("dataNode", "dataHost") for item in self._schema.findall(kind)]
        others = {name: text for name, text in self.files.items() if not name.endswith((".txt", ".xml"))}
        others |= {name: text for name, text in self.files.items() if name in ("log4j2.xml", "ehcache.xml")}
        program = [path.read_text() if path.exists() else "" for path in PROGRAM]
        return {
            "restart": _digest(prefix, system, sorted(others.items()), program),
            "all": _digest(hosts),
            "reload": _digest(sorted(self.files.items())),
        }


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


# -- files --------------------------------------------------------------------------------------------------------


def write(directory: Path, files: dict[str, str], prefix: str, own: Path) -> None:
    """A configuration that Mycat's user can read and not change.

    Links lead to what it does write, and to files of the distribution's that are not among ``files``: Mycat looks for
    some of them, such as its character sets, beside its own.
    """
    group = pwd.getpwnam("mycat").pw_gid
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o750)
    os.chown(directory, 0, group)
    for name, text in files.items():
        if "/" in name or name in {".", "..", *OWN}:
            raise RefusedError(f"'{name}' cannot be the name of a file")
        path = directory / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w", encoding="utf-8") as file:
            file.write(text)
        os.chown(path, 0, group)
    for name in OWN:
        (directory / name).symlink_to(own / name)
    for path in sorted(Path(prefix, "conf").glob("*")):
        if path.is_file() and path.name not in {*files, *OWN, *REQUIRED}:
            (directory / path.name).symlink_to(path)


def exchange(one: Path, other: Path) -> None:
    """Swap two directories, so that there is never a moment without a configuration (renameat2(2), RENAME_EXCHANGE)."""
    here, libc = -100, ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one))


# -- Mycat --------------------------------------------------------------------------------------------------------


class Connection(pymysql.Connection):
    """For the manager's port as well, which knows no SET."""

    def set_character_set(self, *_: Any, **__: Any) -> None:
        pass


def ask(address: str, port: int, password: str, statement: str, patience: float = 5) -> list[tuple[Any, ...]]:
    connection = Connection(
        host=address,
        port=port,
        user=USER,
        password=password.encode(),  # PyMySQL would make Latin-1 of it
        connect_timeout=patience,
        read_timeout=patience,
        write_timeout=patience,
        autocommit=None,
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
    finally:
        with contextlib.suppress(Exception):
            connection.close()


def problem(address: str, port: int, configuration: Configuration) -> str:
    """Why Mycat is not usable with this configuration; empty if it is."""
    password, schemas = configuration.login()
    try:
        if not ask(address, port, password, "SELECT 1"):
            return "an empty answer"
        missing = schemas - {str(row[0]) for row in ask(address, port, password, "SHOW DATABASES")}
        return f"there is no schema {', '.join(sorted(missing))}" if missing else ""
    except (pymysql.Error, OSError) as error:
        return _words(error)


def _words(error: Exception) -> str:
    return str(error.args[-1] if error.args else error)


def wait_until_usable(look: Callable[[], str], seconds: float, alive: Callable[[], bool] = lambda: True) -> str:
    """The last problem, or nothing as soon as there is none."""
    deadline = time.monotonic() + seconds
    while (words := look()) and time.monotonic() < deadline and alive():
        time.sleep(0.2)
    return words


def try_out(prefix: str, configuration: Configuration) -> None:
    """Start a Mycat of its own with the configuration, for as long as it takes to answer. Raises RefusedError."""
    mycat = pwd.getpwnam("mycat")
    shutil.rmtree(TRIAL, ignore_errors=True)
    TRIAL.mkdir(mode=0o700)
    os.chown(TRIAL, mycat.pw_uid, mycat.pw_gid)
    try:
        ports = list(_free_ports(2))
        files = {**configuration.files, "server.xml": _on_loopback(configuration.server, ports)}
        write(TRIAL / "conf", files, prefix, TRIAL)
        words = TRIAL / "words"
        with words.open("wb") as log:
            process = subprocess.Popen(
                [*AS_MYCAT, str(PROGRAM[1]), prefix, str(TRIAL), "-Xms32m", "-Xmx128m"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            reason = wait_until_usable(
                lambda: problem("127.0.0.1", ports[0], configuration), TRIAL_SECONDS, lambda: process.poll() is None
            )
            status = process.poll()
        finally:
            process.kill()
            process.wait()
        if reason:
            how = f"it ended with status {status}" if status is not None else f"it does not answer: {reason}"
            raise RefusedError(f"{how}\n{_telling(words.read_text(errors='replace'))}".strip())
    finally:
        shutil.rmtree(TRIAL, ignore_errors=True)


def _free_ports(count: int) -> Iterator[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    for listener in held:
        yield listener.getsockname()[1]
        listener.close()


def _on_loopback(server: ET.Element, ports: list[int]) -> str:
    root = copy.deepcopy(server)
    system = root.find("system")
    if system is None:
        system = ET.Element("system")
        root.insert(0, system)
    changed = {
        "bindIp": "127.0.0.1",
        "serverPort": str(ports[0]),
        "managerPort": str(ports[1]),
        "bufferPoolPageSize": str(1024 * 1024),
        "bufferPoolPageNumber": "8",
    }
    for item in list(system):
        if item.get("name") in changed:
            system.remove(item)
    for name, value in changed.items():
        ET.SubElement(system, "property", name=name).text = value
    return f'<!DOCTYPE mycat:server SYSTEM "server.dtd">\n{ET.tostring(root, encoding="unicode")}'


def _telling(words: str) -> str:
    """The lines of a Java program's last words that a person needs."""
    lines = [line for line in words.splitlines() if line.strip() and not re.match(r"\s+at |\s+\.\.\. \d+ more", line)]
    causes = [line.strip() for line in lines if line.startswith("Caused by:")]
    return "\n".join([*lines[-10:], *(cause for cause in causes[-2:] if cause not in lines[-10:])])


# -- changing -----------------------------------------------------------------------------------------------------


def systemctl(*words: str) -> bool:
    return subprocess.run(["systemctl", *words], check=False, stdin=subprocess.DEVNULL).returncode == 0


def leave_service(*words: str) -> None:
    subprocess.run(["/usr/local/lib/mycat-ha/leave-service", *words], check=False, stdin=subprocess.DEVNULL)


def journal() -> str:
    command = ["journalctl", "--unit", "mycat", "--lines", "20", "--no-pager", "--output", "cat"]
    return _telling(subprocess.run(command, check=False, capture_output=True, text=True, errors="replace").stdout)


class Mycat:
    """The one that runs here, or will."""

    def __init__(self, prefix: str, address: str) -> None:
        self._prefix = prefix
        self._address = address

    def apply(self, files: dict[str, str]) -> None:
        wanted, before, in_force = Configuration(files), _before(), _in_force()
        digests = wanted.digests(self._prefix)
        if in_force == digests and not self._problem(wanted):
            return
        try_out(self._prefix, wanted)

        way = "restart"
        if before and in_force.get("restart") == digests["restart"] and not self._problem(before):
            way = "reload" if in_force.get("all") == digests["all"] else "all"
        old_prefix = os.readlink(CURRENT) if CURRENT.is_symlink() else ""
        write(PREVIOUS, files, self._prefix, HOME)
        _note({})
        _swap(self._prefix)
        try:
            if before and way != "restart":
                # Mycat closes the connections of the change before this one when they have been idle for as long.
                patience = 15 + float(before.system("sqlExecuteTimeout", "300")) if way == "all" else 0
                self._reload(before, before.login()[0], way, patience)
                reason = self._usable(wanted)
            else:
                reason = self._restart(wanted)
            if reason:
                raise RefusedError(f"{reason}\n{journal()}".strip())
        except RefusedError as error:
            if before is None:
                raise
            _swap(old_prefix)
            if still := self._back_to(before, wanted, way):
                raise RefusedError(f"{error}\nThe old one is back, but does not work either: {still}") from None
            _note(in_force)
            raise
        _note(digests)

    def _back_to(self, before: Configuration, wanted: Configuration, way: str) -> str:
        """Mycat may have taken the new configuration or not; a restart is the last resort, since it drops clients."""
        if way != "restart":
            for configuration in (wanted, before):
                with contextlib.suppress(RefusedError):
                    self._reload(before, configuration.login()[0], way, 0)
                    break
            if not self._problem(before):
                return ""
        return self._restart(before)

    def _restart(self, configuration: Configuration) -> str:
        """Out of rotation before it stops, so that the load balancers send nobody to one that is not there."""
        systemctl("daemon-reload")
        systemctl("enable", "--quiet", "mycat")
        if systemctl("is-active", "--quiet", "mycat"):
            leave_service("mycat")
        try:
            systemctl("restart", "mycat")
            return self._usable(configuration)
        finally:
            leave_service("back", "mycat")

    def _reload(self, listening: Configuration, password: str, way: str, seconds: float) -> None:
        """Raises RefusedError with Mycat's words. ``listening``: the configuration with which it was started."""
        statement = "reload @@config_all" if way == "all" else "reload @@config"
        port = int(listening.system("managerPort", "9066"))
        deadline = time.monotonic() + seconds
        while True:
            try:
                ask(self._bound(listening), port, password, statement, patience=60)
                return
            except (pymysql.Error, OSError) as error:
                words = _words(error)
            if BUSY in words and time.monotonic() > deadline:
                raise RefusedError(f"{statement}: {words} (connections with transactions: show @@backend.old)")
            if BUSY not in words:
                raise RefusedError(f"{statement}: {words}\n{journal()}".strip())
            time.sleep(2)

    def _usable(self, configuration: Configuration) -> str:
        return wait_until_usable(lambda: self._problem(configuration), GATE_SECONDS)

    def _problem(self, configuration: Configuration) -> str:
        return problem(self._bound(configuration), int(configuration.system("serverPort", "8066")), configuration)

    def _bound(self, configuration: Configuration) -> str:
        address = configuration.system("bindIp", "0.0.0.0")  # noqa: S104
        return self._address if address == "0.0.0.0" else address  # noqa: S104


def _before() -> Configuration | None:
    """The configuration that is in place, if it makes sense."""
    try:
        return Configuration({path.name: path.read_text() for path in LIVE.iterdir() if not path.is_symlink()})
    except (OSError, RefusedError):
        return None


def _in_force() -> dict[str, str]:
    try:
        return dict(json.loads(IN_FORCE.read_text()))
    except (OSError, ValueError):
        return {}


def _note(digests: dict[str, str]) -> None:
    with open(os.open(IN_FORCE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(digests, file)


def _swap(prefix: str) -> None:
    """PREVIOUS becomes the configuration in place, for the program in ``prefix``, and the other way round."""
    new = CURRENT.with_name("current.new")
    new.unlink(missing_ok=True)
    new.symlink_to(prefix)
    new.replace(CURRENT)
    if LIVE.exists():
        exchange(PREVIOUS, LIVE)
    else:
        PREVIOUS.rename(LIVE)


def main() -> int:
    files = json.load(sys.stdin)
    try:
        if sys.argv[3:] == ["--try"]:
            try_out(sys.argv[1], Configuration(files))
        else:
            Mycat(prefix=sys.argv[1], address=sys.argv[2]).apply(files)
    except RefusedError as error:
        words = str(error)
        with contextlib.suppress(RefusedError):
            for secret in Configuration(files).secrets():
                words = words.replace(secret, "***")
        print(f"Mycat: the new configuration was refused, an old one stays in force:\n{words}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
