"""Allocation: gives services their published ports, then lets their waiting tasks on (NEW to PENDING).

A task of a service that depends on others is let on once they have come so far; until then its status says what it waits for.

Keys are service ids. Rules of SwarmKit: ports without a number come from 30000–32767, next fit; a port that was dealt stays with its
port config (name, protocol, target) as long as the number of ports does not change; host-mode ports are the node's affair. What must
stay true: no ingress port is given to two services (the store checks it again when the transaction is applied).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.dispatcher.core.dependencies import WAITING, unmet
from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.dispatcher.core.tasks import PENDING, is_allocated, with_state
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Endpoint, Service, Task
from services.kit.model.specs import PortConfig
from services.kit.model.states import Protocol, PublishMode, TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

PORT_FIRST = 30000
PORT_LAST = 32767
RETRY_S = 300.0
"""A service that found no free port tries again after this time, or when any service changes."""

PortKey = tuple[str, Protocol, int]


class Allocate:
    """The allocator."""

    name = "allocate"
    tables = frozenset({Table.SERVICE, Table.TASK})

    def __init__(self) -> None:
        self._next = PORT_FIRST
        self._starved: dict[Key, None] = {}
        self._blocked: dict[ServiceId, frozenset[str]] = {}
        """Services that wait for others, and the names of these."""

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all services."""
        self._starved, self._blocked = {}, {}
        return list(view.services)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A service that changed, or one that waits for a port another one gave back."""
        thing = event.object
        if isinstance(thing, Task):
            waiting = () if not self._blocked else self._waiting_for(view.services.get(thing.service_id))
            return (
                (thing.service_id, *waiting) if event.old is None and thing.status.state is TaskState.NEW else waiting
            )
        assert isinstance(thing, Service)
        if self._blocked:
            return dict.fromkeys((thing.id, *self._starved, *self._waiting_for(thing)))
        if event.new is not None and not self._starved:
            return (thing.id,)
        return (thing.id, *self._starved)

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Give ports, then let tasks on."""
        steps: list[Step] = []
        wakes: dict[Key, float] = {}
        dealt: set[tuple[int, Protocol]] = set()
        for key in keys:
            self._starved.pop(key, None)
            service = view.services.get(ServiceId(str(key)))
            if service is None:
                continue
            if not is_allocated(service):
                ports = self._ports(view, service, dealt)
                if ports is None:
                    self._starved[key] = None
                    wakes[key] = now + RETRY_S
                    continue
                endpoint = Endpoint(spec=service.spec.endpoint, ports=ports)
                service = msgspec.structs.replace(service, endpoint=endpoint)
                steps.append(Step(key=key, puts=(service,)))
            steps += self._let_on(view, service, now)
        return Plan(steps=steps, wakes=wakes)

    def _let_on(self, view: Picture, service: Service, now: float) -> Iterable[Step]:
        self._blocked.pop(service.id, None)
        waiting = [
            task
            for tasks in view.slots_of(service.id).values()
            for task in tasks.values()
            if task.status.state is TaskState.NEW and task.desired_state < TaskState.SHUTDOWN
        ]
        reasons = unmet(view, service) if waiting else []
        if not reasons:
            return [Step(key=service.id, puts=(with_state(task, TaskState.PENDING, now, PENDING),)) for task in waiting]
        self._blocked[service.id] = frozenset(each.service.lower() for each in service.spec.depends_on)
        message = WAITING + "; ".join(reasons)
        return [
            Step(key=service.id, puts=(with_state(task, TaskState.NEW, now, message),))
            for task in waiting
            if task.status.message != message
        ]

    def _waiting_for(self, service: Service | None) -> tuple[ServiceId, ...]:
        """Return the services that wait for this one."""
        if service is None:
            return ()
        name = service.spec.annotations.name.lower()
        return tuple(waiter for waiter, names in self._blocked.items() if name in names)

    def _ports(
        self, view: Picture, service: Service, dealt: set[tuple[int, Protocol]]
    ) -> tuple[PortConfig, ...] | None:
        """Return the service's ports with every number filled in, or None when they run out."""
        wanted = service.spec.endpoint.ports
        kept = self._sticky(service)
        ports: list[PortConfig] = []
        for port in wanted:
            if port.published_port or port.publish_mode is PublishMode.HOST:
                ports.append(port)
                continue
            number = kept.get(_key(port)) or self._free(view, port.protocol, dealt)
            if number is None:
                return None
            dealt.add((number, port.protocol))
            ports.append(msgspec.structs.replace(port, published_port=number))
        return tuple(ports)

    def _sticky(self, service: Service) -> dict[PortKey, int]:
        """Return the numbers that the service was dealt and may keep."""
        old = service.endpoint
        if old is None or len(old.spec.ports) != len(service.spec.endpoint.ports):
            return {}
        named = {(p.published_port, p.protocol) for p in service.spec.endpoint.ports if p.published_port}
        was_dealt = {_key(port) for port in old.spec.ports if not port.published_port}
        return {
            _key(port): port.published_port
            for port in old.ports
            if _key(port) in was_dealt and port.published_port and (port.published_port, port.protocol) not in named
        }

    def _free(self, view: Picture, protocol: Protocol, dealt: set[tuple[int, Protocol]]) -> int | None:
        for _ in range(PORT_LAST - PORT_FIRST + 1):
            number = self._next
            self._next = PORT_FIRST if number == PORT_LAST else number + 1
            if (number, protocol) not in dealt and not view.port_is_taken(number, protocol):
                return number
        return None


def _key(port: PortConfig) -> PortKey:
    return port.name, port.protocol, port.target_port
