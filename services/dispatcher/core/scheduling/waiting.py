"""The tasks that wait for a node, by what they wait for. Filled by the scheduler from the store's events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from services.dispatcher.core.fleet.group import GroupKey
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Task

_NONE: Mapping[TaskId, None] = {}


def group_key(task: Task) -> GroupKey:
    """Return the group a task belongs to."""
    return task.service_id, task.spec_version


class Waiting:
    """Tasks without a place."""

    def __init__(self) -> None:
        self._groups: dict[GroupKey, dict[TaskId, None]] = {}
        self._made_for: dict[TaskId, NodeId] = {}
        self._by_node: dict[NodeId, dict[TaskId, None]] = {}
        self._confirmable: dict[TaskId, NodeId] = {}

    def add(self, task: Task) -> bool:
        """Take a task in; False when it waits already."""
        if task.node_id is not None:
            if task.id in self._made_for:
                return False
            self._made_for[task.id] = self._confirmable[task.id] = task.node_id
            self._by_node.setdefault(task.node_id, {})[task.id] = None
            return True
        group = self._groups.get(group_key(task))
        if group is None:
            group = self._groups[group_key(task)] = {}
        elif task.id in group:
            return False
        group[task.id] = None
        return True

    def discard(self, task: Task) -> bool:
        """Forget a task; True when it was the last one of its group that waited."""
        node = self._made_for.pop(task.id, None) if self._made_for else None
        if node is not None:
            self._confirmable.pop(task.id, None)
            del self._by_node[node][task.id]
            if not self._by_node[node]:
                del self._by_node[node]
            return False
        key = (task.service_id, task.spec_version)
        group = self._groups.get(key)
        if group is None or task.id not in group:
            return False
        del group[task.id]
        if group:
            return False
        del self._groups[key]
        return True

    # -- tasks for any node

    def groups(self) -> Iterable[GroupKey]:
        """Return the groups of which tasks wait."""
        return list(self._groups)

    def of(self, group: GroupKey) -> Iterable[TaskId]:
        """Return the tasks of a group that wait, those that came first first."""
        return self._groups.get(group, _NONE)

    def count(self, group: GroupKey) -> int:
        """Return how many tasks of a group wait."""
        return len(self._groups.get(group, _NONE))

    # -- tasks made for one node

    @property
    def has_confirmable(self) -> bool:
        """True when a task made for a node is worth a try there."""
        return bool(self._confirmable)

    def nodes(self) -> Iterable[NodeId]:
        """Return the nodes for which tasks were made that wait."""
        return self._by_node

    def retry(self, task: TaskId) -> None:
        """Give a task another try on its node."""
        node = self._made_for.get(task)
        if node is not None:
            self._confirmable[task] = node

    def retry_on(self, node: NodeId) -> None:
        """Give all tasks made for a node another try."""
        self._confirmable.update(dict.fromkeys(self._by_node.get(node, _NONE), node))

    def take_confirmable(self, most: int) -> Iterator[tuple[TaskId, NodeId]]:
        """Yield tasks that are worth a try on their node, each once."""
        for task in list(self._confirmable)[:most]:
            yield task, self._confirmable.pop(task)
