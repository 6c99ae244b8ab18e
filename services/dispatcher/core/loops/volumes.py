"""Where cluster volumes are published follows from the tasks that were given them. Keys are volume ids.

A node is given a volume (PENDING_PUBLISH) as long as a task there that has not ended was given it, and has to take it down afterwards
(PENDING_NODE_UNPUBLISH); what its driver must do is read from that by the shell (shell/volumes.py). Tasks leave a volume that is drained.
What must stay true: a publication goes only when the node has said that it took the volume down, or is no node of the swarm any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.dispatcher.core.replacing import replacement
from services.dispatcher.core.tasks import NewId, is_wanted, wanted
from services.kit.model.ids import NodeId, TaskId, VolumeId
from services.kit.model.objects import Node, Task, Volume
from services.kit.model.states import TaskState
from services.kit.model.volumes import Publication, PublicationState, VolumeAvailability
from services.kit.state.state import Event
from services.kit.state.tables import Table

DRAINED = "volume {} is being drained"
_replace = msgspec.structs.replace


class Volumes:
    """Publishes volumes to where they are used."""

    name = "volumes"
    tables = frozenset({Table.TASK, Table.VOLUME, Table.NODE})

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._tasks: dict[VolumeId, dict[TaskId, None]] = {}
        """Tasks that were given each volume and have not ended."""

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all volumes."""
        self._tasks = {}
        for task in view.tasks.values():
            self._learn(task)
        return list(view.volumes)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A volume, a task that has one, or a node that is gone."""
        old, new = event.old, event.new
        if isinstance(event.object, Task):
            return self._notice_task(old if isinstance(old, Task) else None, new if isinstance(new, Task) else None)
        if isinstance(event.object, Volume):
            return (event.object.id,) if new is not None else ()
        if isinstance(event.object, Node) and new is None:
            return [v.id for v in view.volumes.values() if any(p.node_id == event.object.id for p in v.publications)]
        return ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Bring publications to where they belong, and tasks away from what is drained."""
        steps: list[Step] = []
        for key in keys:
            volume = view.volumes.get(VolumeId(str(key)))
            if volume is None:
                continue
            users = [task for each in self._tasks.get(volume.id, ()) if (task := view.tasks.get(each)) is not None]
            nodes = {task.node_id: None for task in users if task.node_id is not None}
            fresh = tuple(_publications(view, volume, list(nodes)))
            if fresh != volume.publications:
                steps.append(Step(key=key, puts=(_replace(volume, publications=fresh),)))
            if volume.spec.availability is VolumeAvailability.DRAIN:
                steps += self._drained(view, volume, users, now)
        return Plan(steps=steps)

    def _drained(self, view: Picture, volume: Volume, users: list[Task], now: float) -> Iterator[Step]:
        reason = DRAINED.format(volume.spec.annotations.name)
        for task in users:
            if not is_wanted(task):
                continue
            service = view.services.get(task.service_id)
            if service is None:
                yield Step(key=volume.id, puts=(wanted(task, TaskState.SHUTDOWN, reason),))
                continue
            step = replacement(view, service, task, self._new_id, now, lost=True, reason=reason)
            yield Step(key=volume.id, puts=step.puts)

    def _notice_task(self, old: Task | None, new: Task | None) -> Iterable[Key]:
        before = set() if old is None or not old.volumes else {use.volume_id for use in old.volumes}
        after = set() if new is None or not new.volumes else {use.volume_id for use in new.volumes}
        if not before and not after:
            return ()
        if old is not None:
            for volume_id in before:
                held = self._tasks.get(volume_id, {})
                held.pop(old.id, None)
                if not held:
                    self._tasks.pop(volume_id, None)
        if new is not None:
            self._learn(new)
        return sorted(before | after)

    def _learn(self, task: Task) -> None:
        if task.volumes and not task.status.state.terminal:
            for use in task.volumes:
                self._tasks.setdefault(use.volume_id, {})[task.id] = None


def _publications(view: Picture, volume: Volume, nodes: list[NodeId]) -> Iterator[Publication]:
    """Yield where the volume is and shall be."""
    known = set()
    for publication in volume.publications:
        known.add(publication.node_id)
        state = publication.state
        if publication.node_id not in view.nodes:
            state = PublicationState.PENDING_UNPUBLISH
        elif publication.node_id not in nodes:
            if state is PublicationState.PENDING_PUBLISH:
                # Its driver may have let the node use it already.
                state = PublicationState.PENDING_UNPUBLISH
            elif state is PublicationState.PUBLISHED:
                state = PublicationState.PENDING_NODE_UNPUBLISH
        # One that is on its way back goes there first, also when a new task wants it: the node may have taken it down.
        yield publication if state is publication.state else _replace(publication, state=state, message="")
    if volume.pending_delete:
        return
    for node in nodes:
        if node not in known and node in view.nodes:
            yield Publication(node_id=node)


def taken_down(volume: Volume, node: NodeId) -> Volume | None:
    """Return the volume with a node's word that it has taken it down; None when nobody waits for that."""
    fresh = tuple(
        _replace(each, state=PublicationState.PENDING_UNPUBLISH, message="")
        if each.node_id == node and each.state is PublicationState.PENDING_NODE_UNPUBLISH
        else each
        for each in volume.publications
    )
    return None if fresh == volume.publications else _replace(volume, publications=fresh)
