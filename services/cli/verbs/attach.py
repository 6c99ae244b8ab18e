"""``swarmctl attach``: be where a task's own process reads and writes."""

from __future__ import annotations

import argparse

from services.cli.chosen_task import TASK_HELP, find_task
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.parser import Parser, add_flag
from services.cli.standard import talk
from services.kit.messages.exec import Attach


def _arguments(parser: Parser) -> None:
    parser.add_argument("task", metavar="TASK", help=TASK_HELP)
    add_flag(parser, "--no-stdin", help="only watch, even if the task's input is open")


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    reply = await find_task(context, flags.task)
    container = None if reply.spec is None else reply.spec.task.container
    with_input = container is not None and container.open_stdin and not flags.no_stdin
    terminal = container is not None and container.tty
    if with_input and terminal:
        context.output.note("attached; Ctrl-P Ctrl-Q leaves, and the task goes on")
    context.output.on_interrupt = "no longer attached; the task goes on"
    async with context.client.inside.open(reply.task.id, Attach(input=with_input)) as conversation:
        if not await talk(conversation, with_input=with_input, terminal=terminal, detachable=True):
            context.output.note(f"\r\n{context.output.on_interrupt}")
    return Outcome.OK


COMMANDS = (
    Command(name="attach", summary="watch a task's output as it comes, and talk to it", arguments=_arguments, run=_run),
)
