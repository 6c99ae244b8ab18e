"""``swarmctl stack``: services from a Compose file, deployed and removed together."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from msgspec.structs import replace

from services.cli import waiting
from services.cli.commands import Command
from services.cli.context import Context, report
from services.cli.outcomes import Outcome, outcome_of
from services.cli.parser import Parser, add_flag, add_listing
from services.cli.stack_file import STACK_LABEL, read_stack
from services.cli.verbs.service import print_services
from services.cli.waiting import Patience
from services.kit.errors import InvalidArgument, NotFound, Problem, SwarmError
from services.kit.messages.control import Filters
from services.kit.model.objects import Service
from services.kit.model.specs import ServiceSpec

FILE_BYTES_MAX = 4 << 20


def _name(parser: Parser) -> None:
    parser.add_argument("stack", metavar="STACK", help="name of the stack")


def _deploy_arguments(parser: Parser) -> None:
    parser.add_argument("-c", "--compose-file", required=True, metavar="FILE", help="stack file, - for standard input")
    add_flag(parser, "--prune", help="remove services of the stack that the file no longer has")
    add_flag(parser, "-d", "--detach", help="do not wait until it has converged")
    add_flag(parser, "-q", "--quiet", help="wait without showing progress")
    parser.add_argument("--timeout", metavar="DURATION", help="give up waiting for each service after this time")
    parser.add_argument(
        "--stable", metavar="DURATION", default="1s", help="how long tasks must stay up to count (default 1s)"
    )
    _name(parser)


async def _deploy(context: Context, flags: argparse.Namespace) -> Outcome:
    flags.json = False
    patience = Patience(flags)
    specs = read_stack(_content(flags.compose_file), _shown(flags.compose_file), flags.stack, os.environ)
    there = {service.spec.annotations.name: service for service in await _services(context, flags.stack)}
    changed: list[Service] = []
    for spec in specs:
        old = there.pop(spec.annotations.name, None)
        service = await _put(context, spec, old)
        verb = "creating" if old is None else "leaving" if service.spec == old.spec else "updating"
        context.output.note(f"{verb} service {spec.annotations.name}")
        context.output.line(service.id)
        changed.append(service)
    if flags.prune:
        for name, service in sorted(there.items()):
            context.output.note(f"removing service {name}")
            await context.client.services.remove(service.id)
    outcome = Outcome.OK
    if not patience.detach:
        for service in changed:
            ended = await waiting.wait(context, service, patience)
            outcome = outcome or ended
    return outcome


async def _put(context: Context, spec: ServiceSpec, old: Service | None) -> Service:
    """Create a service, or make one that is there as the file has it; one that is so already is left alone."""
    if old is None:
        return await context.client.services.create(spec)

    def as_in_the_file(now: ServiceSpec) -> ServiceSpec:
        return replace(spec, task=replace(spec.task, force_update=now.task.force_update))

    if old.spec == as_in_the_file(old.spec):
        return old
    return await context.client.services.update(old.id, as_in_the_file)


def _content(name: str) -> str:
    if name == "-":
        return sys.stdin.read(FILE_BYTES_MAX)
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise InvalidArgument.of((Problem(path=name, reason=f"cannot be read: {error.strerror}"),)) from None
    if len(content) > FILE_BYTES_MAX:
        raise InvalidArgument.of((Problem(path=name, reason=f"is larger than {FILE_BYTES_MAX} bytes"),))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument.of((Problem(path=name, reason=f"is not UTF-8: {error.reason}"),)) from None


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name


async def _services(context: Context, stack: str) -> tuple[Service, ...]:
    return await context.client.services.list(Filters(labels={STACK_LABEL: stack}))


async def _existing(context: Context, stack: str) -> tuple[Service, ...]:
    services = await _services(context, stack)
    if not services:
        raise NotFound(f"there is no stack {stack!r}")
    return services


async def _remove(context: Context, flags: argparse.Namespace) -> Outcome:
    outcome = Outcome.OK
    for service in await _existing(context, flags.stack):
        context.output.note(f"removing service {service.spec.annotations.name}")
        try:
            context.output.line((await context.client.services.remove(service.id)).id)
        except SwarmError as error:
            report(context.output, error)
            outcome = outcome or outcome_of(error)
    return outcome


def _services_arguments(parser: Parser) -> None:
    add_listing(parser)
    _name(parser)


async def _list_services(context: Context, flags: argparse.Namespace) -> Outcome:
    await print_services(context, await _existing(context, flags.stack), flags)
    return Outcome.OK


COMMANDS = (
    Command(
        name="deploy",
        summary="make a stack's services what a Compose file says, and wait until they run",
        arguments=_deploy_arguments,
        run=_deploy,
    ),
    Command(name="services", summary="list a stack's services", arguments=_services_arguments, run=_list_services),
    Command(
        name="rm",
        summary="remove a stack's services, at once",
        arguments=_name,
        run=_remove,
        aliases=("remove", "down"),
    ),
)
