"""stackctl with the real Pulumi CLI on a state of its own; AWS is moto in this process."""

import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws
from moto.ec2.models.amis import AMIS
from moto.server import ThreadedMotoServer

from resource_types import INSTANCE, TAGGED
from settings import Settings
from stackctl import (
    adoption,
    cli,
    configuration,
    healing,
    inline_routes,
    inventory,
    life,
    listing,
    protection,
    sweep,
    teststack,
)
from stackctl.aws import connect
from stackctl.environment import Environment, NotRunningError, environment
from stackctl.inventory import Found
from stackctl.project import Stack, StackError
from stackctl.pulumi import Pulumi
from tests import example
from toolchain.mycat import Archive

ROOT = Path(__file__).resolve().parents[2]
STACKS = sorted(path.name.split(".")[1] for path in (ROOT / "stacks").glob("Pulumi.*.yaml"))


def source(change: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """A committed stack file: the example's settings without what is generated."""
    raw = example.settings(change)
    raw.pop("secrets", None)
    raw["access"].pop("sshPublicKey", None)
    return {"config": {f"mycat-ha:{section}": value for section, value in raw.items()}}


def complete_source(change: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """One that lacks nothing, its secrets in plain text: each that is generated costs a run of Pulumi."""
    return {"config": {f"mycat-ha:{section}": value for section, value in example.settings(change).items()}}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree with a project, and a state backend for it."""
    if shutil.which("pulumi") is None:
        pytest.fail("there is no `pulumi` on PATH: run `python3 -m toolchain install` and test by `make test`")
    (tmp_path / "stacks").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "Pulumi.yaml").write_text("name: mycat-ha\nruntime: python\nstackConfigDir: stacks\n")
    monkeypatch.setenv("PULUMI_BACKEND_URL", (tmp_path / "state").as_uri())
    if "PULUMI_HOME" not in os.environ:  # else the toolchain's, where the plugins are
        monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "correct horse")
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE_FILE", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def prepared_once() -> list[Path]:
    """The work tree that `prepared` has made: it takes a dozen runs of Pulumi."""
    return []


@pytest.fixture
def prepared(tree: Path, prepared_once: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Pulumi:
    """A stack that `configuration.prepare` has completed, in a work tree of the test's own."""
    pulumi = stack_in(tree, "local", source())
    if prepared_once:
        shutil.copytree(prepared_once[0], tree, dirs_exist_ok=True)
    else:
        configuration.prepare(pulumi)
        prepared_once.append(tmp_path_factory.mktemp("prepared"))
        shutil.copytree(tree, prepared_once[0], dirs_exist_ok=True)
    return pulumi


def stack_in(tree: Path, name: str, settings: dict[str, Any] | None) -> Pulumi:
    stack = Stack(name, root=tree, local=tree / ".local")
    if settings is not None:
        stack.source.write_text(yaml.safe_dump(settings))
    return Pulumi(stack)


def decrypted(pulumi: Pulumi) -> dict[str, Any]:
    """The settings as the program will see them."""
    listed = pulumi.read_json("config", "--show-secrets")
    return {key.partition(":")[2]: entry.get("objectValue", entry["value"]) for key, entry in listed.items()}


class TestGeneratedSettings:
    def test_are_what_the_program_accepts(self, prepared: Pulumi) -> None:
        pulumi = prepared
        settings = decrypted(pulumi)
        assert Settings.parse(settings).vip.address == IPv4Address("192.168.106.249")

        private = load_ssh_private_key(settings["secrets"]["sshPrivateKey"].encode(), password=None)
        public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        assert settings["access"]["sshPublicKey"] == public
        assert public.startswith("ssh-ed25519 ")
        passwords = [value for name, value in settings["secrets"].items() if name != "sshPrivateKey"]
        assert len(set(passwords)) == len(passwords) == 3
        assert all(len(value) == 24 and value.isalnum() for value in passwords)

    def test_are_readable_by_their_owner_only(self, prepared: Pulumi) -> None:
        pulumi = prepared
        for file in (pulumi.stack.generated, pulumi.stack.key):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    def test_leave_the_committed_file_alone(self, prepared: Pulumi) -> None:
        assert prepared.stack.source.read_text() == yaml.safe_dump(source())
        assert [path.name for path in prepared.stack.source.parent.iterdir()] == ["Pulumi.local.yaml"]

    def test_stay_as_they_are(self, prepared: Pulumi) -> None:
        pulumi = prepared
        once = pulumi.stack.generated.read_bytes()
        configuration.prepare(pulumi)
        assert pulumi.stack.generated.read_bytes() == once

    def test_are_completed_after_an_interruption(self, prepared: Pulumi) -> None:
        """The stack was there already, but neither its salt nor all of its secrets had been written."""
        pulumi = prepared
        half = yaml.safe_load(pulumi.stack.generated.read_text())
        del half["encryptionsalt"], half["config"]["mycat-ha:secrets"]
        pulumi.stack.generated.write_text(yaml.safe_dump(half))
        configuration.prepare(pulumi)
        assert Settings.parse(decrypted(pulumi))
        assert decrypted(pulumi)["secrets"]["sshPrivateKey"].strip() == pulumi.stack.key.read_text().strip()

    def test_follow_the_committed_file_and_keep_the_secrets(self, prepared: Pulumi) -> None:
        pulumi = prepared
        before = decrypted(pulumi)
        changed = source(lambda raw: raw["vip"].update(address="192.168.106.248"))
        pulumi.stack.source.write_text(yaml.safe_dump(changed))
        configuration.prepare(pulumi)
        after = decrypted(pulumi)
        assert after["vip"] == {"address": "192.168.106.248"}
        assert after["secrets"] == before["secrets"]
        assert after["access"] == before["access"]

    def test_have_a_short_vrrp_password_only_in_seed_mode(self, tree: Path) -> None:
        settings = complete_source(example.seed_mode)
        settings["config"]["mycat-ha:secrets"].pop("vrrp", None)
        pulumi = stack_in(tree, "local", settings)
        configuration.prepare(pulumi)
        assert len(decrypted(pulumi)["secrets"]["vrrp"]) == 8
        assert "vrrp" not in configuration.missing_secrets(source())

    def test_have_no_database_passwords_without_databases(self) -> None:
        def external(raw: dict[str, Any]) -> None:
            raw["machines"] = [{**machine, "roles": ["lb"]} for machine in raw["machines"]]

        assert configuration.missing_secrets(source(external)) == ["sshPrivateKey", "statistics"]

    def test_have_a_password_for_each_user_of_mycat(self, tree: Path) -> None:
        pulumi = stack_in(tree, "local", source(example.with_mycat))
        configuration.prepare(pulumi)
        settings = Settings.parse(decrypted(pulumi))
        assert set(settings.secrets) == {
            "sshPrivateKey", "statistics", "database", "health", "mycatDatabase", "mycat", "mycatReport",
        }  # fmt: skip

    def test_have_a_password_for_each_user_of_the_databases(self, tree: Path) -> None:
        pulumi = stack_in(tree, "local", source(example.database_users))
        configuration.prepare(pulumi)
        settings = Settings.parse(decrypted(pulumi))
        assert set(settings.secrets) == {"sshPrivateKey", "statistics", "database", "health", "reportReader", "shop"}

    def test_are_not_made_for_a_complete_file(self, prepared: Pulumi) -> None:
        first = prepared
        complete = yaml.safe_load(first.stack.generated.read_text())
        first.stack.source.write_text(yaml.safe_dump(complete))
        configuration.prepare(first)
        assert not first.stack.generated.exists()
        assert first.stack.config_file == first.stack.source

    def test_reach_pulumi_by_standard_input_only(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        commands_run: list[list[str]] = []
        popen = subprocess.Popen

        class Recording(popen):  # type: ignore[valid-type,misc]
            def __init__(self, argv: list[str], *args: Any, **kwargs: Any) -> None:
                commands_run.append(argv)
                super().__init__(argv, *args, **kwargs)

        monkeypatch.setattr(subprocess, "Popen", Recording)
        pulumi = stack_in(tree, "local", source())
        configuration.prepare(pulumi)
        shown = "\n".join(" ".join(map(str, argv)) for argv in commands_run)
        assert "config set --secret" in shown
        for value in decrypted(pulumi)["secrets"].values():
            assert value not in shown
            assert value.splitlines()[0] not in shown

    def test_demand_the_private_half_of_a_given_public_key(self, tree: Path) -> None:
        settings = source()
        settings["config"]["mycat-ha:access"]["sshPublicKey"] = "ssh-ed25519 AAAA somebody"
        with pytest.raises(StackError, match=r"secrets\.sshPrivateKey .* is missing.*config set --secret"):
            configuration.prepare(stack_in(tree, "local", settings))

    def test_name_archives_that_are_there(self, tree: Path) -> None:
        archives = tree / "sources"
        archives.mkdir()
        (archives / "haproxy-3.0.11.tar.gz").touch()
        wanted = configuration.complete(source(), {}, archives)["config"]
        assert wanted["mycat-ha:haproxy"]["archive"] == str(archives / "haproxy-3.0.11.tar.gz")
        assert "archive" not in wanted["mycat-ha:keepalived"]

    def test_need_a_stack_file(self, tree: Path) -> None:
        with pytest.raises(StackError, match=r"stack 'nowhere' has no settings: write stacks/Pulumi\.nowhere\.yaml"):
            configuration.prepare(stack_in(tree, "nowhere", None))

    def test_say_where_the_yaml_is_broken(self, tree: Path) -> None:
        pulumi = stack_in(tree, "local", source())
        pulumi.stack.source.write_text("config: [")
        with pytest.raises(StackError, match=r"Pulumi\.local\.yaml: not YAML"):
            configuration.prepare(pulumi)


def known_mycat(settings: dict[str, Any]) -> None:
    """No release of Mycat has a checksum to commit: who deploys, or the toolchain, puts it in."""
    if configuration.MYCAT in settings["config"]:
        configuration.replace_mycat(settings, Archive(Path("/mycat.tar.gz"), "d" * 64, "1.6.7.6", stand_in=False))


class TestMycat:
    """Which one a stack runs: the settings', or in a local region the toolchain's."""

    def archive(self, stand_in: bool) -> Archive:
        return Archive(Path("/cache/mycat.tar.gz"), "d" * 64, "1.6.7.6", stand_in)

    @pytest.mark.parametrize("stand_in", [True, False])
    def test_of_a_local_region_is_the_toolchains(
        self, tree: Path, capfd: pytest.CaptureFixture[str], stand_in: bool
    ) -> None:
        pulumi = stack_in(tree, "local", complete_source(example.with_mycat))
        configuration.prepare(pulumi, None, lambda: self.archive(stand_in))
        settings = decrypted(pulumi)
        assert settings["mycat"]["archive"] == "/cache/mycat.tar.gz"
        assert settings["mycat"]["sha256"] == "d" * 64
        assert Settings.parse(settings)
        said = " ".join(capfd.readouterr().err.split())
        assert ("NOT MYCAT but a stand-in" in said) == stand_in
        assert "/cache/mycat.tar.gz" in said

    def test_follows_the_toolchain(self, tree: Path) -> None:
        pulumi = stack_in(tree, "test-x", None)
        pulumi.stack.generated.parent.mkdir(parents=True)
        pulumi.stack.generated.write_text(yaml.safe_dump(complete_source(example.with_mycat)))
        configuration.prepare(pulumi, None, lambda: self.archive(stand_in=True))
        configuration.prepare(pulumi, None, lambda: Archive(Path("/real.tar.gz"), "e" * 64, "1.6.7.5", stand_in=False))
        given = decrypted(pulumi)["mycat"]
        assert (given["archive"], given["sha256"], given["version"]) == ("/real.tar.gz", "e" * 64, "1.6.7.5")

    def test_anywhere_else_is_the_settings(self, tree: Path) -> None:
        pulumi = stack_in(tree, "staging", complete_source(example.with_mycat))
        life.prepare(pulumi, None)
        assert decrypted(pulumi)["mycat"]["sha256"] == "c" * 64

    def test_is_not_made_for_a_stack_without(self, tree: Path) -> None:
        def never() -> Archive:
            raise AssertionError("nobody needs it")

        configuration.prepare(stack_in(tree, "local", complete_source()), None, never)


class TestCommittedStacks:
    @pytest.mark.parametrize("name", STACKS)
    def test_are_complete_but_for_what_is_generated(self, name: str) -> None:
        content = yaml.safe_load((ROOT / "stacks" / f"Pulumi.{name}.yaml").read_text())
        known_mycat(content)
        raw = {key.partition(":")[2]: value for key, value in content["config"].items() if key.startswith("mycat-ha:")}
        raw["secrets"] = dict.fromkeys(configuration.missing_secrets(content), "generated")
        raw["access"].setdefault("sshPublicKey", "ssh-ed25519 AAAA generated")
        assert Settings.parse(raw)

    def test_are_protected_but_for_the_local_one(self) -> None:
        for name in STACKS:
            tags = yaml.safe_load((ROOT / "stacks" / f"Pulumi.{name}.yaml").read_text())["config"].get("mycat-ha:tags")
            assert (name in protection.ALWAYS) == (tags is not None and tags[protection.MARK] == "true")


class TestTestStacks:
    TAGS = {teststack.OWNER: "me", teststack.EXPIRES: "2030-01-01T00:00:00Z"}  # noqa: RUF012 - never changed

    def test_have_every_address_of_their_own(self) -> None:
        config = teststack.derive(source(), IPv4Network("10.77.3.0/24"), self.TAGS)["config"]
        assert config["mycat-ha:network"] == {
            "vpcCidr": "10.77.3.0/24",
            "subnetCidr": "10.77.3.128/25",
            "natSubnetCidr": "10.77.3.0/28",
        }
        assert [machine["address"] for machine in config["mycat-ha:machines"]] == [
            "10.77.3.251",
            "10.77.3.252",
            "10.77.3.253",
        ]
        assert config["mycat-ha:vip"]["address"] == "10.77.3.249"
        assert config["mycat-ha:access"]["clients"] == ["10.20.0.0/24"]  # outside of the VPC: stays
        assert "192.168.106" not in json.dumps(config)
        assert config["mycat-ha:haproxy"] == source()["config"]["mycat-ha:haproxy"]

    @given(offset=st.integers(0, 255), block=st.integers(0, 255))
    def test_keep_the_place_of_each_address(self, offset: int, block: int) -> None:
        home, target = IPv4Network("192.168.106.0/24"), IPv4Network(f"10.77.{block}.0/24")
        origin = source(
            lambda raw: raw["vip"].update(address=str(home[offset]), other=[f"{home[offset]}/32", "3.0.11"])
        )
        vip = teststack.derive(origin, target, {})["config"]["mycat-ha:vip"]
        assert vip == {"address": str(target[offset]), "other": [f"{target[offset]}/32", "3.0.11"]}

    def test_take_over_nothing_secret_and_no_protection_or_backups(self) -> None:
        origin = source()
        backup = {"bucket": "backups", "prefix": "production"}  # where each stack removes what is old
        origin["config"]["mycat-ha:database"]["backup"] = backup
        origin |= {"encryptionsalt": "v1:salt", "encryptedkey": "key", "secretsprovider": "awskms://alias/x"}
        origin["config"]["mycat-ha:secrets"] = {"statistics": {"secure": "v1:x"}}
        origin["config"]["mycat-ha:access"]["sshPublicKey"] = "ssh-ed25519 AAAA"
        origin["config"]["mycat-ha:tags"] = {protection.MARK: "true", "team": "a"}
        derived = teststack.derive(origin, IPv4Network("10.77.3.0/24"), self.TAGS)
        assert derived["secretsprovider"] == "awskms://alias/x"
        assert not derived.keys() & {"encryptionsalt", "encryptedkey"}
        assert "mycat-ha:secrets" not in derived["config"]
        assert "backup" not in derived["config"]["mycat-ha:database"]
        assert origin["config"]["mycat-ha:database"]["backup"] == backup
        assert "sshPublicKey" not in derived["config"]["mycat-ha:access"]
        assert derived["config"]["mycat-ha:tags"] == {"team": "a", **self.TAGS}
        assert origin["config"]["mycat-ha:tags"][protection.MARK] == "true"

    @pytest.mark.parametrize("name", STACKS)
    def test_can_be_made_from_every_committed_stack(self, name: str) -> None:
        content = yaml.safe_load((ROOT / "stacks" / f"Pulumi.{name}.yaml").read_text())
        known_mycat(content)
        derived = teststack.derive(content, IPv4Network("10.77.3.0/24"), self.TAGS)
        raw = {key.partition(":")[2]: value for key, value in derived["config"].items() if key.startswith("mycat-ha:")}
        raw["secrets"] = dict.fromkeys(configuration.missing_secrets(derived), "generated")
        raw["access"]["sshPublicKey"] = "ssh-ed25519 AAAA generated"
        assert all(machine.address in IPv4Network("10.77.3.0/24") for machine in Settings.parse(raw).machines)

    def test_need_a_range_as_large_as_the_origin(self) -> None:
        with pytest.raises(StackError, match=r"--cidr 10\.77\.3\.0/28: too small"):
            teststack.derive(source(), IPv4Network("10.77.3.0/28"), {})

    def test_can_stand_in_an_existing_subnet(self) -> None:
        subnet = teststack.Subnet("subnet-0abc", IPv4Network("10.50.0.0/20"))
        raw = source(lambda raw: raw["network"].update(ec2Endpoint=True))
        config = teststack.derive(raw, IPv4Network("10.50.3.0/25"), self.TAGS, subnet)["config"]
        assert config["mycat-ha:network"] == {"subnetId": "subnet-0abc", "subnetCidr": "10.50.0.0/20"}
        addresses = [machine["address"] for machine in config["mycat-ha:machines"]]
        assert addresses == ["10.50.3.123", "10.50.3.124", "10.50.3.125"]
        assert config["mycat-ha:vip"]["address"] == "10.50.3.121"
        sections = {key.partition(":")[2]: value for key, value in config.items()}
        sections["secrets"] = example.settings()["secrets"]
        sections["access"]["sshPublicKey"] = "ssh-ed25519 AAAA generated"
        assert Settings.parse(sections).network.subnet_id == "subnet-0abc"

        # As does a copy of a stack that stands in one itself.
        again = teststack.derive({"config": config}, IPv4Network("10.50.16.0/20"), {}, self.elsewhere())["config"]
        assert again["mycat-ha:vip"]["address"] == "10.50.19.121"

    def elsewhere(self) -> teststack.Subnet:
        return teststack.Subnet("subnet-0def", IPv4Network("10.50.16.0/20"))

    @pytest.mark.parametrize("cidr", ["10.50.32.0/25", "10.50.0.0/16"])
    def test_lie_in_their_subnet(self, cidr: str) -> None:
        with pytest.raises(StackError, match=rf"--cidr {cidr}: not in --subnet-id subnet-0def, which is 10\.50\.16\.0"):
            teststack.derive(source(), IPv4Network(cidr), {}, self.elsewhere())

    def test_need_a_part_as_large_as_the_origins_subnet(self) -> None:
        with pytest.raises(StackError, match=r"--cidr 10\.50\.16\.0/26: too small.*/25"):
            teststack.derive(source(), IPv4Network("10.50.16.0/26"), {}, self.elsewhere())

    def test_find_their_subnet_in_the_region(self, aws: boto3.Session) -> None:
        ec2 = aws.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.50.0.0/16")["Vpc"]["VpcId"]
        made = ec2.create_subnet(VpcId=vpc, CidrBlock="10.50.16.0/20")["Subnet"]["SubnetId"]
        assert teststack.find_subnet(aws, made) == teststack.Subnet(made, IPv4Network("10.50.16.0/20"))
        with pytest.raises(StackError, match=r"--subnet-id subnet-0abc: .*InvalidSubnetID"):
            teststack.find_subnet(aws, "subnet-0abc")

    def test_need_a_vpc_of_their_own_or_a_subnet(self) -> None:
        def adopted(raw: dict[str, Any]) -> None:
            raw["network"] = {"subnetId": "subnet-1", "subnetCidr": "192.168.106.128/25"}

        with pytest.raises(StackError, match=r"network\.subnetId.*--subnet-id"):
            teststack.derive(source(adopted), IPv4Network("10.77.3.0/24"), {})

    @pytest.mark.parametrize("setting", ["mode=seed", "keepalived", "machines.9.address=10.0.0.1", "vip.address.x=1"])
    def test_refuse_a_setting_that_leads_nowhere(self, setting: str) -> None:
        with pytest.raises(StackError, match=r"--set"):
            teststack.assign(source(), setting)

    def test_take_single_settings(self) -> None:
        settings = source()
        teststack.assign(settings, "keepalived.mode=seed")
        teststack.assign(settings, "machines.0.priority=200")
        teststack.assign(settings, "haproxy.mysql.singleWriter=true")
        assert settings["config"]["mycat-ha:keepalived"]["mode"] == "seed"
        assert settings["config"]["mycat-ha:machines"][0]["priority"] == 200
        assert settings["config"]["mycat-ha:haproxy"]["mysql"] == {"singleWriter": True}

    def test_take_whole_sections(self) -> None:
        settings = source()
        teststack.assign(settings, "machines=[{name: lb1, address: 10.0.0.1, roles: [lb]}]")
        teststack.assign(settings, "http={port: 8080}")
        assert settings["config"]["mycat-ha:machines"] == [{"name": "lb1", "address": "10.0.0.1", "roles": ["lb"]}]
        assert settings["config"]["mycat-ha:http"] == {"port": 8080}

    def test_lifetimes(self) -> None:
        assert teststack.lifetime("30m") == timedelta(minutes=30)
        assert teststack.lifetime("8h") == timedelta(hours=8)
        assert teststack.lifetime("2d") == timedelta(days=2)
        for text in ("", "8", "0h", "-1h", "8 h", "1w"):
            with pytest.raises(StackError, match=r"--expires"):
                teststack.lifetime(text)

    def test_names(self) -> None:
        assert teststack.stack_name("pr-7") == teststack.stack_name("test-pr-7") == "test-pr-7"
        for name in ("", "PR", "a/b", "-x", "x" * 31, "a;b"):
            with pytest.raises(StackError, match=r"lower-case"):
                teststack.stack_name(name)

    def test_times_survive_a_tag(self) -> None:
        moment = teststack.now()
        assert teststack.parse_timestamp(teststack.timestamp(moment)) == moment
        assert teststack.parse_timestamp("yesterday") is None


class TestProtection:
    def test_by_name(self, tree: Path) -> None:
        for name in ("staging", "production"):
            with pytest.raises(StackError, match=rf"stack '{name}' is protected.*--really-destroy {name}"):
                protection.check(stack_in(tree, name, source()), None)

    def test_by_settings(self, tree: Path) -> None:
        pulumi = stack_in(tree, "mine", source(lambda raw: raw.update(tags={protection.MARK: "true"})))
        configuration.create(pulumi)
        with pytest.raises(StackError, match=r"Pulumi\.mine\.yaml says so"):
            protection.check(pulumi, None)

    def test_by_stack_tag(self, tree: Path) -> None:
        pulumi = stack_in(tree, "mine", source())
        configuration.create(pulumi)
        protection.check(pulumi, None)
        pulumi.tag(protection.MARK, "true")
        with pytest.raises(StackError, match=r"stack tag"):
            protection.check(pulumi, None)
        protection.check(pulumi, "mine")

    def test_by_resource(self, tree: Path) -> None:
        pulumi = stack_in(tree, "mine", source())
        configuration.create(pulumi)
        urn = "urn:pulumi:mine::mycat-ha::aws:ec2/vpc:Vpc::network-vpc"
        tagged = {"resources": [{"urn": urn, "inputs": {"tags": {protection.MARK: "true"}}}]}
        assert "network-vpc" in str(protection.reason(pulumi, tagged))
        assert protection.reason(pulumi, {"resources": [{"urn": urn, "protect": True}]})
        assert protection.reason(pulumi, {"resources": [{"urn": urn}]}) is None

    def test_is_lifted_from_state_and_instances(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pulumi = stack_in(tree, "mine", source())
        configuration.create(pulumi)
        urn = "urn:pulumi:mine::mycat-ha::{}::{}"
        exported = json.loads(pulumi.read("stack", "export"))
        exported["deployment"]["resources"] = [
            {"urn": urn.format("pulumi:pulumi:Stack", "mycat-ha-mine"), "custom": False, "type": "pulumi:pulumi:Stack"},
            *(
                {
                    "urn": urn.format(INSTANCE, name),
                    "custom": True,
                    "type": INSTANCE,
                    "id": identifier,
                    "protect": protect,
                    "inputs": {"disableApiTermination": guarded},
                }
                for name, identifier, protect, guarded in (
                    ("node1", "i-gone", True, True),
                    ("node2", "i-there", False, True),
                    ("node3", "i-open", False, False),
                )
            ),
        ]
        pulumi.read("stack", "import", stdin=json.dumps(exported))
        modified: list[dict[str, Any]] = []

        class Ec2:
            def client(self, _service: str) -> "Ec2":
                return self

            def modify_instance_attribute(self, **arguments: Any) -> None:
                if arguments["InstanceId"] == "i-gone":
                    raise ClientError({"Error": {"Code": "InvalidInstanceID.NotFound", "Message": "no"}}, "Modify")
                modified.append(arguments)

        monkeypatch.setattr(protection, "connect_stack", lambda _pulumi: Ec2())
        protection.lift(pulumi)
        assert modified == [{"InstanceId": "i-there", "DisableApiTermination": {"Value": False}}]
        assert not any(resource.get("protect") for resource in pulumi.state()["resources"])

    @pytest.mark.parametrize("really", [None, "mine"])
    def test_is_lifted_only_when_the_flag_names_the_stack(
        self, really: str | None, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pulumi = stack_in(tree, "mine", source())
        configuration.create(pulumi)
        done: list[str] = []

        def stream(_pulumi: Pulumi, verb: str, *_: str) -> int:
            done.append(verb)
            return 0

        monkeypatch.setattr(life, "pulumi_of", lambda *_: pulumi)
        monkeypatch.setattr(life, "leftovers", lambda _: 0)
        monkeypatch.setattr(healing, "heal", lambda _, **__: done.append("heal"))
        monkeypatch.setattr(protection, "lift", lambda _: done.append("lift"))
        monkeypatch.setattr(Pulumi, "stream", stream)
        assert life.destroy_unless_protected("mine", None, really) == 0
        assert done == ["heal", *(["lift"] if really else []), "destroy"]

    def test_the_flag_must_name_the_stack(self, tree: Path) -> None:
        for name in ("staging", "mine"):
            with pytest.raises(StackError, match=r"names 'production', but .* nothing was done"):
                protection.check(stack_in(tree, name, source()), "production")


def never(question: str) -> bool:
    raise AssertionError(question)


class TestHealing:
    def lock(self, tree: Path, pid: int, hostname: str | None = None) -> Path:
        file = tree / "state" / ".pulumi" / "locks" / "organization" / "mycat-ha" / "local" / "a.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"pid": pid, "username": "me", "hostname": hostname or socket.gethostname(), "timestamp": "today"}
        file.write_text(json.dumps(content))
        return file

    @pytest.fixture
    def ended(self) -> int:
        with subprocess.Popen(["true"]) as process:
            return process.pid

    def test_removes_the_lock_of_an_ended_run(self, tree: Path, ended: int, capfd: pytest.CaptureFixture[str]) -> None:
        pulumi = stack_in(tree, "local", source())
        configuration.prepare(pulumi)
        file = self.lock(tree, ended)
        healing.release_locks(pulumi, never)
        assert not file.exists()
        assert f"interrupted (me@{socket.gethostname()}, pid {ended}, since today)" in capfd.readouterr().err

    def test_keeps_the_lock_of_a_living_run(self, tree: Path) -> None:
        pulumi = stack_in(tree, "local", source())
        program = shutil.copy(shutil.which("sleep") or "", tree / "pulumi")
        with subprocess.Popen([program, "60"]) as process:
            try:
                file = self.lock(tree, process.pid)
                with pytest.raises(StackError, match=rf"another run \(pid {process.pid}"):
                    healing.release_locks(pulumi, never)
                assert file.exists()
            finally:
                process.kill()

    def test_keeps_the_lock_of_another_machine(self, tree: Path, ended: int) -> None:
        pulumi = stack_in(tree, "local", source())
        configuration.prepare(pulumi)
        file = self.lock(tree, ended, hostname="elsewhere")
        asked: list[str] = []

        def no(question: str) -> bool:
            asked.append(question)
            return False

        with pytest.raises(StackError, match=r"locked by me@elsewhere \(pid \d+\) since today .*stackctl heal local"):
            healing.release_locks(pulumi, no)
        assert "me@elsewhere" in asked[0]
        assert file.exists()
        healing.release_locks(pulumi, lambda _: True)
        assert not file.exists()

    def test_finds_locks_in_a_bucket(
        self, tree: Path, ended: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """By Pulumi's own CLI, and by what its backend URL says about the bucket."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="eu-central-1")
            s3.create_bucket(Bucket="states", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
            options = f"region=eu-central-1&endpoint={host}:{port}&disableSSL=true&s3ForcePathStyle=true"
            monkeypatch.setenv("PULUMI_BACKEND_URL", f"s3://states/team?{options}")
            pulumi = stack_in(tree, "local", source())
            pulumi.read("stack", "init")
            key = "team/.pulumi/locks/organization/mycat-ha/local/a.json"
            for hostname in (socket.gethostname(), "runner-7"):
                lock = {"pid": ended, "username": "ci", "hostname": hostname, "timestamp": "yesterday"}
                s3.put_object(Bucket="states", Key=key, Body=json.dumps(lock).encode())
                healing.release_locks(pulumi, never if hostname == socket.gethostname() else (lambda _: True))
                assert f"(ci@{hostname}, pid {ended}, since yesterday)" in capfd.readouterr().err
                assert "Contents" not in s3.list_objects_v2(Bucket="states", Prefix=key)
        finally:
            server.stop()

    def test_ends_the_plugins_of_a_killed_run_and_nobody_elses(self, tree: Path) -> None:
        program = shutil.copy(shutil.which("sleep") or "", tree / "pulumi-resource-aws")
        other = {**os.environ, "PULUMI_BACKEND_URL": "file:///elsewhere"}
        with subprocess.Popen([program, "60"]) as mine, subprocess.Popen([program, "60"], env=other) as theirs:
            try:
                healing.end_orphans(environment())
                assert mine.wait(5) == -9
                assert theirs.poll() is None
            finally:
                theirs.kill()

    def test_leaves_the_plugins_of_a_living_run(self, tree: Path) -> None:
        plugin = shutil.copy(shutil.which("sleep") or "", tree / "pulumi-resource-aws")
        engine = shutil.copy(shutil.which("bash") or "", tree / "pulumi")
        script = f"{plugin} 60 >/dev/null & echo $!; read; kill -KILL $!"
        with subprocess.Popen([engine, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            pid = int(run.stdout.readline())
            healing.end_orphans(environment())
            assert Path(f"/proc/{pid}").exists()
            run.communicate("done\n")

    def declared(self, type_: str, name: str, **inputs: str) -> dict[str, Any]:
        return {"urn": f"urn:pulumi:s::mycat-ha::{type_}::{name}", "type": type_, "inputs": inputs}

    def test_adopts_what_was_created_and_no_more(self) -> None:
        """By the Name tag, or by what it is a part of."""
        eni, command = "aws:ec2/networkInterface:NetworkInterface", "command:remote:Command"
        route = {"routeTableId": "rtb-1", "destinationCidrBlock": "0.0.0.0/0"}
        resources = [
            self.declared(eni, "node1"),
            self.declared(eni, "node2"),
            self.declared(command, "node1-ready"),
            self.declared("aws:ec2/route:Route", "out", **route),
            self.declared("aws:ec2/route:Route", "other", **{**route, "routeTableId": "rtb-2"}),
            self.declared("aws:iam/rolePolicy:RolePolicy", "policy", role="r", policy="{}"),
        ]
        strays = [
            Found("network interface", "eni-1", "mycat-ha-s-node1"),
            Found("instance", "i-2", "mycat-ha-s-node2"),  # of that name, but another kind
            Found("network interface", "eni-4", "mycat-ha-other-node2"),
            Found("route", "r-1", "rtb-1 0.0.0.0/0"),
            Found("role policy", "r:p", "r"),
        ]
        assert {urn: item.id for urn, item in adoption.matches("s", resources, strays).items()} == {
            resources[0]["urn"]: "eni-1",
            resources[3]["urn"]: "r-1",
            resources[5]["urn"]: "r:p",
        }

    def test_knows_what_the_state_does_not(self) -> None:
        resources = [
            {"type": "aws:ec2/vpc:Vpc", "id": "vpc-1"},
            {"type": "aws:iam/role:Role", "id": "same"},
            {"type": "aws:ec2/route:Route", "id": "r-1"},
        ]
        found = [
            Found("VPC", "vpc-1", ""),
            Found("VPC", "vpc-2", ""),
            Found("volume", "vol-1", ""),
            Found("instance profile", "same", ""),
        ]
        parts = [Found("route", "r-1", ""), Found("route", "r-2", "")]
        assert [item.id for item in adoption.unknown(found, parts, resources)] == ["vpc-2", "same", "r-2"]

    def test_removes_what_was_made_twice_but_nothing_that_may_hold_data(
        self, aws: boto3.Session, capfd: pytest.CaptureFixture[str]
    ) -> None:
        ids = build(aws, "test-a", "10.1.0.0/24")
        allowed = {"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        aws.client("iam").put_role_policy(RoleName=ids["role"], PolicyName="p", PolicyDocument=document)
        strays = inventory.scan(aws, "test-a")
        adoption.remove(aws, "test-a", strays, lambda _: False)
        assert inventory.scan(aws, "test-a") == strays
        said = capfd.readouterr().err
        assert f"instance {ids['instance']} (mycat-ha-test-a-x) is not the program's, and stays" in said
        assert "`stackctl heal test-a` asks" in said
        adoption.remove(aws, "test-a", strays, lambda _: True)
        assert {item.kind for item in inventory.scan(aws, "test-a")} == {"instance", "role"}
        said = capfd.readouterr().err
        assert f"VPC {ids['VPC']}: removed" in said
        assert f"role {ids['role']}: stays: " in said  # it has a policy

    def test_closes_a_group_that_it_adopts(self, aws: boto3.Session) -> None:
        """AWS lets everything out of a new group; the provider takes that away only after it has made one."""
        ec2 = aws.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.1.0.0/24")["Vpc"]["VpcId"]
        group = ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc)["GroupId"]
        adopted = adoption.adopt(aws, {"urn": "u", "inputs": {"name": "made-up"}}, Found("security group", group, ""))
        assert adopted["id"] == adopted["outputs"]["id"] == group
        assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissionsEgress"] == []
        key = adoption.adopt(aws, {"urn": "u", "inputs": {"keyName": "made-up"}}, Found("key pair", "key-1", ""))
        assert key["inputs"]["keyName"] == "key-1"

    @pytest.mark.parametrize(("arguments", "answer"), [([], False), (["--yes"], True)])
    def test_asks_nobody_without_a_terminal(
        self, arguments: list[str], answer: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers: list[bool] = []

        def heal(pulumi: Pulumi, *, unlock: adoption.Confirm, remove: adoption.Confirm) -> bool:
            answers.extend([unlock("?"), remove("?")])
            return False

        monkeypatch.setattr(healing, "heal", heal)
        monkeypatch.setattr(Pulumi, "exists", lambda _: True)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.setattr(sys, "argv", ["stackctl", "heal", "x", *arguments])
        assert cli.main() == 0
        assert answers == [answer, answer]

    def test_knows_a_route_that_was_part_of_its_table_as_the_resource_that_it_is_now(self) -> None:
        place = "urn:pulumi:s::mycat-ha::mycat-ha:network:Network"
        table = {
            "urn": f"{place}$aws:ec2/routeTable:RouteTable::network-nat-routes",
            "type": "aws:ec2/routeTable:RouteTable",
            "id": "rtb-0a",
            "inputs": {"routes": [{"__defaults": [], "cidrBlock": "0.0.0.0/0", "gatewayId": "igw-1"}]},
            "parent": f"{place}::network",
            "provider": "urn:pulumi:s::mycat-ha::pulumi:providers:aws::default::1",
            "dependencies": ["the gateway"],
        }
        (route,) = inline_routes.routes([table])
        # Its id, which the provider would read it by: 1080289494 is what upstream's own tests have for 0.0.0.0/0.
        assert (route["urn"], route["id"]) == (
            f"{place}$aws:ec2/route:Route::network-nat-default-route",
            "r-rtb-0a1080289494",
        )
        assert route["inputs"] == {
            "routeTableId": "rtb-0a",
            "destinationCidrBlock": "0.0.0.0/0",
            "gatewayId": "igw-1",
        }
        assert route["dependencies"] == [table["urn"], "the gateway"]
        assert not list(inline_routes.routes([table, route]))
        assert not list(inline_routes.routes([{**table, "inputs": {}}]))

    def test_knows_what_is_gone(self) -> None:
        state = {
            "resources": [
                {"urn": "a", "type": "aws:ec2/vpc:Vpc", "id": "vpc-1"},
                {"urn": "b", "type": "aws:ec2/instance:Instance", "id": "i-1"},
                {"urn": "c", "type": "command:remote:Command", "id": "ready"},
                {"urn": "d", "type": "aws:ec2/subnet:Subnet", "id": "subnet-1", "external": True},
            ]
        }
        assert healing.vanished(state, [Found("VPC", "vpc-1", "")]) == (["i-1"], 1)
        assert healing.vanished(state, []) == (["vpc-1", "i-1"], 0)
        assert healing.vanished({}, []) == ([], 0)


def test_what_a_deployment_recorded_outlives_this_work_tree(tree: Path) -> None:
    """Settings come back from the state; and a lost region's resources can be forgotten without losing them."""
    (tree / "__main__.py").write_text("import pulumi; pulumi.export('x', 1)")
    pulumi = stack_in(tree, "test-x", None)
    configuration.write_settings(pulumi.stack, teststack.derive(source(), IPv4Network("10.9.0.0/24"), {}))
    configuration.prepare(pulumi)
    before = decrypted(pulumi)
    pulumi.read("up", "--yes", "--skip-preview")
    pulumi.stack.generated.unlink()
    configuration.prepare(pulumi)
    assert decrypted(pulumi) == before

    assert json.loads(pulumi.outputs()) == {"x": 1}
    assert pulumi.state()["resources"]
    healing.forget_resources(pulumi)
    assert not pulumi.state().get("resources")
    assert decrypted(pulumi) == before
    pulumi.remove()
    assert not pulumi.exists()
    with pytest.raises(StackError, match=r"no stack named 'test-x' found"):
        pulumi.outputs()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.Session]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield boto3.Session(region_name="eu-central-1")


def build(aws: boto3.Session, stack: str, cidr: str) -> dict[str, str]:
    """A few resources of a stack, tagged as the program does; id by kind."""
    tags: Any = [
        {"Key": "mycat-ha:project", "Value": "mycat-ha"},
        {"Key": "mycat-ha:stack", "Value": stack},
        {"Key": "Name", "Value": f"mycat-ha-{stack}-x"},
    ]

    def tagged(kind: str) -> Any:
        return [{"ResourceType": kind, "Tags": tags}]

    ec2, iam = aws.client("ec2"), aws.client("iam")
    vpc = ec2.create_vpc(CidrBlock=cidr, TagSpecifications=tagged("vpc"))["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, TagSpecifications=tagged("subnet"))["Subnet"]["SubnetId"]
    eip = ec2.allocate_address(Domain="vpc", TagSpecifications=tagged("elastic-ip"))["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=eip, TagSpecifications=tagged("natgateway"))
    endpoint = ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName="com.amazonaws.eu-central-1.ec2",
        VpcEndpointType="Interface",
        SubnetIds=[subnet],
        TagSpecifications=tagged("vpc-endpoint"),
    )
    image = AMIS[0]["ami_id"]  # to ask for all of them takes longer than the rest
    instance = ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet, TagSpecifications=tagged("instance")
    )["Instances"][0]["InstanceId"]
    iam.create_role(RoleName=f"{stack}-role", AssumeRolePolicyDocument="{}", Tags=tags)
    iam.create_instance_profile(InstanceProfileName=f"{stack}-profile", Tags=tags)
    return {
        "VPC": vpc,
        "subnet": subnet,
        "elastic address": eip,
        "NAT gateway": nat["NatGateway"]["NatGatewayId"],
        "VPC endpoint": endpoint["VpcEndpoint"]["VpcEndpointId"],
        "instance": instance,
        "role": f"{stack}-role",
        "instance profile": f"{stack}-profile",
    }


class TestInventory:
    def test_looks_for_everything_that_the_program_tags(self) -> None:
        assert {*inventory.IAM_KINDS, *(kind.name for kind in inventory.KINDS)} == {type_.kind for type_ in TAGGED}

    def test_finds_all_of_one_stack_and_nothing_of_another(self, aws: boto3.Session) -> None:
        mine, other = build(aws, "test-a", "10.1.0.0/24"), build(aws, "test-b", "10.2.0.0/24")
        for stack, ids in (("test-a", mine), ("test-b", other)):
            assert {item.kind: item.id for item in inventory.scan(aws, stack)} == ids
        assert inventory.scan(aws, "test") == []

    def test_does_not_count_what_is_only_a_record(self, aws: boto3.Session) -> None:
        ids = build(aws, "test-a", "10.1.0.0/24")
        ec2 = aws.client("ec2")
        ec2.terminate_instances(InstanceIds=[ids["instance"]])
        ec2.delete_vpc_endpoints(VpcEndpointIds=[ids["VPC endpoint"]])
        assert not {"instance", "VPC endpoint"} & {item.kind for item in inventory.scan(aws, "test-a")}
        build(aws, "test-c", "10.3.0.0/24")
        stopped = next(item.id for item in inventory.scan(aws, "test-c") if item.kind == "instance")
        ec2.stop_instances(InstanceIds=[stopped])
        assert "instance" in {item.kind for item in inventory.scan(aws, "test-c")}

    def test_finds_what_has_no_tags_by_what_it_is_a_part_of(self, aws: boto3.Session) -> None:
        """With the names by which the program's inputs find it, and the ids that the state has."""
        ids = build(aws, "test-a", "10.1.0.0/24")
        ec2, iam = aws.client("ec2"), aws.client("iam")
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=ids["VPC"])
        table = ec2.create_route_table(VpcId=ids["VPC"])["RouteTable"]["RouteTableId"]
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        association = ec2.associate_route_table(RouteTableId=table, SubnetId=ids["subnet"])["AssociationId"]
        made = ec2.create_subnet_cidr_reservation(
            SubnetId=ids["subnet"], Cidr="10.1.0.9/32", ReservationType="explicit"
        )["SubnetCidrReservation"]["SubnetCidrReservationId"]
        allowed = {"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_role_policy(RoleName=ids["role"], PolicyName="p", PolicyDocument=document)
        parts = [
            Found("route", inventory.route_id(table, "0.0.0.0/0"), f"{table} 0.0.0.0/0"),
            Found("route table association", association, f"{table} {ids['subnet']}"),
            Found("subnet reservation", made, f"{ids['subnet']} 10.1.0.9/32"),
            Found("role policy", f"{ids['role']}:p", ids["role"]),
        ]
        found = [*inventory.scan(aws, "test-a"), Found("route table", table, "")]
        assert inventory.parts(aws, found, ()) == parts
        assert inventory.parts(aws, [], [ids["subnet"], "subnet-00000000000000000"]) == [parts[2]]

    def test_removes_a_rule_of_either_direction(self, aws: boto3.Session) -> None:
        ec2 = aws.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.1.0.0/24")["Vpc"]["VpcId"]
        group = ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc)["GroupId"]
        permission: Any = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": [{"CidrIp": "10.1.0.0/24"}]}]
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission)
        query: Any = [{"Name": "group-id", "Values": [group]}]
        rules = ec2.describe_security_group_rules(Filters=query)["SecurityGroupRules"]
        assert {rule["IsEgress"] for rule in rules} == {True, False}
        for rule in rules:
            item = Found("security group rule", rule["SecurityGroupRuleId"], "")
            assert inventory.remove(aws, item) is None
        assert ec2.describe_security_group_rules(Filters=query)["SecurityGroupRules"] == []

    def test_what_is_gone_is_removed(self, aws: boto3.Session) -> None:
        assert inventory.remove(aws, Found("role", "gone", "")) is None
        assert inventory.remove(aws, Found("VPC", "vpc-00000000000000000", "")) is None

    def test_needs_a_region(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_REGION", raising=False)
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        with pytest.raises(StackError, match=r"no AWS region: set `aws:region`"):
            connect(environment(), None)

    def test_says_when_the_region_cannot_be_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))  # bound, not listening: refused
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
            with pytest.raises(StackError, match=r"AWS does not answer.*'eu-central-1'"):
                inventory.scan(connect(environment(), "eu-central-1"), "x")


class TestLocalRegion:
    def answer(self, monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
        def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            assert argv == [sys.executable, "-m", "localregion", "--name", "r", "env"]
            return subprocess.CompletedProcess(argv, code, text, "no socket")

        monkeypatch.setattr(subprocess, "run", run)

    def test_its_environment_replaces_the_users_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
        monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "https://elsewhere")
        before = dict(os.environ)
        self.answer(monkeypatch, 0, "export AWS_ENDPOINT_URL=http://100.64.0.10\nexport AWS_PROFILE='de fault'\n")
        found = environment("r")
        assert {name: value for name, value in found.variables.items() if name.startswith("AWS_")} == {
            "AWS_ENDPOINT_URL": "http://100.64.0.10",
            "AWS_PROFILE": "de fault",
        }
        assert found.variables["PATH"] == os.environ["PATH"]
        assert os.environ == before

    def test_pulumi_gets_it_too(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tree / "bin" / "pulumi"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\nenv | grep ^AWS_\n")
        program.chmod(0o755)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
        self.answer(
            monkeypatch, 0, f"export AWS_PROFILE='de fault'\nexport PATH={program.parent}:{os.environ['PATH']}\n"
        )
        pulumi = Pulumi(Stack("x", root=tree), environment("r"))
        assert pulumi.read("stack") == "AWS_PROFILE=de fault\n"

    def test_its_api_is_asked_whatever_the_users_own_variables_say(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By signed requests of the region's credentials, to the region's endpoint, past any proxy."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        (tmp_path / "credentials").write_text("[default]\naws_access_key_id = REGION\naws_secret_access_key = x\n")
        (tmp_path / "config").write_text("[profile mine]\nregion = us-east-1\nuse_fips_endpoint = true\n")
        elsewhere = "http://127.0.0.1:1"
        for name, value in {
            "AWS_ACCESS_KEY_ID": "MINE",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_SESSION_TOKEN": "x",
            "AWS_PROFILE": "nowhere",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_REGION": "us-east-1",
            "AWS_USE_FIPS_ENDPOINT": "true",
            "AWS_ENDPOINT_URL": elsewhere,
            "AWS_ENDPOINT_URL_EC2": elsewhere,
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
            "HTTP_PROXY": elsewhere,
            "http_proxy": elsewhere,
        }.items():
            monkeypatch.setenv(name, value)
        seen: list[str] = []

        class Endpoint(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                seen.append(self.headers["Authorization"])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<DescribeVpcsResponse><vpcSet/></DescribeVpcsResponse>")

            def log_message(self, *_: object) -> None:
                """Nothing: the test's output is its own."""

        with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            local = Environment(
                {
                    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
                    "AWS_REGION": "eu-central-1",
                    "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
                    "AWS_CONFIG_FILE": "/dev/null",
                    "AWS_PROFILE": "default",
                },
                "r",
            )
            assert connect(local, None).client("ec2").describe_vpcs()["Vpcs"] == []
            server.shutdown()
        (authorization,) = seen
        assert "Credential=REGION/" in authorization
        assert "/eu-central-1/ec2/" in authorization

    def test_not_running(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer(monkeypatch, 1, "")
        with pytest.raises(NotRunningError, match=r"'r' is not running: start it with .* start"):
            environment("r")


class TestCommands:
    @pytest.fixture
    def rows(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Stacks as the backend would describe them, and a list that fills with the destroyed ones."""
        destroyed: list[str] = []
        known: dict[str, dict[str, Any]] = {
            "local": {"expires": None, "expired": False, "protected": None},
            "staging": {"expires": None, "expired": True, "protected": "every stack named staging is"},
            "test-old": {"expires": "2020-01-01T00:00:00Z", "expired": True, "protected": None},
            "test-new": {"expires": "2099-01-01T00:00:00Z", "expired": False, "protected": None},
            "test-kept": {"expires": "2020-01-01T00:00:00Z", "expired": True, "protected": "its stack tag"},
            "test-stuck": {"expires": "2020-01-01T00:00:00Z", "expired": True, "protected": None},
        }

        def destroy(pulumi: Pulumi) -> int:
            destroyed.append(pulumi.stack.name)
            return life.LEFTOVERS_FOUND if pulumi.stack.name == "test-stuck" else 0

        def describe(name: str) -> listing.Listed:
            assert name.startswith("test-"), "a sweep has no business with other stacks"
            return listing.Listed(name=name, owner="me", created=None, **known[name])

        for module in (listing, sweep):
            monkeypatch.setattr(module, "stack_names", lambda: list(known))
            monkeypatch.setattr(module, "describe", describe)
        monkeypatch.setattr(life, "destroy", destroy)
        return destroyed

    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["stackctl", *arguments])
        return cli.main()

    def test_sweep_destroys_expired_test_stacks_only(
        self, rows: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, "sweep") == 1
        assert rows == ["test-old", "test-stuck"]
        said = capfd.readouterr().err
        assert "test-kept expired at 2020-01-01T00:00:00Z but is protected" in said
        assert "error: not completely destroyed: test-stuck" in said

    def test_list_shows_owner_and_expiry(
        self, rows: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, "list") == 0
        lines = capfd.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["test-old", "test-new", "test-kept", "test-stuck"]
        assert "EXPIRED" in lines[1]
        assert "EXPIRED" not in lines[2]

    def test_usage_errors_are_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, "nonsense") == 2
        assert capfd.readouterr().err == "error: No such command 'nonsense'.\n"

    @pytest.mark.parametrize(
        ("files", "stacks"),
        [
            (["README.md", "docs/x.md", "stacks/Pulumi.local.yaml", ""], []),
            (["stacks/Pulumi.staging.yaml"], ["staging"]),
            (["components/vip.py"], ["production", "staging"]),
            (["templates/haproxy/haproxy.cfg.j2", "stacks/Pulumi.staging.yaml"], ["production", "staging"]),
        ],
    )
    def test_concerned_stacks(self, files: list[str], stacks: list[str]) -> None:
        assert listing.stacks_of(files) == stacks
