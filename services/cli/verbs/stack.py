"""``swarmctl stack``: services from a Compose file, deployed and removed together."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from services.cli import waiting
from services.cli.commands import Command
from services.cli.context import Context, report
from services.cli.listing import show_list
from services.cli.outcomes import Outcome, outcome_of
from services.cli.parser import Parser, add_flag, add_json, add_listing, add_resolve
from services.cli.plain import to_json
from services.cli.reading import Reading
from services.cli.service_lists import environment_file
from services.cli.stack.file import StackFile, read_stack
from services.cli.stack.keeping import carry_out, carry_out_network, kept, of_stack
from services.cli.stack.networks import NOUN as NETWORK
from services.cli.stack.networks import of_stack as networks_of_stack
from services.cli.stack.networks import plan_networks, with_network_ids
from services.cli.stack.payloads import PayloadStep, plan_payloads, with_ids
from services.cli.stack.plan import Plan, Step, Verb, plan_lines, plan_stack
from services.cli.stack.service import STACK_LABEL
from services.cli.verbs.service import print_services, print_tasks
from services.cli.waiting import Patience
from services.kit.errors import Conflict, InvalidArgument, NotFound, Problem, SwarmError
from services.kit.messages.control import Filters
from services.kit.model.objects import Network, Service
from services.kit.model.specs import ServiceSpec
from services.kit.model.value import Value

FILE_BYTES_MAX = 4 << 20
STANDARD_INPUT = "standard input"
STACK_HEADER = ("NAME", "SERVICES")


class Stack(Value, frozen=True, kw_only=True):
    """A stack as ``stack ls`` shows it."""

    name: str
    services: tuple[str, ...]

    @property
    def id(self) -> str:
        """A stack goes by its name."""
        return self.name


def _name(parser: Parser) -> None:
    parser.add_argument("stack", metavar="STACK", help="name of the stack")


def _file_arguments(parser: Parser) -> None:
    parser.add_argument(
        "-c",
        "--compose-file",
        action="append",
        required=True,
        metavar="FILE",
        help="stack file, - for standard input; several are merged, later ones over earlier ones",
    )
    parser.add_argument(
        "--env-file", action="append", default=[], metavar="FILE", help="file of variables for the stack file"
    )
    parser.add_argument(
        "--profile", action="append", default=[], metavar="PROFILE", help="services of this profile as well, * for all"
    )
    add_flag(parser, "--prune", help="remove services of the stack that the file no longer has")
    parser.add_argument("stack", nargs="?", default="", metavar="STACK", help="name of the stack (default: the file's)")


def _deploy_arguments(parser: Parser) -> None:
    _file_arguments(parser)
    add_flag(parser, "-d", "--detach", help="do not wait until it has converged")
    add_flag(parser, "-q", "--quiet", help="wait without showing progress")
    parser.add_argument("--timeout", metavar="DURATION", help="give up waiting for each service after this time")
    parser.add_argument(
        "--stable", metavar="DURATION", default="1s", help="how long tasks must stay up to count (default 1s)"
    )


def _plan_arguments(parser: Parser) -> None:
    _file_arguments(parser)
    add_json(parser)


async def _plan(context: Context, flags: argparse.Namespace) -> Outcome:
    plan = await _planned(context, flags)
    for line in [to_json(plan)] if flags.json else plan_lines(plan):
        context.output.line(line)
    return Outcome.OK


async def _planned(context: Context, flags: argparse.Namespace) -> Plan:
    return await _plan_of(context, _read(flags), flags)


async def _plan_of(context: Context, file: StackFile, flags: argparse.Namespace) -> Plan:
    there = await _services(context, file.name)
    payloads = await kept(context.client)
    missing = [each for each in file.payloads if each.data is None and (each.noun, each.name) not in payloads]
    if missing:
        raise NotFound(f"there is no {missing[0].noun} {missing[0].name!r}, which the stack file has as external")
    wanted = {(each.noun, each.name) for each in file.payloads}
    gone = of_stack(payloads, STACK_LABEL, file.name) - wanted if flags.prune else set()
    names = {key: each.id for key, each in payloads.items()}
    networks = await _networks(context)
    specs = tuple(with_network_ids(with_ids(spec, names), networks) for spec in file.services)
    ids = tuple(service.id for service in there)
    tasks = await context.client.tasks.list(Filters(service_ids=ids)) if ids else ()
    nodes = await context.client.nodes.list()
    plan = plan_stack(file.name, specs, there, tasks, nodes, prune=flags.prune)
    steps = plan_networks(file.networks, networks, STACK_LABEL, file.name, prune=flags.prune)
    return replace(plan, payloads=(*steps, *plan_payloads(file.payloads, payloads, gone)))


async def _networks(context: Context) -> dict[str, Network]:
    return {each.spec.annotations.name: each for each in await context.client.networks.list()}


def _read(flags: argparse.Namespace) -> StackFile:
    reading = Reading()
    environment = _environment(reading, flags.env_file)
    reading.finish()
    files = [(_shown(name), _content(name)) for name in flags.compose_file]
    profiles = [*flags.profile, *(part for part in environment.get("COMPOSE_PROFILES", "").split(",") if part)]
    return read_stack(files, flags.stack, environment, profiles=profiles)


def _environment(reading: Reading, files: list[str]) -> Mapping[str, str]:
    """Return the variables for the file: those of the shell win, as Compose has it."""
    lines = [line for name in files for line in environment_file(reading, name, "--env-file")]
    return {**dict(line.partition("=")[::2] for line in lines), **os.environ}


async def _deploy(context: Context, flags: argparse.Namespace) -> Outcome:
    flags.json = False
    patience = Patience(flags)
    file = _read(flags)
    plan = await _plan_of(context, file, flags)
    if await _keep(context, file, plan, before=True):
        plan = await _plan_of(context, file, flags)  # the same, now that what is new has an id
    changed = [service for step in plan.steps if (service := await _carry_out(context, step)) is not None]
    await _keep(context, file, plan, before=False)
    outcome = Outcome.OK
    if not patience.detach:
        for service in changed:
            ended = await waiting.wait(context, service, patience)
            outcome = outcome or ended
    return outcome


async def _keep(context: Context, file: StackFile, plan: Plan, *, before: bool) -> bool:
    """Make networks, secrets and configs before the services, remove those that go behind them; True when something was done."""
    steps = [step for step in plan.payloads if step.verb != "leave" and (step.verb != "remove") is before]
    for step in steps:
        context.output.note(f"{_DOING[step.verb]} {step.noun} {step.name}")
        if step.noun == NETWORK:
            await carry_out_network(context.client, step, file.networks)
        else:
            await carry_out(context.client, step, file.payloads)
    return bool(steps)


_DOING: dict[str, str] = {
    "rotate": "renewing",
    Verb.CREATE: "creating",
    Verb.UPDATE: "updating",
    Verb.LEAVE: "leaving",
    Verb.REMOVE: "removing",
}


async def _carry_out(context: Context, step: Step) -> Service | None:
    """Do what a step says; raises Conflict when the service is no longer what the plan was based on."""
    services = context.client.services
    context.output.note(f"{_DOING[step.verb]} service {step.name}")
    if step.spec is None:
        assert step.service_id is not None, "what goes was there"
        await services.remove(step.service_id)
        return None
    if step.service_id is None:
        service = await services.create(step.spec)
    elif step.verb is Verb.LEAVE:
        service = await services.get(step.service_id)
    else:
        service = await _update(context, step)
    context.output.line(service.id)
    return service


async def _update(context: Context, step: Step) -> Service:
    """Write the planned spec over the one the plan was made from. Its tasks' bookkeeping may have moved on, its spec may not."""
    assert step.service_id is not None, "what is updated is there"
    assert step.spec is not None, "and stays"
    wanted, based_on = step.spec, step.old

    def change(now: ServiceSpec) -> ServiceSpec:
        if now not in (based_on, wanted):
            conflict = Conflict(f"service {step.name!r} was changed by somebody else after the plan was made")
            conflict.add_note("deploy again: it makes a new plan")
            raise conflict
        return wanted

    return await context.client.services.update(step.service_id, change)


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
    return STANDARD_INPUT if name == "-" else name


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
    for noun, name in sorted(of_stack(await kept(context.client), STACK_LABEL, flags.stack)):
        context.output.note(f"removing {noun} {name}")
        await carry_out(context.client, PayloadStep(verb="remove", noun=noun, name=name), ())
    for name in networks_of_stack(await _networks(context), STACK_LABEL, flags.stack):
        context.output.note(f"removing network {name}")
        await carry_out_network(context.client, PayloadStep(verb="remove", noun=NETWORK, name=name), ())
    return outcome


