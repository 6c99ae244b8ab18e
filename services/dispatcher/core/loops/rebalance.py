"""Rebalancing: tasks of services that agree to it move to nodes that have joined, returned or changed, a few at a time.

A move gives a slot a second task, which the scheduler places where there is least; when it runs, the first one is told to stop. If it
cannot be placed or fails, the first one simply stays. Off unless both the service (``rebalance``) and the cluster (``moves_max``) want it.
Keys are the one round for all services, and slots with two tasks. What must stay true: no round begins while a move is under way, and
a balanced swarm is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.dispatcher.core.fleet.moves import Move, moves, take_back
from services.dispatcher.core.picture import Key, Picture, Plan, SlotKey, Step, slot_of
from services.dispatcher.core.scheduling.scheduler import Scheduler
from services.dispatcher.core.tasks import NewId, is_wanted, new_task, wanted
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Node, Service, Task
from services.kit.model.specs import Replicated
from services.kit.model.states import TaskState, UpdateState
from services.kit.state.state import Event
from services.kit.state.tables import Table

ROUND = "*"
"""The key of the round in which moves are looked for."""
LOOK_INTERVAL_S = 1.0
"""How often it is looked whether there is anything to move, at most."""
MOVED = "moved to even out the nodes"
_UNDER_WAY = frozenset({UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED})


class Rebalance:
    """Moves tasks so that nodes are even."""

    name = "rebalance"
    tables = frozenset({Table.NODE, Table.SERVICE, Table.TASK, Table.CLUSTER})

    def __init__(self, new_id: NewId, scheduler: Scheduler) -> None:
        self._new_id = new_id
        self._scheduler = scheduler
        self._services: dict[ServiceId, None] = {}
        """Services that may be moved."""
        self._moving: dict[tuple[ServiceId, SlotKey], None] = {}
        """Slots with two tasks that are meant to run."""
        self._next_round = 0.0

    def begin(self, view: Picture) -> Iterable[Key]:
        """Find the services, the moves that are under way, and what could be better."""
        self._services = {service.id: None for service in view.services.values() if _may_move(service)}
        self._moving = {
            (service, slot): None
            for service in self._services
            for slot in view.slots_of(service)
            if _is_double(view, service, slot)
        }
        return [ROUND, *self._moving]

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A node that is worth more or less than before, a service that agreed, a move that went on."""
        match event.object:
            case Task():
                return self._notice_task(view, event.object)
            case Service():
                if event.new is None or not _may_move(event.object):
                    self._services.pop(event.object.id, None)
                    return ()
                self._services[event.object.id] = None
                return (ROUND,)
            case Node():
                return (ROUND,) if self._services and _matters(event) else ()
            case _:
                return (ROUND,) if self._services else ()

    def _notice_task(self, view: Picture, task: Task) -> Iterable[Key]:
        if task.service_id not in self._services:
            return ()
        key = (task.service_id, slot_of(task))
        if _is_double(view, *key):
            self._moving[key] = None
            return (key,)
        if key in self._moving:
            del self._moving[key]
            return () if self._moving else (ROUND,)
        return ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Finish the moves that can be finished; when there are none, look for the next ones."""
        steps: list[Step] = []
        wakes: dict[Key, float] = {}
        for key in list(self._moving):
            if key in keys:
                steps += self._finish(view, key)
        if ROUND in keys and not self._moving:
            if now < self._next_round:
                wakes[ROUND] = self._next_round
            else:
                steps += self._round(view, now)
        return Plan(steps=steps, wakes=wakes)

    def _finish(self, view: Picture, key: tuple[ServiceId, SlotKey]) -> Iterable[Step]:
        """Stop the first task of a slot when the second runs, and the second when it has no place."""
        first, *others = [task for task in view.slot(*key) if is_wanted(task)]
        if any(task.status.state is TaskState.RUNNING for task in others):
            yield Step(key=key, puts=(wanted(first, TaskState.SHUTDOWN, MOVED),))
            return
        for task in others:
            if task.status.state is TaskState.PENDING and task.status.error:
                yield Step(key=key, puts=(wanted(task, TaskState.REMOVE, MOVED),))

    def _round(self, view: Picture, now: float) -> Iterable[Step]:
        cluster = view.cluster
        if cluster is None or not cluster.spec.scheduling.moves_max:
            return
        found = self._look(view, cluster.spec.scheduling.moves_max, now)
        rest_s = cluster.spec.scheduling.moves_interval_s
        self._next_round = now + (rest_s if found else min(rest_s, LOOK_INTERVAL_S))
        for move in found:
            task = self._task_of(view, move)
            service = None if task is None else view.services.get(task.service_id)
            if task is not None and service is not None:
                yield Step(key=ROUND, puts=(new_task(service, task.slot, self._new_id(), now),))

    def _look(self, view: Picture, budget: int, now: float) -> Sequence[Move]:
        """Return the best moves; the index is left as it was."""
        kept = self._scheduler.kept
        services = (view.services[service] for service in self._services)
        keys = [(service.id, service.spec_version) for service in services if _is_settled(service)]
        groups = [group for key in keys if (group := kept.group(view, key)) is not None]
        found = moves(kept.fleet, groups, budget, now)
        take_back(kept.fleet, found)
        return found

    def _task_of(self, view: Picture, move: Move) -> Task | None:
        """Return the newest task that a move is about."""
        node = self._scheduler.kept.fleet.node_ids[move.source]
        found = [
            task
            for task in view.tasks_of_node(node).values()
            if (task.service_id, task.spec_version) == move.group.key
            and is_wanted(task)
            and task.status.state is TaskState.RUNNING
            and not _is_double(view, task.service_id, task.slot)
        ]
        return max(found, key=lambda task: (task.meta.created_at, task.id), default=None)


def _may_move(service: Service) -> bool:
    return service.spec.rebalance and isinstance(service.spec.mode, Replicated)


def _is_settled(service: Service) -> bool:
    return service.update_status is None or service.update_status.state not in _UNDER_WAY


def _is_double(view: Picture, service: ServiceId, slot: SlotKey) -> bool:
    return sum(is_wanted(task) for task in view.slot(service, slot)) > 1


def _matters(event: Event) -> bool:
    """Tell whether a node changed in what decides where tasks go."""
    old, new = event.old, event.new
    if not isinstance(old, Node) or not isinstance(new, Node):
        return True
    return (old.spec, old.description, old.role, old.status.state) != (
        new.spec,
        new.description,
        new.role,
        new.status.state,
    )
