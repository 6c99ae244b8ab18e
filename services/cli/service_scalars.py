"""What the flags with one value do to a spec. Used by service_spec.py."""

from __future__ import annotations

import argparse
import shlex
from typing import TypeVar

from msgspec.structs import replace

from services.cli.reading import Parse, Reading
from services.client import text
from services.kit.model.specs import (
    ContainerSpec,
    HealthCheck,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceSpec,
    UpdateConfig,
)
from services.kit.model.states import EndpointMode, FailureAction, RestartCondition, UpdateOrder

ThingT = TypeVar("ThingT")


def with_scalars(reading: Reading, spec: ServiceSpec, flags: argparse.Namespace) -> ServiceSpec:
    """Return the spec with what the flags set in it."""
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
            log_driver=task.log_driver if flags.log_driver is None else replace(task.log_driver, name=flags.log_driver),
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
        open_stdin=reading.one(_switch, flags.open_stdin, "--open-stdin", container.open_stdin),
        init=container.init if flags.init is None else init,
        command=reading.one(_words, flags.entrypoint, "--entrypoint", container.command),
        isolation=container.isolation if flags.isolation is None else flags.isolation,
        pids_limit=reading.one(text.whole, flags.limit_pids, "--limit-pids", container.pids_limit),
        oom_score_adj=reading.one(_oom_score, flags.oom_score_adj, "--oom-score-adj", container.oom_score_adj),
        privileges=replace(
            container.privileges,
            no_new_privileges=reading.one(
                _switch, flags.no_new_privileges, "--no-new-privileges", container.privileges.no_new_privileges
            ),
        ),
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

    swap = None if flags.memory_swap is None else reading.one(_swap, flags.memory_swap, "--memory-swap", 0)
    swappiness = flags.memory_swappiness
    return replace(
        old,
        limits=amount("limit", old.limits),
        reservations=amount("reserve", old.reservations),
        swap_bytes=old.swap_bytes if swap is None else swap,
        memory_swappiness=old.memory_swappiness
        if swappiness is None
        else reading.one(text.whole, swappiness, "--memory-swappiness", 0),
    )


def _restart(reading: Reading, old: RestartPolicy, flags: argparse.Namespace) -> RestartPolicy:
    return replace(
        old,
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


def _words(value: str, path: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        text.refuse(path, f"cannot be split into words: {error}", value)


def _swap(value: str, path: str) -> int:
    return -1 if value.strip() == "-1" else text.size_bytes(value, path)


def _oom_score(value: str, path: str) -> int:
    score = text.whole(value, path, least=-1000)
    if score > 1000:
        text.refuse(path, "must be 1000 or less", value)
    return score


def _condition(value: str, path: str) -> RestartCondition:
    return text.choice(RestartCondition, value, path)


def _failure_action(value: str, path: str) -> FailureAction:
    return text.choice(FailureAction, value, path)


def _order(value: str, path: str) -> UpdateOrder:
    return text.choice(UpdateOrder, value, path)


def _endpoint_mode(value: str, path: str) -> EndpointMode:
    return text.choice(EndpointMode, value, path)
