"""A machine is a machine of its own."""

from localregion.client import wait_until
from tests.region.conftest import World


def test_a_service_is_stopped_and_killed_on_its_own_machine_only(world: World) -> None:
    """Of a name that both have; systemd does it by control group, and has nothing to complain about."""
    for machine in (0, 1):
        world.shell(machine, "systemd-run --quiet --unit=same sh -c 'sleep 1000 & exec sleep 1000'", check=True)
    processes = "pgrep -c -f '^sleep 1000'"
    try:
        assert [world.shell(machine, processes) for machine in (0, 1)] == ["2", "2"]
        world.shell(0, "systemctl kill --kill-whom=all --signal=SIGKILL same", check=True)
        wait_until(lambda: world.shell(0, processes) == "0", "both processes to be gone", 30)
        assert world.shell(1, processes) == "2"
        assert "Failed to kill" not in world.shell(0, "journalctl --no-pager --unit=same")
    finally:
        world.shell(1, "systemctl stop same", check=True)
    assert world.shell(1, processes) == "0"


def test_a_command_goes_on_after_its_machine_was_stopped_for_a_moment(world: World) -> None:
    """As everything in a machine is before it shuts down: its command must not stop for ever with it."""
    with world.region.popen(world.machines[0], ["sh", "-c", "echo began; sleep 1; exit 3"], stdout=-1) as command:
        try:
            assert command.stdout
            assert command.stdout.readline() == b"began\n"
            world.region.freeze(world.machines[0])
            world.region.thaw(world.machines[0])
            assert command.wait(30) == 3
        finally:
            command.kill()


def test_a_signal_reaches_the_command(world: World) -> None:
    with world.region.popen(world.machines[0], ["sh", "-c", "echo began; exec sleep 1000"], stdout=-1) as command:
        assert command.stdout
        assert command.stdout.readline() == b"began\n"
        try:
            # `timeout`, which hands the signal on, may not know its child yet although that has written already.
            wait_until(lambda: world.shell(0, "pgrep -c -f '^sleep 1000'") == "1", "the command", 30)
            command.terminate()
            command.wait(30)
        finally:
            command.kill()
    wait_until(lambda: world.shell(0, "pgrep -c -f '^sleep 1000'") == "0", "the command's end", 30)
