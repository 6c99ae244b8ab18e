"""Services: create, update, roll back, remove, and the counts of their tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from services.dispatcher.core.control.answers import Answer, out_of_sequence
from services.dispatcher.core.control.networks import unusable, with_network_ids
from services.dispatcher.core.control.refs import find_service
from services.dispatcher.core.dependencies import circle
from services.dispatcher.core.loops.jobs import schedule_of
from services.dispatcher.core.specs import needs_new_version, next_version, roll_back, stored_spec, template_of
from services.dispatcher.core.tasks import is_job
from services.kit.errors import FailedPrecondition, InvalidArgument, Problem, Unimplemented
from services.kit.messages.control import (
    CreateServiceRequest,
    RemoveServiceRequest,
    ServiceStatus,
    UpdateServiceRequest,
)
from services.kit.model.ids import ENTROPY_BYTES, ServiceId, form_id
from services.kit.model.ingress import wanted
from services.kit.model.objects import JobStatus, Service, UpdateStatus
from services.kit.model.specs import GlobalJob, Replicated, ReplicatedJob, ServiceSpec
from services.kit.model.states import TaskState, UpdateState
from services.kit.model.validate import service_problems
from services.kit.state.transaction import Op, create, remove, update
from services.kit.state.view import View

_replace = msgspec.structs.replace

PAUSED_AS = {
    UpdateState.UPDATING: UpdateState.PAUSED,
    UpdateState.ROLLBACK_STARTED: UpdateState.ROLLBACK_PAUSED,
}


def id_for_request(request_id: str) -> ServiceId:
    """Return the id of the service that a request with this id makes, so that asking twice makes one, whoever leads."""
    return ServiceId(form_id(hashlib.sha256(f"service/{request_id}".encode()).digest()[:ENTROPY_BYTES]))


def create_service(view: View, request: CreateServiceRequest, fresh_id: ServiceId, now: float) -> Answer:
    """Return the writes that make a service; none when this very request has made it already."""
    spec = with_network_ids(view, request.spec)
    _check(view, spec)
    service_id = id_for_request(request.request_id) if request.request_id else fresh_id
    known = view.services.get(service_id)
    if known is not None and request.request_id:
        return Answer(thing=known)
    job_status = JobStatus(last_execution=now) if is_job(spec) else None
    service = Service(id=service_id, spec=spec, job_status=job_status)
    return Answer(ops=(create(service), create(template_of(service))), thing=service)


def update_service(view: View, request: UpdateServiceRequest, now: float) -> Answer:
    """Return the writes that replace a service's spec, or swap it with the previous one."""
    service = find_service(view, request.service_id)
    if request.version != service.meta.version:
        raise out_of_sequence("service", service.meta.version, request.version)
    if request.rollback:
        fresh = _rolled_back(view, service, now)
    elif request.pause:
        fresh = _paused(service)
    elif request.resume:
        fresh = _resumed(service, now)
    else:
        if request.spec is None:
            raise InvalidArgument.of((Problem(path="spec", reason="must be given", hint="or ask for a rollback"),))
        fresh = _updated(view, service, request.spec, now)
    template = stored_spec(view, fresh)
    ops: tuple[Op, ...] = (update(fresh, base=service.meta.version),)
    return Answer(ops=ops if template is None else (*ops, create(template)), thing=fresh)


def remove_service(view: View, request: RemoveServiceRequest) -> Answer:
    """Return the write that removes a service; its tasks follow."""
    service = find_service(view, request.service_id)
    return Answer(ops=(remove(service),), thing=service)


def service_status(view: View, service: Service) -> ServiceStatus:
    """Return the counts of a service's tasks. Tasks that are being stopped do not count as running."""
    tasks = view.tasks_of_service(service.id).values()
    iteration = 0 if service.job_status is None else service.job_status.iteration
    current = [task for task in tasks if task.job_iteration == iteration]
    running = sum(t.status.state is TaskState.RUNNING and t.desired_state <= TaskState.COMPLETE for t in current)
    completed = 0
    match service.spec.mode:
        case Replicated(replicas=replicas):
            desired = replicas
        case ReplicatedJob(max_concurrent=max_concurrent):
            desired = max_concurrent
            completed = sum(task.status.state is TaskState.COMPLETE for task in current)
        case GlobalJob():
            desired = len(current)
            completed = sum(task.status.state is TaskState.COMPLETE for task in current)
        case _:
            desired = sum(task.desired_state is TaskState.RUNNING for task in current)
    return ServiceStatus(service_id=service.id, desired=desired, running=running, completed=completed)


