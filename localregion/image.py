"""The images of all machines: Debian as its AMIs have it, each made once with debootstrap."""

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

SUITES = ("bookworm", "trixie")
#: What Debian's EC2 image has (its recipe: minbase and these), but for kernel, boot loader, AWS's tools and what only
#: serves a person who looks around; and ccache, see below.
PACKAGES = (
    *("apt-utils", "ca-certificates", "cloud-guest-utils", "cloud-init", "curl", "e2fsprogs", "init", "iproute2"),
    *("iptables", "iputils-ping", "kmod", "less", "libnss-myhostname", "libpam-systemd", "logrotate", "netbase"),
    *("netplan.io", "openssh-server", "polkitd", "sudo", "systemd-resolved", "udev", "unattended-upgrades", "ccache"),
)
HOST_PACKAGES = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "dnsmasq": "dnsmasq-base",
}
_FILES = Path(__file__).with_name("image_files")


def cache() -> Path:
    base = os.environ.get("MYCAT_HA_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mycat-ha"


def key() -> str:
    recipe = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(path for path in _FILES.rglob("*") if path.is_file()):
        recipe.update(f"{path.relative_to(_FILES)}\n".encode() + path.read_bytes())
    return recipe.hexdigest()[:16]


def ensure(say: Callable[[str], None] = print, suite: str = SUITES[0]) -> Path:
    """The directory of a suite's image; made if it is not there (a minute or two), under a lock and in one step."""
    install_host_packages(say)
    image = cache() / f"image-{suite}-{key()}"
    if image.is_dir():
        return image
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second region that starts meanwhile waits for the first one's image
        if not image.is_dir():
            _make(suite, image, say)
    return image


def _make(suite: str, image: Path, say: Callable[[str], None]) -> None:
    say(f"making the machines' image: Debian {suite} (a minute or two)")
    work = Path(tempfile.mkdtemp(prefix=".image-", dir=cache()))
    work.chmod(0o755)
    log = work.with_suffix(".log")
    try:
        mirror, sources = debian_sources(suite)
        _logged(log, "debootstrap", "--variant=minbase", suite, str(work), mirror)
        (work / "etc/apt/sources.list").write_text(sources)
        _install_packages(work, log)
        _configure(work)
        log.unlink()
        work.rename(image)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    for old in cache().glob(f"image-{suite}-*"):
        if old != image and f"lowerdir={old}" not in Path("/proc/mounts").read_text():
            shutil.rmtree(old, ignore_errors=True)


def _logged(log: Path, *argv: str) -> None:
    with log.open("ab") as output:
        code = subprocess.run(argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{argv[0]} failed with {code}; the end of {log}:\n{tail}")


def _install_packages(root: Path, log: Path) -> None:
    """With the suite's own apt, so that updates and security fixes are in, as in a recent AMI; starts no service."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    inside = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={root}", "--console=pipe"]
    inside += ["--resolv-conf=replace-host", "--setenv=DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]
    _logged(log, *inside, "update")
    _logged(log, *inside, "--yes", "--no-install-recommends", "dist-upgrade")
    _logged(log, *inside, "--yes", "--no-install-recommends", "install", *PACKAGES)
    _logged(log, *inside, "clean")
    policy.unlink()
    shutil.rmtree(root / "var/lib/apt/lists")


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


def debian_sources(suite: str) -> tuple[str, str]:
    """The host's own Debian mirror, and the apt sources for the image: no address is written down here.

    For a suite that the host does not use, those of the one that it uses, with the other name.
    """
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
    own = next((s for s in (suite, *SUITES) if any(s in suites for _, suites in entries)), None)
    if own is None:
        raise RuntimeError(
            f"no apt source of this machine has one of Debian's suites {', '.join(SUITES)}; the local region builds "
            "its image from one (add it under /etc/apt/sources.list.d)"
        )
    ours = [(uri.rstrip("/"), s) for uri, suites in entries for s in suites if re.match(rf"{own}(?![^-/])", s)]
    mirror = next(uri for uri, s in ours if s == own)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    lines = [f"deb [signed-by={keyring}] {uri} {s.replace(own, suite, 1)} main" for uri, s in ours]
    return mirror, "\n".join(dict.fromkeys(lines)) + "\n"


def _configure(root: Path) -> None:
    shutil.copytree(_FILES, root, dirs_exist_ok=True)
    # A second machine that builds the same source gets the objects from the first: the compiler's names lead to ccache.
    for name in ("cc", "c++", "gcc", "g++"):
        link = root / "usr/local/bin" / name
        link.write_text(f'#!/bin/sh\n[ -x /usr/bin/{name} ] || exit 127\nexec /usr/bin/ccache /usr/bin/{name} "$@"\n')
        link.chmod(0o755)
    (root / "var/cache/ccache").mkdir(exist_ok=True)
    run("systemctl", f"--root={root}", "enable", "systemd-networkd", "systemd-resolved", "local-region-sysfs")
    for leftover in (*(root / "etc/ssh").glob("ssh_host_*"), root / "etc/hostname", root / "var/lib/dbus/machine-id"):
        leftover.unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.symlink_to("/run/systemd/resolve/resolv.conf")
    # The recipe's own changes to sshd's settings; the rest is the package's.
    sshd = root / "etc/ssh/sshd_config"
    text = sshd.read_text().replace("#PasswordAuthentication yes", "PasswordAuthentication no")
    sshd.write_text(f"{text.rstrip()}\nClientAliveInterval 120\n")
