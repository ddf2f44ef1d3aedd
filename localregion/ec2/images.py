"""The one AMI that there is: Debian 12, which :mod:`localregion.image` builds."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from localregion.ec2.account import ACCOUNT, backend

DEBIAN_OWNER = "136693071363"
_ARCHITECTURE = {"x86_64": ("x86_64", "amd64"), "aarch64": ("arm64", "arm64")}


def ami() -> dict[str, Any]:
    """In moto's form."""
    architecture, debian = _ARCHITECTURE[platform.machine()]
    return {
        "ami_id": "ami-0deb1a12deb1a12de",
        "name": f"debian-12-{debian}-20250520-2118",
        "description": "Debian 12 (20250520-2118), as the local region boots it",
        "owner_id": DEBIAN_OWNER,
        "public": True,
        "virtualization_type": "hvm",
        "architecture": architecture,
        "state": "available",
        "creation_date": "2025-05-20T21:19:00.000Z",
        "platform": None,
        "image_type": "machine",
        "image_location": f"amazon/debian-12-{debian}-20250520-2118",
        "hypervisor": "xen",
        "root_device_type": "ebs",
        "root_device_name": "/dev/xvda",
        "sriov": "simple",
    }


def write_amis(path: Path) -> None:
    """The file that ``MOTO_AMIS_PATH`` names."""
    path.write_text(json.dumps([ami()]))


def publish_image(region: str) -> None:
    """Set the public parameter by which Debian announces its newest AMI."""
    from moto.ssm.models import Parameter, ssm_backends

    newest = next(iter(backend(region).amis.values()))
    name = f"/aws/service/debian/release/12/latest/{'amd64' if newest.architecture == 'x86_64' else 'arm64'}"
    ssm_backends[ACCOUNT][region]._parameters[name].append(
        Parameter(
            account_id=ACCOUNT,
            name=name,
            value=newest.id,
            parameter_type="String",
            description="Debian 12",
            allowed_pattern=None,
            keyid=None,
            last_modified_date=datetime.now(UTC),
            version=1,
            data_type="aws:ec2:image",
        )
    )
