"""What a fault is: steps that break something, how each is undone, and what must hold."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from drills.stack import Stack
from localregion.client import Region

Machine = dict[str, Any]
#: Whom it strikes: `Scene.machines`.
Target = Literal["holder", "other balancer", "balancers", "database", "databases", "Mycat", "machines"]


@dataclass(frozen=True)
class Scene:
    """What a fault finds: the balancer that holds the VIP at its beginning, and another one."""

    region: Region
    stack: Stack
    holder: Machine
    peer: Machine

    @classmethod
    def now(cls, region: Region, stack: Stack) -> "Scene":
        holder = stack.machine(stack.holder(region))
        return cls(region, stack, holder, next(m for m in stack.of_role("lb") if m["name"] != holder["name"]))

    def machines(self, on: Target) -> list[Machine]:
        """A single database or Mycat is one that does not share its machine with the VIP's holder, or with any
        balancer if that can be had. Raises LookupError if the stack has none."""
        if on == "holder":
            return [self.holder]
        if on == "other balancer":
            return [self.peer]
        if on == "balancers":
            return [self.holder, *(m for m in self.stack.of_role("lb") if m != self.holder)]
        if on == "machines":
            return list(self.stack.machines)
        if on == "databases":
            return self.stack.of_role("mysql")
        found = [m for m in self.stack.of_role("mysql" if on == "database" else "mycat") if m != self.holder]
        if not found:
            raise LookupError(f"stack {self.stack.name} has no {on} on another machine than the VIP's holder")
        return [next((m for m in found if "lb" not in m["roles"]), found[0])]


@dataclass(frozen=True)
class Step:
    """``do`` breaks something (or waits, or ends what an earlier step has begun); it returns the moment of the fault by
    CLOCK_MONOTONIC if this step is the fault. ``undo`` mends what `drills.stack.Stack.restore` does not: that ends the
    region's faults and gives every machine its power back."""

    do: Callable[[Scene, Sequence[Machine]], float | None]
    undo: Callable[[Scene, Sequence[Machine]], None] = lambda _scene, _machines: None


#: What becomes of the VIP, by EC2: it is at another balancer when clients have recovered; it never moves; it does, and
#: is back; whatever it does is right.
Vip = Literal["moves", "stays", "comes back", "may move"]


@dataclass(frozen=True)
class Fault:
    """``moves``: how often the VIP may move until the stack is whole again, unless it stays. ``recovery``: seconds in
    which clients have to have recovered. ``clients``: kinds of client, besides those that always do, that have to.
    ``quick``: of the quick set."""

    name: str
    what: str
    on: Target
    vip: Vip
    steps: tuple[Step, ...]
    quick: bool = False
    moves: int = 2
    recovery: float = 90
    clients: tuple[str, ...] = ()

    def broken(self, holder: str, at: str, moves: int) -> list[str]:
        """What does not hold of where the VIP is and how often it has moved, in words."""
        found = []
        if self.vip == "moves" and at == holder:
            found.append(f"the VIP has not moved away from {holder}")
        if self.vip in {"stays", "comes back"} and at != holder:
            found.append(f"the VIP is at {at}, not at {holder}")
        if moves > (limit := 0 if self.vip == "stays" else self.moves):
            found.append(f"the VIP has moved {moves} times, which may be {limit}")
        return found

    def machines(self, scene: Scene) -> list[Machine]:
        """Raises LookupError if the stack has none."""
        return scene.machines(self.on)

    def inject(self, scene: Scene, machines: Sequence[Machine]) -> float:
        """The moment of the fault by CLOCK_MONOTONIC."""
        moments = [step.do(scene, machines) for step in self.steps]
        return next(moment for moment in moments if moment is not None)

    def heal(self, scene: Scene, machines: Sequence[Machine]) -> None:
        """Undo every step, the last one first, whatever becomes of the others; raises the first one's error."""
        scene.stack.restore(scene.region)
        errors = []
        for step in reversed(self.steps):
            try:
                step.undo(scene, machines)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def at_once(scene: Scene, machines: Sequence[Machine], action: Callable[[Region, str], object]) -> float:
    """``action`` on every machine's instance, in the same moment, which is returned."""
    with ThreadPoolExecutor(len(machines)) as pool:
        moment = time.monotonic()
        list(pool.map(lambda machine: action(scene.region, machine["instanceId"]), machines))
    return moment


def shell(script: str, undo: str = "true") -> Step:
    """Bash scripts, run as root on the machines; the first is the fault."""

    def run(script: str) -> Callable[[Region, str], object]:
        return lambda region, machine: region.exec(machine, ["bash", "-c", script], timeout=120)

    def mend(scene: Scene, machines: Sequence[Machine]) -> None:
        at_once(scene, machines, run(undo))

    return Step(lambda scene, machines: at_once(scene, machines, run(script)), mend)


def before(action: Callable[[Scene], object], undo: Callable[[Scene], object] = lambda _scene: None) -> Step:
    """What is done before the fault."""

    def do(scene: Scene, _machines: Sequence[Machine]) -> None:
        action(scene)

    def mend(scene: Scene, _machines: Sequence[Machine]) -> None:
        undo(scene)

    return Step(do, mend)


def after(seconds: float, action: Callable[[Scene], object] = lambda _scene: None) -> Step:
    """What is done so many seconds after the step before; the fault lasts at least that long."""

    def do(scene: Scene, _machines: Sequence[Machine]) -> None:
        time.sleep(seconds)
        action(scene)

    return Step(do)


POWER_CUT = Step(lambda scene, machines: at_once(scene, machines, Region.power_cut))
POWER_ON = after(0, lambda scene: scene.stack.restore(scene.region))
#: Ends the faults of the region: lost packets, a sick API.
CLEAR = after(0, lambda scene: scene.region.clear_faults())
