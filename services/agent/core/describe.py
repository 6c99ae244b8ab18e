"""What this node says of itself: the machine's facts, the settings and the drivers' fingerprints become one description."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.kit.errors import InvalidArgument, Problem
from services.kit.model.objects import EngineDescription, NodeDescription
from services.kit.model.specs import GenericResource, Platform, Resources
from services.kit.model.volumes import VolumeDriverNode

ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "i386": "i686"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What the kernel says."""

    hostname: str
    architecture: str
    os: str
    nano_cpus: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFacts:
    """What a healthy driver adds."""

    generic: tuple[GenericResource, ...] = ()
    unenforced: tuple[str, ...] = ()
    engine: EngineDescription | None = None


def platform_of(machine: MachineFacts) -> Platform:
    """Return the platform under SwarmKit's names: x86_64, aarch64; linux."""
    architecture = machine.architecture.lower()
    return Platform(architecture=ARCHITECTURES.get(architecture, architecture), os=machine.os.lower())


def describe_node(
    machine: MachineFacts,
    generic: tuple[GenericResource, ...],
    drivers: Mapping[str, DriverFacts],
    volume_drivers: tuple[VolumeDriverNode, ...] = (),
) -> NodeDescription:
    """Return the description; ``drivers`` are the healthy ones by name. The same facts give an equal description."""
    ordered = sorted(drivers.items())
    engines = [facts.engine for _, facts in ordered if facts.engine is not None]
    return NodeDescription(
        hostname=machine.hostname,
        platform=platform_of(machine),
        resources=Resources(
            nano_cpus=machine.nano_cpus,
            memory_bytes=machine.memory_bytes,
            generic=_joined((generic, *(facts.generic for _, facts in ordered))),
        ),
        engine=engines[0] if engines else EngineDescription(),
        drivers=tuple(name for name, _ in ordered),
        unenforced=tuple(f"{name}.{limit}" for name, facts in ordered for limit in sorted(facts.unenforced)),
        volume_drivers=volume_drivers,
    )


def parse_generic(entries: Iterable[str]) -> tuple[GenericResource, ...]:
    """Read ``KIND=AMOUNT`` and ``KIND=name``; raises InvalidArgument with every mistake."""
    counts: dict[str, int] = {}
    names: dict[str, list[str]] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        kind, _, value = (part.strip() for part in entry.partition("="))
        path = f"generic_resources.{index}"
        if not kind or not value:
            problems.append(Problem(path=path, reason="is not KIND=AMOUNT or KIND=name", value=entry))
        elif not value.isdecimal():
            names.setdefault(kind, []).append(value)
        elif kind in counts:
            problems.append(Problem(path=path, reason=f"{kind} is counted twice", value=entry))
        else:
            counts[kind] = int(value)
    problems += [
        Problem(path="generic_resources", reason=f"{kind} is both counted and named")
        for kind in sorted(counts.keys() & names.keys())
    ]
    if problems:
        raise InvalidArgument.of(tuple(problems))
    counted = [GenericResource(kind=kind, count=count) for kind, count in counts.items()]
    named = [GenericResource(kind=kind, names=tuple(dict.fromkeys(values))) for kind, values in names.items()]
    return tuple(sorted((*counted, *named), key=lambda resource: resource.kind))


def _joined(groups: Iterable[tuple[GenericResource, ...]]) -> tuple[GenericResource, ...]:
    """Return the resources of all groups; what comes later does not replace a kind that is there."""
    found: dict[str, GenericResource] = {}
    for group in groups:
        for resource in group:
            found.setdefault(resource.kind, resource)
    return tuple(sorted(found.values(), key=lambda resource: resource.kind))
