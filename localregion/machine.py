"""Machines: a systemd of its own in a container, on one shared read-only image, in a network namespace of its own."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localregion import certificate, cgroup
from localregion.kernel import NAMESPACES, children, kill, run, same_pid_namespace
from localregion.model import MachineSpec
from localregion.network import Drop, Network
from localregion.wait import wait_until

#: What nspawn exits with when the machine wants a reboot and ``--keep-unit`` is set (systemd-nspawn(1)).
REBOOT = 133
_POWEROFF = signal.SIGRTMIN + 4  # systemd(1), "Signals"
_REBOOT = signal.SIGRTMIN + 5
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_INSTANCES = 4096  # the kernel's own 128 are used up by some twenty machines


@dataclass
class Running:
    spec: MachineSpec
    nspawn: subprocess.Popen[bytes]
    init: int
    frozen: bool = False
    leaving: bool = False  # its end was requested here: not to be reported by the watcher


class Machines:
    """Boots, stops and loses machines.

    ``image`` gives the directory of a suite's image, and may make it. ``on_exit`` is called with the id of a machine
    that has halted by itself.
    """

    def __init__(
        self,
        region: str,
        state: Path,
        image: Callable[[str], Path],
        network: Network,
        *,
        ccache: Path,
        on_exit: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._region = region
        self._state = state / "machines"
        self._image = image
        self._network = network
        self._ccache = ccache
        self._on_exit = on_exit
        self._running: dict[str, Running] = {}
        self._lock = threading.RLock()

    def boot(self, spec: MachineSpec) -> None:
        """Start a machine, on its own disk if it has run before; returns when its init runs."""
        directory = self._state / spec.id
        root = directory / "root"
        for name in ("root", "upper", "work"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(root):
            image = self._image(spec.suite)
            if not any((directory / "upper").iterdir()):
                certificate.trust(self._state.parent, image, directory / "upper")
            layers = f"lowerdir={image},upperdir={directory / 'upper'},workdir={directory / 'work'}"
            run("mount", "-t", "overlay", f"mh-{self._region}", "-o", layers, str(root))
        hypervisor = directory / "hypervisor-uuid"
        if not hypervisor.exists():
            hypervisor.write_text(f"ec2{str(uuid.uuid4())[3:]}\n")
        namespace = self._network.attach(spec.id, spec.eni, spec.subnet)
        with (directory / "console").open("ab") as console:
            nspawn = subprocess.Popen(
                self._nspawn(spec, root, namespace),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
                start_new_session=True,
            )
        (directory / "pid").write_text(str(nspawn.pid))
        try:
            init = wait_until(lambda: self._init_of(nspawn), f"init of {spec.id}", 20, pause=0.05)
        except (TimeoutError, RuntimeError):
            kill(nspawn.pid, signal.SIGKILL)
            nspawn.wait()
            self._network.detach(spec.id, spec.eni.id)
            raise RuntimeError(f"{spec.id} did not boot: {self.console(spec.id)[-500:]}") from None
        running = Running(spec, nspawn, init)
        with self._lock:
            self._running[spec.id] = running
        threading.Thread(target=self._watch, args=(running,), daemon=True).start()

    def _nspawn(self, spec: MachineSpec, root: Path, namespace: str) -> list[str]:
        self._ccache.mkdir(parents=True, exist_ok=True)
        return [
            *cgroup.within(self._group(spec.id)),
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--boot",
            f"--directory={root}",
            f"--machine={spec.id}",
            f"--network-namespace-path={NAMESPACES / namespace}",
            "--resolv-conf=off",
            "--timezone=off",
            "--console=read-only",
            "--capability=CAP_NET_ADMIN,CAP_SYS_NICE,CAP_SYS_RESOURCE",
            f"--bind={self._ccache}:/var/cache/ccache",
            # By this cloud-init knows that it is on EC2, as on a Xen instance (EC2 User Guide, "Identify instances").
            f"--bind-ro={root.parent / 'hypervisor-uuid'}:/sys/hypervisor/uuid",
            "--link-journal=no",
        ]

    def _group(self, instance_id: str) -> str:
        return f"mh-{self._region}-{instance_id}"

    @staticmethod
    def _init_of(nspawn: subprocess.Popen[bytes]) -> int:
        """The machine's init is pid 1 of its own namespace: a descendant of nspawn (it forks twice); 0 before that."""
        if nspawn.poll() is not None:
            raise RuntimeError(f"systemd-nspawn ended with {nspawn.returncode}")
        queue = [nspawn.pid]
        while queue:
            for child in children(queue.pop()):
                with suppress(OSError, IndexError):
                    status = Path(f"/proc/{child}/status").read_text()
                    inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                    if inner[-1] == "1" and len(inner) > 2 and Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                        return child
                queue.append(child)
        return 0

    def _watch(self, running: Running) -> None:
        code = running.nspawn.wait()
        instance_id = running.spec.id
        with self._lock:
            if self._running.get(instance_id) is running:
                del self._running[instance_id]
        self._network.detach(instance_id, running.spec.eni.id)
        if code == REBOOT and not running.leaving:
            self.boot(running.spec)
        elif not running.leaving:
            self._on_exit(instance_id)

    # -- power, console and commands -----------------------------------------------------------------------

    def shutdown(self, instance_id: str, seconds: float = 60) -> None:
        """Power off cleanly; after ``seconds`` the power is cut, as EC2 does in the end."""
        running = self._get(instance_id)
        if running:
            running.leaving = True
            self.thaw(instance_id)
            kill(running.init, _POWEROFF)
            try:
                running.nspawn.wait(seconds)
            except subprocess.TimeoutExpired:
                self.power_cut(instance_id)
            self._gone(instance_id)

    def reboot(self, instance_id: str) -> None:
        running = self._get(instance_id)
        if running:
            kill(running.init, _REBOOT)

    def power_cut(self, instance_id: str) -> None:
        """Kill it at once. The link goes down first, so that no FIN or RST gets out while its sockets are closed."""
        running = self._get(instance_id)
        if running:
            running.leaving = True
            self._network.cut(running.spec.eni.id)
            kill(running.init, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                running.nspawn.wait(10)
            kill(running.nspawn.pid, signal.SIGKILL)
            self._gone(instance_id)

    def freeze(self, instance_id: str) -> None:
        """Stop every process, and the network with them, as a paused virtual machine would."""
        running = self._get(instance_id)
        if running and not running.frozen:
            running.frozen = True
            self._network.drop(Drop(f"freeze-{instance_id}", running.spec.eni.id, None))
            for _ in range(3):  # one that was being forked during the first round
                for pid in same_pid_namespace(running.init):
                    kill(pid, signal.SIGSTOP)

    def thaw(self, instance_id: str) -> None:
        running = self._get(instance_id)
        if running and running.frozen:
            running.frozen = False
            for pid in same_pid_namespace(running.init):
                kill(pid, signal.SIGCONT)
            self._network.undrop(f"freeze-{instance_id}")

    def delete(self, instance_id: str) -> None:
        """Throw the machine and its disk away."""
        self.power_cut(instance_id)
        directory = self._state / instance_id
        _unmount(directory / "root")
        shutil.rmtree(directory, ignore_errors=True)
        cgroup.remove(self._group(instance_id))

    def console(self, instance_id: str) -> str:
        with suppress(OSError):
            return (self._state / instance_id / "console").read_text(errors="replace")
        return ""

    def pid(self, instance_id: str) -> int | None:
        running = self._get(instance_id)
        return running.init if running else None

    def command(self, instance_id: str, argv: Sequence[str]) -> list[str]:
        """A command line for the host that runs ``argv`` as root inside the machine."""
        running = self._get(instance_id)
        if not running:
            raise RuntimeError(f"{instance_id} does not run")
        clean = ["env", "--chdir=/root", "-i", "HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # nsenter's own fork stops for ever with a child that is stopped for a moment, as everything in a machine is
        # when it shuts down. timeout waits for its child's end, and passes signals on; 0: however long it takes.
        fork = ["timeout", "--foreground", "0"]
        return ["nsenter", f"--target={running.init}", "--all", "--no-fork", "--", *clean, path, *fork, *argv]

    def down(self) -> None:
        """End every machine, also those of a daemon that was killed, and remove their disks."""
        for instance_id in list(self._running):
            self.delete(instance_id)
        for directory in self._state.glob("i-*"):
            with suppress(OSError, ValueError):
                pid = int((directory / "pid").read_text())
                if b"systemd-nspawn" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    for child in list(children(pid)):
                        for member in same_pid_namespace(child):
                            kill(member, signal.SIGKILL)
                        kill(child, signal.SIGKILL)
                    kill(pid, signal.SIGKILL)
            _unmount(directory / "root")
        shutil.rmtree(self._state, ignore_errors=True)
        cgroup.remove(self._group("i-*"))

    def _get(self, instance_id: str) -> Running | None:
        with self._lock:
            return self._running.get(instance_id)

    def _gone(self, instance_id: str) -> None:
        """Until the watcher has cleaned up, so that a new boot finds no remains."""
        wait_until(lambda: self._get(instance_id) is None, f"end of {instance_id}", 15, pause=0.05)
        namespace = NAMESPACES / self._network.machine_namespace(instance_id)
        wait_until(lambda: not namespace.exists(), f"end of {instance_id}'s network", 15, pause=0.05)


def raise_limits(states: Path) -> None:
    """Let the kernel give a systemd to each of many machines: every one takes a few inotify instances, all as root.

    ``states`` is the folder of all regions' states; what was in force before is kept there.
    """
    before = int(_INOTIFY.read_text())
    if before < _INOTIFY_INSTANCES:
        (states / "inotify").write_text(str(before))
        _INOTIFY.write_text(str(_INOTIFY_INSTANCES))


def restore_limits(states: Path) -> None:
    """As it was before the first region, once the last one is gone."""
    saved = states / "inotify"
    if saved.is_file() and not any(entry.is_dir() for entry in states.iterdir()):
        _INOTIFY.write_text(saved.read_text())
        saved.unlink()


def _unmount(root: Path) -> None:
    deadline = time.monotonic() + 10
    while os.path.ismount(root) and time.monotonic() < deadline:
        if subprocess.run(["umount", str(root)], capture_output=True, check=False).returncode:
            time.sleep(0.1)
    if os.path.ismount(root):
        run("umount", "--lazy", str(root), check=False)


def mounts_under(directory: Path) -> list[str]:
    """Mount points below ``directory``, for those who check that nothing is left."""
    found = json.loads(run("findmnt", "--json", "--list", "--output", "TARGET"))["filesystems"]
    return [entry["target"] for entry in found if entry["target"].startswith(f"{directory}/")]
