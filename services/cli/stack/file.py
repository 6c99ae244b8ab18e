"""Stack files: the Compose format, read into ServiceSpecs.

Each key works or is refused with file, line and reason; keys that begin with ``x-`` are left alone, as Compose has it, but for
``x-driver``. What goes beyond Compose is the driver: ``driver: process`` (or ``x-driver: process``, which Compose itself accepts) runs a
service's ``command`` as a plain process; without it a service has an ``image`` and runs under docker.

    services:
      web:
        x-driver: process
        command: python3 -m http.server {{.Task.Port}}
        ports: ["8080:80"]
        deploy: {replicas: 3}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from services.cli.parser import did_you_mean
from services.cli.reading import Reading
from services.cli.stack.merge import Extensions, Read, merged
from services.cli.stack.mounts import read_volumes
from services.cli.stack.networks import StackNetwork, read_networks
from services.cli.stack.payloads import StackPayload, read_payloads
from services.cli.stack.places import Place, Stack, load
from services.cli.stack.refused import TOP
from services.cli.stack.service import STACK_LABEL, StackService, read_service
from services.cli.stack.shared import Shared
from services.cli.stack.words import text_of
from services.kit.errors import Problem
from services.kit.model.specs import ServiceSpec
from services.kit.model.validate import service_problems

TOP_KEYS = ("version", "name", "services", "volumes", "networks", "secrets", "configs")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFile:
    """What the files say: the services of the chosen profiles, those that others depend on first."""

    name: str
    services: tuple[ServiceSpec, ...]
    """Secrets, configs and networks have their names for ids."""
    payloads: tuple[StackPayload, ...] = ()
    networks: tuple[StackNetwork, ...] = ()


def read_stack(
    files: Iterable[tuple[str, str]],
    stack: str,
    environment: Mapping[str, str],
    *,
    profiles: Iterable[str] = (),
    read: Read = Path.read_text,
) -> StackFile:
    """Return what files (names and texts, later ones over earlier ones) say; raises InvalidArgument with every mistake.

    ``stack`` names it, else the files' own ``name``. ``read`` reads the files that services extend.
    """
    reading = Reading()
    nodes = [load(content, name) for name, content in files]
    node = nodes[0]
    for over in nodes[1:]:
        node = merged(node, over)
    top = Place(stack=Stack(reading=reading, environment=environment), node=node, path="")
    fields = top.fields(TOP_KEYS, TOP)
    name = stack or text_of(fields.get("name"))
    if not name:
        top.refuse(
            "does not say what the stack is called", hint="give a name on the command line, or name: in the file"
        )
    shared = Shared(
        volumes=read_volumes(fields.get("volumes"), name),
        secrets=read_payloads("secret", fields.get("secrets"), name, STACK_LABEL),
        configs=read_payloads("config", fields.get("configs"), name, STACK_LABEL),
        networks=read_networks(fields.get("networks"), name, STACK_LABEL),
    )
    services = _services(top, fields, name, shared, read)
    found = _broken_rules(services)
    chosen = _chosen(services, frozenset(profiles))
    reading.finish(found)
    return StackFile(
        name=name,
        services=tuple(service.spec for service in _in_order(chosen)),
        payloads=shared.payloads,
        networks=tuple(shared.networks.values()),
    )


def _services(top: Place, fields: Mapping[str, Place], stack: str, shared: Shared, read: Read) -> list[StackService]:
    if "services" not in fields:
        top.refuse("has no services", hint="add services:")
        return []
    extensions = Extensions(top, read)
    return [
        read_service(name, extensions.extended(name, service), stack, shared)
        for name, service in fields["services"].fields().items()
    ]


def _broken_rules(services: list[StackService]) -> list[Problem]:
    """Return what the model's own rules find, each with the line of its service; where the file itself is wrong they only repeat it."""
    if not services or services[0].place.stack.reading.problems:
        return []
    return [
        replace(problem, path=f"{service.place.where}: {problem.path}")
        for service in services
        for problem in service_problems(service.spec)
    ]


def _chosen(services: list[StackService], profiles: frozenset[str]) -> list[StackService]:
    """Return the services whose profiles are asked for; one that such a service depends on must be among them."""
    chosen = [
        service for service in services if not service.profiles or profiles & {*service.profiles} or "*" in profiles
    ]
    known = {service.name for service in chosen}
    for service in chosen:
        for need in service.needs:
            if need.service in known:
                continue
            others = {each.name for each in services}
            reason = "is of a profile that is not asked for" if need.service in others else "is not in the file"
            hint = did_you_mean(need.service, known)
            service.place.refuse(f"depends on {need.service!r}, which {reason}", hint=hint)
    return chosen


def _in_order(services: list[StackService]) -> list[StackService]:
    """Return services behind those that they depend on; a circle is refused."""
    by_name = {service.name: service for service in services}
    ordered: dict[str, StackService] = {}

    def visit(service: StackService, above: tuple[str, ...]) -> None:
        if service.name in above:
            circle = " → ".join((*above[above.index(service.name) :], service.name))
            service.place.refuse("depends on itself", circle)
            service.place.stack.reading.finish()
        if service.name in ordered:
            return
        for need in service.needs:
            visit(by_name[need.service], (*above, service.name))
        ordered[service.name] = service

    for service in services:
        visit(service, ())
    return list(ordered.values())
