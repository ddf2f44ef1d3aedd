"""The command line, with two stacks in one region."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.region.conftest import World

NAMES = ["project-a-stack-with-a-long-name-node1-instance", "project-another-node1-instance"]
STACKS = ["a-stack-with-a-long-name", "another"]


def localregion(world: World, *argv: str) -> subprocess.CompletedProcess[str]:
    """Without a terminal, as in a pipe or in CI."""
    command = [sys.executable, "-m", "localregion", "--name", world.region.name, *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def stacks(world: World) -> Iterator[World]:
    """Machines 0 and 1 are each the ``node1`` of a stack."""
    for machine, name, stack in zip(world.machines, NAMES, STACKS, strict=False):
        world.ec2.create_tags(
            Resources=[machine], Tags=[{"Key": "Name", "Value": name}, {"Key": "product:stack", "Value": stack}]
        )
    yield world
    world.ec2.delete_tags(Resources=world.machines[:2], Tags=[{"Key": "Name"}, {"Key": "product:stack"}])


def test_every_name_is_shown_whole_without_a_terminal(stacks: World) -> None:
    lines = localregion(stacks, "ps").stdout.splitlines()
    for machine, name in zip(stacks.machines, NAMES, strict=False):
        assert [line for line in lines if machine in line and name in line]


def test_a_command_runs_on_the_machine_of_the_stack_that_is_named(stacks: World) -> None:
    for number, stack in enumerate(STACKS):
        done = localregion(stacks, "exec", f"{stack}/node1", "--", "hostname")
        assert (done.stdout.strip(), done.stderr) == (f"ip-10-77-0-20{number}", "")


def test_an_ambiguous_name_is_refused_with_the_names_to_choose_from(stacks: World) -> None:
    done = localregion(stacks, "exec", "node1", "--", "hostname")
    assert done.returncode == 1
    assert done.stdout == ""
    message = " ".join(done.stderr.split())
    assert all(f"{stack}/node1" in message for stack in STACKS)


def test_faults_take_the_same_names(stacks: World) -> None:
    first, second = (f"{stack}/node1" for stack in STACKS)
    answers = f"ping -c 1 -W 1 {stacks.address(2)} >/dev/null && echo yes || echo no"
    undo = stacks.rule("ingress", "icmp", (-1, -1), stacks.group)
    try:
        assert localregion(stacks, "fault", "drop", second, stacks.machines[2]).returncode == 0
        assert (stacks.shell(first, answers), stacks.shell(second, answers)) == ("yes", "no")
        assert localregion(stacks, "fault", "clear").returncode == 0
        assert localregion(stacks, "fault", "freeze", first).returncode == 0
        assert stacks.ssh(0, "echo up") == ""
        assert stacks.ssh(1, "echo up") == "up"
        assert localregion(stacks, "fault", "thaw", first).returncode == 0
        assert stacks.ssh(0, "echo up") == "up"
    finally:
        undo()


def test_a_network_is_attached_and_detached(world: World) -> None:
    network = "10.30.0.0/24"
    for command, said in (("attach", "is attached to"), ("detach", "is no longer attached to")):
        done = localregion(world, command, world.vpc, "--from", network)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{network} {said} {world.vpc} (10.77.0.0/24)" in " ".join(done.stdout.split())
        attached = [a["from"] for a in world.region.status()["attachments"] if a["vpc"] == world.vpc]
        assert (network in attached) is (command == "attach")
    done = localregion(world, "detach", "--from", network)
    assert done.returncode == 1
    assert f"{network} is not attached to {world.vpc}" in " ".join(done.stderr.split())
