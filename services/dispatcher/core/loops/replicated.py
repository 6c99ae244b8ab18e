"""Replicated services: as many slots as replicas. Keys are service ids.

Too few slots: new tasks in the lowest free ones. Too many: the slots that go first are those with several tasks or a task without a
node, then those on the nodes with most tasks of the service, so that what stays is balanced; among equals running tasks and low slots
stay. A slot whose last task ended and must not be restarted still counts, so that a finished service is not started again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, islice

from services.dispatcher.core.picture import Key, Picture, Plan, SlotKey, Step
from services.dispatcher.core.tasks import NewId, is_wanted, may_restart, new_task, wanted
from services.kit.model.ids import ServiceId, TaskId
from services.kit.model.objects import Service, Task
from services.kit.model.specs import Replicated as ReplicatedMode
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

Slot = Mapping[TaskId, Task]


class Replicated:
    """The orchestrator of replicated services."""

    name = "replicated"
    tables = frozenset({Table.SERVICE, Table.TASK})

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all services."""
        return list(view.services)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A service that changed, or whose task is gone or given up."""
        thing = event.object
        if not isinstance(thing, Task):
            return (thing.id,) if event.new is not None else ()
        old, new = event.old, event.new
        if isinstance(old, Task) and is_wanted(old) and (not isinstance(new, Task) or not is_wanted(new)):
            return (thing.service_id,)
        return ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Add what is missing, give up what is too much."""
        steps: list[Step] = []
        for key in keys:
            service = view.services.get(ServiceId(str(key)))
            if service is not None and isinstance(service.spec.mode, ReplicatedMode):
                steps += self._reconcile(view, service, service.spec.mode.replicas, now)
        return Plan(steps=steps)

    def _reconcile(self, view: Picture, service: Service, replicas: int, now: float) -> Iterable[Step]:
        slots = view.slots_of(service.id)
        live = {key: slot for key, slot in slots.items() if counts(view, slot, now)}
        kept: set[SlotKey] = set(live)
        if len(live) < replicas:
            free = islice((n for n in count(1) if n not in live), replicas - len(live))
            for number in free:
                kept.add(number)
                yield Step(key=service.id, puts=(new_task(service, number, self._new_id(), now),))
        elif len(live) > replicas:
            kept = set(islice(best_first(live), replicas))
        for key, slot in slots.items():
            if key not in kept:
                yield from (
                    Step(key=service.id, puts=(wanted(task, TaskState.REMOVE),))
                    for task in slot.values()
                    if task.desired_state < TaskState.REMOVE
                )


def counts(view: Picture, slot: Slot, now: float) -> bool:
    """Tell whether a slot is filled: a task of it is wanted, or its last one ended for good."""
    tasks = list(slot.values())
    if any(is_wanted(task) for task in tasks):
        return True
    last = tasks[-1]
    return last.desired_state is TaskState.SHUTDOWN and not may_restart(view, last, tasks, now)


def best_first(slots: Mapping[SlotKey, Slot]) -> Iterable[SlotKey]:
    """Yield slots in the order in which they are worth keeping."""
    wanted_tasks = {key: [task for task in slot.values() if is_wanted(task)] for key, slot in slots.items()}

    def running(key: SlotKey) -> bool:
        return any(task.status.state is TaskState.RUNNING for task in wanted_tasks[key])

    by_merit = sorted(slots, key=lambda key: (not running(key), key))
    on_node: Counter[str] = Counter()
    order: dict[SlotKey, float] = {}
    for key in by_merit:
        tasks = wanted_tasks[key]
        if len(tasks) != 1 or tasks[0].node_id is None:
            order[key] = float("inf")
        else:
            on_node[tasks[0].node_id] += 1
            order[key] = on_node[tasks[0].node_id]
    return sorted(by_merit, key=lambda key: order[key])
