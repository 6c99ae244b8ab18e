"""A slot has at most one wanted running task, unless the service's updates start first; then one of each version."""

from __future__ import annotations

from services.kit.model.ids import NodeId, ServiceId
from services.kit.model.objects import Service, Task
from services.kit.model.states import TaskState, UpdateOrder
from services.kit.state.state import State
from tests.sim.promise import Checker
from tests.sim.reference import Commit


class Slots(Checker):
    """Counts the wanted tasks of each slot that a transaction touches."""

    promise = "a slot has at most one wanted running task outside start-first"

    def committed(self, commit: Commit) -> None:
        """Count anew where something has changed."""
        touched = {
            (thing.service_id, thing.slot, thing.node_id if not thing.slot else None) for thing in _tasks(commit)
        }
        for service_id, slot, node_id in sorted(touched, key=str):
            self._count(commit.state, service_id, slot, node_id)

    def _count(self, state: State, service_id: ServiceId, slot: int, node_id: NodeId | None) -> None:
        service = state.services.get(service_id)
        wanted = [
            task.id
            for task in state.tasks_of_service(service_id).values()
            if task.slot == slot
            and (slot or task.node_id == node_id)
            and task.desired_state == TaskState.RUNNING
            and not task.status.state.terminal
        ]
        versions = [state.tasks[task_id].spec_version for task_id in wanted]
        doubled = len(set(versions)) < len(versions)
        if doubled or (len(wanted) > 1 and service is not None and not _starts_first(service)):
            raise self.broken(f"slot {slot or node_id} of service {service_id} has {', '.join(wanted)}")


def _tasks(commit: Commit) -> list[Task]:
    return [event.new for event in commit.events if isinstance(event.new, Task)]


def _starts_first(service: Service) -> bool:
    orders = {service.spec.update.order, service.spec.rollback.order}
    return UpdateOrder.START_FIRST in orders
