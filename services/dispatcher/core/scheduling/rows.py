"""One node as the scheduler sees it: what is free on it, and how many tasks it has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from services.dispatcher.core.scheduling.demand import Demand, Group
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Node
from services.kit.model.specs import GenericResource
from services.kit.model.states import Protocol

FAILURES_MAX = 5
FAILURE_WINDOW_S = 300.0
"""A node on which a group failed this often within this time comes after nodes with fewer failures."""


@dataclass(slots=True)
class Row:
    """A node's account. ``take`` and ``give_back`` are called by the fleet only."""

    node: Node
    nano_cpus: int = 0
    """Reserved."""
    memory_bytes: int = 0
    """Reserved."""
    total: int = 0
    by_service: Counter[ServiceId] = field(default_factory=Counter)
    ports: Counter[tuple[int, Protocol]] = field(default_factory=Counter)
    generic: Counter[str] = field(default_factory=Counter)
    """Reserved by number, per kind."""
    names: dict[str, set[str]] = field(default_factory=dict)
    """Dealt by name, per kind."""
    failures: dict[Group, list[float]] = field(default_factory=dict)

    def take(self, demand: Demand, dealt: tuple[GenericResource, ...], *, counted: bool) -> None:
        """Give a task its room, and count it."""
        self.nano_cpus += demand.nano_cpus
        self.memory_bytes += demand.memory_bytes
        if counted:
            self.total += 1
            self.by_service[demand.service] += 1
        for port in demand.host_ports:
            self.ports[port] += 1
        for resource in dealt:
            if resource.names:
                self.names.setdefault(resource.kind, set()).update(resource.names)
            else:
                self.generic[resource.kind] += resource.count

    def give_back(self, demand: Demand, dealt: tuple[GenericResource, ...], *, counted: bool) -> None:
        """Undo ``take``."""
        self.nano_cpus -= demand.nano_cpus
        self.memory_bytes -= demand.memory_bytes
        if counted:
            self.total -= 1
            self.by_service[demand.service] -= 1
            if not self.by_service[demand.service]:
                del self.by_service[demand.service]
        for port in demand.host_ports:
            self.ports[port] -= 1
        for resource in dealt:
            if resource.names:
                self.names.get(resource.kind, set()).difference_update(resource.names)
            else:
                self.generic[resource.kind] -= resource.count

    def deal(self, demand: Demand) -> tuple[GenericResource, ...] | None:
        """Return the generic resources that a task would get, None when there are too few."""
        dealt: list[GenericResource] = []
        for wanted in demand.generic:
            offered = next((r for r in self.node.description.resources.generic if r.kind == wanted.kind), None)
            if offered is None:
                return None
            if offered.names:
                used = self.names.get(wanted.kind, set())
                free = tuple(name for name in offered.names if name not in used)[: wanted.count]
                if len(free) < wanted.count:
                    return None
                dealt.append(GenericResource(kind=wanted.kind, count=wanted.count, names=free))
            else:
                if offered.count - self.generic[wanted.kind] < wanted.count:
                    return None
                dealt.append(GenericResource(kind=wanted.kind, count=wanted.count))
        return tuple(dealt)

    def has_room(self, demand: Demand) -> bool:
        """Tell whether the reservations still fit."""
        have = self.node.description.resources
        if demand.nano_cpus and self.nano_cpus + demand.nano_cpus > have.nano_cpus:
            return False
        if demand.memory_bytes and self.memory_bytes + demand.memory_bytes > have.memory_bytes:
            return False
        return not demand.generic or self.deal(demand) is not None

    def failed(self, group: Group, now: float) -> None:
        """Remember a failure of a group here."""
        recent = [at for at in self.failures.get(group, ()) if at > now - FAILURE_WINDOW_S]
        self.failures[group] = [*recent, now]

    def penalty(self, group: Group, now: float) -> int:
        """Return how often a group failed here lately, 0 while it is not often."""
        recent = sum(at > now - FAILURE_WINDOW_S for at in self.failures.get(group, ()))
        return recent if recent >= FAILURES_MAX else 0
