"""The Python interface of a region, for tests, drills and the command line."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from localregion import image, paths
from localregion.kernel import kill
from localregion.machine import Machines, raise_limits, restore_limits
from localregion.network import Network
from localregion.wait import wait_until

__all__ = ["Region", "RegionError", "wait_until"]


class RegionError(RuntimeError):
    """The region refused or failed; the message says what and why."""


class Region:
    """A local region by name. Only one of a name can run; several names can run beside each other."""

    def __init__(self, name: str = "local") -> None:
        self.name = paths.check(name)
        self._state = paths.state(name)
        self._control = paths.control(name)
        self._daemon: subprocess.Popen[bytes] | None = None  # if this process has started it

    # -- start and stop -------------------------------------------------------------------------------------

    def start(self, say: Callable[[str], None] = print) -> None:
        """Start the region unless it runs. What a killed run or a reboot has left is removed first."""
        if os.geteuid() != 0:
            raise RegionError("the local region makes network namespaces and mounts: run it as root")
        if self.running():
            return
        image.ensure(say)
        self._sweep()
        self._state.mkdir(parents=True, mode=0o700)
        raise_limits(self._state.parent)
        with (self._state / "log").open("ab") as log:
            self._daemon = process = subprocess.Popen(
                [sys.executable, "-m", "localregion.daemon", self.name],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self._state / "pid").write_text(str(process.pid))

        def up() -> bool:
            if process.poll() is not None:
                raise RegionError(f"the region did not start:\n{self.log()[-2000:]}")
            return self.running()

        wait_until(up, "start of the region", 60)

    def stop(self) -> None:
        """End the region and everything in it; harmless if there is none."""
        with suppress(OSError, RegionError, ValueError):
            self._call("stop")
            with suppress(TimeoutError):
                wait_until(lambda: self._pid() is None, "end of the region", 60)
        self._sweep()
        if self._daemon:
            self._daemon.wait(10)
            self._daemon = None

    def running(self) -> bool:
        try:
            self._call("status")
        except (OSError, RegionError, ValueError):
            return False
        return True

    def _pid(self) -> int | None:
        with suppress(OSError, ValueError):
            pid = int((self._state / "pid").read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if b"localregion.daemon" in arguments and self.name.encode() in arguments and state != "Z":
                return pid
        return None

    def _sweep(self) -> None:
        """Remove whatever carries the region's name, however it came to be left."""
        if pid := self._pid():
            kill(pid, signal.SIGKILL)
            wait_until(lambda: self._pid() is None, "end of the region's process", 10)
        network = Network(self.name, self._state)
        Machines(self.name, self._state, lambda _: Path("/nonexistent"), network, ccache=Path("/nonexistent")).down()
        network.down()
        shutil.rmtree(self._state, ignore_errors=True)
        shutil.rmtree(self._control.parent, ignore_errors=True)
        restore_limits(self._state.parent)
        for parent in (self._state.parent, self._control.parent.parent):
            with suppress(OSError):
                parent.rmdir()

    def log(self) -> str:
        with suppress(OSError):
            return (self._state / "log").read_text(errors="replace")
        return ""

    # -- what a user of the region needs --------------------------------------------------------------------

    def env(self) -> dict[str, str]:
        """The environment in which AWS's SDKs talk to this region."""
        status = self.status()
        address = status["endpoint"].removeprefix("http://")
        no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), address]))
        return {
            "AWS_ENDPOINT_URL": status["endpoint"],
            "AWS_REGION": status["region"],
            "AWS_DEFAULT_REGION": status["region"],
            "AWS_SHARED_CREDENTIALS_FILE": status["credentials"],
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_PROFILE": "default",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def status(self) -> dict[str, Any]:
        return dict(self._call("status"))

    def machines(self) -> list[dict[str, Any]]:
        """Every instance that is not terminated: id, name, stack, state, powered, address, addresses, eni."""
        return list(self._call("ps"))

    def calls(self) -> list[dict[str, Any]]:
        """What the region's API was asked for since its start, each once: role (None: administrator), sdk, action."""
        return list(self._call("calls"))

    def console(self, machine: str) -> str:
        return str(self._call("console", target=machine))

    def exec(
        self,
        target: str,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002  (subprocess's name)
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root on a machine or a test host. Raises RegionError with its output if it fails."""
        command = self._call("command", target=target, argv=list(argv))
        done = subprocess.run(
            command, input=input or "", capture_output=True, text=True, timeout=timeout, check=False, errors="replace"
        )
        if check and done.returncode:
            output = f"{done.stdout}{done.stderr}".strip()
            raise RegionError(f"{target}: {' '.join(argv)}: exit status {done.returncode}\n{output}")
        return done

    def popen(self, target: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(self._call("command", target=target, argv=list(argv)), **options)

    def add_host(self, name: str, address: str) -> None:
        """A test host with this address: inside the VPC that has it in its range, else outside of all."""
        self._call("add_host", name=name, address=address)

    def remove_host(self, name: str) -> None:
        self._call("remove_host", name=name)

    def attach(self, vpc: str | None = None, *, source: str | None = None) -> list[str]:
        """Let this machine, or the network ``source`` outside, and a VPC use each other's private addresses: it plays
        the VPN or peering of an administrator. ``vpc`` is an id or a stack's name; the only one if left out.

        Returns the VPC's id and range, and the network. Raises RegionError if the range is in use.
        """
        return list(self._call("attach", vpc=vpc, source=source))

    def detach(self, vpc: str | None = None, *, source: str | None = None) -> list[str]:
        """End an attachment."""
        return list(self._call("detach", vpc=vpc, source=source))

    def moves(self, since: float) -> list[dict[str, Any]]:
        """Addresses that the API has put on another interface from ``since`` (CLOCK_MONOTONIC, seconds) on: address,
        eni, the moment when the call was answered, and the moment when the change was in_force (None: not yet)."""
        return list(self._call("moves", since=since))

    def settle(self) -> None:
        """Wait until the network is as the API describes it at this moment."""
        self._call("settle")

    # -- faults ---------------------------------------------------------------------------------------------

    def power_cut(self, machine: str) -> float:
        """Cut a machine's power. Returns the moment by CLOCK_MONOTONIC."""
        return float(self._call("power_cut", machine=machine))

    def power_on(self, machine: str) -> None:
        self._call("power_on", machine=machine)

    def freeze(self, machine: str) -> float:
        """Stop every process of a machine, and its network. Returns the moment by CLOCK_MONOTONIC."""
        return float(self._call("freeze", machine=machine))

    def thaw(self, machine: str) -> None:
        self._call("thaw", machine=machine)

    def drop(
        self, a: str, b: str | None = None, *, protocol: str | None = None, port: int | None = None, both: bool = True
    ) -> str:
        """Lose packets from ``a`` to ``b`` (and back): machines, hosts, or ``outside``; returns the fault's id."""
        return str(self._call("drop", a=a, b=b, protocol=protocol, port=port, both=both))

    def undrop(self, fault: str) -> None:
        self._call("undrop", fault=fault)

    def api(self, **faults: Any) -> dict[str, Any]:
        """Set what is wrong with the API: latency_ms, jitter_ms, error_rate, throttle_rate, reset_rate, lost_rate,
        hang, effect_delay_ms, iam_delay_ms, actions (names, default all), roles_only, times. What is not given is right
        again (the delays: as they were)."""
        return dict(self._call("api_faults", **faults))

    def imds(self, machine: str, *, down: bool = True) -> None:
        """Take a machine's metadata service away (``down``), or give it back."""
        self._call("imds", machine=machine, down=down)

    def credential_lifetime(self, seconds: float) -> None:
        """How long credentials of instance roles are valid that are issued from now on."""
        self._call("credential_lifetime", seconds=seconds)

    def clear_faults(self) -> None:
        self._call("clear_faults")

    def _call(self, verb: str, **arguments: Any) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            try:
                # With a timeout, connect(2) on a Unix socket whose queue is full fails at once (EAGAIN) as if none ran.
                control.connect(str(self._control))
            except OSError as error:
                raise RegionError(
                    f"the local region '{self.name}' does not run: start it with `python -m localregion start`"
                ) from error
            control.settimeout(180)
            control.sendall(json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n")
            with control.makefile() as answers:
                line = answers.readline()
        if not line:
            raise RegionError(f"the region ended during the request '{verb}'")
        answer = json.loads(line)
        if "error" in answer:
            raise RegionError(answer["error"])
        return answer["result"]
