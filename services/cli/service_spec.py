"""What the flags of ``service create`` and ``service update`` do to a spec.

All mistakes are found before anything is sent: those in the flags, and those that the model's own rules find in the spec they make.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from services.cli.reading import Parse, Reading
from services.client import text
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    EndpointSpec,
    Global,
    GlobalJob,
    HealthCheck,
    Mount,
    Placement,
    PortConfig,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    SpreadPreference,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import EndpointMode, FailureAction, RestartCondition, UpdateOrder
from services.kit.model.validate import service_problems

MODES = ("replicated", "global", "replicated-job", "global-job")
ThingT = TypeVar("ThingT")


def created_spec(flags: argparse.Namespace) -> ServiceSpec:
    """Return the spec that the flags of ``service create`` ask for; raises InvalidArgument with every mistake."""
    reading = Reading()
    if not flags.name:
        reading.refuse("--name", "is missing", hint="every service needs a name")
    container = ContainerSpec(
        env=_environment(reading, flags),
        labels=dict(reading.all(text.pair, flags.container_label, "--container-label")),
        mounts=reading.all(text.mount, flags.mount, "--mount"),
    )
    driver = flags.driver or "docker"
    container = _with_words(reading, container, driver, flags)
    base = ServiceSpec(
        annotations=Annotations(
            name=flags.name or "unnamed", labels=dict(reading.all(text.pair, flags.label, "--label"))
        ),
        mode=_mode(reading, flags),
        task=TaskSpec(
            driver=driver,
            container=container,
            placement=Placement(
                constraints=tuple(flags.constraint),
                preferences=reading.all(_preference, flags.placement_pref, "--placement-pref"),
            ),
        ),
        endpoint=EndpointSpec(ports=reading.all(text.port, flags.publish, "--publish")),
    )
    spec = _with_scalars(reading, base, flags)
    reading.finish(service_problems(spec))
    return spec


def updated_spec(spec: ServiceSpec, flags: argparse.Namespace) -> ServiceSpec:
    """Return a spec as the flags of ``service update`` change it; raises InvalidArgument with every mistake."""
    reading = Reading()
    container = spec.task.container
    container = replace(
        container,
        env=_changed_environment(container.env, flags.env_add, flags.env_rm),
        labels=_changed_labels(
            container.labels,
            reading.all(text.pair, flags.container_label_add, "--container-label-add"),
            flags.container_label_rm,
        ),
        mounts=_changed_mounts(
            container.mounts, reading.all(text.mount, flags.mount_add, "--mount-add"), flags.mount_rm
        ),
    )
    container = _with_words(reading, container, spec.task.driver, flags)
    placement = spec.task.placement
    placement = replace(
        placement,
        constraints=_changed(placement.constraints, flags.constraint_add, flags.constraint_rm),
        preferences=_changed(
            placement.preferences,
            reading.all(_preference, flags.placement_pref_add, "--placement-pref-add"),
            reading.all(_preference, flags.placement_pref_rm, "--placement-pref-rm"),
        ),
    )
    labels = _changed_labels(
        spec.annotations.labels, reading.all(text.pair, flags.label_add, "--label-add"), flags.label_rm
    )
    ports = _changed_ports(
        spec.endpoint.ports,
        reading.all(text.port, flags.publish_add, "--publish-add"),
        reading.all(text.port, flags.publish_rm, "--publish-rm"),
    )
    changed = replace(
        spec,
        annotations=replace(spec.annotations, labels=labels),
        endpoint=replace(spec.endpoint, ports=ports),
        mode=_scaled(reading, spec.mode, flags),
        task=replace(
            spec.task,
            container=container,
            placement=placement,
            force_update=spec.task.force_update + bool(flags.force),
        ),
    )
    changed = _with_scalars(reading, changed, flags)
    reading.finish(service_problems(changed))
    return changed


# -- what runs


def _with_words(reading: Reading, container: ContainerSpec, driver: str, flags: argparse.Namespace) -> ContainerSpec:
    """Take the image and the command from the words behind the flags: IMAGE [COMMAND…] or -- COMMAND….

    A container driver keeps the image's entry point and takes the command as its arguments; the process driver runs the command.
    """
    words = list(flags.words)
    image = flags.image
    if driver == "process":
        if image or words:
            reading.refuse(
                "IMAGE",
                "the process driver runs no images",
                image or words[0],
                "write the command behind --: … --driver process -- COMMAND ARGUMENTS",
            )
        return container if flags.dashed is None else replace(container, command=tuple(flags.dashed), args=())
    if image is None and words:
        image = words.pop(0)
    command = (*words, *(flags.dashed or ()))
    if image is not None:
        container = replace(container, image=image)
    return replace(container, args=command) if command else container


def _mode(reading: Reading, flags: argparse.Namespace) -> ServiceMode:
    mode = flags.mode or "replicated"
    replicas = reading.one(text.whole, flags.replicas, "--replicas", 1)
    if flags.replicas is not None and mode in {"global", "global-job"}:
        reading.refuse("--replicas", f"a {mode} service has no number of replicas", flags.replicas, "leave it out")
    match mode:
        case "replicated":
            return Replicated(replicas=replicas)
        case "global":
            return Global()
        case "replicated-job":
            return ReplicatedJob(max_concurrent=replicas, total_completions=replicas)
        case "global-job":
            return GlobalJob()
        case _:
            reading.refuse("--mode", "is not one of the possible values", mode, "use " + ", ".join(MODES))
            return Replicated(replicas=replicas)


def _scaled(reading: Reading, mode: ServiceMode, flags: argparse.Namespace) -> ServiceMode:
    if flags.replicas is None:
        return mode
    replicas = reading.one(text.whole, flags.replicas, "--replicas", 1)
    match mode:
        case Replicated():
            return Replicated(replicas=replicas)
        case ReplicatedJob():
            return ReplicatedJob(max_concurrent=replicas, total_completions=replicas)
        case _:
            reading.refuse("--replicas", "the service is global and has no number of replicas", flags.replicas)
            return mode


# -- flags with one value


def _with_scalars(reading: Reading, spec: ServiceSpec, flags: argparse.Namespace) -> ServiceSpec:
    task = spec.task
    placement = replace(
        task.placement,
        max_replicas=reading.one(
            text.whole, flags.replicas_max_per_node, "--replicas-max-per-node", task.placement.max_replicas
        ),
    )
    mode = reading.one(_endpoint_mode, flags.endpoint_mode, "--endpoint-mode", spec.endpoint.mode)
    return replace(
        spec,
        task=replace(
            task,
            container=_container(reading, task.container, flags),
            resources=_resources(reading, task.resources, flags),
            restart=_restart(reading, task.restart, flags),
            placement=placement,
        ),
        update=_update(reading, spec.update, flags, "update"),
        rollback=_update(reading, spec.rollback, flags, "rollback"),
        endpoint=replace(spec.endpoint, mode=mode),
    )


def _container(reading: Reading, container: ContainerSpec, flags: argparse.Namespace) -> ContainerSpec:
    init = reading.one(_switch, flags.init, "--init", container.init or False)
    return replace(
        container,
        hostname=container.hostname if flags.hostname is None else flags.hostname,
        user=container.user if flags.user is None else flags.user,
        dir=container.dir if flags.workdir is None else flags.workdir,
        stop_signal=container.stop_signal if flags.stop_signal is None else flags.stop_signal,
        stop_grace_period_s=reading.one(
            text.duration_s, flags.stop_grace_period, "--stop-grace-period", container.stop_grace_period_s
        ),
        tty=reading.one(_switch, flags.tty, "--tty", container.tty),
        read_only=reading.one(_switch, flags.read_only, "--read-only", container.read_only),
        init=container.init if flags.init is None else init,
        health_check=_health(reading, container.health_check, flags),
    )


def _health(reading: Reading, health: HealthCheck | None, flags: argparse.Namespace) -> HealthCheck | None:
    given = [name for name in vars(flags) if name.startswith("health_") and getattr(flags, name) is not None]
    if flags.no_healthcheck:
        if given:
            reading.refuse("--no-healthcheck", "contradicts the other --health flags")
        return HealthCheck(test=("NONE",))
    if not given:
        return health
    old = health or HealthCheck()
    return HealthCheck(
        test=old.test if flags.health_cmd is None else ("CMD-SHELL", flags.health_cmd),
        interval_s=reading.one(text.duration_s, flags.health_interval, "--health-interval", old.interval_s),
        timeout_s=reading.one(text.duration_s, flags.health_timeout, "--health-timeout", old.timeout_s),
        retries=reading.one(text.whole, flags.health_retries, "--health-retries", old.retries),
        start_period_s=reading.one(
            text.duration_s, flags.health_start_period, "--health-start-period", old.start_period_s
        ),
        start_interval_s=reading.one(
            text.duration_s, flags.health_start_interval, "--health-start-interval", old.start_interval_s
        ),
    )


def _resources(reading: Reading, old: ResourceRequirements, flags: argparse.Namespace) -> ResourceRequirements:
    def amount(kind: str, resources: Resources) -> Resources:
        return replace(
            resources,
            nano_cpus=reading.one(text.nano_cpus, getattr(flags, f"{kind}_cpu"), f"--{kind}-cpu", resources.nano_cpus),
            memory_bytes=reading.one(
                text.size_bytes, getattr(flags, f"{kind}_memory"), f"--{kind}-memory", resources.memory_bytes
            ),
        )

    return replace(old, limits=amount("limit", old.limits), reservations=amount("reserve", old.reservations))


def _restart(reading: Reading, old: RestartPolicy, flags: argparse.Namespace) -> RestartPolicy:
    return RestartPolicy(
        condition=reading.one(_condition, flags.restart_condition, "--restart-condition", old.condition),
        delay_s=reading.one(text.duration_s, flags.restart_delay, "--restart-delay", old.delay_s),
        max_attempts=reading.one(text.whole, flags.restart_max_attempts, "--restart-max-attempts", old.max_attempts),
        window_s=reading.one(text.duration_s, flags.restart_window, "--restart-window", old.window_s),
    )


def _update(reading: Reading, old: UpdateConfig, flags: argparse.Namespace, kind: str) -> UpdateConfig:
    def one(parse: Parse[ThingT], name: str, default: ThingT) -> ThingT:
        return reading.one(parse, getattr(flags, f"{kind}_{name}"), f"--{kind}-{name.replace('_', '-')}", default)

    return UpdateConfig(
        parallelism=one(text.whole, "parallelism", old.parallelism),
        delay_s=one(text.duration_s, "delay", old.delay_s),
        failure_action=one(_failure_action, "failure_action", old.failure_action),
        monitor_s=one(text.duration_s, "monitor", old.monitor_s),
        max_failure_ratio=one(text.ratio, "max_failure_ratio", old.max_failure_ratio),
        order=one(_order, "order", old.order),
    )


def _switch(value: str, path: str) -> bool:
    if value.lower() not in {"true", "false"}:
        text.refuse(path, "is neither true nor false", value)
    return value.lower() == "true"


def _condition(value: str, path: str) -> RestartCondition:
    return text.choice(RestartCondition, value, path)


def _failure_action(value: str, path: str) -> FailureAction:
    return text.choice(FailureAction, value, path)


def _order(value: str, path: str) -> UpdateOrder:
    return text.choice(UpdateOrder, value, path)


def _endpoint_mode(value: str, path: str) -> EndpointMode:
    return text.choice(EndpointMode, value, path)


def _preference(value: str, path: str) -> SpreadPreference:
    kind, descriptor = text.pair(value, path)
    if kind != "spread" or not descriptor:
        text.refuse(path, "is not a preference", value, "write it like spread=node.labels.zone")
    return SpreadPreference(descriptor=descriptor)


# -- flags with many values


def _environment(reading: Reading, flags: argparse.Namespace) -> tuple[str, ...]:
    lines: list[str] = []
    for name in flags.env_file:
        lines += _environment_file(reading, name)
    return _changed_environment((), [*lines, *flags.env], ())


def _environment_file(reading: Reading, name: str) -> list[str]:
    try:
        content = Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reading.refuse("--env-file", f"cannot be read: {getattr(error, 'strerror', None) or error}", name)
        return []
    stripped = (line.strip() for line in content.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _changed_environment(env: Iterable[str], added: Iterable[str], removed: Iterable[str]) -> tuple[str, ...]:
    """Replace variables by name, keeping their order; one without a value is taken from this command's environment, if it is there."""
    by_name = {line.partition("=")[0]: line for line in env}
    for line in added:
        name, equals, _ = line.partition("=")
        if equals or not name:
            by_name[name] = line
        elif name in os.environ:
            by_name[name] = f"{name}={os.environ[name]}"
    for name in removed:
        by_name.pop(name, None)
    return tuple(by_name.values())


def _changed(old: tuple[ThingT, ...], added: Iterable[ThingT], removed: Iterable[ThingT]) -> tuple[ThingT, ...]:
    gone = list(removed)
    kept = [thing for thing in old if thing not in gone]
    return (*kept, *(thing for thing in added if thing not in kept))


def _changed_labels(old: dict[str, str], added: Iterable[tuple[str, str]], removed: Iterable[str]) -> dict[str, str]:
    gone = set(removed)
    return {key: value for key, value in {**old, **dict(added)}.items() if key not in gone}


def _changed_mounts(old: tuple[Mount, ...], added: tuple[Mount, ...], removed: Iterable[str]) -> tuple[Mount, ...]:
    gone = {*removed, *(mount.target for mount in added)}
    return (*(mount for mount in old if mount.target not in gone), *added)


def _changed_ports(
    old: tuple[PortConfig, ...], added: tuple[PortConfig, ...], removed: tuple[PortConfig, ...]
) -> tuple[PortConfig, ...]:
    gone = {(port.target_port, port.protocol) for port in (*removed, *added)}
    return (*(port for port in old if (port.target_port, port.protocol) not in gone), *added)
