"""The committed stacks are complete but for what only their owner can have: secrets, a key, Mycat's checksum."""

from typing import Any

import pytest
import yaml

from settings import NAMESPACE, Settings, SettingsError
from stackctl.configuration import missing_secrets
from tests.conftest import ROOT

STACKS = sorted(path.stem.removeprefix("Pulumi.") for path in (ROOT / "stacks").glob("*.yaml"))


def committed(stack: str) -> dict[str, Any]:
    """The settings by section, with what the file's comments say that its user adds."""
    config = yaml.safe_load((ROOT / f"stacks/Pulumi.{stack}.yaml").read_text())
    raw = {key.removeprefix(f"{NAMESPACE}:"): value for key, value in config["config"].items() if NAMESPACE in key}
    raw["secrets"] = dict.fromkeys(missing_secrets(config), "secret")
    raw["access"]["sshPublicKey"] = "ssh-ed25519 AAAA"
    return raw


@pytest.mark.parametrize("stack", STACKS)
def test_a_committed_stack_is_complete(stack: str) -> None:
    raw = committed(stack)
    raw["mycat"].setdefault("sha256", "0" * 64)
    settings = Settings.parse(raw)
    assert {str(role) for machine in settings.machines for role in machine.roles} == {"lb", "mycat", "mysql"}
    assert settings.mycat is not None
    users = {user.secret for user in settings.mycat.users}
    assert set(settings.secrets) == {"sshPrivateKey", "statistics", "database", "health", "mycatDatabase", *users}


@pytest.mark.parametrize("stack", ["staging", "production"])
def test_a_stack_for_aws_is_refused_without_mycats_checksum(stack: str) -> None:
    with pytest.raises(SettingsError, match=r"mycat-ha:mycat: sha256: missing; nothing is run"):
        Settings.parse(committed(stack))
