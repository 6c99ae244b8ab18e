"""Tasks by slot: the index that keeps the loops from walking all tasks of a service. Kept by the desk, read through the picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType

from services.dispatcher.core.picture import SlotKey, slot_of
from services.kit.model.ids import ServiceId, TaskId
from services.kit.model.objects import Task

Slot = dict[TaskId, Task]
_NONE: Mapping[SlotKey, Slot] = MappingProxyType({})
_EMPTY: Mapping[TaskId, Task] = MappingProxyType({})


class Slots:
    """All tasks, by service and slot, in the order in which they appeared."""

    def __init__(self) -> None:
        self._services: dict[ServiceId, dict[SlotKey, Slot]] = {}

    def fill(self, tasks: Iterable[Task]) -> None:
        """Take all tasks in, oldest first."""
        self._services.clear()
        for task in sorted(tasks, key=attrgetter("meta.created_at", "id")):
            self.put(task)

    def put(self, task: Task) -> None:
        """Add or replace a task; it keeps its place in the order."""
        key = task.slot or slot_of(task)
        try:
            self._services[task.service_id][key][task.id] = task
        except KeyError:
            self._services.setdefault(task.service_id, {}).setdefault(key, {})[task.id] = task

    def drop(self, task: Task) -> None:
        """Forget a task."""
        slots = self._services.get(task.service_id)
        key = slot_of(task)
        slot = None if slots is None else slots.get(key)
        if slots is None or slot is None:
            return
        slot.pop(task.id, None)
        if not slot:
            del slots[key]
            if not slots:
                del self._services[task.service_id]

    def of(self, service: ServiceId) -> Mapping[SlotKey, Slot]:
        """Return a service's slots."""
        return self._services.get(service, _NONE)

    def one(self, service: ServiceId, slot: SlotKey) -> Mapping[TaskId, Task]:
        """Return one slot's tasks."""
        return self._services.get(service, _NONE).get(slot, _EMPTY)
