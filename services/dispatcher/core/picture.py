"""What a loop sees, what it answers, and what it is.

A loop is a planner: ``plan`` decides from the picture alone and answers with steps. Loops that keep an index (which task waits, which
node is full) fill it from ``begin`` and ``notice``, and could be started anew at any moment with the same result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Node, Object, Task
from services.kit.model.states import Availability, NodeState
from services.kit.model.states import Protocol as PortProtocol
from services.kit.model.value import Value
from services.kit.state.state import Event
from services.kit.state.tables import Table
from services.kit.state.view import View

SlotKey = int | NodeId
"""A slot's number, or the node of a global service's task."""
Key = str | tuple[str, str] | tuple[str, SlotKey]
"""What a loop looks at in one go; each loop says of what kind its keys are."""


def slot_of(task: Task) -> SlotKey:
    """Return the slot that a task fills."""
    if task.slot or task.node_id is None:
        return task.slot
    return task.node_id


def is_usable(node: Node | None) -> bool:
    """Tell whether a node may keep its tasks: it exists, is not down and is not being drained (SwarmKit: not an invalid node)."""
    return (
        node is not None
        and node.status.state is not NodeState.DOWN
        and node.spec.availability is not Availability.DRAIN
    )


class Picture(View, Protocol):
    """The store as it will be once everything under way has taken effect."""

    def slots_of(self, service: ServiceId) -> Mapping[SlotKey, Mapping[TaskId, Task]]:
        """Tasks of a service by slot, in the order of their creation."""

    def slot(self, service: ServiceId, slot: SlotKey) -> Sequence[Task]:
        """Tasks of one slot, in the order of their creation."""

    def port_is_taken(self, port: int, protocol: PortProtocol) -> bool:
        """Tell whether any service publishes this port."""


class Step(Value, frozen=True, kw_only=True):
    """Writes that make sense only together. ``key`` is planned again when they cannot be taken now or do not take effect."""

    key: Key
    puts: tuple[Object, ...] = ()
    removes: tuple[Object, ...] = ()


class Bunch(Value, frozen=True, kw_only=True):
    """Writes of tasks that make sense each by itself; ``key`` is planned again when some of them cannot be taken or do not take effect."""

    key: Key
    puts: Sequence[Task] = ()


class Plan(Value, frozen=True, kw_only=True):
    """What to do now, and when to look again."""

    steps: Sequence[Step | Bunch] = ()
    wakes: Mapping[Key, float] = {}
    """Plan this key again at this time, whatever happens."""


class Loop(Protocol):
    """One control loop."""

    @property
    def name(self) -> str:
        """A word for logs and benchmarks."""

    @property
    def tables(self) -> frozenset[Table]:
        """Changes of which tables it wants to notice."""

    def begin(self, view: Picture) -> Iterable[Key]:
        """Forget everything, read the picture, and return all keys."""

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """Return the keys that this change concerns; the picture has it already."""

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Decide about these keys. ``now`` is the leader's clock: wall seconds that never go back within a term."""
