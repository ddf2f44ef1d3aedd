"""What a balancer's own system does to its network, and the VIP: it is where VRRP has its master, and nowhere else.

tests/region/test_boot.py has the same for machines without keepalived.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from drills.stack import Stack
from localregion.client import Region, RegionError, wait_until
from stackctl import project
from stackctl.pulumi import Pulumi
from tests.conftest import Stackctl
from tests.stack.clients import Repeated, booted, login, mariadb, shell
from tests.stack.whole import Machine, make_whole, pair, state, states

CLIENT = "client"
CHANGES = (
    "systemctl restart systemd-networkd",
    "networkctl renew ens5",
    "networkctl reconfigure ens5",
    "netplan apply",
)
#: Places in what `pair` returns.
ROLES = pytest.mark.parametrize("place", [1, 0], ids=["standby", "master"])


def is_only_at(region: Region, stack: Stack, name: str) -> None:
    """The VIP is at the interface of this balancer, which VRRP calls master; no other device and no file has it."""
    found = states(region, stack)
    names = {machine["name"] for machine in stack.machines}
    balancers = {balancer["name"] for balancer in stack.of_role("lb")}
    assert {known: found[known]["vrrp"] for known in balancers} == {
        known: "master" if known == name else "backup" for known in balancers
    }
    assert {known: found[known]["vip"] for known in names} == {
        known: [f"{stack.vip}/32"] if known == name else [] for known in names
    }
    assert {known: found[known]["configured"] for known in names} == {known: [] for known in names}
    assert stack.holder(region) == name
    assert mariadb(region, login(stack, "mysql"), "SELECT 1") == "1"


def moves(region: Region, stack: Stack, since: float) -> list[str]:
    """The interfaces that the VIP has moved to from ``since`` (CLOCK_MONOTONIC, seconds) on."""
    return [move["eni"] for move in region.moves(since) if move["address"] == stack.vip]


def settled(region: Region, machine: Machine) -> None:
    """networkd says that the device is configured, and it has its primary address."""
    script = "networkctl --no-legend list ens5; ip -4 -o address show dev ens5"

    def configured() -> bool:
        said = shell(region, machine["instanceId"], script).split()
        return "configured" in said and any(word.startswith(f"{machine['address']}/") for word in said)

    wait_until(configured, "the device to be configured", 30)


def boots(region: Region, machine: Machine, before: str = "") -> None:
    """Wait for cloud-init's end, after a boot that is not the one called ``before``."""

    def again() -> bool:
        try:
            return booted(region, machine["instanceId"]) != before
        except RegionError:
            return False

    wait_until(again, "the machine to boot", 120)
    said = "cloud-init status --wait >/dev/null; cloud-init status"
    assert shell(region, machine["instanceId"], said) == "status: done"


def reboot(region: Region, machine: Machine) -> None:
    before = booted(region, machine["instanceId"])
    region.exec(machine["instanceId"], ["systemctl", "--no-block", "reboot"])
    boots(region, machine, before)


def sees_the_vip(region: Region, stack: Stack, machine: Machine) -> bool:
    """Does cloud-init know it, as an address of the machine's interface? If so, then the device has it all the same
    not, nor do any files."""
    seen = shell(region, machine["instanceId"], "cloud-init query ds.meta_data.network.interfaces.macs")
    settled(region, machine)
    found = state(region, stack, {**machine, "roles": []})  # a new machine has none of their programs yet
    assert found["vip"] == []
    assert found["configured"] == []
    return stack.vip in seen


def unclaimed(region: Region) -> None:
    """From now on no balancer's claim succeeds, until faults are cleared: the VIP stays at the interface it is at."""
    region.api(error_rate=1, roles_only=True)


@ROLES
def test_a_change_of_the_network_leaves_the_vip_where_it_is(region: Region, stack: Stack, place: int) -> None:
    machine, holder = pair(region, stack)[place], stack.holder(region)
    since = time.monotonic()
    client = Repeated(region, CLIENT, login(stack, "mysql"))
    try:
        for change in CHANGES:
            shell(region, machine["instanceId"], change)
            settled(region, machine)
            is_only_at(region, stack, holder)
            time.sleep(2)  # whoever would take it, or miss it, does so within 1 s
    finally:
        attempts = client.stop()
    is_only_at(region, stack, holder)
    assert moves(region, stack, since) == []
    assert len(attempts) > 10
    assert [at for at, worked in attempts if not worked] == []


@ROLES
def test_a_reboot_moves_the_vip_away_once_or_not_at_all(region: Region, stack: Stack, place: int) -> None:
    holder, peer = pair(region, stack)
    machine = (holder, peer)[place]
    since = time.monotonic()
    reboot(region, machine)
    assert make_whole(region, stack, CLIENT) == []
    is_only_at(region, stack, (peer, holder)[place]["name"])
    assert moves(region, stack, since) == [[peer["eniId"]], []][place]
    # No connection that is made at a boot gets the port of the health responder.
    assert shell(region, machine["instanceId"], "cat /proc/sys/net/ipv4/ip_local_reserved_ports") == "48700"


@ROLES
def test_a_first_boot_makes_nothing_of_the_vip(region: Region, stack: Stack, place: int) -> None:
    """The master's interface has it still when the machine boots again."""
    holder, peer = pair(region, stack)
    machine = (holder, peer)[place]
    since = time.monotonic()
    # Its host keys are what the stack knows it by; cloud-init would make new ones.
    keep, key = "/etc/cloud/cloud.cfg.d/99-keep-host-keys.cfg", "cat /etc/ssh/ssh_host_ed25519_key.pub"
    known = shell(region, machine["instanceId"], key)
    shell(region, machine["instanceId"], f"echo 'ssh_deletekeys: false' >{keep} && cloud-init clean --logs")
    unclaimed(region)
    try:
        reboot(region, machine)
        assert sees_the_vip(region, stack, machine) is (machine is holder)
    finally:
        region.clear_faults()
    assert shell(region, machine["instanceId"], f"rm {keep} && {key}") == known
    assert make_whole(region, stack, CLIENT) == []
    is_only_at(region, stack, (peer, holder)[place]["name"])
    assert moves(region, stack, since) == [[peer["eniId"]], []][place]


@ROLES
def test_a_new_instance_on_the_kept_interface_makes_nothing_of_the_vip(
    region: Region, stack: Stack, stackctl: Stackctl, place: int
) -> None:
    holder, peer = pair(region, stack)
    machine = (holder, peer)[place]
    old = machine["instanceId"]
    resources = Pulumi(project.Stack(stack.name)).state()["resources"]
    urn = next(resource["urn"] for resource in resources if resource.get("id") == old)

    def new() -> str:
        return next((m["id"] for m in region.machines() if m["eni"] == machine["eniId"] and m["id"] != old), "")

    since = time.monotonic()
    unclaimed(region)
    with ThreadPoolExecutor(1) as pool:
        up = pool.submit(stackctl, "up", stack.name, "--", "--replace", urn)
        try:
            machine["instanceId"] = wait_until(lambda: new() or (up.done() and up.result()), "the new instance", 120)
            boots(region, machine)
            assert sees_the_vip(region, stack, machine) is (machine is holder)
        finally:
            region.clear_faults()
        up.result()
    assert make_whole(region, stack, CLIENT) == []
    is_only_at(region, stack, (peer, holder)[place]["name"])
    assert moves(region, stack, since) == [[peer["eniId"]], []][place]
