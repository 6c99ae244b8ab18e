"""``swarmctl service``: what runs on the swarm."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Awaitable, Iterable
from contextlib import aclosing

from services.cli import waiting
from services.cli.commands import Command, Tail
from services.cli.context import Context, report
from services.cli.listing import show_list, show_page
from services.cli.log_view import LogView
from services.cli.outcomes import Outcome, outcome_of
from services.cli.pages import service_page
from services.cli.parser import Parser, UsageError, add_flag, add_format, add_listing, add_resolve
from services.cli.service_flags import create_arguments, update_arguments, waiting_arguments
from services.cli.tables import SERVICE_HEADER, TASK_HEADER, in_order, service_rows, task_rows
from services.cli.waiting import Patience
from services.client import text
from services.kit.errors import NotFound, SwarmError
from services.kit.messages.control import Filters
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Service, Task
from services.kit.model.states import TaskState


def _service(parser: Parser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="id, name, or beginning of an id")


def _services(parser: Parser) -> None:
    parser.add_argument("services", nargs="+", metavar="SERVICE", help="id, name, or beginning of an id")


async def _create(context: Context, flags: argparse.Namespace) -> Outcome:
    from services.cli.service_spec import created_spec  # noqa: PLC0415 (the rules of specs are loaded only where one is made)
    from services.cli.service_swarm import known_payloads  # noqa: PLC0415

    patience = Patience(flags)
    known = await known_payloads(context.client, flags)
    service = await context.client.services.create(created_spec(flags, known))
    return await waiting.changed(context, service, patience)


def _update_arguments(parser: Parser) -> None:
    _service(parser)
    update_arguments(parser)


async def _update(context: Context, flags: argparse.Namespace) -> Outcome:
    from services.cli.service_spec import updated_spec  # noqa: PLC0415 (as above)
    from services.cli.service_swarm import known_payloads  # noqa: PLC0415

    patience = Patience(flags)
    known = await known_payloads(context.client, flags)
    services = context.client.services
    async with context.suggesting_services(flags.service):
        if flags.rollback:
            before = await services.get(flags.service)
            if updated_spec(before.spec, flags, known) != before.spec:
                raise UsageError("--rollback goes back to the previous spec and takes no other change")
            service = await services.rollback(before.id)
        else:
            service = await services.update(flags.service, lambda spec: updated_spec(spec, flags, known))
    return await waiting.changed(context, service, patience, rollback=flags.rollback)


async def _list(context: Context, flags: argparse.Namespace) -> Outcome:
    await print_services(context, await context.client.services.list(), flags)
    return Outcome.OK


async def print_services(context: Context, services: tuple[Service, ...], flags: argparse.Namespace) -> None:
    """Print a list of services as the flags of a list ask for."""
    ids = tuple(service.id for service in services)
    needed = ids and not (flags.json or flags.quiet)
    statuses = await context.client.services.statuses(ids) if needed else ()
    show_list(context, flags, services, SERVICE_HEADER, service_rows(services, statuses, whole=flags.no_trunc))


def _ps_arguments(parser: Parser) -> None:
    _services(parser)
    add_listing(parser)
    add_resolve(parser)


async def _ps(context: Context, flags: argparse.Namespace) -> Outcome:
    services: list[Service] = []
    outcome = Outcome.OK
    for ref in flags.services:
        try:
            async with context.suggesting_services(ref):
                services.append(await context.client.services.get(ref))
        except NotFound as error:
            report(context.output, error)
            outcome = outcome or outcome_of(error)
    if services:
        tasks = await context.client.tasks.list(Filters(service_ids=tuple(service.id for service in services)))
        await print_tasks(context, services, tasks, flags)
    return outcome


async def print_tasks(
    context: Context, services: Iterable[Service], tasks: tuple[Task, ...], flags: argparse.Namespace
) -> None:
    """Print a list of tasks as the flags of a list ask for."""
    names: dict[ServiceId, str] = {}
    if not flags.no_resolve:
        names = {service.id: service.spec.annotations.name for service in services}
    nodes = await context.node_names(resolve=not (flags.no_resolve or flags.json or flags.quiet))
    ordered = in_order(tasks, names)
    rows = task_rows(ordered, names=names, nodes=nodes, now=context.clock.wall(), whole=flags.no_trunc)
    show_list(context, flags, ordered, TASK_HEADER, rows)


def _inspect_arguments(parser: Parser) -> None:
    _service(parser)
    add_flag(parser, "-a", "--all", help="show ended tasks as well")
    add_format(parser)
    add_resolve(parser)


async def _inspect(context: Context, flags: argparse.Namespace) -> Outcome:
    async with context.suggesting_services(flags.service):
        service = await context.client.services.get(flags.service)
    if not show_page(context, flags, service, lambda: service_page(service)):
        return Outcome.OK
    tasks = await context.client.tasks.list(Filters(service_ids=(service.id,)))
    shown = tuple(task for task in tasks if flags.all or task.status.state <= TaskState.RUNNING)
    if shown:
        context.output.line()
        flags.quiet, flags.no_trunc = False, False
        await print_tasks(context, [service], shown, flags)
    return Outcome.OK


def _scale_arguments(parser: Parser) -> None:
    parser.add_argument("scales", nargs="+", metavar="SERVICE=REPLICAS", help="service and its number of tasks")
    waiting_arguments(parser)


async def _scale(context: Context, flags: argparse.Namespace) -> Outcome:
    patience = Patience(flags)
    wanted = [_scale_of(word) for word in flags.scales]
    scaled: list[Service] = []
    outcome = Outcome.OK
    for ref, replicas in wanted:
        try:
            async with context.suggesting_services(ref):
                scaled.append(await context.client.services.scale(ref, replicas))
        except SwarmError as error:
            report(context.output, error)
            outcome = outcome or outcome_of(error)
    for service in scaled:
        ended = await waiting.changed(context, service, patience)
        outcome = outcome or ended
    return outcome


def _scale_of(word: str) -> tuple[str, int]:
    ref, equals, replicas = word.rpartition("=")
    if not equals or not ref:
        raise UsageError(f"{word!r} is not SERVICE=REPLICAS", "write it like web=6")
    return ref, text.whole(replicas, word)


def _logs_arguments(parser: Parser) -> None:
    parser.add_argument("refs", nargs="+", metavar="SERVICE|TASK", help="id, name of a service, or beginning of an id")
    add_flag(parser, "-f", "--follow", help="go on with new lines until interrupted")
    parser.add_argument("--tail", "-t", default="all", metavar="NUMBER", help="last lines of each task (default all)")
    parser.add_argument("--since", metavar="DURATION", help="only lines of the last 10m, 2h, …")
    add_flag(parser, "--timestamps", help="show when each line was written")
    add_flag(parser, "--raw", help="show lines without the task's name")
    add_resolve(parser)


async def _logs(context: Context, flags: argparse.Namespace) -> Outcome:
    tail = -1 if flags.tail == "all" else text.whole(flags.tail, "--tail")
    since = 0.0
    if flags.since is not None:
        since = context.clock.wall() - text.duration_s(flags.since, "--since")
    services: list[Service] = []
    tasks: list[str] = []
    for ref in flags.refs:
        async with context.suggesting_services(ref):
            await _named_in_logs(context, ref, services, tasks)
    view = LogView(
        context.output,
        services={} if flags.no_resolve else {service.id: service.spec.annotations.name for service in services},
        nodes=await context.node_names(resolve=not flags.no_resolve),
        timestamps=flags.timestamps,
        raw=flags.raw,
    )
    batches = context.client.log_batches(
        services=[service.id for service in services], tasks=tasks, follow=flags.follow, tail=tail, since=since
    )
    context.output.on_interrupt = "no longer following"
    async with aclosing(batches):
        async for batch in batches:
            view.show(batch)
    return Outcome.FAILED if view.incomplete else Outcome.OK


async def _named_in_logs(context: Context, ref: str, services: list[Service], tasks: list[str]) -> None:
    """Put what a word names into the list it belongs to: a service, else a task."""
    try:
        services.append(await context.client.services.get(ref))
    except NotFound:
        with contextlib.suppress(NotFound):
            tasks.append((await context.client.tasks.get(ref)).task.id)
            return
        raise


async def _remove(context: Context, flags: argparse.Namespace) -> Outcome:
    async def act(ref: str) -> str:
        async with context.suggesting_services(ref):
            return (await context.client.services.remove(ref)).id

    return await context.each(flags.services, act)


async def _pause(context: Context, flags: argparse.Namespace) -> Outcome:
    return await context.each(flags.services, lambda ref: _id_of(context.client.services.pause(ref)))


async def _resume(context: Context, flags: argparse.Namespace) -> Outcome:
    return await context.each(flags.services, lambda ref: _id_of(context.client.services.resume(ref)))


async def _id_of(work: Awaitable[Service]) -> str:
    return (await work).id


COMMANDS = (
    Command(
        name="create",
        summary="create a service and wait until it runs",
        arguments=create_arguments,
        run=_create,
        tail=Tail.WORDS,
        usage="[IMAGE [COMMAND…] | -- COMMAND…]",
    ),
    Command(name="ls", summary="list services", arguments=add_listing, run=_list, aliases=("list",)),
    Command(name="ps", summary="list the tasks of services", arguments=_ps_arguments, run=_ps),
    Command(name="inspect", summary="show a service and its tasks", arguments=_inspect_arguments, run=_inspect),
    Command(
        name="update",
        summary="change a service and wait until it runs so",
        arguments=_update_arguments,
        run=_update,
        tail=Tail.DASHED,
        usage="SERVICE [-- COMMAND…]",
    ),
    Command(name="pause", summary="stop the updates of services where they are", arguments=_services, run=_pause),
    Command(name="resume", summary="let paused updates go on", arguments=_services, run=_resume),
    Command(name="scale", summary="set the number of tasks", arguments=_scale_arguments, run=_scale),
    Command(name="logs", summary="show what tasks wrote", arguments=_logs_arguments, run=_logs, aliases=("log",)),
    Command(
        name="rm",
        summary="remove services with their tasks, at once",
        arguments=_services,
        run=_remove,
        aliases=("remove",),
    ),
)