def _updated(view: View, service: Service, spec: ServiceSpec, now: float) -> Service:
    old, new = service.spec.annotations.name, spec.annotations.name
    if old != new:
        raise Unimplemented(f"a service cannot be renamed ({old!r} to {new!r}); create another one")
    if type(service.spec.mode) is not type(spec.mode):
        raise Unimplemented("a service cannot change its mode; create another one")
    spec = with_network_ids(view, spec)
    _check(view, spec)
    version = next_version(view, service) if needs_new_version(service.spec, spec) else service.spec_version
    return _replace(
        service,
        spec=spec,
        spec_version=version,
        previous_spec=service.spec,
        previous_spec_version=service.spec_version,
        update_status=None,
        job_status=_next_run(service, spec, now),
    )


def _next_run(service: Service, spec: ServiceSpec, now: float) -> JobStatus | None:
    """A job without a schedule runs again at each update; one with a schedule when it is due, counted from now when it is new."""
    if not is_job(spec):
        return None
    known = service.job_status or JobStatus()
    schedule = schedule_of(_replace(service, spec=spec))
    if schedule is None:
        return JobStatus(iteration=known.iteration + 1, last_execution=now)
    return known if schedule == schedule_of(service) else _replace(known, last_execution=now)


def _paused(service: Service) -> Service:
    status = service.update_status
    name = service.spec.annotations.name
    if status is None or status.state not in PAUSED_AS:
        raise FailedPrecondition(f"no update of service {name!r} is under way")
    return _replace(
        service, update_status=_replace(status, state=PAUSED_AS[status.state], message="paused by its user")
    )


def _resumed(service: Service, now: float) -> Service:
    """What failed before does not count any more."""
    status = service.update_status
    name = service.spec.annotations.name
    resumed_as = {paused: running for running, paused in PAUSED_AS.items()}
    if status is None or status.state not in resumed_as:
        raise FailedPrecondition(f"the update of service {name!r} is not paused")
    fresh = _replace(status, state=resumed_as[status.state], started_at=now, message="update resumed")
    return _replace(service, update_status=fresh)


def _rolled_back(view: View, service: Service, now: float) -> Service:
    name = service.spec.annotations.name
    if service.previous_spec is None:
        raise FailedPrecondition(f"service {name!r} has no previous spec to go back to")
    gone = tuple(_dangling(view, service.previous_spec))
    if gone:
        raise FailedPrecondition(f"service {name!r} cannot go back: {gone[0].reason} {gone[0].value!r}")
    status = UpdateStatus(state=UpdateState.ROLLBACK_STARTED, started_at=now, message="manually requested rollback")
    return _replace(roll_back(service, keep_previous=True), update_status=status)


def _check(view: View, spec: ServiceSpec) -> None:
    """Raise InvalidArgument with every mistake of a spec, those included that only the store can show."""
    problems = (*service_problems(spec), *_dangling(view, spec), *_circular(view, spec))
    if problems:
        raise InvalidArgument.of(problems)


def _circular(view: View, spec: ServiceSpec) -> Iterable[Problem]:
    waits = circle(view, spec)
    if waits:
        hint = "leave one of these dependencies out"
        yield Problem(path="depends_on", reason="services wait for one another", value=" → ".join(waits), hint=hint)


def _dangling(view: View, spec: ServiceSpec) -> Iterable[Problem]:
    container = spec.task.container
    for index, secret in enumerate(container.secrets):
        found = view.secrets.get(secret.secret_id)
        path = f"task.container.secrets[{index}]"
        yield from _reference(path, "secret", secret.secret_name, "" if found is None else found.spec.annotations.name)
    for index, config in enumerate(container.configs):
        known = view.configs.get(config.config_id)
        path = f"task.container.configs[{index}]"
        yield from _reference(path, "config", config.config_name, "" if known is None else known.spec.annotations.name)
    yield from _certificates(view, spec)
    yield from unusable(view, spec)


def _certificates(view: View, spec: ServiceSpec) -> Iterable[Problem]:
    """A port's certificate must be in the store and hold what TLS needs; gateways say what is wrong inside."""
    current = {s.spec.annotations.name.lower(): s.spec for s in view.secrets.values() if s.superseded_by is None}
    for index, port in enumerate(spec.endpoint.ports):
        name = wanted(port, spec.annotations.labels).ingress.tls_secret
        path, secret = f"endpoint.ports[{index}].ingress.tls_secret", current.get(name.lower())
        if name and secret is None:
            yield Problem(path=path, reason="there is no such secret", value=name)
        elif secret is not None and not (b"BEGIN CERTIFICATE" in secret.data and b"PRIVATE KEY" in secret.data):
            hint = "put the chain and its key into one PEM file: cat chain.pem key.pem | swarmctl secret create NAME -"
            yield Problem(path=path, reason="the secret holds no certificate with its key", value=name, hint=hint)


def _reference(path: str, noun: str, given: str, real: str) -> Iterable[Problem]:
    if not real:
        yield Problem(path=path, reason=f"there is no such {noun}", value=given)
    elif real != given:
        yield Problem(
            path=path, reason=f"the {noun} with this id has another name", value=given, hint=f"it is {real!r}"
        )
