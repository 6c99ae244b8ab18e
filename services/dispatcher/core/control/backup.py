"""Backup and restore: what of the store is worth keeping, and how it becomes part of another swarm.

Kept: what users made (services, secrets and configs with all versions, networks, settings, labels of nodes), and the finished tasks of
jobs, so that no job runs again because its swarm was restored. Not kept: other tasks, which are made anew where there is room, and the
identity of the swarm, which the new one has of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from services.dispatcher.core.control.answers import Answer
from services.dispatcher.core.control.refs import find_cluster
from services.dispatcher.core.specs import template_of
from services.dispatcher.core.tasks import iteration_of
from services.kit.errors import InvalidArgument
from services.kit.messages.backup import GROUP_BYTES_MAX, ITEM_BYTES_MAX, ITEM_OBJECTS_MAX, StoredObject
from services.kit.model.objects import Cluster, Config, Meta, Network, Node, Object, Secret, Service, Task, Volume
from services.kit.model.specs import ReplicatedJob
from services.kit.model.states import TaskState
from services.kit.model.validate import service_problems
from services.kit.state.state import FrozenState, State
from services.kit.state.tables import TABLE_OF, Table, decode_object, encode_object, with_meta
from services.kit.state.transaction import Op, create, update

_replace = msgspec.structs.replace
_WITH_SERVICE = frozenset({Table.SPEC, Table.SERVICE, Table.TASK})
_LAST = frozenset({Table.NODE, Table.CLUSTER})


def saved(state: State, frozen: FrozenState) -> list[tuple[Object, ...]]:
    """Return the objects that are worth keeping in groups that must come back together, those that others refer to first.

    An old version of a secret or config is deleted as soon as nothing uses it: it comes with the first service that does.
    """
    tables = dict(frozen.tables)
    first = [thing for table in tables if table not in _WITH_SERVICE | _LAST for thing in _sorted(tables[table])]
    old: dict[str, Object] = {
        thing.id: thing for thing in first if isinstance(thing, Secret | Config) and thing.superseded_by is not None
    }
    groups: list[tuple[Object, ...]] = [
        (thing,) for thing in first if thing.id not in old and not _is_every_swarms(thing)
    ]
    for service in _sorted(tables[Table.SERVICE]):
        assert isinstance(service, Service)
        used = [old.pop(object_id) for object_id in _references(service) if object_id in old]
        groups.append((*used, *_done_tasks(state, service), service))
    groups += [(thing,) for thing in _sorted(tables[Table.NODE])]
    return groups + [(_settings_only(thing),) for thing in tables[Table.CLUSTER] if isinstance(thing, Cluster)]


def parts(groups: Iterable[tuple[Object, ...]]) -> Iterator[tuple[StoredObject, ...]]:
    """Yield the objects in their order, in parts that fit into a message; a group is divided only if it alone is too large."""
    part: list[StoredObject] = []
    for group in groups:
        stored = [StoredObject(table=TABLE_OF[type(thing)], object=encode_object(thing)) for thing in group]
        if part and _is_full([*part, *stored], ITEM_BYTES_MAX):
            yield tuple(part)
            part = []
        for each in stored:
            if part and _is_full([*part, each], GROUP_BYTES_MAX):
                yield tuple(part)
                part = []
            part.append(each)
    if part:
        yield tuple(part)


def restore(state: State, stored: Sequence[StoredObject]) -> Answer:
    """Return the writes that make the objects part of this swarm; raises InvalidArgument for what is no object of a store."""
    cluster = find_cluster(state, "")
    ops: list[Op] = []
    made: set[str] = set()
    for each in stored:
        for op in _written(state, cluster, _decoded(each)):
            if op.id not in made:
                made.add(op.id)
                ops.append(op)
    return Answer(ops=tuple(ops), thing=cluster)


def _written(state: State, cluster: Cluster, thing: Object) -> Iterator[Op]:
    match thing:
        case Cluster():
            yield from _with_settings(cluster, thing)
        case Node():
            yield from _with_labels(state, thing)
        case _ if _is_every_swarms(thing) and any(map(_is_every_swarms, state.networks.values())):
            return
        case _ if state.get(TABLE_OF[type(thing)], thing.id) is not None:
            return
        case Service():
            yield from _made_again(thing)
        case Volume():
            yield create(_replace(with_meta(thing, Meta()), publications=(), message=""))  # the nodes are others now
        case Task():
            yield create(_replace(with_meta(thing, Meta()), node_id=None, networks=()))
        case _:
            yield create(with_meta(thing, Meta()))


def _sorted(things: Iterable[Object]) -> list[Object]:
    return sorted(things, key=lambda thing: thing.id)


def _is_full(part: Sequence[StoredObject], bytes_max: int) -> bool:
    return len(part) > ITEM_OBJECTS_MAX or sum(len(each.object) for each in part) > bytes_max


def _is_every_swarms(thing: Object) -> bool:
    """The ingress network is made in each swarm, and nothing is attached to it."""
    return isinstance(thing, Network) and thing.spec.ingress


def _references(service: Service) -> Iterator[str]:
    for spec in (service.spec, service.previous_spec):
        if spec is not None:
            container = spec.task.container
            yield from dict.fromkeys(reference.secret_id for reference in container.secrets)
            yield from dict.fromkeys(reference.config_id for reference in container.configs)
            yield container.privileges.credential_spec_config


def _done_tasks(state: State, service: Service) -> Iterator[Object]:
    """Yield the finished tasks of a job's current run, and before them the templates that they refer to."""
    if not isinstance(service.spec.mode, ReplicatedJob):
        return
    iteration = iteration_of(service)
    done = [
        task
        for task in _sorted(state.tasks_of_service(service.id).values())
        if isinstance(task, Task) and task.status.state is TaskState.COMPLETE and task.job_iteration == iteration
    ]
    for version in sorted({task.spec_version for task in done}):
        template = state.spec(service.id, version)
        assert template is not None, "a stored task has a stored template"
        yield template
    yield from done


