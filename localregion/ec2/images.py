"""The AMIs that there are: those of Debian's releases that :mod:`localregion.image` builds."""

import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from localregion.ec2.account import ACCOUNT

DEBIAN_OWNER = "136693071363"
_ARCHITECTURE = {"x86_64": ("x86_64", "amd64"), "aarch64": ("arm64", "arm64")}


@dataclass(frozen=True)
class Release:
    number: int
    suite: str
    ami: str
    build: str  # as in the AMI's name
    created: str


RELEASES = (
    Release(12, "bookworm", "ami-0deb1a12deb1a12de", "20250520-2118", "2025-05-20T21:19:00.000Z"),
    Release(13, "trixie", "ami-0deb1a13deb1a13de", "20250814-2204", "2025-08-14T22:05:00.000Z"),
)


def suite(ami: str) -> str:
    """What the machines of an AMI have. Raises LookupError."""
    found = next((release.suite for release in RELEASES if release.ami == ami), None)
    if found is None:
        raise LookupError(f"{ami} is none of the local region's AMIs")
    return found


def _ami(release: Release) -> dict[str, Any]:
    architecture, debian = _ARCHITECTURE[platform.machine()]
    name = f"debian-{release.number}-{debian}-{release.build}"
    return {
        "ami_id": release.ami,
        "name": name,
        "description": f"Debian {release.number} ({release.build}), as the local region boots it",
        "owner_id": DEBIAN_OWNER,
        "public": True,
        "virtualization_type": "hvm",
        "architecture": architecture,
        "state": "available",
        "creation_date": release.created,
        "platform": None,
        "image_type": "machine",
        "image_location": f"amazon/{name}",
        "hypervisor": "xen",
        "root_device_type": "ebs",
        "root_device_name": "/dev/xvda",
        "sriov": "simple",
    }


def amis() -> list[dict[str, Any]]:
    """In moto's form."""
    return [_ami(release) for release in RELEASES]


def write_amis(path: Path) -> None:
    """The file that ``MOTO_AMIS_PATH`` names."""
    path.write_text(json.dumps(amis()))


def publish_images(region: str) -> None:
    """Set the public parameters by which Debian announces its newest AMIs."""
    from moto.ssm.models import Parameter, ssm_backends

    for release in RELEASES:
        name = f"/aws/service/debian/release/{release.number}/latest/{_ARCHITECTURE[platform.machine()][1]}"
        ssm_backends[ACCOUNT][region]._parameters[name].append(
            Parameter(
                account_id=ACCOUNT,
                name=name,
                value=release.ami,
                parameter_type="String",
                description=f"Debian {release.number}",
                allowed_pattern=None,
                keyid=None,
                last_modified_date=datetime.now(UTC),
                version=1,
                data_type="aws:ec2:image",
            )
        )
