"""Nothing acknowledged is lost, and the users' reads and writes are linearizable. Judged once, when a run is over."""

from __future__ import annotations

from tests.sim.promise import Broken
from tests.sim.workload import Workload
from tests.sim.world import World
from tests.support.linearizability import check

LOST = "an acknowledged write is never lost"
LINEARIZABLE = "reads and writes are linearizable"


def judge(world: World, workload: Workload) -> None:
    """Raise ``Broken`` when what users were told does not fit the state or an order."""
    state = world.reference.state
    told = workload.acknowledged
    for name, service_id in told.created.items():
        is_there = service_id in state.services
        if name in told.removed and is_there:
            raise Broken(LOST, f"service {name} was removed and is there")
        if name not in told.maybe_removed and not is_there:
            raise Broken(LOST, f"service {name} was created and is not there")
    for violation in check(workload.registers.history, initial=0):
        raise Broken(LINEARIZABLE, str(violation))
