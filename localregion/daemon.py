"""The process that is the region: one API endpoint, one metadata service for each VPC, and the machines behind."""

import argparse
import configparser
import json
import logging
import os
import queue
import signal
import socketserver
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from werkzeug import Request, Response
from werkzeug.serving import WSGIRequestHandler, make_server

from localregion import ec2, image, imds, paths
from localregion.api import Api, ApiFaults
from localregion.auth import Credentials
from localregion.kernel import listening_socket
from localregion.machine import Machines
from localregion.model import Layout, MachineSpec
from localregion.network import METADATA, Drop, Network
from localregion.targets import Target, resolve, stack_of

REGION = os.environ.get("MYCAT_HA_REGION_CODE", "eu-central-1")
log = logging.getLogger("localregion")


class Daemon:
    """The region. Its public methods are the verbs of the control socket; they take and return plain values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._state = paths.state(name)
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.network = Network(name, self._state)
        self.machines = Machines(
            name,
            self._state,
            image.ensure(log.info),
            self.network,
            ccache=image.cache() / "ccache",
            on_exit=self._halted,
        )
        self.keyring = imds.Keyring()
        self._metadata = imds.Metadata()
        self._without_metadata: set[str] = set()
        self._served: set[str] = set()  # VPCs with a metadata service
        self._effects: queue.Queue[tuple[float, Layout | None]] = queue.Queue()
        self._applied = threading.Condition()
        self._applies = 0
        self.finished = threading.Event()

        amis = self._state / "amis.json"
        ec2.write_amis(amis)
        os.environ["MOTO_AMIS_PATH"] = str(amis)
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        ec2.install(self)
        self.api = Api(REGION, self.keyring, self.changed)
        self.ec2 = ec2.backend(REGION)
        ec2.publish_image(REGION)

    def run(self) -> None:
        self.machines.down()
        self.network.down()
        self.network.up()
        self._write_credentials()
        threading.Thread(target=self._follow, daemon=True).start()
        self._serve(self.network.backbone, self.network.endpoint, self.api)
        control = paths.control(self.name)
        control.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        control.unlink(missing_ok=True)
        server = _ControlServer(str(control), self)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        log.info("region %s is up at %s", self.name, self.network.endpoint)
        self.finished.wait()
        control.unlink(missing_ok=True)
        self.machines.down()
        self.network.down()

    def _write_credentials(self) -> None:
        administrator = Credentials.administrator()
        self.keyring.add(administrator)
        config = configparser.ConfigParser()
        config["default"] = {
            "aws_access_key_id": administrator.access_key,
            "aws_secret_access_key": administrator.secret_key,
        }
        path = self._state / "credentials"
        path.touch(0o600)
        with path.open("w", encoding="utf-8") as file:
            config.write(file)

    @staticmethod
    def _serve(namespace: str, address: Any, application: Any) -> None:
        listening = listening_socket(namespace, address, 80)
        server = make_server(
            str(address), 80, application, threaded=True, fd=listening.fileno(), request_handler=_Handler
        )
        listening.detach()
        threading.Thread(target=server.serve_forever, daemon=True).start()

    # -- the network follows the API ------------------------------------------------------------------------

    def changed(self) -> None:
        """Let the network follow, ``effect_delay_ms`` after the call was answered."""
        due = time.monotonic() + self.api.faults.effect_delay_ms / 1000
        with self.api.lock:
            self._effects.put((due, ec2.layout(self.ec2)))

    def _follow(self) -> None:
        while True:
            due, layout = self._effects.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if layout is not None:
                    self.network.apply(layout)
                    self._serve_metadata()
            except Exception:
                log.exception("the network did not follow")
            with self._applied:
                self._applies += 1
                self._applied.notify_all()

    def _settled(self) -> None:
        """Wait until the network is what the API says now."""
        with self._applied:
            goal = self._applies + self._effects.qsize() + 1
        self.changed()
        with self._applied:
            self._applied.wait_for(lambda: self._applies >= goal, timeout=60)

    def _serve_metadata(self) -> None:
        for vpc_id in self.network.vpcs() - self._served:
            self._serve(self.network.namespace(vpc_id), METADATA, self._metadata_of(vpc_id))
            self._served.add(vpc_id)
        self._served &= self.network.vpcs()

    def _metadata_of(self, vpc_id: str) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            request = Request(environ)
            instance = self._instance_at(vpc_id, request.remote_addr or "")
            if instance is None or instance.metadata_options.http_endpoint != "enabled":
                return Response("", HTTPStatus.FORBIDDEN)(environ, start_response)
            if instance.id in self._without_metadata:
                time.sleep(20)
                return Response("", HTTPStatus.SERVICE_UNAVAILABLE)(environ, start_response)
            return self._metadata.answer(request, _Described(self, instance))(environ, start_response)

        return application

    def _instance_at(self, vpc_id: str, address: str) -> Any | None:
        for eni in list(self.ec2.enis.values()):
            held = {a["PrivateIpAddress"] for a in eni.private_ip_addresses}
            if eni.vpc_id == vpc_id and eni.instance is not None and address in held:
                return eni.instance
        return None

    # -- hypervisor of localregion.ec2 ----------------------------------------------------------------------

    def boot(self, instance_id: str) -> None:
        self._settled()
        self.machines.boot(self._spec(instance_id))

    def _spec(self, instance_id: str) -> MachineSpec:
        layout = ec2.layout(self.ec2)
        eni = next(eni for eni in layout.enis if eni.instance_id == instance_id)
        subnet = next(subnet for subnet in layout.subnets if subnet.id == eni.subnet_id)
        return MachineSpec(instance_id, eni, subnet)

    def shutdown(self, instance_id: str) -> None:
        self.machines.shutdown(instance_id)

    def reboot(self, instance_id: str) -> None:
        self.machines.reboot(instance_id)

    def delete(self, instance_id: str) -> None:
        self.machines.delete(instance_id)

    def _halted(self, instance_id: str) -> None:
        """The machine has powered itself off; EC2 calls that an instance-initiated shutdown."""
        instance = self.ec2.get_instance(instance_id)
        if instance.instance_initiated_shutdown_behavior == "terminate":
            instance.terminate()
        else:
            ec2.set_state(instance, "stopped")

    # -- verbs of the control socket ------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "region": REGION,
            "endpoint": f"http://{self.network.endpoint}",
            "deployer": str(self.network.deployer),
            "credentials": str(self._state / "credentials"),
            "machines": self.ps(),
            "hosts": {name: str(host.address) for name, host in self.network.hosts.items()},
            "pid": os.getpid(),
        }

    def ps(self) -> list[dict[str, Any]]:
        found = []
        for instance in self.ec2.all_instances():
            if instance.state == "terminated":
                continue
            eni = instance.nics.get(0)
            tags = {tag["key"]: tag["value"] for tag in instance.get_tags()}
            found.append(
                {
                    "id": instance.id,
                    "name": tags.get("Name", ""),
                    "stack": stack_of(tags.items()),
                    "state": instance.state,
                    "powered": self.machines.pid(instance.id) is not None,
                    "address": eni.private_ip_address if eni else "",
                    "addresses": [a["PrivateIpAddress"] for a in eni.private_ip_addresses] if eni else [],
                    "eni": eni.id if eni else "",
                }
            )
        return found

    def _machine(self, name: str) -> str:
        """The instance id. Raises LookupError."""
        return resolve(name, (Target(m["id"], m["name"], m["stack"], tuple(m["addresses"])) for m in self.ps()))

    def command(self, target: str, argv: list[str]) -> list[str]:
        """The command line that runs ``argv`` on a machine or host, to be run on this computer as root."""
        if target in self.network.hosts:
            return ["ip", "netns", "exec", self.network.host_namespace(target), *argv]
        return self.machines.command(self._machine(target), argv)

    def add_host(self, name: str, address: str) -> None:
        self._settled()
        self.network.add_host(name, address)

    def remove_host(self, name: str) -> None:
        self.network.remove_host(name)

    def console(self, target: str) -> str:
        """Of a machine; called with an instance id by the API."""
        return self.machines.console(target if target.startswith("i-") else self._machine(target))

    def power_cut(self, machine: str) -> float:
        """Returns the moment (CLOCK_MONOTONIC) at which the cable was pulled."""
        instance_id = self._machine(machine)
        before = time.monotonic()
        self.machines.power_cut(instance_id)
        return before

    def power_on(self, machine: str) -> None:
        instance_id = self._machine(machine)
        if self.machines.pid(instance_id) is None:
            self.boot(instance_id)
            ec2.set_state(self.ec2.get_instance(instance_id), "running")

    def freeze(self, machine: str) -> float:
        before = time.monotonic()
        self.machines.freeze(self._machine(machine))
        return before

    def thaw(self, machine: str) -> None:
        self.machines.thaw(self._machine(machine))

    def drop(self, a: str, b: str | None, protocol: str | None, port: int | None, both: bool) -> str:
        fault = Drop(f"drop-{uuid.uuid4().hex[:8]}", self._end(a), self._end(b) if b else None, protocol, port, both)
        self.network.drop(fault)
        return fault.id

    def _end(self, name: str) -> str:
        if name == "outside" or name in self.network.hosts:
            return name
        return str(next(m["eni"] for m in self.ps() if m["id"] == self._machine(name)))

    def undrop(self, fault: str) -> None:
        self.network.undrop(fault)

    def api_faults(self, **values: Any) -> dict[str, Any]:
        self.api.faults = ApiFaults(**values)
        return asdict(self.api.faults)

    def imds(self, machine: str, down: bool) -> None:
        instance_id = self._machine(machine)
        (self._without_metadata.add if down else self._without_metadata.discard)(instance_id)

    def credential_lifetime(self, seconds: float) -> None:
        self.keyring.lifetime = timedelta(seconds=seconds)

    def clear_faults(self) -> None:
        self.api.faults = ApiFaults()
        self._without_metadata.clear()
        for machine in self.ps():
            self.machines.thaw(machine["id"])
        self.network.undrop()

    def stop(self) -> None:
        self.finished.set()


class _Described:
    """An instance as the metadata service shows it."""

    def __init__(self, daemon: Daemon, instance: Any) -> None:
        self.id: str = instance.id
        self._daemon = daemon
        self._instance = instance

    def tree(self) -> imds.Tree:
        from moto.iam.models import iam_backends

        association = self._daemon.ec2.iam_instance_profile_associations.get(self.id)
        profile = None
        if association is not None:
            arn = association.iam_instance_profile.arn
            profiles = iam_backends[ec2.ACCOUNT]["aws"].instance_profiles.values()
            profile = next((p for p in profiles if p.arn == arn), None)
        key = self._daemon.ec2.key_pairs.get(self._instance.key_name)
        public = key.material_public.decode() if key else None
        return imds.tree(
            self._instance, REGION, profile, lambda role: self._daemon.keyring.of_role(role, self.id), public
        )


class _Handler(WSGIRequestHandler):
    """Keeps connections open, as AWS does, and writes no line for each request."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
        log.debug("%s %s %s", self.command, self.path, code)


