"""``swarmctl task``: single units of work."""

from __future__ import annotations

import argparse

from services.cli.commands import Command
from services.cli.context import Context
from services.cli.listing import show_page
from services.cli.outcomes import Outcome
from services.cli.pages import task_page
from services.cli.parser import Parser, add_flag, add_format, add_listing, add_resolve
from services.cli.verbs.service import print_tasks
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
    services = () if flags.no_resolve else await context.client.services.list(stale=True)
    await print_tasks(context, services, tuple(tasks), flags)
    return Outcome.OK


def _inspect_arguments(parser: Parser) -> None:
    parser.add_argument("task", metavar="TASK", help="id or beginning of an id")
    add_format(parser)
    add_resolve(parser)


async def _inspect(context: Context, flags: argparse.Namespace) -> Outcome:
    reply = await context.client.tasks.get(flags.task)
    name: str = reply.task.service_id
    if reply.spec is not None and not flags.no_resolve:
        name = reply.spec.annotations.name
    nodes = await context.node_names(resolve=not flags.no_resolve)
    show_page(context, flags, reply, lambda: task_page(reply, service_name=name, nodes=nodes))
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
