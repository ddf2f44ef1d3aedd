"""A machine's haproxy.cfg for a HAProxy that runs on this computer."""

import re
from pathlib import Path

from components.haproxy import WAIT_FOR_SERVER
from components.template import FILES

#: Lines that are about a machine, and not about SQL.
_MACHINE = re.compile(r"^    (chroot|user|group|log) .*\n|^ +bind 127\.0\.0\.1:8889\n", re.MULTILINE)


def off_machine(text: str, prefix: Path, folder: Path | None = None) -> str:
    """``prefix``: where HAProxy is; ``folder``: for its sockets, which otherwise are where they are on a machine."""
    text = _MACHINE.sub("", text).replace("/etc/haproxy/errorfiles", str(prefix / "errorfiles"))
    text = text.replace(WAIT_FOR_SERVER, str(FILES / "haproxy/wait-for-server.lua"))
    return text.replace("/run/haproxy/", f"{folder}/") if folder else text
