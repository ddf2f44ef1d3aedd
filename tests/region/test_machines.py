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
        wait_until(lambda: world.shell(0, processes) == "0", "both processes to be gone", 5)
        assert world.shell(1, processes) == "2"
        assert "Failed to kill" not in world.shell(0, "journalctl --no-pager --unit=same")
    finally:
        world.shell(1, "systemctl stop same", check=True)
    assert world.shell(1, processes) == "0"
