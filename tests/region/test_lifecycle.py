"""A region that ends leaves nothing, however it ends."""

import os
import signal
import subprocess
import time
from pathlib import Path

import boto3
import pytest

from localregion import machine, paths
from localregion.client import Region, wait_until

NAME = "brief"


def remains() -> list[str]:
    """Everything on this machine that carries the region's name."""

    def lines(*argv: str) -> list[str]:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()

    found = [line for line in lines("ip", "netns", "list") if f"mh-{NAME}-" in line]
    found += [line for line in lines("nft", "list", "tables") if f"mh-{NAME}" in line]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"/mycat-ha/{NAME}/" in line]
    found += [line for line in lines("ip", "route") if "10.79.0." in line]
    found += [str(path) for path in (paths.state(NAME), paths.control(NAME).parent) if path.exists()]
    for group in (f"mh-{NAME}-*", f"*/mh-{NAME}-*"):
        found += [str(path) for path in Path("/sys/fs/cgroup").glob(group)]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = process.read_bytes()
        except OSError:
            continue
        if f"/mycat-ha/{NAME}/".encode() in arguments or b"localregion.daemon\0" + NAME.encode() + b"\0" in arguments:
            found.append(arguments.decode(errors="replace"))
    return found


def start_with_a_machine() -> Region:
    region = Region(NAME)
    region.start()
    env = region.env()
    keys = Path(env["AWS_SHARED_CREDENTIALS_FILE"]).read_text()
    values = dict(line.split(" = ") for line in keys.splitlines() if " = " in line)
    ec2 = boto3.client(
        "ec2",
        aws_access_key_id=values["aws_access_key_id"],
        aws_secret_access_key=values["aws_secret_access_key"],
        region_name=env["AWS_REGION"],
        endpoint_url=env["AWS_ENDPOINT_URL"],
    )
    vpc = ec2.create_vpc(CidrBlock="10.79.0.0/24")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.79.0.0/25")["Subnet"]["SubnetId"]
    image = ec2.describe_images(Owners=["136693071363"])["Images"][0]["ImageId"]
    ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet)
    region.add_host("guest", "10.79.0.200")
    region.attach()
    wait_until(lambda: [m["powered"] for m in region.machines()] == [True], "the machine", 60)
    return region


def test_stop_leaves_nothing() -> None:
    region = start_with_a_machine()
    assert remains()
    region.stop()
    assert remains() == []
    region.stop()  # twice is harmless


def test_a_killed_region_is_cleaned_up_by_the_next_start_or_stop() -> None:
    region = start_with_a_machine()
    os.kill(region.status()["pid"], signal.SIGKILL)
    time.sleep(0.5)
    assert not region.running()
    assert remains()
    region.start()
    assert region.machines() == []
    os.kill(region.status()["pid"], signal.SIGKILL)
    region.stop()
    assert remains() == []


def test_two_regions_stand_beside_each_other() -> None:
    first, second = Region(NAME), Region("other")
    try:
        first.start()
        second.start()
        assert first.status()["endpoint"] != second.status()["endpoint"]
        first.stop()
        assert second.running()
    finally:
        first.stop()
        second.stop()
    assert remains() == []


def test_the_kernels_limits_are_as_before_once_the_last_region_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, states = tmp_path / "max_user_instances", tmp_path / "states"
    limit.write_text("128\n")
    monkeypatch.setattr(machine, "_INOTIFY", limit)
    for name in ("one", "two"):
        (states / name).mkdir(parents=True)
        machine.raise_limits(states)
    assert int(limit.read_text()) > 1000
    (states / "one").rmdir()
    machine.restore_limits(states)
    assert int(limit.read_text()) > 1000
    (states / "two").rmdir()
    machine.restore_limits(states)
    assert limit.read_text().strip() == "128"
    assert list(states.iterdir()) == []
