"""The stack goes away without a trace."""

from drills.stack import Stack
from localregion.client import Region
from tests.conftest import NAME, Stackctl


def test_destroy_leaves_nothing_even_after_failovers_and_with_a_machine_down(
    region: Region, stack: Stack, stackctl: Stackctl
) -> None:
    region.power_cut(stack.machine("node3")["instanceId"])
    stackctl("destroy", NAME)
    assert region.machines() == []
