"""The process that is the region: one API endpoint, one metadata service for each VPC, and the machines behind."""

import argparse
import configparser
import logging
import os
import signal
import threading
import time
import uuid
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from ipaddress import IPv4Network
from typing import Any

from localregion import certificate, ec2, image, imds, paths, resolver
from localregion.api import Api, ApiFaults
from localregion.auth import Credentials
from localregion.control import serve_control
from localregion.effects import Effects
from localregion.machine import Machines
from localregion.metadata import MetadataService
from localregion.model import Layout, MachineSpec, Vpc
from localregion.network import METADATA, Drop, Network, NetworkError
from localregion.serving import serve
from localregion.targets import Target, resolve, stack_of

REGION = os.environ.get("MYCAT_HA_REGION_CODE", "eu-central-1")
#: Methods of the region that the control socket calls.
VERBS = (
    "status",
    "ps",
    "calls",
    "command",
    "add_host",
    "remove_host",
    "attach",
    "detach",
    "moves",
    "settle",
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
)
log = logging.getLogger("localregion")


class Daemon:
    """The region: its life, what its EC2 needs of it, and the verbs, which take and return plain values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._state = paths.state(name)
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.network = Network(name, self._state)
        self.machines = Machines(
            name,
            self._state,
            lambda suite: image.ensure(log.info, suite),
            self.network,
            ccache=image.cache() / "ccache",
            on_exit=self._halted,
        )
        self.keyring = imds.Keyring()
        self._served: set[str] = set()  # VPCs with a metadata service, and endpoints
        self._effects = Effects(self._apply)
        self.finished = threading.Event()

        amis = self._state / "amis.json"
        ec2.write_amis(amis)
        os.environ["MOTO_AMIS_PATH"] = str(amis)
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        ec2.install(self)
        self.api = Api(REGION, self.keyring, self.changed)
        self.ec2 = ec2.backend(REGION)
        self._metadata = MetadataService(REGION, self.keyring, lambda: self.network.layout)
        ec2.publish_images(REGION)

    def run(self) -> None:
        self.machines.down()
        self.network.down()
        self.network.up()  # the endpoint has its address from here on
        self._tls = certificate.make(self._state, ec2.api_name(REGION), self.network.endpoint)
        self._write_credentials()
        self._effects.start()
        for tls in (None, self._tls):
            serve(self.network.backbone, self.network.endpoint, self.api, tls)
        resolver.serve(self.network.backbone, self.network.endpoint)  # that of the hosts outside
        control = paths.control(self.name)
        serve_control(control, {verb: getattr(self, verb) for verb in VERBS})
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

    # -- the network follows the API ------------------------------------------------------------------------

    def changed(self) -> None:
        """Let the network follow, ``effect_delay_ms`` after the call was answered."""
        with self.api.lock:
            self._effects.put(ec2.layout(self.ec2), self.api.faults.effect_delay_ms / 1000)

    def _settled(self) -> None:
        """Wait until the network is as the API describes it now."""
        self._effects.settle(self.changed)

    def _apply(self, layout: Layout) -> None:
        self.network.apply(layout)
        vpcs = self.network.vpcs()
        for vpc_id in vpcs - self._served:
            serve(self.network.namespace(vpc_id), METADATA, self._metadata.of_vpc(vpc_id))
            vpc = next(vpc for vpc in layout.vpcs if vpc.id == vpc_id)
            resolver.serve(self.network.namespace(vpc_id), vpc.resolver, partial(self.network.names, vpc_id))
        endpoints = self.network.endpoints
        for eni in endpoints.values():
            if eni.id not in self._served:
                serve(self.network.machine_namespace(eni.id), eni.primary, self.api, self._tls)
        self._served = vpcs | endpoints.keys()

    # -- hypervisor of localregion.ec2 ----------------------------------------------------------------------

    @property
    def public_range(self) -> IPv4Network:
        return self.network.public_range

    def boot(self, instance_id: str) -> None:
        self._settled()
        self.machines.boot(self._spec(instance_id))

    def _spec(self, instance_id: str) -> MachineSpec:
        with ec2.LOCK:
            layout = ec2.layout(self.ec2)
        eni = next(eni for eni in layout.enis if eni.instance_id == instance_id)
        subnet = next(subnet for subnet in layout.subnets if subnet.id == eni.subnet_id)
        return MachineSpec(instance_id, eni, subnet, ec2.suite(self.ec2.get_instance(instance_id).image_id))

    def shutdown(self, instance_id: str) -> None:
        self.machines.shutdown(instance_id)

    def reboot(self, instance_id: str) -> None:
        self.machines.reboot(instance_id)

    def delete(self, instance_id: str) -> None:
        self.machines.delete(instance_id)

    def _halted(self, instance_id: str) -> None:
        """The machine has powered itself off; EC2 calls that an instance-initiated shutdown."""
        with ec2.LOCK:
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
            "attachments": [
                {"vpc": attachment.vpc.id, "cidr": str(attachment.vpc.cidr), "from": str(attachment.source)}
                for attachment in self.network.attachments
            ],
            "credentials": str(self._state / "credentials"),
            "machines": self.ps(),
            "hosts": {name: str(host.address) for name, host in self.network.hosts.items()},
            "pid": os.getpid(),
        }

    def ps(self) -> list[dict[str, Any]]:
        found = []
        with ec2.LOCK:
            instances = list(self.ec2.all_instances())
        for instance in instances:
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

    def calls(self) -> list[dict[str, Any]]:
        """Each once, whatever became of it."""
        named = ({"role": role, "sdk": sdk, "action": action} for role, sdk, action in self.api.calls.copy())
        return sorted(named, key=lambda call: (call["role"] or "", call["sdk"], call["action"]))

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

    def attach(self, vpc: str | None, source: str | None) -> list[str]:
        """Returns the VPC's id and range, and the network that is attached to it now."""
        self._settled()
        found, network = self._vpc(vpc), self._source(source)
        self.network.attach_network(found, network)
        return [found.id, str(found.cidr), str(network)]

    def detach(self, vpc: str | None, source: str | None) -> list[str]:
        found, network = self._vpc(vpc), self._source(source)
        self.network.detach_network(found, network)
        return [found.id, str(found.cidr), str(network)]

    def _vpc(self, name: str | None) -> Vpc:
        """By id, or by the stack that it belongs to; the only one there is if not named. Raises NetworkError."""
        known = {vpc.id: vpc for vpc in self.network.layout.vpcs if vpc.id in self.network.vpcs()}
        stacks = {vpc_id: stack_of(self.ec2.tags.get(vpc_id, {}).items()) for vpc_id in known}
        fits = [vpc for vpc_id, vpc in known.items() if name in {None, vpc_id, stacks[vpc_id]}]
        if len(fits) == 1:
            return fits[0]
        there = ", ".join(f"{vpc_id} ({stacks[vpc_id] or known[vpc_id].cidr})" for vpc_id in known) or "none"
        raise NetworkError(f"which VPC? {f'{name} is none of them' if name else 'name one of them'}: {there}")

    def _source(self, network: str | None) -> IPv4Network:
        return IPv4Network(network or self.network.deployer)

    def moves(self, since: float) -> list[dict[str, Any]]:
        return [asdict(move) | {"address": str(move.address)} for move in self._effects.moves(since)]

    def settle(self) -> None:
        self._settled()

    def console(self, target: str) -> str:
        """Of a machine; called with an instance id by the API."""
        return self.machines.console(target if target.startswith("i-") else self._machine(target))

    def power_cut(self, machine: str) -> float:
        """Returns the moment (CLOCK_MONOTONIC) just before the power went."""
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
        (self._metadata.down.add if down else self._metadata.down.discard)(instance_id)

    def credential_lifetime(self, seconds: float) -> None:
        self.keyring.set_lifetime(timedelta(seconds=seconds))

    def clear_faults(self) -> None:
        self.api.faults = ApiFaults()
        self._metadata.down.clear()
        for machine in self.ps():
            self.machines.thaw(machine["id"])
        self.network.undrop()

    def stop(self) -> None:
        self.finished.set()


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
