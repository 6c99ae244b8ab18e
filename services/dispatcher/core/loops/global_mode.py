"""Global services: one task on every node that fits. Keys are service ids.

A node fits when it is READY, active and meets the service's constraints. A paused node keeps its task and gets none. A node that
is down, drained or no longer fits gives its task up; when it fits again it gets a new one. A task that ended is the restart loop's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from services.dispatcher.core.loops.replicated import counts
from services.dispatcher.core.picture import Key, Picture, Plan, Step, is_usable
from services.dispatcher.core.tasks import NewId, is_wanted, new_task, wanted
from services.kit.model.constraints import Constraint, parse_constraints, satisfies
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Node, Service, Task
from services.kit.model.specs import Global
from services.kit.model.states import Availability, NodeState, TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table


class GlobalMode:
    """The orchestrator of global services."""

    name = "global"
    tables = frozenset({Table.SERVICE, Table.TASK, Table.NODE})

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._services: dict[ServiceId, None] = {}

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all global services."""
        self._services = {
            service.id: None for service in view.services.values() if isinstance(service.spec.mode, Global)
        }
        return list(self._services)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A service that changed, a task that is gone, and every service when a node changed."""
        thing = event.object
        if isinstance(thing, Service):
            if event.new is None or not isinstance(thing.spec.mode, Global):
                self._services.pop(thing.id, None)
                return ()
            self._services[thing.id] = None
            return (thing.id,)
        if isinstance(thing, Task):
            gone = event.new is None and is_wanted(thing)
            return (thing.service_id,) if gone and thing.service_id in self._services else ()
        return tuple(self._services) if self._services and _matters(event) else ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Add tasks to nodes that fit, give up those on nodes that do not."""
        steps: list[Step] = []
        for key in keys:
            service = view.services.get(ServiceId(str(key)))
            if service is not None and isinstance(service.spec.mode, Global):
                steps += self._reconcile(view, service, now)
        return Plan(steps=steps)

    def _reconcile(self, view: Picture, service: Service, now: float) -> Iterable[Step]:
        constraints = parse_constraints(service.spec.task.placement.constraints)
        slots = view.slots_of(service.id)
        for node in view.nodes.values():
            slot = slots.get(node.id)
            if _fits(node, constraints) and (slot is None or not self._served(view, node, slot, now)):
                yield Step(key=service.id, puts=(new_task(service, node.id, self._new_id(), now),))
        for key, slot in slots.items():
            home = view.nodes.get(NodeId(str(key)))
            if home is not None and is_usable(home) and satisfies(home, constraints):
                for task in _doubles(slot):
                    yield Step(key=service.id, puts=(wanted(task, TaskState.SHUTDOWN),))
                continue
            desired = TaskState.REMOVE if home is None else TaskState.SHUTDOWN
            for task in slot.values():
                if task.desired_state < desired:
                    yield Step(key=service.id, puts=(wanted(task, desired),))

    def _served(self, view: Picture, node: Node, slot: Mapping[TaskId, Task], now: float) -> bool:
        """Tell whether a node has its task, or must not get another one.

        A task that was given up because the node was lost does not speak against a new one; one that ended by itself does.
        """
        last = list(slot.values())[-1]
        if any(is_wanted(task) for task in slot.values()):
            return True
        gave_up = last.status.state <= TaskState.RUNNING or last.status.state in {
            TaskState.SHUTDOWN,
            TaskState.ORPHANED,
        }
        return not gave_up and counts(view, slot, now)


def _doubles(slot: Mapping[TaskId, Task]) -> Iterable[Task]:
    """Return all wanted tasks of one version on a node but the one that has come furthest; an update's two versions are its affair."""
    by_version: dict[int, list[Task]] = {}
    for task in slot.values():
        if is_wanted(task):
            by_version.setdefault(task.spec_version, []).append(task)
    for tasks in by_version.values():
        best = max(tasks, key=lambda task: (not task.status.state.terminal, task.status.state, -task.meta.created_at))
        yield from (task for task in tasks if task is not best)


def _fits(node: Node, constraints: tuple[Constraint, ...]) -> bool:
    return (
        node.status.state is NodeState.READY
        and node.spec.availability is Availability.ACTIVE
        and satisfies(node, constraints)
    )


def _matters(event: Event) -> bool:
    """Tell whether a node changed in what decides about its tasks."""
    old, new = event.old, event.new
    if not isinstance(old, Node) or not isinstance(new, Node):
        return True
    return (old.spec, old.description, old.role, old.status.state, old.status.addr) != (
        new.spec,
        new.description,
        new.role,
        new.status.state,
        new.status.addr,
    )