def _decoded(stored: StoredObject) -> Object:
    try:
        return decode_object(Table(stored.table), stored.object)
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"there is something among the objects that is none: {error}") from None


def _settings_only(cluster: Cluster) -> Cluster:
    """Keys, tokens and removed nodes belong to the swarm that was, and to nobody who finds a backup."""
    spec = _replace(cluster.spec, ca=_replace(cluster.spec.ca, signing_ca_key=b"", signing_ca_cert=b""))
    return Cluster(id=cluster.id, meta=cluster.meta, spec=spec)


def _with_settings(cluster: Cluster, kept: Cluster) -> Iterator[Op]:
    """Who signs certificates, and whether managers are locked, stays as this swarm has it."""
    own = cluster.spec
    spec = _replace(kept.spec, ca=own.ca, auto_lock_managers=own.auto_lock_managers, raft=own.raft)
    if spec != own:
        yield update(_replace(cluster, spec=spec))


def _with_labels(state: State, kept: Node) -> Iterator[Op]:
    """The node of the same host name gets the labels that its predecessor had; its own win."""
    same = [node for node in state.nodes.values() if node.description.hostname == kept.description.hostname]
    if len(same) != 1 or not kept.spec.annotations.labels:
        return
    node = same[0]
    labels = {**kept.spec.annotations.labels, **node.spec.annotations.labels}
    if labels != node.spec.annotations.labels:
        annotations = _replace(node.spec.annotations, labels=labels)
        yield update(_replace(node, spec=_replace(node.spec, annotations=annotations)))


def _made_again(kept: Service) -> Iterator[Op]:
    """All tasks are new, so an update that was under way has nothing left to do; published ports stay what they were."""
    problems = service_problems(kept.spec)
    if problems:
        raise InvalidArgument.of(problems)
    fresh = _replace(with_meta(kept, Meta()), update_status=None)
    yield create(template_of(fresh))
    yield create(fresh)
