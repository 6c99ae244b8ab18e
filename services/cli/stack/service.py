"""One service of a stack file, read into a ServiceSpec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from services.cli.stack.container import CONTAINER_KEYS, read_container
from services.cli.stack.deploy import Deploy, read_deploy
from services.cli.stack.networks import engines_network, read_uses
from services.cli.stack.places import Place
from services.cli.stack.ports import read_ports
from services.cli.stack.refused import SERVICE
from services.cli.stack.shared import Shared
from services.cli.stack.words import switch, text_of, texts
from services.client import text
from services.kit.model.specs import (
    Annotations,
    Dependency,
    DriverConfig,
    EndpointSpec,
    Platform,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from services.kit.model.states import DependencyCondition, RestartCondition

STACK_LABEL = "com.docker.stack.namespace"
"""Marks the services of a stack; docker's own label, so that its tools know them too."""

SERVICE_KEYS = (
    *CONTAINER_KEYS,
    "driver",
    "x-driver",
    "ports",
    "deploy",
    "depends_on",
    "profiles",
    "extends",
    "scale",
    "restart",
    "logging",
    "network_mode",
    "networks",
    "platform",
    "cpus",
    "mem_limit",
    "mem_reservation",
    "memswap_limit",
    "mem_swappiness",
)
LOGGING_KEYS = ("driver", "options")
DEPENDENCY_KEYS = ("condition", "required", "restart")
CONDITIONS = {
    "service_started": DependencyCondition.STARTED,
    "service_healthy": DependencyCondition.HEALTHY,
    "service_completed_successfully": DependencyCondition.COMPLETED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StackService:
    """A service as the file has it."""

    name: str
    spec: ServiceSpec
    profiles: tuple[str, ...]
    needs: tuple[Dependency, ...]
    """Services of the same file that it depends on, by their names in the file."""
    place: Place


def read_service(name: str, place: Place, stack: str, shared: Shared) -> StackService:
    """Return a service, named ``STACK_SERVICE``; mistakes are noted."""
    fields = place.fields(SERVICE_KEYS, SERVICE)
    driver = _driver(fields)
    deploy = read_deploy(fields.get("deploy"))
    platform = _platform(fields.get("platform"))
    needs = _needs(fields.get("depends_on"))
    task = TaskSpec(
        driver=driver,
        driver_options=_driver_options(fields, driver, shared),
        container=read_container(place, fields, driver, shared, deploy.pids_limit),
        resources=_resources(fields, deploy.resources),
        restart=_restart(fields, deploy.restart),
        placement=deploy.placement if platform is None else replace(deploy.placement, platforms=(platform,)),
        log_driver=_logging(fields.get("logging")),
        networks=read_uses(fields.get("networks"), fields.get("network_mode"), driver, shared.networks),
    )
    spec = ServiceSpec(
        annotations=Annotations(name=f"{stack}_{name}", labels={**deploy.labels, STACK_LABEL: stack}),
        task=task,
        mode=_mode(fields, deploy),
        update=deploy.update,
        rollback=deploy.rollback,
        endpoint=EndpointSpec(mode=deploy.endpoint_mode, ports=read_ports(fields.get("ports"))),
        depends_on=tuple(replace(each, service=f"{stack}_{each.service}") for each in needs),
    )
    return StackService(name=name, spec=spec, profiles=texts(fields.get("profiles")), needs=needs, place=place)


def _driver(fields: Mapping[str, Place]) -> str:
    if "driver" in fields and "x-driver" in fields:
        fields["driver"].refuse("says the same as x-driver", hint="keep one of them")
    chosen = fields.get("driver") or fields.get("x-driver")
    return "docker" if chosen is None else chosen.text()


def _driver_options(fields: Mapping[str, Place], driver: str, shared: Shared) -> dict[str, str]:
    network_mode = fields.get("network_mode")
    if network_mode is None:
        named = engines_network(fields.get("networks"), driver, shared.networks)
        return {"network": named} if named else {}
    mode = network_mode.text()
    if driver == "process":
        network_mode.refuse("means nothing to the process driver", mode, "its tasks are on the node's own network")
    elif mode not in {"bridge", "host", "none"}:
        network_mode.refuse("is not supported", mode, "bridge, host and none are")
    return {"network": mode}


def _mode(fields: Mapping[str, Place], deploy: Deploy) -> ServiceMode:
    if "scale" not in fields:
        return deploy.mode
    replicas = fields["scale"].parsed(text.whole, 1)
    match deploy.mode:
        case Replicated() if deploy.mode == Replicated():
            return Replicated(replicas=replicas)
        case ReplicatedJob() if deploy.mode == ReplicatedJob():
            return ReplicatedJob(max_concurrent=replicas, total_completions=replicas)
        case _:
            fields["scale"].refuse("contradicts the deploy section", hint="say it once, under deploy.replicas")
            return deploy.mode


def _restart(fields: Mapping[str, Place], policy: RestartPolicy) -> RestartPolicy:
    if "restart" not in fields:
        return policy
    if policy != RestartPolicy():
        fields["restart"].refuse("contradicts deploy.restart_policy", hint="keep one of them")
    word, _, attempts = fields["restart"].text().partition(":")
    match word:
        case "no":
            return RestartPolicy(condition=RestartCondition.NONE)
        case "always" | "unless-stopped" if not attempts:
            return RestartPolicy()
        case "on-failure":
            limit = fields["restart"].stack.reading.one(text.whole, attempts or None, fields["restart"].where, 0)
            return RestartPolicy(condition=RestartCondition.ON_FAILURE, max_attempts=limit)
        case _:
            fields["restart"].refuse(
                "is not known", fields["restart"].text(), "no, always, unless-stopped, on-failure:3"
            )
            return policy


def _resources(fields: Mapping[str, Place], wanted: ResourceRequirements) -> ResourceRequirements:
    """Take the older keys beside the deploy section; the same said twice is refused."""
    limits = _amount(fields, wanted.limits, cpus="cpus", memory="mem_limit")
    reservations = _amount(fields, wanted.reservations, cpus="", memory="mem_reservation")
    swap: int | None = None
    if "memswap_limit" in fields:
        total = fields["memswap_limit"].parsed(_size_or_all, 0)
        if total >= 0 and not limits.memory_bytes:
            fields["memswap_limit"].refuse(
                "needs a memory limit", hint="add mem_limit or deploy.resources.limits.memory"
            )
        swap = -1 if total < 0 else max(0, total - limits.memory_bytes)
    swappiness = fields["mem_swappiness"].parsed(text.whole, 0) if "mem_swappiness" in fields else None
    return replace(wanted, limits=limits, reservations=reservations, swap_bytes=swap, memory_swappiness=swappiness)


def _amount(fields: Mapping[str, Place], amount: Resources, *, cpus: str, memory: str) -> Resources:
    if cpus in fields:
        if amount.nano_cpus:
            fields[cpus].refuse("contradicts deploy.resources", hint="keep one of them")
        amount = replace(amount, nano_cpus=fields[cpus].parsed(text.nano_cpus, 0))
    if memory in fields:
        if amount.memory_bytes:
            fields[memory].refuse("contradicts deploy.resources", hint="keep one of them")
        amount = replace(amount, memory_bytes=fields[memory].parsed(text.size_bytes, 0))
    return amount


def _size_or_all(value: str, path: str) -> int:
    return -1 if value.strip() == "-1" else text.size_bytes(value, path)


def _platform(place: Place | None) -> Platform | None:
    if place is None:
        return None
    system, _, rest = place.text().partition("/")
    architecture, _, variant = rest.partition("/")
    if variant:
        place.refuse("names a variant, which nodes do not tell", place.text(), "write it like linux/arm64")
    return Platform(os=system, architecture=architecture)


def _logging(place: Place | None) -> DriverConfig:
    if place is None:
        return DriverConfig()
    fields = place.fields(LOGGING_KEYS)
    options = fields["options"].fields() if "options" in fields else {}
    return DriverConfig(
        name=text_of(fields.get("driver")), options={key: value.text() for key, value in options.items()}
    )


def _needs(place: Place | None) -> tuple[Dependency, ...]:
    if place is None:
        return ()
    if not place.is_mapping:
        return tuple(Dependency(service=item.text()) for item in place.items())
    return tuple(_need(name, value) for name, value in place.fields().items())


def _need(name: str, place: Place) -> Dependency:
    fields = place.fields(DEPENDENCY_KEYS)
    word = text_of(fields.get("condition")) or "service_started"
    if word not in CONDITIONS:
        fields["condition"].refuse("is not known", word, ", ".join(CONDITIONS))
    if "required" in fields and not fields["required"].parsed(switch, True):
        fields["required"].refuse("is not supported: a task waits for every service that it depends on")
    if "restart" in fields and fields["restart"].parsed(switch, False):
        fields["restart"].refuse("is not supported: a task goes on when a service that it depends on is updated")
    return Dependency(service=name, condition=CONDITIONS.get(word, DependencyCondition.STARTED))
