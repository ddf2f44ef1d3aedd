"""What a machine's own system makes of its network: with Debian's cloud-init, netplan and networkd, and this project's
user data (files/machine/own-addresses). A secondary address of the interface is keepalived's, and nobody else's."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from localregion.client import wait_until
from tests.region.conftest import World

PROGRAM = (Path(__file__).parents[2] / "files/machine/own-addresses").read_text()
USER_DATA = f"#cloud-boothook\n{PROGRAM}"
SECONDARY = "10.77.0.240"
#: The first two show that networkd has read its configuration at the first boot already.
CHANGES = (
    "networkctl reconfigure ens5",
    "networkctl renew ens5",
    "netplan apply",
    "systemctl restart systemd-networkd",
)
CLOUD_INIT = "cloud-init status --wait >/dev/null; cloud-init status"


@dataclass
class Machine:
    """An instance on an interface that is kept; ``held`` says whether the interface has a secondary address."""

    world: World
    number: int
    eni: str
    held: bool
    id: str
    secondary: str = SECONDARY

    @property
    def primary(self) -> str:
        return f"{self.world.address(self.number)}/25"

    def shell(self, script: str) -> str:
        return self.world.shell(self.id, script, timeout=90)

    def addresses(self) -> set[str]:
        return set(self.shell("ip -4 -o address show dev ens5 | awk '{print $4}'").split())

    def settled(self) -> set[str]:
        """The device's addresses once networkd says that it is configured and the primary address is there."""
        wait_until(
            lambda: "configured" in self.shell("networkctl --no-legend list ens5") and self.primary in self.addresses(),
            "the device to be configured",
            30,
        )
        return self.addresses()

    def reboot(self) -> None:
        before = self.shell("cat /proc/sys/kernel/random/boot_id")
        self.world.ec2.reboot_instances(InstanceIds=[self.id])
        self.wait(f"test $(cat /proc/sys/kernel/random/boot_id) != {before} && echo up")

    def wait(self, script: str = "echo up") -> None:
        wait_until(lambda: self.world.ssh(self.number, script) == "up", "the machine over SSH", 90)
        assert self.shell(CLOUD_INIT) == "status: done"

    def keepalived(self) -> None:
        """Adds the address as keepalived does."""
        self.shell(f"ip address replace {self.secondary}/32 dev ens5")


def boot(world: World, number: int, eni: str, *, held: bool) -> Machine:
    begun = time.monotonic()
    machine = Machine(world, number, eni, held, world.boot(eni, UserData=USER_DATA))
    wait_until(lambda: world.ssh(number, "echo up") == "up", "the machine over SSH", 90)
    print(f"\nreachable over SSH after {time.monotonic() - begun:.1f} s")
    machine.wait()
    print(machine.shell("systemd-analyze; cloud-init analyze blame | head -n 5"))
    return machine


