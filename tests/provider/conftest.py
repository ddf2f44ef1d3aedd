"""The AWS provider: the official plugin where it is installed, else the one that the toolchain builds."""

import shutil

import pytest

from toolchain import plugins

REAL = plugins.home() / "plugins" / f"resource-aws-v{plugins.VERSIONS['aws']}" / "pulumi-resource-aws"


@pytest.fixture(scope="session")
def aws_provider() -> str:
    """The program."""
    program = str(REAL) if REAL.exists() else shutil.which("pulumi-resource-aws")
    if not program:
        pytest.fail("no AWS provider: run `python3 -m toolchain install`, or the tests with `make test`", pytrace=False)
    return program
