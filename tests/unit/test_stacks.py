"""The committed stacks are complete but for what only their owner can have: secrets, a key, Mycat's checksum."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from settings import NAMESPACE, Settings, SettingsError
from stackctl.configuration import missing_secrets
from tests import example
from tests.conftest import ROOT
from tests.unit.test_mycat_settings import RULE, SCHEMA, SERVER

STACKS = sorted(path.stem.removeprefix("Pulumi.") for path in (ROOT / "stacks").glob("*.yaml"))


def committed(stack: str) -> dict[str, Any]:
    """The settings by section, with what the file's comments say that its user adds."""
    config = yaml.safe_load((ROOT / f"stacks/Pulumi.{stack}.yaml").read_text())
    raw = {key.removeprefix(f"{NAMESPACE}:"): value for key, value in config["config"].items() if NAMESPACE in key}
    raw["secrets"] = dict.fromkeys(missing_secrets(config), "secret")
    raw["access"]["sshPublicKey"] = "ssh-ed25519 AAAA"
    return raw


@pytest.mark.parametrize("stack", STACKS)
def test_a_committed_stack_is_complete_and_stackctl_generates_what_it_demands(stack: str) -> None:
    raw = committed(stack)
    raw["mycat"].setdefault("sha256", "0" * 64)
    needed = agree(raw)
    settings = Settings.parse(raw)
    assert {str(role) for machine in settings.machines for role in machine.roles} == {"lb", "mycat", "mysql"}
    assert settings.mycat is not None
    users = {user.secret for user in settings.mycat.users}
    assert "mycat" in users
    assert needed == {"sshPrivateKey", "statistics", "database", "health", "mycatDatabase", *users}


@pytest.mark.parametrize("stack", ["staging", "production"])
def test_a_stack_for_aws_is_refused_without_mycats_checksum(stack: str) -> None:
    with pytest.raises(SettingsError, match=r"mycat-ha:mycat: sha256: missing; nothing is run"):
        Settings.parse(committed(stack))


def own_files(raw: dict[str, Any]) -> None:
    """`files` is put in by the test, which has the directory."""
    example.with_mycat(raw)
    kept = {key: raw["mycat"][key] for key in ("version", "sha256", "url")}
    raw["mycat"] = {**kept, "files": None}


def mycat_before_external_databases(raw: dict[str, Any]) -> None:
    example.with_mycat(raw)
    raw["machines"] = [{**machine, "roles": ["lb", "mycat"]} for machine in raw["machines"][:2]]
    raw["database"] = {"external": [{"name": "db1", "address": "10.0.0.1"}], "externalCheckUser": "probe"}
    for host in raw["mycat"]["dataHosts"]:
        host["writeHosts"] = [{"address": "10.0.0.1"}]


def own_files_before_external_databases(raw: dict[str, Any]) -> None:
    mycat_before_external_databases(raw)
    own = example.settings(own_files)
    raw["mycat"] = own["mycat"]


def external_mycat(raw: dict[str, Any]) -> None:
    raw["mycat"] = {"external": [{"name": "m1", "address": "10.0.0.1"}]}


def all_external(raw: dict[str, Any]) -> None:
    example.external_databases(raw)
    external_mycat(raw)


#: What a stack may be, and the secrets that it needs besides the SSH key and the statistics page's password.
VARIATIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], set[str]]] = {
    "databases": (lambda raw: None, {"database", "health"}),
    "recipe mode": (lambda raw: raw["keepalived"].update(mode="recipe"), {"database", "health", "vrrp"}),
    "recipe mode, earlier name": (lambda raw: raw["keepalived"].update(mode="seed"), {"database", "health", "vrrp"}),
    "external databases": (example.external_databases, set()),
    "external Mycat": (external_mycat, {"database", "health"}),
    "all external": (all_external, set()),
    "Mycat": (example.with_mycat, {"database", "health", "mycatDatabase", "mycat", "mycatReport"}),
    "Mycat before external databases": (
        mycat_before_external_databases,
        {"health", "mycatDatabase", "mycat", "mycatReport"},
    ),
    "own files": (own_files, {"database", "health", "mycatDatabase"}),
    "own files before external databases": (own_files_before_external_databases, {"health"}),
}


def agree(raw: dict[str, Any]) -> set[str]:
    """The secrets that stackctl generates; the settings demand each of them, and nothing else."""
    raw.pop("secrets", None)
    needed = missing_secrets({"config": {f"{NAMESPACE}:{section}": value for section, value in raw.items()}})
    raw["secrets"] = dict.fromkeys(needed, "secret")
    if raw.get("mycat", {}).get("files"):
        server = Path(raw["mycat"]["files"]) / "server.xml"
        server.write_text(server.read_text().replace("secret-health", "secret"))
    Settings.parse(raw)
    for name in needed:
        with pytest.raises(SettingsError, match=rf"mycat-ha:secrets\.{name}: missing"):
            Settings.parse({**raw, "secrets": {key: value for key, value in raw["secrets"].items() if key != name}})
    return set(needed)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_stackctl_generates_what_the_settings_demand(variation: str, tmp_path: Path) -> None:
    change, expected = VARIATIONS[variation]
    raw = example.settings(change)
    if "files" in raw.get("mycat", {}):
        for name, text in (("server.xml", SERVER), ("schema.xml", SCHEMA), ("rule.xml", RULE)):
            (tmp_path / name).write_text(text)
        raw["mycat"]["files"] = str(tmp_path)
    assert agree(raw) == {"sshPrivateKey", "statistics", *expected}


@pytest.mark.parametrize("machines", [None, "x", [1], [{}], [{"roles": None}], [{"roles": [[]]}], [{"roles": "mysql"}]])
def test_wrong_settings_are_not_stackctls_to_refuse(machines: Any) -> None:
    """It generates before anything is checked; what is wrong is for the settings' own message."""
    config = {f"{NAMESPACE}:machines": machines, f"{NAMESPACE}:mycat": "x", f"{NAMESPACE}:keepalived": []}
    assert missing_secrets({"config": config}) == ["sshPrivateKey", "statistics"]