@pytest.fixture(scope="module", params=[False, True], ids=["primary only", "with a secondary address"])
def machine(world: World, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Booted for the first time with the interface as it is: the second one as a stack of old has it."""
    number = 15
    eni = world.interface(world.address(number), *([SECONDARY] if request.param else []))
    booted = boot(world, number, eni, held=request.param)
    yield booted
    terminate(booted)
    world.ec2.delete_network_interface(NetworkInterfaceId=eni)


def terminate(machine: Machine) -> None:
    machine.world.ec2.terminate_instances(InstanceIds=[machine.id])
    wait_until(lambda: machine.world.state(machine.id) == "terminated", "its end", 60)


def test_the_machine_has_what_debians_image_has(machine: Machine) -> None:
    assert machine.shell("systemctl --failed --no-legend --plain") == ""
    assert machine.shell("grep -E 'execution error|Traceback' /var/log/cloud-init.log") == ""
    assert machine.shell("cloud-init query cloud_name; cloud-init query platform") == "aws\nec2"
    for unit in ("systemd-networkd", "systemd-resolved", "unattended-upgrades", "apt-daily.timer", "ssh"):
        assert machine.shell(f"systemctl is-active {unit}") == "active", unit
    assert "maxstartups 10:30:100" in machine.shell("sshd -T")
    assert machine.shell("cat /etc/resolv.conf | grep ^nameserver") == "nameserver 10.77.0.2"


def test_cloud_init_has_seen_what_the_interface_has_and_told_the_network_nothing_of_it(machine: Machine) -> None:
    seen = machine.shell("cloud-init query ds.meta_data.network.interfaces.macs")
    assert (SECONDARY in seen) == machine.held
    assert SECONDARY not in machine.shell("cat /etc/netplan/* /run/systemd/network/*")
    assert "dhcp4: true" in machine.shell("cat /etc/netplan/50-cloud-init.yaml")
    assert machine.settled() == {machine.primary}


@pytest.mark.parametrize("change", CHANGES)
def test_networkd_keeps_to_its_own_address(machine: Machine, change: str) -> None:
    keeps_to_its_own_address(machine, change)


def keeps_to_its_own_address(machine: Machine, change: str) -> None:
    assert machine.shell(f"{change} >/dev/null 2>&1 && echo done") == "done"
    assert machine.settled() == {machine.primary}
    machine.keepalived()
    machine.shell(change)
    assert machine.settled() == {machine.primary, f"{machine.secondary}/32"}
    machine.shell(f"ip address delete {machine.secondary}/32 dev ens5")


def test_a_lease_is_renewed(machine: Machine) -> None:
    left = "ip -4 address show dev ens5 | sed -n 's/.*valid_lft \\([0-9]*\\)sec.*/\\1/p'"
    wait_until(lambda: int(machine.shell(left)) < 3600, "the lease to be older than a second", 10)
    before = int(machine.shell(left))
    machine.shell("networkctl renew ens5")
    wait_until(lambda: int(machine.shell(left)) > before, "the renewed lease", 10)


@pytest.mark.parametrize("before", ["true", "cloud-init clean --logs"])
def test_a_reboot_brings_the_primary_address_only(machine: Machine, before: str) -> None:
    machine.keepalived()
    machine.shell(before)
    machine.reboot()
    assert machine.settled() == {machine.primary}
    assert SECONDARY not in machine.shell("cat /etc/netplan/*")


def test_a_new_instance_on_the_kept_interface_has_the_primary_address_only(machine: Machine) -> None:
    terminate(machine)
    successor = boot(machine.world, machine.number, machine.eni, held=machine.held)
    machine.id = successor.id
    assert machine.settled() == {machine.primary}


def test_without_the_projects_user_data_the_secondary_address_becomes_the_machines(world: World) -> None:
    """Else the tests above would show nothing."""
    other = "10.77.0.241"
    eni = world.interface(world.address(16), other)
    bare = Machine(world, 16, eni, held=True, id=world.boot(eni), secondary=other)
    try:
        bare.wait()
        assert bare.settled() == {bare.primary, f"{other}/25"}
        # The program's own command repairs a machine that is older than its user data.
        bare.shell(f"cat >/root/own-addresses <<'END'\n{PROGRAM}\nEND\nsh /root/own-addresses")
        assert bare.settled() == {bare.primary}
        bare.keepalived()
        bare.shell("netplan apply")
        assert bare.settled() == {bare.primary, f"{other}/32"}
    finally:
        terminate(bare)
        world.ec2.delete_network_interface(NetworkInterfaceId=eni)


def test_debian_13_does_the_same(world: World) -> None:
    """Booted by the name of its AMI; its image is made here if it is not there."""
    images = world.ec2.describe_images(Owners=["136693071363"], Filters=[{"Name": "name", "Values": ["debian-13-*"]}])
    address = "10.77.0.242"
    eni = world.interface(world.address(17), address)
    machine = Machine(world, 17, eni, held=True, id="", secondary=address)
    machine.id = world.boot(eni, UserData=USER_DATA, ImageId=images["Images"][0]["ImageId"])
    try:
        wait_until(lambda: world.state(machine.id) == "running", "the machine, and perhaps its image", 900)
        machine.wait()
        assert machine.shell("grep -E 'execution error|Traceback' /var/log/cloud-init.log") == ""
        assert "Debian GNU/Linux 13" in machine.shell("cat /etc/os-release")
        assert machine.settled() == {machine.primary}
        for change in CHANGES:
            keeps_to_its_own_address(machine, change)
    finally:
        terminate(machine)
        world.ec2.delete_network_interface(NetworkInterfaceId=eni)
