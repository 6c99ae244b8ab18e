"""What the flags for secrets, configs, networks, dependencies, schedules and back-off do to a spec. Used by service_spec.py.

Secrets, configs and networks are named by their users and referred to by id; ``known_payloads`` asks the swarm for the ids before a spec is made.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from services.cli.reading import Reading
from services.cli.service_networks import with_networks
from services.client import text
from services.client.client import Client
from services.kit.model.ids import ConfigId, SecretId
from services.kit.model.specs import (
    ConfigReference,
    ContainerSpec,
    CronSchedule,
    Dependency,
    FileTarget,
    GlobalJob,
    ReplicatedJob,
    SecretReference,
    ServiceMode,
    ServiceSpec,
)
from services.kit.model.states import DependencyCondition, Overlap

SCHEDULE_FLAGS = ("schedule", "schedule_time_zone", "schedule_overlap", "schedule_missed_window", "schedule_keep")


@dataclass(frozen=True)
class Known:
    """Ids of the secrets, configs and networks that flags name."""

    secrets: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)


async def known_payloads(client: Client, flags: argparse.Namespace) -> Known:
    """Return the ids of what the flags name; names that are not there are left out, and told when the spec is made."""
    secrets = await client.secrets.list() if flags.secret_add else ()
    configs = await client.configs.list() if flags.config_add else ()
    networks = await client.networks.list() if flags.network_add or flags.network_rm else ()
    return Known(
        networks={each.spec.annotations.name: each.id for each in networks},
        secrets={each.spec.annotations.name: each.id for each in secrets if each.superseded_by is None},
        configs={each.spec.annotations.name: each.id for each in configs if each.superseded_by is None},
    )


def with_swarm(reading: Reading, spec: ServiceSpec, flags: argparse.Namespace, known: Known) -> ServiceSpec:
    """Return the spec with what the flags add to it and take away from it."""
    restart = replace(
        spec.task.restart,
        backoff_factor=reading.one(
            _number, flags.restart_backoff, "--restart-backoff", spec.task.restart.backoff_factor
        ),
        delay_max_s=reading.one(
            text.duration_s, flags.restart_delay_max, "--restart-delay-max", spec.task.restart.delay_max_s
        ),
        jitter=reading.one(text.ratio, flags.restart_jitter, "--restart-jitter", spec.task.restart.jitter),
    )
    container = _with_files(reading, spec.task.container, flags, known)
    return replace(
        spec,
        task=replace(
            spec.task,
            restart=restart,
            container=container,
            networks=with_networks(reading, spec.task, flags, known.networks),
        ),
        mode=_scheduled(reading, spec.mode, flags),
        depends_on=_dependencies(reading, spec.depends_on, flags),
    )


def _dependencies(reading: Reading, old: tuple[Dependency, ...], flags: argparse.Namespace) -> tuple[Dependency, ...]:
    kept = {each.service: each for each in old if each.service not in flags.depends_on_rm}
    kept.update({each.service: each for each in reading.all(_dependency, flags.depends_on_add, "--depends-on")})
    return tuple(kept.values())


def _dependency(value: str, path: str) -> Dependency:
    service, _, condition = value.partition(":")
    if not condition:
        return Dependency(service=service)
    return Dependency(service=service, condition=text.choice(DependencyCondition, condition, path))


def _scheduled(reading: Reading, mode: ServiceMode, flags: argparse.Namespace) -> ServiceMode:
    given = [name for name in SCHEDULE_FLAGS if getattr(flags, name) is not None]
    if not given:
        return mode
    if not isinstance(mode, ReplicatedJob | GlobalJob):
        reading.refuse("--schedule", "is for services of the modes replicated-job and global-job")
        return mode
    if flags.schedule == "":
        return replace(mode, schedule=None)
    old = mode.schedule or CronSchedule(cron=flags.schedule or "")
    schedule = replace(
        old,
        cron=old.cron if flags.schedule is None else flags.schedule,
        time_zone=old.time_zone if flags.schedule_time_zone is None else flags.schedule_time_zone,
        overlap=reading.one(_overlap, flags.schedule_overlap, "--schedule-overlap", old.overlap),
        missed_window_s=reading.one(
            text.duration_s, flags.schedule_missed_window, "--schedule-missed-window", old.missed_window_s
        ),
        keep_last=reading.one(text.whole, flags.schedule_keep, "--schedule-keep", old.keep_last),
    )
    return replace(mode, schedule=schedule)


def _overlap(value: str, path: str) -> Overlap:
    return text.choice(Overlap, value, path)


def _with_files(reading: Reading, container: ContainerSpec, flags: argparse.Namespace, known: Known) -> ContainerSpec:
    secrets = {each.secret_name: each for each in container.secrets if each.secret_name not in flags.secret_rm}
    for name, target in _files(reading, flags.secret_add, "--secret"):
        found = _id_of(reading, known.secrets, name, "--secret")
        secrets[name] = SecretReference(secret_id=SecretId(found), secret_name=name, target=target)
    configs = {each.config_name: each for each in container.configs if each.config_name not in flags.config_rm}
    for name, target in _files(reading, flags.config_add, "--config"):
        found = _id_of(reading, known.configs, name, "--config")
        configs[name] = ConfigReference(config_id=ConfigId(found), config_name=name, target=target)
    return replace(container, secrets=tuple(secrets.values()), configs=tuple(configs.values()))


def _id_of(reading: Reading, ids: Mapping[str, str], name: str, path: str) -> str:
    if name not in ids:
        reading.refuse(path, f"there is no {path.removeprefix('--')} of this name", name)
    return ids.get(name, "unknown")


def _files(reading: Reading, values: Iterable[str], path: str) -> tuple[tuple[str, FileTarget], ...]:
    return reading.all(_file, values, path)


def _file(value: str, path: str) -> tuple[str, FileTarget]:
    """Read ``NAME`` or ``source=NAME,target=FILE,uid=…,gid=…,mode=0400``."""
    if "=" not in value:
        return value, FileTarget(name=value)
    fields = dict(text.pair(part, path) for part in value.split(","))
    source = fields.pop("source", fields.pop("src", ""))
    if not source:
        text.refuse(path, "names no source", value, "write it like source=NAME,target=FILE")
    plain = FileTarget(name=fields.pop("target", source))
    mode = fields.pop("mode", None)
    target = replace(
        plain,
        uid=fields.pop("uid", plain.uid),
        gid=fields.pop("gid", plain.gid),
        mode=plain.mode if mode is None else _octal(mode, path),
    )
    for unknown in fields:
        text.refuse(path, f"has no field {unknown!r}", value, "source, target, uid, gid and mode are known")
    return source, target


def _octal(value: str, path: str) -> int:
    try:
        return int(value, 8)
    except ValueError:
        text.refuse(path, "is not an octal mode", value, "write it like 0400")


def _number(value: str, path: str) -> float:
    try:
        return float(value)
    except ValueError:
        text.refuse(path, "is not a number", value)
