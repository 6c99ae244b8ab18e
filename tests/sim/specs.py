"""The services that users make: any mixture of modes, updates, ports, reservations, secrets, jobs and schedules, drawn by chance."""

from __future__ import annotations

import random
from collections.abc import Sequence

from services.kit.model.objects import Secret
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    CronSchedule,
    EndpointSpec,
    FileTarget,
    Global,
    PortConfig,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import FailureAction, Overlap, RestartCondition, UpdateOrder

CPU = 1_000_000_000
FLAKY = "flaky"
"""Label of services whose tasks may fail or end by themselves: nobody waits for them to converge."""


def draw_service(name: str, rng: random.Random, secrets: Sequence[Secret]) -> ServiceSpec:
    """Return a spec; about one in four is a job, half of those by schedule."""
    return _job(name, rng, secrets) if rng.random() < 0.25 else _service(name, rng, secrets)


def _service(name: str, rng: random.Random, secrets: Sequence[Secret]) -> ServiceSpec:
    flaky = rng.random() < 0.25
    options = {"start_delay": str(rng.choice((0, 0.1, 1))), "stop_delay": str(rng.choice((0, 0.2, 2)))}
    if flaky:
        options |= {"run_for": str(rng.choice((0.5, 3, 8))), "exit_code": str(rng.choice((0, 1)))}
    update = UpdateConfig(
        parallelism=rng.choice((1, 2, 0)),
        delay_s=rng.choice((0.0, 0.5)),
        monitor_s=rng.choice((0.5, 2.0)),
        order=rng.choice((UpdateOrder.STOP_FIRST, UpdateOrder.START_FIRST)),
        failure_action=rng.choice((FailureAction.PAUSE, FailureAction.CONTINUE, FailureAction.ROLLBACK)),
    )
    published = rng.choice((0, 8000 + rng.randrange(3)))
    ports = (PortConfig(target_port=80, published_port=published),) if rng.random() < 0.5 else ()
    return ServiceSpec(
        annotations=_annotations(name, flaky=flaky),
        mode=Global() if rng.random() < 0.15 else Replicated(replicas=rng.randint(0, 5)),
        task=_task(rng, options, secrets, RestartCondition.ANY),
        update=update,
        rollback=update,
        endpoint=EndpointSpec(ports=ports),
    )


def _job(name: str, rng: random.Random, secrets: Sequence[Secret]) -> ServiceSpec:
    """Return a job; a flaky one fails every time, until it has failed often enough."""
    flaky = rng.random() < 0.2
    options = {"run_for": str(rng.choice((0.2, 1, 4))), "exit_code": "1" if flaky else "0"}
    overlap = rng.choice(tuple(Overlap))
    schedule = CronSchedule(cron="* * * * *", overlap=overlap) if rng.random() < 0.5 else None
    mode = ReplicatedJob(
        max_concurrent=rng.choice((1, 2, 5)), total_completions=rng.choice((1, 3, 5)), schedule=schedule
    )
    return ServiceSpec(
        annotations=_annotations(name, flaky=flaky),
        mode=mode,
        task=_task(rng, options, secrets, RestartCondition.ON_FAILURE),
    )


def _annotations(name: str, *, flaky: bool) -> Annotations:
    return Annotations(name=name, labels={FLAKY: "yes"} if flaky else {})


def _task(
    rng: random.Random, options: dict[str, str], secrets: Sequence[Secret], condition: RestartCondition
) -> TaskSpec:
    reservations = Resources(nano_cpus=rng.choice((0, 0, CPU // 2, CPU)), memory_bytes=rng.choice((0, 256 << 20)))
    used = (rng.choice(secrets),) if secrets and rng.random() < 0.4 else ()
    references = tuple(
        SecretReference(secret_id=secret.id, secret_name=secret.spec.annotations.name, target=FileTarget(name="secret"))
        for secret in used
    )
    return TaskSpec(
        driver="fake",
        driver_options=options,
        container=ContainerSpec(stop_grace_period_s=rng.choice((0.5, 5.0)), secrets=references),
        resources=ResourceRequirements(reservations=reservations),
        restart=RestartPolicy(condition=condition, delay_s=rng.choice((0.0, 0.5, 2.0))),
    )
