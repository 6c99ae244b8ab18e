"""What the flags of ``service create`` and ``service update`` do to a spec.

Making a service is changing an empty one. All mistakes are found before anything is sent: those in the flags, and those that the model's
own rules find in the spec they make.
"""

from __future__ import annotations

import argparse

from msgspec.structs import replace

from services.cli.reading import Reading
from services.cli.service_lists import with_lists
from services.cli.service_scalars import with_scalars
from services.cli.service_swarm import Known, with_swarm
from services.client import text
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    Global,
    GlobalJob,
    Replicated,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from services.kit.model.validate import service_problems

NOTHING_KNOWN = Known()
MODES = ("replicated", "global", "replicated-job", "global-job")


def created_spec(flags: argparse.Namespace, known: Known = NOTHING_KNOWN) -> ServiceSpec:
    """Return the spec that the flags of ``service create`` ask for; raises InvalidArgument with every mistake."""
    reading = Reading()
    if not flags.name:
        reading.refuse("--name", "is missing", hint="every service needs a name")
    empty = ServiceSpec(
        annotations=Annotations(name=flags.name or "unnamed"),
        mode=_mode(reading, flags),
        task=TaskSpec(driver=flags.driver or "docker"),
    )
    return _changed(reading, empty, flags, known)


def updated_spec(spec: ServiceSpec, flags: argparse.Namespace, known: Known = NOTHING_KNOWN) -> ServiceSpec:
    """Return a spec as the flags of ``service update`` change it; raises InvalidArgument with every mistake."""
    reading = Reading()
    forced = replace(spec.task, force_update=spec.task.force_update + bool(flags.force))
    return _changed(reading, replace(spec, mode=_scaled(reading, spec.mode, flags), task=forced), flags, known)


def _changed(reading: Reading, spec: ServiceSpec, flags: argparse.Namespace, known: Known) -> ServiceSpec:
    container = _with_words(reading, spec.task.container, spec.task.driver, flags)
    spec = replace(spec, task=replace(spec.task, container=container))
    spec = with_scalars(reading, with_lists(reading, spec, flags), flags)
    spec = with_swarm(reading, spec, flags, known)
    reading.finish(service_problems(spec))
    return spec


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
    if mode not in MODES:
        reading.refuse("--mode", "is not one of the possible values", mode, "use " + ", ".join(MODES))
    match mode:
        case "global":
            empty: ServiceMode = Global()
        case "replicated-job":
            empty = ReplicatedJob()
        case "global-job":
            empty = GlobalJob()
        case _:
            empty = Replicated()
    return _scaled(reading, empty, flags)


def _scaled(reading: Reading, mode: ServiceMode, flags: argparse.Namespace) -> ServiceMode:
    """Return the mode with the numbers that the flags give it."""
    if flags.max_concurrent is not None and not isinstance(mode, ReplicatedJob):
        reading.refuse("--max-concurrent", "is for services of the mode replicated-job", flags.max_concurrent)
    match mode:
        case Replicated():
            return Replicated(replicas=reading.one(text.whole, flags.replicas, "--replicas", mode.replicas))
        case ReplicatedJob():
            total = reading.one(text.whole, flags.replicas, "--replicas", mode.total_completions)
            most = mode.max_concurrent if flags.replicas is None else total
            return replace(
                mode,
                max_concurrent=reading.one(text.whole, flags.max_concurrent, "--max-concurrent", most),
                total_completions=total,
            )
        case _:
            if flags.replicas is not None:
                reading.refuse("--replicas", "a global service has no number of replicas", flags.replicas)
            return mode
