"""Listing: which objects a user wants to see, in the promised order. Classes are AND-ed, the values of a class OR-ed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from services.dispatcher.core.control.refs import node_name, task_name
from services.kit.messages.control import Filters
from services.kit.model.objects import Node, Service, SpecVersion, Task
from services.kit.state.view import View


def list_services(view: View, filters: Filters) -> tuple[Service, ...]:
    """Return services, by name."""
    found = (
        service
        for service in view.services.values()
        if _named(filters, service.id, service.spec.annotations.name)
        and _labelled(filters.labels, service.spec.annotations.labels)
        and _among(service.id, filters.service_ids)
    )
    return tuple(sorted(found, key=lambda service: service.spec.annotations.name))


def list_nodes(view: View, filters: Filters) -> tuple[Node, ...]:
    """Return nodes, by hostname then id. ``labels`` means engine labels, ``node_labels`` those that users set."""
    found = (
        node
        for node in view.nodes.values()
        if _named(filters, node.id, node_name(node))
        and _labelled(filters.labels, node.description.engine.labels)
        and _labelled(filters.node_labels, node.spec.annotations.labels)
        and _among(node.role, filters.roles)
        and _among(node.spec.membership, filters.memberships)
        and _among(node.id, filters.node_ids)
    )
    return tuple(sorted(found, key=lambda node: (node.description.hostname, node.id)))


def list_tasks(view: View, filters: Filters) -> tuple[tuple[Task, ...], tuple[SpecVersion, ...]]:
    """Return tasks by service name, slot and newest first, and the templates that they refer to."""
    found = [
        task
        for task in _task_candidates(view, filters)
        if _among(task.service_id, filters.service_ids)
        and _among(task.node_id, filters.node_ids)
        and _among(task.desired_state, filters.desired_states)
        and (_prefixed(filters, task.id))
        and _task_named(view, filters, task)
        and _labelled(filters.labels, _service_labels(view, task))
    ]
    found.sort(
        key=lambda task: (_service_name(view, task), task.slot, task.node_id or "", -task.meta.created_at, task.id)
    )
    wanted = {(task.service_id, task.spec_version): None for task in found}
    specs = (view.spec(service, version) for service, version in wanted)
    return tuple(found), tuple(spec for spec in specs if spec is not None)


def _task_candidates(view: View, filters: Filters) -> Iterable[Task]:
    """Use an index where a filter allows it."""
    if filters.service_ids:
        for service in dict.fromkeys(filters.service_ids):
            yield from view.tasks_of_service(service).values()
    elif filters.node_ids:
        for node in dict.fromkeys(filters.node_ids):
            yield from view.tasks_of_node(node).values()
    else:
        yield from view.tasks.values()


def _task_named(view: View, filters: Filters, task: Task) -> bool:
    if not filters.names and not filters.name_prefixes:
        return True
    full = task_name(view, task)
    short = full.rpartition(".")[0]
    return full in filters.names or short in filters.names or any(full.startswith(p) for p in filters.name_prefixes)


def _service_name(view: View, task: Task) -> str:
    service = view.services.get(task.service_id)
    return task.service_id if service is None else service.spec.annotations.name


def _service_labels(view: View, task: Task) -> Mapping[str, str]:
    service = view.services.get(task.service_id)
    return {} if service is None else service.spec.annotations.labels


def _named(filters: Filters, object_id: str, name: str) -> bool:
    if filters.names and name not in filters.names:
        return False
    if filters.name_prefixes and not any(name.startswith(prefix) for prefix in filters.name_prefixes):
        return False
    return _prefixed(filters, object_id)


def _prefixed(filters: Filters, object_id: str) -> bool:
    return not filters.id_prefixes or any(object_id.startswith(prefix) for prefix in filters.id_prefixes)


def _labelled(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """An empty value asks for the key only."""
    return all(key in labels and (not value or labels[key] == value) for key, value in wanted.items())


def _among(value: object, wanted: Collection[object]) -> bool:
    return not wanted or value in wanted