def _services_arguments(parser: Parser) -> None:
    add_listing(parser)
    _name(parser)


async def _list_services(context: Context, flags: argparse.Namespace) -> Outcome:
    await print_services(context, await _existing(context, flags.stack), flags)
    return Outcome.OK


def _ls_arguments(parser: Parser) -> None:
    add_listing(parser)


async def _list(context: Context, flags: argparse.Namespace) -> Outcome:
    by_stack: dict[str, list[str]] = {}
    for service in await context.client.services.list(Filters(labels={STACK_LABEL: ""})):
        labels = service.spec.annotations.labels
        by_stack.setdefault(labels[STACK_LABEL], []).append(service.spec.annotations.name)
    stacks = [Stack(name=name, services=tuple(by_stack[name])) for name in sorted(by_stack)]
    rows = [(stack.name, str(len(stack.services))) for stack in stacks]
    show_list(context, flags, stacks, STACK_HEADER, rows)
    return Outcome.OK


def _ps_arguments(parser: Parser) -> None:
    add_listing(parser)
    add_resolve(parser)
    _name(parser)


async def _ps(context: Context, flags: argparse.Namespace) -> Outcome:
    services = await _existing(context, flags.stack)
    tasks = await context.client.tasks.list(Filters(service_ids=tuple(service.id for service in services)))
    await print_tasks(context, services, tasks, flags)
    return Outcome.OK


COMMANDS = (
    Command(
        name="deploy",
        summary="make a stack's services what a Compose file says, and wait until they run",
        arguments=_deploy_arguments,
        run=_deploy,
    ),
    Command(
        name="plan",
        summary="show what deploy would change, where tasks would go and what would be disturbed",
        arguments=_plan_arguments,
        run=_plan,
    ),
    Command(name="ls", summary="list stacks", arguments=_ls_arguments, run=_list, aliases=("list",)),
    Command(name="ps", summary="list the tasks of a stack", arguments=_ps_arguments, run=_ps),
    Command(name="services", summary="list a stack's services", arguments=_services_arguments, run=_list_services),
    Command(
        name="rm",
        summary="remove a stack's services, at once",
        arguments=_name,
        run=_remove,
        aliases=("remove", "down"),
    ),
)
