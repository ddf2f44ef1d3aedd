"""The AWS provider: the official plugin where it is installed, else the one that the toolchain builds.

Its region is moto in this process, without a network and without machines; provider and engine are the real ones.
"""

import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto.ec2.models import amis

from localregion import ec2
from localregion.ec2 import images
from localregion.ec2.corrections import corrections
from stackctl.project import Stack
from stackctl.pulumi import Pulumi
from tests.unit.test_moto_corrections import Machines
from tests.unit.test_region_api import REGION, Endpoint
from toolchain import plugins

ROOT = Path(__file__).resolve().parents[2]
REAL = plugins.home() / "plugins" / f"resource-aws-v{plugins.VERSIONS['aws']}" / "pulumi-resource-aws"


@pytest.fixture(scope="session")
def aws_provider() -> str:
    """The program."""
    program = str(REAL) if REAL.exists() else shutil.which("pulumi-resource-aws")
    if not program:
        pytest.fail("no AWS provider: run `python3 -m toolchain install`, or the tests with `make test`", pytrace=False)
    return program


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for correction in corrections(Machines()):
        monkeypatch.setattr(correction.owner, correction.attribute, correction.replacement)
    monkeypatch.setattr(amis, "AMIS", images.amis())
    ec2.backend(REGION).reset()
    return Endpoint()


@pytest.fixture
def pulumi(
    tmp_path: Path, endpoint: Endpoint, aws_provider: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> Pulumi:
    """A stack of the program that each module has."""
    del aws_provider  # Pulumi finds it by itself
    if shutil.which("pulumi") is None:
        pytest.fail("no pulumi on PATH: run `python3 -m toolchain install`, and the tests with `make test`")
    (tmp_path / "state").mkdir()
    (tmp_path / "stacks").mkdir()
    (tmp_path / "Pulumi.yaml").write_text("name: mycat-ha\nruntime: python\nstackConfigDir: stacks\n")
    (tmp_path / "__main__.py").write_text(program)
    public = Ed25519PrivateKey.generate().public_key()
    for name, value in {
        "PULUMI_BACKEND_URL": (tmp_path / "state").as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "lost",
        "PYTHONPATH": str(ROOT),
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": endpoint.administrator.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.administrator.secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PUBLIC_KEY": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
    }.items():
        monkeypatch.setenv(name, value)
    made = Pulumi(Stack("lost", root=tmp_path, local=tmp_path / ".local"))
    made.read("stack", "init")
    return made
