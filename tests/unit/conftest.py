"""The program under Pulumi's mocks: what it registers is recorded, nothing is created."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime.mocks import MockMonitor

import dry_run
from tests import example

ROOT = Path(__file__).parents[2]


@dataclass
class Recorded:
    type: str
    name: str
    inputs: dict[str, Any]

    @property
    def stdin(self) -> str:
        """Of a command; in plain text, also if it is a secret."""
        given = self.inputs["stdin"]
        return str(given["value"] if isinstance(given, dict) else given)


@dataclass
class Recorder(pulumi.runtime.Mocks):
    """Answers with what AWS would know only afterwards, and keeps what was registered."""

    resources: list[Recorded] = field(default_factory=list)
    #: By name: the names of the resources that it depends on.
    depends_on: dict[str, set[str]] = field(default_factory=dict)
    #: By name of a command: of the one that it is deleted with.
    deleted_with: dict[str, str] = field(default_factory=dict)
    #: Names of the resources that Pulumi refuses to delete or replace.
    protected: set[str] = field(default_factory=set)
    interfaces: list[str] = field(default_factory=list)  # ids that get_network_interfaces finds, not this stack's
    machines: dict[str, str] = field(default_factory=dict)  # this stack's that exist, each with its address
    types: dict[str, str] = field(default_factory=dict)  # their instance types
    off: list[str] = field(default_factory=list)  # names of those of `machines` that are switched off
    subnet_cidr: str = "192.168.106.128/25"
    region: str = "eu-central-1"
    partition: str = "aws"
    dns_suffix: str = "amazonaws.com"

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        self.resources.append(Recorded(args.typ, args.name, dict(args.inputs)))
        outputs = dict(args.inputs)
        if args.typ == "command:remote:Command":
            outputs["stdout"] = "/opt/software/prefix\n"
            if args.name.endswith("-ready"):
                outputs["stdout"] = json.dumps({"device": "ens5", "hostKey": "ssh-ed25519 AAAAhostkey"})
            if args.name.endswith("-bastion-ready"):
                outputs["stdout"] = "ssh-ed25519 AAAAbastion root@ip-10-0-0-5\n"
        if args.typ == "aws:ec2/networkInterface:NetworkInterface":
            outputs["arn"] = f"arn:{self.partition}:ec2:{self.region}:1:network-interface/{args.name}"
        if args.typ.startswith("aws:iam/"):
            outputs.setdefault("name", args.name)
        if args.typ == "aws:ec2/eip:Eip":
            outputs |= {"allocationId": "eipalloc-1", "publicIp": "203.0.113.9"}
        return f"{args.name}-id", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        match args.token:
            case "aws:index/getRegion:getRegion":
                return {"region": self.region, "id": self.region, "name": self.region}
            case "aws:index/getPartition:getPartition":
                reverse = ".".join(reversed(self.dns_suffix.split(".")))
                return {"partition": self.partition, "dnsSuffix": self.dns_suffix, "reverseDnsPrefix": reverse}
            case "aws:ec2/getAmi:getAmi":
                return {"id": "ami-1", "architecture": "x86_64"}
            case "aws:ec2/getSubnet:getSubnet":
                return {"id": args.args["id"], "cidrBlock": self.subnet_cidr, "vpcId": "vpc-1"}
            case "aws:ec2/getNetworkInterfaces:getNetworkInterfaces":
                filters = {each["name"]: each["values"][0] for each in args.args["filters"]}
                return {"ids": self._found(filters), "id": "region"}
            case "aws:ec2/getInstances:getInstances":
                filters = {each["name"]: each["values"][0] for each in args.args["filters"]}
                assert filters["tag:mycat-ha:stack"] == "test"
                kind, off = filters.get("instance-type"), "running" not in args.args["instanceStateNames"]
                names = [name for name in (self.off if off else self.machines) if kind in (None, self.types.get(name))]
                return {"ids": [f"i-{name}" for name in names], "privateIps": [self.machines[name] for name in names]}
        raise AssertionError(f"unexpected call of {args.token}")

    def _found(self, filters: Mapping[str, str]) -> list[str]:
        """The interfaces that match."""
        if not any(name.startswith("tag:") for name in filters):
            return self.interfaces
        return [
            f"eni-{name}"
            for name, address in self.machines.items()
            if filters.get("tag:Name") in (None, f"mycat-ha-test-{name}-eni")
            and filters.get("addresses.private-ip-address") in (None, address)
        ]

    def keep_options(self, request: Any) -> None:
        """Keep what Pulumi's mocks leave out of a registration."""
        if request.protect:
            self.protected.add(request.name)
        self.depends_on[request.name] = {urn.rsplit("::", 1)[-1] for urn in request.dependencies}
        if request.type == "command:remote:Command":
            self.deleted_with[request.name] = request.deletedWith.rsplit("::", 1)[-1]

    def of_type(self, kind: str) -> list[Recorded]:
        return [resource for resource in self.resources if resource.type == kind]

    def named(self, name: str) -> Recorded:
        found = [resource for resource in self.resources if resource.name == name]
        assert len(found) == 1, f"{len(found)} resources named {name}"
        return found[0]


Run = Callable[..., Recorder]


@pytest.fixture(scope="session")
def recorded() -> dict[str, Recorder]:
    """What was registered, by the settings: a run takes a second, and tests only read."""
    return {}


@pytest.fixture
def run_program(monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Recorder]) -> Run:
    """Run __main__.py with settings; the program's own errors come through."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_EC2", raising=False)
    monkeypatch.chdir(ROOT)

    register: Callable[[Any, Any], Any] = MockMonitor.RegisterResource

    def register_and_keep(monitor: Any, request: Any) -> Any:
        if isinstance(monitor.mocks, Recorder):
            monitor.mocks.keep_options(request)
        return register(monitor, request)

    monkeypatch.setattr(MockMonitor, "RegisterResource", register_and_keep)

    def run(raw: dict[str, Any] | None = None, recorder: Recorder | None = None) -> Recorder:
        raw = example.settings() if raw is None else raw
        if recorder is not None:
            return _run(raw, recorder)
        key = json.dumps(raw, sort_keys=True)
        if key not in recorded:
            recorded[key] = _run(raw, Recorder())
        return recorded[key]

    return run


def _run(raw: dict[str, Any], recorder: Recorder) -> Recorder:
    dry_run.run({f"mycat-ha:{key}": json.dumps(value) for key, value in raw.items()}, recorder, "test")
    return recorder
