"""Draining: a task that is to stop is first taken out of every gateway's table, and only then told to stop. One machine a term.

The store says at once that a task is unwanted; the route table shows it as draining; the agent hears of it when every live gateway acts on
a table that says so, or when ``ACK_TIMEOUT_S`` has passed. A port may ask that open connections get some time beyond that (``drain_s``).
Events: gateways that come and go, tasks to hold, epochs that are published, acknowledgements, time. What must stay true: a held task
is shown to its agent as wanted; nothing is held longer than ``ACK_TIMEOUT_S`` plus its ``drain_s``; a gateway that was heard of a
moment ago still counts, because its data plane outlives it and carries on with the table it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from services.kit.messages.routes import AckRoutes
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Task
from services.kit.model.states import TaskState

ACK_TIMEOUT_S = 3.0
NOTHING_YET = -1


@dataclass(slots=True)
class _Gateway:
    streams: int = 0
    epoch: int = NOTHING_YET
    """The newest table that it acts on, of this term."""
    gone_since: float | None = None
    """When its last stream ended; None while it has one."""
    connections: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Held:
    until: float
    """Let go then, whoever has not acknowledged."""
    drain_s: float
    epoch: int | None = None
    """The first table in which the task is draining; None until one is published."""
    free_at: float | None = None
    """When open connections have had their time; None until all gateways acknowledged."""


class Draining:
    """Which tasks may not be told yet that they are unwanted. Times are seconds of the leader's clock."""

    def __init__(self, nodes: Iterable[NodeId], now: float) -> None:
        """``nodes`` may have gateways that follow an earlier leader's table: they get the usual time to come here."""
        self._gateways = {node: _Gateway(gone_since=now) for node in nodes}
        self._held: dict[TaskId, _Held] = {}

    # -- gateways

    def joined(self, node: NodeId) -> None:
        """A gateway opened a stream; it acts on some other table until it acknowledges one of ours."""
        gateway = self._gateways.setdefault(node, _Gateway())
        gateway.streams += 1
        gateway.epoch = NOTHING_YET
        gateway.gone_since = None

    def left(self, node: NodeId, now: float) -> None:
        """A stream of a gateway ended."""
        gateway = self._gateways.get(node)
        if gateway is not None:
            gateway.streams -= 1
            if gateway.streams <= 0:
                gateway.streams, gateway.gone_since = 0, now

    def forget(self, node: NodeId) -> None:
        """A node is down or was removed: its gateway carries nothing."""
        self._gateways.pop(node, None)

    def acknowledge(self, node: NodeId, ack: AckRoutes) -> None:
        """A gateway acts on a table, and says how many connections its draining tasks have."""
        gateway = self._gateways.get(node)
        if gateway is not None:
            gateway.epoch = max(gateway.epoch, ack.epoch)
            gateway.connections = ack.connections

    # -- tasks

    def hold(self, task: TaskId, now: float, drain_s: float = 0.0) -> None:
        """Keep a task's end from its agent until the gateways know; idempotent."""
        if task not in self._held:
            self._held[task] = _Held(until=now + ACK_TIMEOUT_S, drain_s=drain_s)

    def drop(self, task: TaskId) -> None:
        """A task is over or gone: there is nothing to hold back."""
        self._held.pop(task, None)

    def published(self, epoch: int) -> None:
        """The table of this epoch shows everything held so far as draining, or not at all."""
        for held in self._held.values():
            if held.epoch is None:
                held.epoch = epoch

    def holds(self, task: TaskId) -> bool:
        """Tell whether the end of a task is held back."""
        return task in self._held

    def shown(self, task: Task) -> Task:
        """Return a task as its agent may see it now."""
        if task.id not in self._held or task.desired_state <= TaskState.RUNNING:
            return task
        return msgspec.structs.replace(task, desired_state=TaskState.RUNNING)

    def released(self, now: float) -> tuple[TaskId, ...]:
        """Return the tasks that may be told now, and hold them no more."""
        if not self._held:
            return ()
        acting = self._acting(now)
        free = tuple(task for task, held in self._held.items() if self._is_free(task, held, acting, now))
        for task in free:
            del self._held[task]
        return free

    def deadline(self) -> float | None:
        """Return when ``released`` may return something although nobody said anything."""
        if not self._held:
            return None
        ends = [held.until if held.free_at is None else held.free_at for held in self._held.values()]
        ends += [g.gone_since + ACK_TIMEOUT_S for g in self._gateways.values() if g.gone_since is not None]
        return min(ends)

    def check(self) -> None:
        """Assert what must stay true."""
        for node, gateway in self._gateways.items():
            assert (gateway.streams == 0) == (gateway.gone_since is not None), node

    def describe(self) -> dict[str, dict[str, int]]:
        """Return which epoch each gateway acts on, and from which one each held task is draining."""
        return {
            "gateways": {node: gateway.epoch for node, gateway in sorted(self._gateways.items())},
            "held": {
                task: NOTHING_YET if held.epoch is None else held.epoch for task, held in sorted(self._held.items())
            },
        }

    def _acting(self, now: float) -> float:
        """Return the epoch that every gateway acts on; forget those that have stayed away."""
        away = [
            node
            for node, g in self._gateways.items()
            if g.gone_since is not None and now >= g.gone_since + ACK_TIMEOUT_S
        ]
        for node in away:
            del self._gateways[node]
        return min((gateway.epoch for gateway in self._gateways.values()), default=float("inf"))

    def _is_free(self, task: TaskId, held: _Held, acting: float, now: float) -> bool:
        if held.free_at is None:
            acknowledged = held.epoch is not None and held.epoch <= acting
            if not acknowledged and now < held.until:
                return False
            held.free_at = now + held.drain_s
        return now >= held.free_at or not any(g.connections.get(task) for g in self._gateways.values())
