"""Allocation: gives services their published ports and virtual addresses, then lets their waiting tasks on (NEW to PENDING).

A task of a service that depends on others is let on once they have come so far; one on networks gets its addresses then. Until then its
status says what it waits for.

Keys are service ids. What must stay true: no ingress port and no address is given twice (the store checks it again when the
transaction is applied); work is in proportion to the tasks that wait, not to those of the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.dispatcher.core.dependencies import WAITING, unmet
from services.dispatcher.core.leases import Leases
from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.dispatcher.core.published import Dealt, PortNumbers
from services.dispatcher.core.tasks import PENDING, is_allocated, virtual_networks, with_state
from services.kit.model.ids import NetworkId, ServiceId, TaskId
from services.kit.model.objects import Endpoint, NetworkAddresses, Service, Task
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table

RETRY_S = 300.0
"""A service that found no free port or address tries again after this time, or when any service changes or an address comes free."""


class Allocate:
    """The allocator."""

    name = "allocate"
    tables = frozenset({Table.SERVICE, Table.TASK, Table.NETWORK})

    def __init__(self) -> None:
        self._numbers = PortNumbers()
        self.leases = Leases()
        self._starved: dict[Key, None] = {}
        """Services that lack a port or an address."""
        self._blocked: dict[ServiceId, frozenset[str]] = {}
        """Services that wait for others, and the names of these."""
        self._waiting: dict[ServiceId, dict[TaskId, None]] = {}
        """Tasks that are NEW and wanted, in the order in which they came."""

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all services."""
        self._starved, self._blocked, self._waiting = {}, {}, {}
        self.leases.begin(view)
        for task in view.tasks.values():
            self._note(None, task)
        return list(view.services)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A service that changed, a task that is new, or what waits for a port or an address that another one gave back."""
        old, new = event.old, event.new
        thing = event.object
        if isinstance(thing, Task):
            assert isinstance(old, Task | None)
            assert isinstance(new, Task | None)
            return self._notice_task(view, thing, old, new)
        if not isinstance(thing, Service):
            self.leases.notice_network(old, new)
            return ()
        assert isinstance(old, Service | None)
        assert isinstance(new, Service | None)
        self.leases.notice(old, new)
        if self._blocked:
            return dict.fromkeys((thing.id, *self._starved, *self._waiting_for(thing)))
        if new is not None and not self._starved:
            return (thing.id,)
        return (thing.id, *self._starved)

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Give ports and addresses, then let tasks on."""
        steps: list[Step] = []
        wakes: dict[Key, float] = {}
        dealt: Dealt = set()
        for key in keys:
            self._starved.pop(key, None)
            service = view.services.get(ServiceId(str(key)))
            if service is None:
                continue
            if not is_allocated(service):
                allocated = self._allocated(view, service, dealt)
                if allocated is None:
                    self._starved[key] = None
                    wakes[key] = now + RETRY_S
                    continue
                service = allocated
                steps.append(Step(key=key, puts=(service,)))
            steps += self._let_on(view, service, now)
            if key in self._starved:
                wakes[key] = now + RETRY_S
        return Plan(steps=steps, wakes=wakes)

    # -- services

    def _allocated(self, view: Picture, service: Service, dealt: Dealt) -> Service | None:
        """Return the service with its ports and virtual addresses, or None when something has run out."""
        ports = self._numbers.fill_in(view, service, dealt)
        addresses = None if ports is None else self._virtual(service)
        if ports is None or addresses is None:
            return None
        endpoint = Endpoint(spec=service.spec.endpoint, ports=ports, virtual_ips=addresses)
        return msgspec.structs.replace(service, endpoint=endpoint)

    def _virtual(self, service: Service) -> tuple[NetworkAddresses, ...] | None:
        """Return a virtual address for each network; those that the service has already stay."""
        had = {} if service.endpoint is None else {each.network_id: each for each in service.endpoint.virtual_ips}
        return self._deal(virtual_networks(service.spec), service.id, had)

    # -- tasks

    def _let_on(self, view: Picture, service: Service, now: float) -> Iterable[Step]:
        self._blocked.pop(service.id, None)
        found = (view.tasks.get(task_id) for task_id in self._waiting.get(service.id, ()))
        waiting = [task for task in found if task is not None]
        reasons = unmet(view, service) if waiting else []
        if reasons:
            self._blocked[service.id] = frozenset(each.service.lower() for each in service.spec.depends_on)
            message = WAITING + "; ".join(reasons)
            return [step for task in waiting if (step := _held(task, message, now)) is not None]
        steps: list[Step] = []
        for task in waiting:
            networks = self._attached(view, task)
            if networks is not None:
                fresh = with_state(task, TaskState.PENDING, now, PENDING)
                fresh = msgspec.structs.replace(fresh, networks=networks) if networks else fresh
                steps.append(Step(key=service.id, puts=(fresh,)))
                continue
            self._starved[service.id] = None
            held = _held(task, WAITING + self._lacking(view, task), now)
            if held is not None:
                steps.append(held)
        return steps

    def _attached(self, view: Picture, task: Task) -> tuple[NetworkAddresses, ...] | None:
        """Return a task's addresses as its template asks for them, or None when a network has none left."""
        return self._deal(_targets(view, task), task.id, {})

    def _lacking(self, view: Picture, task: Task) -> str:
        """Say which network has no address for a task."""
        full = next((each for each in _targets(view, task) if not self.leases.free(each)), None)
        network = None if full is None else view.networks.get(full)
        return f"a free address in network {full if network is None else network.spec.annotations.name}"

    def _deal(
        self, targets: Iterable[NetworkId], holder: str, had: dict[NetworkId, NetworkAddresses]
    ) -> tuple[NetworkAddresses, ...] | None:
        """Return what a holder has of each network; all of it is given, or nothing."""
        found: list[NetworkAddresses] = []
        for target in targets:
            dealt = had.get(target) or self.leases.deal(target, holder)
            if dealt is None:
                self.leases.take_back(holder)
                return None
            found.append(dealt)
        return tuple(found)

    # -- what changed

    def _notice_task(self, view: Picture, thing: Task, old: Task | None, new: Task | None) -> Iterable[Key]:
        is_new = self._note(old, new)
        keys: tuple[Key, ...] = (thing.service_id,) if is_new else ()
        if self._blocked:
            keys = (*keys, *self._waiting_for(view.services.get(thing.service_id)))
        if (self.leases.concerns(thing) or (old is not None and old.networks)) and self.leases.notice(old, new):
            keys = (*keys, *self._starved)
        return keys

    def _note(self, old: Task | None, new: Task | None) -> bool:
        """Keep the tasks that wait; True for one that was not there before."""
        if new is not None and new.status.state is TaskState.NEW and new.desired_state < TaskState.SHUTDOWN:
            self._waiting.setdefault(new.service_id, {})[new.id] = None
            return old is None
        if old is not None and old.status.state is TaskState.NEW:
            tasks = self._waiting.get(old.service_id)
            if tasks is not None:
                tasks.pop(old.id, None)
                if not tasks:
                    del self._waiting[old.service_id]
        return False

    def _waiting_for(self, service: Service | None) -> tuple[ServiceId, ...]:
        """Return the services that wait for this one."""
        if service is None:
            return ()
        name = service.spec.annotations.name.lower()
        return tuple(waiter for waiter, names in self._blocked.items() if name in names)


def _targets(view: Picture, task: Task) -> tuple[NetworkId, ...]:
    """Return the networks that a task's template names."""
    spec = view.spec(task.service_id, task.spec_version)
    return () if spec is None else tuple(each.target for each in spec.task.networks)


def _held(task: Task, message: str, now: float) -> Step | None:
    """Return the step that says what a task waits for, None when it says so already."""
    if task.status.message == message:
        return None
    return Step(key=task.service_id, puts=(with_state(task, TaskState.NEW, now, message),))
