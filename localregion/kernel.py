"""Commands, network namespaces and processes."""

import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

NAMESPACES = Path("/run/netns")
T = TypeVar("T")


class CommandError(RuntimeError):
    """A command of the region failed; the message has the command line and its error output."""


def run(*argv: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a command and return its standard output. Raises CommandError when it fails and ``check`` is set."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise CommandError(f"{' '.join(argv)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def ip(namespace: str | None, *arguments: str, check: bool = True) -> str:
    """``ip`` in a network namespace, or on the host itself."""
    return run("ip", *(("-n", namespace) if namespace else ()), *arguments, check=check)


def ip_batch(namespace: str, lines: Sequence[str], *, force: bool = False) -> None:
    if lines:
        run("ip", "-n", namespace, *(("-force",) if force else ()), "-batch", "-", stdin="\n".join(lines) + "\n")


def nft(namespace: str | None, ruleset: str) -> None:
    """Load ``ruleset`` in one transaction."""
    inside = ("nsenter", f"--net={NAMESPACES / namespace}") if namespace else ()
    run(*inside, "nft", "-f", "-", stdin=ruleset)


def sysctl(namespace: str, **values: str | int) -> None:
    """Set ``net.`` keys in a namespace: dots are written as double underscores."""
    assignments = [f"net.{key.replace('__', '.')}={value}" for key, value in values.items()]
    run("nsenter", f"--net={NAMESPACES / namespace}", "sysctl", "-q", "-w", *assignments)


def in_namespace(namespace: str, action: Callable[[], T]) -> T:
    """Run ``action`` in a thread that has entered the namespace: what it opens stays there (setns(2))."""
    result: list[T] = []
    error: list[BaseException] = []

    def enter() -> None:
        try:
            with (NAMESPACES / namespace).open() as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0x40000000):  # CLONE_NEWNET
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")
            result.append(action())
        except BaseException as problem:
            error.append(problem)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return result[0]


def listening_socket(namespace: str, address: IPv4Address, port: int) -> socket.socket:
    """A TCP socket that listens inside a network namespace, usable from outside of it."""

    def listen() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((str(address), port))
        opened.listen(128)
        return opened

    return in_namespace(namespace, listen)


def children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    yield int(entry.name)


def same_pid_namespace(pid: int) -> list[int]:
    """Every process of the machine whose init is ``pid``."""
    with suppress(OSError):
        namespace = Path(f"/proc/{pid}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if (entry / "ns/pid").readlink() == namespace:
                        found.append(int(entry.name))
        return found
    return []


def kill(pid: int, number: signal.Signals | int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
