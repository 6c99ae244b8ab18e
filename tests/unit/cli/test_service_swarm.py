"""Flags for secrets, configs, dependencies, schedules and back-off."""

from __future__ import annotations

import pytest

from services.cli.parser import Parser
from services.cli.service_flags import create_arguments, update_arguments
from services.cli.service_spec import created_spec, updated_spec
from services.cli.service_swarm import Known
from services.kit.errors import InvalidArgument
from services.kit.model.specs import CronSchedule, Dependency, FileTarget, ReplicatedJob, ServiceSpec
from services.kit.model.states import DependencyCondition, Overlap

KNOWN = Known(secrets={"token": "id-token"}, configs={"motd": "id-motd"})


def created(*words: str) -> ServiceSpec:
    parser = Parser("create", "")
    create_arguments(parser)
    flags = parser.read(["--name", "web", "--driver", "process", *words])
    flags.words, flags.dashed = [], ["sleep", "1"]
    return created_spec(flags, KNOWN)


def updated(spec: ServiceSpec, *words: str) -> ServiceSpec:
    parser = Parser("update", "")
    update_arguments(parser)
    flags = parser.read(list(words))
    flags.words, flags.dashed = [], None
    return updated_spec(spec, flags, KNOWN)


def test_secrets_and_configs_are_named_and_become_files() -> None:
    spec = created("--secret", "token", "--config", "source=motd,target=/etc/motd,uid=5,mode=0400")
    (secret,), (config,) = spec.task.container.secrets, spec.task.container.configs
    assert (secret.secret_id, secret.secret_name, secret.target) == ("id-token", "token", FileTarget(name="token"))
    assert (config.config_id, config.target) == ("id-motd", FileTarget(name="/etc/motd", uid="5", mode=0o400))
    assert updated(spec, "--secret-rm", "token").task.container.secrets == ()


@pytest.mark.parametrize("value", ["unknown", "target=x", "source=token,colour=red", "source=token,mode=9"])
def test_a_secret_that_is_not_there_or_badly_written_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match="--secret"):
        created("--secret", value)


def test_dependencies_have_a_condition_and_are_replaced_by_name() -> None:
    spec = created("--depends-on", "db:healthy", "--depends-on", "cache")
    assert spec.depends_on == (
        Dependency(service="db", condition=DependencyCondition.HEALTHY),
        Dependency(service="cache", condition=DependencyCondition.STARTED),
    )
    changed = updated(spec, "--depends-on-rm", "cache", "--depends-on-add", "db:completed_successfully")
    assert changed.depends_on == (Dependency(service="db", condition=DependencyCondition.COMPLETED),)


def test_a_job_gets_a_schedule_keeps_it_when_it_is_scaled_and_loses_it_when_asked() -> None:
    spec = created(
        *("--mode", "replicated-job", "--schedule", "30 4 * * mon-fri", "--schedule-time-zone", "Europe/Berlin"),
        *("--schedule-overlap", "replace", "--schedule-missed-window", "1h", "--schedule-keep", "7"),
    )
    schedule = CronSchedule(
        cron="30 4 * * mon-fri", time_zone="Europe/Berlin", overlap=Overlap.REPLACE, missed_window_s=3600, keep_last=7
    )
    assert spec.mode == ReplicatedJob(schedule=schedule)
    scaled = updated(spec, "--replicas", "3", "--restart-condition", "none").mode
    assert scaled == ReplicatedJob(max_concurrent=3, total_completions=3, schedule=schedule)
    assert updated(spec, "--schedule", "").mode == ReplicatedJob()


def test_a_schedule_is_for_jobs_and_must_be_one() -> None:
    with pytest.raises(InvalidArgument, match="replicated-job"):
        created("--schedule", "@hourly")
    with pytest.raises(InvalidArgument, match="five fields"):
        created("--mode", "global-job", "--schedule", "soon")


def test_back_off_survives_an_update_of_something_else() -> None:
    spec = created("--restart-backoff", "2", "--restart-delay-max", "1m", "--restart-jitter", "0.2")
    restart = updated(spec, "--restart-delay", "3s").task.restart
    assert (restart.delay_s, restart.backoff_factor, restart.delay_max_s, restart.jitter) == (3, 2, 60, 0.2)
