"""A machine stops, stands still, or has no room left."""

import time
from collections.abc import Callable, Sequence

from drills.faults.fault import POWER_CUT, POWER_ON, Fault, Machine, Scene, Step, after, at_once, before, shell
from localregion.client import Region, RegionError, wait_until

#: Seconds in which a machine stops, or boots, cleanly.
PATIENCE = 120


def _shutdown(scene: Scene, machines: Sequence[Machine]) -> float:
    names = {machine["instanceId"] for machine in machines}
    moment = at_once(scene, machines, lambda region, machine: _systemctl(region, machine, "poweroff"))

    def off() -> bool:
        return not any(m["powered"] for m in scene.region.machines() if m["id"] in names)

    wait_until(off, "the machine to power itself off", PATIENCE)
    return moment


def _reboot(scene: Scene, machines: Sequence[Machine]) -> float:
    def boots() -> dict[str, str]:
        found = {}
        for machine in machines:
            try:
                said = scene.region.exec(machine["instanceId"], ["cut", "-d ", "-f22", "/proc/1/stat"], timeout=10)
            except RegionError:  # between two boots
                continue
            found[machine["name"]] = said.stdout
        return found

    first = boots()
    moment = at_once(scene, machines, lambda region, machine: _systemctl(region, machine, "reboot"))
    wait_until(
        lambda: len(now := boots()) == len(machines) and not now.items() & first.items(),
        "the machine to boot again",
        PATIENCE,
    )
    return moment


def _systemctl(region: Region, machine: str, what: str) -> None:
    region.exec(machine, ["systemctl", "--no-block", what])


def _pause(seconds: float) -> Step:
    """A machine stands still for so long, and goes on."""

    def do(scene: Scene, machines: Sequence[Machine]) -> float:
        moment = at_once(scene, machines, Region.freeze)
        time.sleep(seconds)
        at_once(scene, machines, Region.thaw)
        return moment

    return Step(do)


def _on_peer(script: str) -> Callable[[Scene], object]:
    return lambda scene: scene.region.exec(scene.peer["instanceId"], ["bash", "-c", script])


#: Where a claim writes. A machine's disk is a folder of the computer that the region runs on, which is not to be
#: filled: what is there stays, on a small disk of its own that is full.
_PLACES = "/var/lib/mycat-ha /tmp"
_FILL = f"""
for place in {_PLACES}; do
    kib=$(du --summarize --block-size=1K "$place" | cut -f1)
    full=/run/drill-full$place
    mkdir -p "$full" && mount -t tmpfs -o "size=$((kib * 2 + 256))k" tmpfs "$full"
    cp --archive "$place/." "$full/"
    mount --bind "$full" "$place"
    head --bytes=1G /dev/zero >"$place/drill-full" 2>/dev/null || true
done
"""
_EMPTY = f"""
for place in {_PLACES}; do
    for mounted in "$place" "/run/drill-full$place"; do
        ! mountpoint --quiet "$mounted" || umount --lazy "$mounted"
    done
done
"""

FAULTS = (
    Fault("power-cut", "the power is cut", "holder", "moves", (POWER_CUT,), quick=True),
    Fault("shutdown", "shut down cleanly", "holder", "moves", (Step(_shutdown),), quick=True, recovery=150),
    Fault("reboot", "rebooted", "holder", "moves", (Step(_reboot),), recovery=150),
    Fault(
        "freeze",
        "every process is stopped, and the network",
        "holder",
        "moves",
        (Step(lambda scene, machines: at_once(scene, machines, Region.freeze)),),
        quick=True,
    ),
    *(
        Fault(f"freeze-{seconds}s", f"stands still for {seconds} s", "holder", "may move", (_pause(seconds),))
        for seconds in (1, 5, 30)
    ),
    Fault("standby-power-cut", "the power is cut", "other balancer", "stays", (POWER_CUT,)),
    Fault(
        "balancers-power-cut",
        "the power of both is cut in the same second, and comes back",
        "balancers",
        "may move",
        (POWER_CUT, POWER_ON),
        recovery=400,
    ),
    Fault(
        "machines-shutdown",
        "all are shut down cleanly at the same moment, and started again",
        "machines",
        "may move",
        (Step(_shutdown), POWER_ON),
        recovery=400,
    ),
    Fault(
        "disk-full",
        "the power is cut; the other balancer's disk is full",
        "holder",
        "moves",
        (before(_on_peer(_FILL), _on_peer(_EMPTY)), POWER_CUT),
    ),
    Fault(
        "cpu-starved",
        "8 busy processes for each processor, for 20 s",
        "holder",
        "stays",
        (
            shell(
                "for ((i = 0; i < 8 * $(nproc); i++)); do\n"
                "    (exec -a drill-busy timeout 20 sha1sum /dev/zero) &>/dev/null &\n"
                "done",
                # A pattern that does not match this script's own command line.
                "pkill --full '[d]rill-busy' || true",
            ),
            after(20),
        ),
    ),
)
