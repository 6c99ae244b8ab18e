"""Spec versions of a service: when a new one is due, what it holds, and the way back to the previous one."""

from __future__ import annotations

import msgspec

from services.kit.model.ids import ServiceId, spec_version_id
from services.kit.model.ingress import LABELS
from services.kit.model.objects import Service, SpecVersion
from services.kit.model.specs import Annotations, EndpointSpec, IngressConfig, ServiceSpec
from services.kit.state.view import View

_PLAIN = IngressConfig()


def template_of(service: Service) -> SpecVersion:
    """Return the service's current version as it is stored for its tasks."""
    return SpecVersion(
        id=spec_version_id(service.id, service.spec_version),
        service_id=service.id,
        version=service.spec_version,
        annotations=service.spec.annotations,
        task=service.spec.task,
        endpoint=service.spec.endpoint,
    )


def stored_spec(view: View, service: Service) -> SpecVersion | None:
    """Return the template that must be stored for the service's current version, or None when it is there."""
    return template_of(service) if view.spec(service.id, service.spec_version) is None else None


def needs_new_version(old: ServiceSpec, new: ServiceSpec) -> bool:
    """Tell whether tasks made from these specs differ."""
    before, after = endpoint_of_tasks(old.endpoint), endpoint_of_tasks(new.endpoint)
    return (_of_tasks(old.annotations), old.task, before) != (_of_tasks(new.annotations), new.task, after)


def _of_tasks(annotations: Annotations) -> Annotations:
    """Return annotations without the labels that only gateways read."""
    labels = {name: value for name, value in annotations.labels.items() if not name.startswith(LABELS)}
    return msgspec.structs.replace(annotations, labels=labels)


def endpoint_of_tasks(endpoint: EndpointSpec) -> EndpointSpec:
    """Return the part of an endpoint that tasks depend on: how gateways treat a port's connections is not their affair."""
    if all(port.ingress == _PLAIN for port in endpoint.ports):
        return endpoint
    ports = tuple(msgspec.structs.replace(port, ingress=_PLAIN) for port in endpoint.ports)
    return msgspec.structs.replace(endpoint, ports=ports)


def next_version(view: View, service: Service) -> int:
    """Return a version that nothing of the service carries."""
    stored = view.specs_of(ServiceId(service.id))
    return max(service.spec_version, service.previous_spec_version, *stored, 0) + 1


def roll_back(service: Service, *, keep_previous: bool) -> Service:
    """Return the service with its previous spec; by hand the two swap, by itself the failed one is forgotten (as SwarmKit does)."""
    assert service.previous_spec is not None
    return msgspec.structs.replace(
        service,
        spec=service.previous_spec,
        spec_version=service.previous_spec_version,
        previous_spec=service.spec if keep_previous else None,
        previous_spec_version=service.spec_version if keep_previous else 0,
    )
