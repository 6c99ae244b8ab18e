"""``swarmctl task``: single units of work."""

from __future__ import annotations

import argparse

from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.pages import task_page
from services.cli.parser import Parser, add_flag, add_json, add_listing, add_resolve
from services.cli.plain import to_json
from services.cli.tables import TASK_HEADER, task_rows
from services.kit.model.ids import ServiceId
from services.kit.model.states import TaskState


def _list_arguments(parser: Parser) -> None:
    add_flag(parser, "-a", "--all", help="show ended tasks as well")
    add_listing(parser)
    add_resolve(parser)


async def _list(context: Context, flags: argparse.Namespace) -> Outcome:
    tasks = [
        task
        for task in await context.client.tasks.list()
        if flags.all or (task.status.state <= TaskState.RUNNING and task.desired_state <= TaskState.RUNNING)
    ]
    if flags.json:
        context.output.line(to_json(tasks))
    elif flags.quiet:
        for task in tasks:
            context.output.line(task.id)
    else:
        names: dict[ServiceId, str] = {}
        if not flags.no_resolve:
            services = await context.client.services.list(stale=True)
            names = {service.id: service.spec.annotations.name for service in services}
        nodes = await context.node_names(resolve=not flags.no_resolve)
        rows = task_rows(tasks, names=names, nodes=nodes, now=context.clock.wall(), whole=flags.no_trunc)
        context.output.table(TASK_HEADER, rows)
    return Outcome.OK


def _inspect_arguments(parser: Parser) -> None:
    parser.add_argument("task", metavar="TASK", help="id or beginning of an id")
    add_json(parser)
    add_resolve(parser)


async def _inspect(context: Context, flags: argparse.Namespace) -> Outcome:
    reply = await context.client.tasks.get(flags.task)
    if flags.json:
        context.output.line(to_json(reply))
        return Outcome.OK
    name: str = reply.task.service_id
    if reply.spec is not None and not flags.no_resolve:
        name = reply.spec.annotations.name
    nodes = await context.node_names(resolve=not flags.no_resolve)
    for line in task_page(reply, service_name=name, nodes=nodes):
        context.output.line(line)
    return Outcome.OK


def _remove_arguments(parser: Parser) -> None:
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="id or beginning of an id")


async def _remove(context: Context, flags: argparse.Namespace) -> Outcome:
    async def act(ref: str) -> str:
        return (await context.client.tasks.remove(ref)).id

    return await context.each(flags.tasks, act)


COMMANDS = (
    Command(name="ls", summary="list tasks", arguments=_list_arguments, run=_list, aliases=("list",)),
    Command(name="inspect", summary="show a task", arguments=_inspect_arguments, run=_inspect),
    Command(
        name="rm",
        summary="delete tasks from the store, at once; their services start others",
        arguments=_remove_arguments,
        run=_remove,
        aliases=("remove",),
    ),
)
