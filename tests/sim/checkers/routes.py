"""Drained means acknowledged: in quiet times no gateway sends connections to a task that was stopped by us."""

from __future__ import annotations

from services.kit.model.ids import TaskId
from services.kit.model.states import TaskState
from tests.sim.checkers.placement import running_tasks
from tests.sim.promise import Checker
from tests.sim.specs import FLAKY
from tests.sim.world import World

QUIET_S = 25.0
"""Since the last fault: sessions, terms and streams of before are over by then."""


class Routes(Checker):
    """Compares what gateways send to with what runs."""

    promise = "a task is stopped only when no gateway sends to it any more"

    def ticked(self, world: World) -> None:
        """Look at every gateway's data plane."""
        if world.faulty or world.quiet_since is None or world.loop.time() - world.quiet_since < QUIET_S:
            return
        running: set[TaskId] = set()
        for node in world.nodes.values():
            running |= running_tasks(node)
        for node in world.nodes.values():
            for task_id in sorted(node.sends_to - running):
                if self._was_stopped(world, task_id):
                    raise self.broken(f"{node.name} sends to task {task_id}, which was stopped")

    def _was_stopped(self, world: World, task_id: TaskId) -> bool:
        task = world.reference.state.tasks.get(task_id)
        if task is None:
            return True
        service = world.reference.state.services.get(task.service_id)
        flaky = service is None or FLAKY in service.spec.annotations.labels
        return not flaky and task.desired_state > TaskState.RUNNING
