"""An update rolls at most ``parallelism`` slots at a time."""

from __future__ import annotations

from services.kit.model.ids import ServiceId, TaskId
from services.kit.model.objects import Service, Task
from services.kit.model.states import Availability, NodeState, TaskState, UpdateState
from services.kit.state.state import State
from tests.sim.promise import Checker
from tests.sim.reference import Commit

ROLLING = frozenset({UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED})


class Updates(Checker):
    """Remembers which tasks were made to replace one that could have stayed, and counts those that do not run yet."""

    promise = "an update rolls at most so many slots at a time"

    def __init__(self) -> None:
        self._rolling: dict[ServiceId, dict[TaskId, int]] = {}
        """Tasks made by updates, with the version of their spec."""

    def committed(self, commit: Commit) -> None:
        """Count where tasks were created."""
        before = {event.old.id: event.old for event in commit.events if isinstance(event.old, Task)}
        for event in commit.events:
            if event.old is None and isinstance(event.new, Task) and _replaces(commit.state, event.new, before):
                self._rolling.setdefault(event.new.service_id, {})[event.new.id] = event.new.spec_version
                service = commit.state.services.get(event.new.service_id)
                if service is not None:
                    self._count(commit.state, service)

    def _count(self, state: State, service: Service) -> None:
        if service.update_status is None or service.update_status.state not in ROLLING:
            return
        going_back = service.update_status.state is UpdateState.ROLLBACK_STARTED
        config = service.spec.rollback if going_back else service.spec.update
        known = self._rolling.get(service.id, {})
        under_way = []
        for task_id, version in list(known.items()):
            task = state.tasks.get(task_id)
            over = task is None or task.status.state >= TaskState.RUNNING or task.desired_state > TaskState.RUNNING
            if over or version != service.spec_version:
                del known[task_id]
            else:
                under_way.append(task_id)
        if config.parallelism and len(under_way) > config.parallelism:
            raise self.broken(
                f"service {service.id} rolls {', '.join(under_way)} at once, {config.parallelism} are allowed"
            )


def _replaces(state: State, new: Task, before: dict[TaskId, Task]) -> bool:
    """Tell whether a task takes the place of one that could have stayed where it was; a second try holds no other slot up."""
    tasks = state.tasks_of_service(new.service_id).values()
    place = new.slot or new.node_id
    if any((t.slot or t.node_id) == place and t.spec_version == new.spec_version and t.id != new.id for t in tasks):
        return False
    for task in tasks:
        old = before.get(task.id, task)
        node = None if old.node_id is None else state.nodes.get(old.node_id)
        if (
            (old.slot or old.node_id) == place
            and old.spec_version != new.spec_version
            and task.status.state <= TaskState.RUNNING
            and old.desired_state <= TaskState.RUNNING
            and node is not None
            and node.status.state is NodeState.READY
            and node.spec.availability is not Availability.DRAIN
        ):
            return True
    return False