class _ControlServer(socketserver.ThreadingUnixStreamServer):
    """A JSON object a line: ``{"verb": …, "arguments": {…}}``, answered by ``{"result": …}`` or ``{"error": …}``."""

    daemon_threads = True
    VERBS = frozenset(
        [
            "status",
            "ps",
            "command",
            "add_host",
            "remove_host",
            "console",
            "power_cut",
            "power_on",
            "freeze",
            "thaw",
            "drop",
            "undrop",
            "api_faults",
            "imds",
            "credential_lifetime",
            "clear_faults",
            "stop",
        ]
    )

    def __init__(self, path: str, daemon: Daemon) -> None:
        self.region = daemon
        super().__init__(path, _ControlHandler)


class _ControlHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _ControlServer)
        for line in self.rfile:
            try:
                asked = json.loads(line)
                if asked["verb"] not in self.server.VERBS:
                    raise LookupError(f"no such verb: {asked['verb']}")
                answer = {"result": getattr(self.server.region, asked["verb"])(**asked.get("arguments", {}))}
            except Exception as error:
                log.info("control: %s: %s", line[:200], error)
                answer = {"error": f"{error}" or type(error).__name__}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", type=paths.check)
    name = parser.parse_args().name
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    daemon = Daemon(name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.finished.set())
    daemon.run()


if __name__ == "__main__":
    main()
