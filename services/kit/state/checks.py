"""What a transaction may not do, looked at when it is applied.

Versions, names, ports, addresses, references, and states that never go back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.kit.model.objects import Network, Object, Service, SpecVersion, Task
from services.kit.model.specs import ServiceSpec
from services.kit.model.states import TaskState, UpdateState
from services.kit.model.subnets import overlap
from services.kit.state.tables import Table, name_of
from services.kit.state.transaction import ANY_VERSION, Action, ConflictReason, Op, TxConflict
from services.kit.state.view import View

if TYPE_CHECKING:
    from services.kit.state.state import State


def refusal(state: State, op: Op, old: Object | None, new: Object | None) -> TxConflict | None:
    """Return why this operation cannot be done on this state, or None."""
    problem = _existence(op, old) or _version(op, old) or _identity(op, new)
    if problem is None and new is not None:
        problem = _name(state, op, new) or _rules(state, old, new)
    if problem is None and new is None and isinstance(old, SpecVersion):
        problem = _still_used(state, old)
    if problem is None and new is None and isinstance(old, Network):
        problem = _still_attached(state, old)
    if problem is None:
        return None
    reason, message = problem
    return TxConflict(reason=reason, table=op.table, id=op.id, message=message)


Problem = tuple[ConflictReason, str]
_OVER = frozenset({UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED})


def _existence(op: Op, old: Object | None) -> Problem | None:
    if op.action is Action.CREATE and old is not None:
        return ConflictReason.EXISTS, f"{op.table} {op.id} already exists"
    if op.action is not Action.CREATE and old is None:
        return ConflictReason.MISSING, f"{op.table} {op.id} does not exist"
    return None


def _version(op: Op, old: Object | None) -> Problem | None:
    if op.action is Action.CREATE or op.base == ANY_VERSION or old is None or op.base == old.meta.version:
        return None
    return (
        ConflictReason.VERSION,
        f"{op.table} {op.id} is at version {old.meta.version}, the change is based on {op.base}",
    )


def _identity(op: Op, new: Object | None) -> Problem | None:
    if new is not None and new.id != op.id:
        return ConflictReason.MALFORMED, f"{op.table} {op.id} carries the id {new.id}"
    return None


def _name(state: State, op: Op, new: Object) -> Problem | None:
    name = name_of(new)
    if not name:
        return None
    holder = state.holder_of_name(op.table, name)
    if holder is not None and holder != new.id:
        return ConflictReason.NAME, f"the {op.table} name {name!r} is taken by {holder}"
    return None


def _rules(state: State, old: Object | None, new: Object) -> Problem | None:
    match new:
        case Service():
            return _service_rules(state, new)
        case Task():
            return _task_rules(state, old, new) or (_address(state, new) if new.networks else None)
        case Network():
            return _network_rules(state, new)
        case _:
            return None


def _service_rules(state: State, new: Service) -> Problem | None:
    rival = state.ports.rival(new)
    if rival is not None:
        port, holder, reason = rival
        other = state.get(Table.SERVICE, holder)
        name = other.spec.annotations.name if isinstance(other, Service) else holder
        return (
            ConflictReason.PORT,
            f"port {port.published_port}/{port.protocol} is already published by service {name!r}, which {reason}",
        )
    for attachment in new.spec.task.networks:
        if attachment.target not in state.networks:
            return ConflictReason.REFERENCE, f"there is no network {attachment.target}"
    return _address(state, new)


def _address(state: State, new: Service | Task) -> Problem | None:
    rival = state.addresses.rival(new)
    return None if rival is None else (ConflictReason.ADDRESS, f"address {rival[0]} is held by {rival[1]}")


def _network_rules(state: State, new: Network) -> Problem | None:
    for other in state.networks.values():
        shared = None if other.id == new.id else overlap(new.ipam, other.ipam)
        if shared is not None:
            name = other.spec.annotations.name
            return ConflictReason.ADDRESS, f"subnet {shared[0]} overlaps {shared[1]} of network {name!r}"
    return None


def _still_attached(state: State, network: Network) -> Problem | None:
    for service in state.services.values():
        if network.id in networks_of(service):
            return ConflictReason.REFERENCE, f"service {service.spec.annotations.name!r} uses the network"
    for holder in sorted(state.addresses.holders(network.id)):
        task = state.get(Table.TASK, holder)
        if isinstance(task, Task) and is_attached(state, task):
            return ConflictReason.REFERENCE, f"task {task.id} is still on the network"
    return None


def is_attached(state: View, task: Task) -> bool:
    """Tell whether a task keeps its network from being removed: one that is being stopped, or whose service is gone, does not."""
    return task.desired_state <= TaskState.COMPLETE and task.service_id in state.services


def networks_of(service: Service) -> frozenset[str]:
    """Return the networks that a service's tasks are on, or may go back to while its update may still fail."""
    specs: list[ServiceSpec] = [service.spec]
    status = service.update_status
    if service.previous_spec is not None and status is not None and status.state not in _OVER:
        specs.append(service.previous_spec)
    return frozenset(attachment.target for spec in specs for attachment in spec.task.networks)


def _task_rules(state: State, old: Object | None, new: Task) -> Problem | None:
    if not isinstance(old, Task):
        if state.spec(new.service_id, new.spec_version) is None:
            return ConflictReason.REFERENCE, f"service {new.service_id} has no stored spec version {new.spec_version}"
        return None
    if new.status.state < old.status.state:
        return (
            ConflictReason.BACKWARD,
            f"task {new.id} was seen {old.status.state.name} and cannot go back to {new.status.state.name}",
        )
    if new.desired_state < old.desired_state:
        return (
            ConflictReason.BACKWARD,
            f"task {new.id} is wanted {old.desired_state.name} and cannot go back to {new.desired_state.name}",
        )
    return None


def _still_used(state: State, spec: SpecVersion) -> Problem | None:
    for task in state.tasks_of_service(spec.service_id).values():
        if task.spec_version == spec.version:
            return ConflictReason.REFERENCE, f"task {task.id} still refers to spec version {spec.version}"
    return None
