"""The ``deploy`` section of a service in a stack file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from services.cli.stack.places import Place
from services.cli.stack.refused import DEPLOY_RESOURCES
from services.cli.stack.words import read_labels
from services.client import text
from services.kit.model.specs import (
    GenericResource,
    Global,
    GlobalJob,
    Placement,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    SpreadPreference,
    UpdateConfig,
)
from services.kit.model.states import EndpointMode, FailureAction, RestartCondition, UpdateOrder

DEPLOY_KEYS = (
    "mode",
    "replicas",
    "resources",
    "labels",
    "placement",
    "restart_policy",
    "update_config",
    "rollback_config",
    "endpoint_mode",
)
LIMIT_KEYS = ("cpus", "memory", "pids")
RESERVATION_KEYS = ("cpus", "memory", "generic_resources")
PLACEMENT_KEYS = ("constraints", "preferences", "max_replicas_per_node")
RESTART_KEYS = ("condition", "delay", "max_attempts", "window")
UPDATE_KEYS = ("parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order")

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """What the section says."""

    mode: ServiceMode = field(default_factory=Replicated)
    resources: ResourceRequirements = field(default_factory=ResourceRequirements)
    labels: dict[str, str] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    rollback: UpdateConfig = field(default_factory=UpdateConfig)
    endpoint_mode: EndpointMode = EndpointMode.VIP
    pids_limit: int = 0


def read_deploy(place: Place | None) -> Deploy:
    """Return what the section says; mistakes are noted in the file's reading."""
    if place is None:
        return Deploy()
    fields = place.fields(DEPLOY_KEYS)
    return Deploy(
        mode=_mode(fields),
        resources=_resources(fields.get("resources")),
        labels=read_labels(fields.get("labels")),
        placement=_placement(fields.get("placement")),
        restart=_restart(fields.get("restart_policy")),
        update=_update(fields.get("update_config")),
        rollback=_update(fields.get("rollback_config")),
        endpoint_mode=_one(fields, "endpoint_mode", _endpoint_mode, EndpointMode.VIP),
        pids_limit=_pids(fields.get("resources")),
    )


def _one(fields: dict[str, Place], key: str, parse: Callable[[str, str], ValueT], default: ValueT) -> ValueT:
    return fields[key].parsed(parse, default) if key in fields else default


def _mode(fields: dict[str, Place]) -> ServiceMode:
    word = fields["mode"].text() if "mode" in fields else "replicated"
    replicas = _one(fields, "replicas", text.whole, 1)
    match word:
        case "replicated":
            return Replicated(replicas=replicas)
        case "replicated-job":
            return ReplicatedJob(max_concurrent=replicas, total_completions=replicas)
        case "global" | "global-job":
            if "replicas" in fields:
                reason = f"a {word} service has no number of replicas"
                fields["replicas"].refuse(reason, hint="leave it out")
            return Global() if word == "global" else GlobalJob()
        case _:
            fields["mode"].refuse(
                "is not one of the possible values", word, "use replicated, global, replicated-job or global-job"
            )
            return Replicated()


def _resources(place: Place | None) -> ResourceRequirements:
    if place is None:
        return ResourceRequirements()
    fields = place.fields(("limits", "reservations"))
    return ResourceRequirements(
        limits=_amount(fields.get("limits"), LIMIT_KEYS),
        reservations=_amount(fields.get("reservations"), RESERVATION_KEYS),
    )


def _amount(place: Place | None, keys: tuple[str, ...]) -> Resources:
    if place is None:
        return Resources()
    fields = place.fields(keys, DEPLOY_RESOURCES)
    generic = fields["generic_resources"].items() if "generic_resources" in fields else []
    return Resources(
        nano_cpus=_one(fields, "cpus", text.nano_cpus, 0),
        memory_bytes=_one(fields, "memory", text.size_bytes, 0),
        generic=tuple(found for item in generic if (found := _generic(item)) is not None),
    )


def _generic(place: Place) -> GenericResource | None:
    """Read ``discrete_resource_spec: {kind: gpu, value: 2}``."""
    spec = place.fields(("discrete_resource_spec",)).get("discrete_resource_spec")
    fields = {} if spec is None else spec.fields(("kind", "value"))
    if set(fields) != {"kind", "value"}:
        place.refuse("is not a resource", hint="write discrete_resource_spec: {kind: gpu, value: 2}")
        return None
    return GenericResource(kind=fields["kind"].text(), count=fields["value"].parsed(text.whole, 1))


def _pids(place: Place | None) -> int:
    """Return ``limits.pids``, which the model keeps with the container."""
    limits = None if place is None or not place.is_mapping else place.fields().get("limits")
    found = None if limits is None or not limits.is_mapping else limits.fields().get("pids")
    return 0 if found is None else found.parsed(text.whole, 0)


def _placement(place: Place | None) -> Placement:
    if place is None:
        return Placement()
    fields = place.fields(PLACEMENT_KEYS)
    constraints = fields["constraints"].items() if "constraints" in fields else []
    preferences = fields["preferences"].items() if "preferences" in fields else []
    return Placement(
        constraints=tuple(item.text() for item in constraints),
        preferences=tuple(_preference(item) for item in preferences),
        max_replicas=_one(fields, "max_replicas_per_node", text.whole, 0),
    )


def _preference(place: Place) -> SpreadPreference:
    fields = place.fields(("spread",))
    if "spread" not in fields:
        place.refuse("is not a preference", hint="write it like spread: node.labels.zone")
        return SpreadPreference(descriptor="node.id")
    return SpreadPreference(descriptor=fields["spread"].text())


def _restart(place: Place | None) -> RestartPolicy:
    if place is None:
        return RestartPolicy()
    fields = place.fields(RESTART_KEYS)
    default = RestartPolicy()
    return RestartPolicy(
        condition=_one(fields, "condition", _condition, default.condition),
        delay_s=_one(fields, "delay", text.duration_s, default.delay_s),
        max_attempts=_one(fields, "max_attempts", text.whole, default.max_attempts),
        window_s=_one(fields, "window", text.duration_s, default.window_s),
    )


def _update(place: Place | None) -> UpdateConfig:
    if place is None:
        return UpdateConfig()
    fields = place.fields(UPDATE_KEYS)
    default = UpdateConfig()
    return UpdateConfig(
        parallelism=_one(fields, "parallelism", text.whole, default.parallelism),
        delay_s=_one(fields, "delay", text.duration_s, default.delay_s),
        failure_action=_one(fields, "failure_action", _failure_action, default.failure_action),
        monitor_s=_one(fields, "monitor", text.duration_s, default.monitor_s),
        max_failure_ratio=_one(fields, "max_failure_ratio", text.ratio, default.max_failure_ratio),
        order=_one(fields, "order", _order, default.order),
    )


def _condition(value: str, path: str) -> RestartCondition:
    return text.choice(RestartCondition, value, path)


def _failure_action(value: str, path: str) -> FailureAction:
    return text.choice(FailureAction, value, path)


def _order(value: str, path: str) -> UpdateOrder:
    return text.choice(UpdateOrder, value, path)


def _endpoint_mode(value: str, path: str) -> EndpointMode:
    return text.choice(EndpointMode, value, path)
