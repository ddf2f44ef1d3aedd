"""The image of all machines: Debian 12 as its AMI has it, made once with debootstrap."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from localregion.kernel import run

SUITE = "bookworm"
#: debootstrap's minimal base and what the Debian AMI has that this project needs. cloud-init is not among it: its
#: place is taken by first_boot.py, a stand-in that does the part of it that an EC2 instance of this project needs.
PACKAGES = (
    "systemd,systemd-sysv,dbus,openssh-server,sudo,python3,python3-yaml,iproute2,iputils-ping,ca-certificates,curl,"
    "procps,less,kmod,netbase,debian-archive-keyring,apt-utils,ccache"
)
HOST_PACKAGES = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
}
_FIRST_BOOT = Path(__file__).with_name("first_boot.py")


def cache() -> Path:
    base = os.environ.get("MYCAT_HA_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mycat-ha"


def key() -> str:
    recipe = Path(__file__).read_bytes() + _FIRST_BOOT.read_bytes()
    return hashlib.sha256(recipe).hexdigest()[:16]


def ensure(say: Callable[[str], None] = print) -> Path:
    """The image's directory; made if it is not there (under a minute), under a lock and in one step."""
    image = cache() / f"image-{SUITE}-{key()}"
    if image.is_dir():
        return image
    install_host_packages(say)
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second region that starts meanwhile waits for the first one's image
        if not image.is_dir():
            _make(image, say)
    return image


def _make(image: Path, say: Callable[[str], None]) -> None:
    say(f"making the machines' image: Debian {SUITE} (about a minute)")
    work = Path(tempfile.mkdtemp(prefix=".image-", dir=cache()))
    work.chmod(0o755)
    try:
        mirror, sources = debian_sources()
        log = work.with_suffix(".log")
        with log.open("wb") as output:
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(work), mirror],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"debootstrap failed with {done.returncode}; the end of {log}:\n{tail}")
        _configure(work, sources)
        log.unlink()
        work.rename(image)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    for old in cache().glob(f"image-{SUITE}-*"):
        if old != image and f"lowerdir={old}" not in Path("/proc/mounts").read_text():
            shutil.rmtree(old, ignore_errors=True)


def install_host_packages(say: Callable[[str], None]) -> None:
    missing = sorted({package for command, package in HOST_PACKAGES.items() if not shutil.which(command)})
    if missing:
        say(f"installing {', '.join(missing)}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "-qq", "update"], check=True, env=environment, stdin=subprocess.DEVNULL)
        subprocess.run(
            ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *missing],
            check=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def debian_sources() -> tuple[str, str]:
    """The host's own Debian mirror, and the apt sources for the image: no address is written down here."""
    entries: list[tuple[str, list[str]]] = []  # (address, suites)
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text()
        if path.suffix == ".sources":
            for stanza in re.split(r"\n\s*\n", text):
                fields = dict(re.findall(r"(?mi)^([A-Za-z-]+):[ \t]*(.*)$", stanza))
                if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
                    entries += [(uri, fields.get("Suites", "").split()) for uri in fields.get("URIs", "").split()]
        else:
            for line in text.splitlines():
                if match := re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line.strip()):
                    entries.append((match[1], [match[2]]))
    ours = [(uri.rstrip("/"), [s for s in suites if s.split("-")[0].split("/")[0] == SUITE]) for uri, suites in entries]
    ours = [(uri, suites) for uri, suites in ours if suites]
    mirror = next((uri for uri, suites in ours if SUITE in suites), None)
    if not mirror:
        raise RuntimeError(
            f"no apt source of this machine has Debian's suite {SUITE}; the local region builds its image from one "
            "(add it under /etc/apt/sources.list.d)"
        )
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    lines = [f"deb [signed-by={keyring}] {uri} {suite} main" for uri, suites in ours for suite in suites]
    return mirror, "\n".join(dict.fromkeys(lines)) + "\n"


def _configure(root: Path, sources: str) -> None:
    (root / "etc/apt/sources.list").write_text(sources)
    # A machine that is thrown away after the test need not wait for the disk after every package.
    (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    (root / "etc/apt/apt.conf.d/90local").write_text('Acquire::Languages "none";\nAcquire::Retries "5";\n')
    # A second machine that builds the same source gets the objects from the first: the compiler's names lead to ccache.
    for name in ("cc", "c++", "gcc", "g++"):
        link = root / "usr/local/bin" / name
        link.write_text(f'#!/bin/sh\n[ -x /usr/bin/{name} ] || exit 127\nexec /usr/bin/ccache /usr/bin/{name} "$@"\n')
        link.chmod(0o755)
    (root / "etc/ccache.conf").write_text(
        "cache_dir = /var/cache/ccache\nmax_size = 1G\numask = 000\ncompiler_check = content\nhash_dir = false\n"
    )
    target = root / "usr/local/lib/first-boot"
    target.write_bytes(_FIRST_BOOT.read_bytes())
    target.chmod(0o755)
    (root / "etc/systemd/system/first-boot.service").write_text(
        "[Unit]\nDescription=Stand-in for cloud-init: user, key, host name and user data from the metadata service\n"
        "Before=ssh.service\nAfter=network.target\n\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/local/lib/first-boot\n"
        "StandardOutput=journal+console\nStandardError=journal+console\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    run("systemctl", f"--root={root}", "enable", "first-boot.service")
    # What a container has no use for, and what would wait for the network that the hypervisor has configured already.
    for unit in (
        "systemd-networkd.service",
        "systemd-networkd-wait-online.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
    ):
        run("systemctl", f"--root={root}", "mask", unit)
    for host_key in (root / "etc/ssh").glob("ssh_host_*"):
        host_key.unlink()
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/ssh/sshd_config.d/50-cloud.conf").write_text(
        "PasswordAuthentication no\nPermitRootLogin no\nUseDNS no\nMaxStartups 100\nMaxSessions 100\n"
    )
    for leftover in (root / "var/cache/apt/archives").glob("*.deb"):
        leftover.unlink()
    (root / "var/cache/ccache").mkdir(exist_ok=True)
