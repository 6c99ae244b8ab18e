"""``swarmctl stats``: what tasks use, again and again."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing

from services.cli.ages import size
from services.cli.chosen_task import TASK_HELP, find_task, running_tasks
from services.cli.commands import Command
from services.cli.context import Context, report
from services.cli.outcomes import Outcome, outcome_of
from services.cli.output import Row
from services.cli.parser import Parser, add_flag
from services.cli.plain import plain
from services.kit.errors import FailedPrecondition, NotFound, SwarmError
from services.kit.messages.exec import Measured
from services.kit.model.ids import TaskId

INTERVAL_S = 1.0
HEADER = ("TASK", "CPU", "MEMORY", "PROCESSES")
_HOME = "\x1b[H\x1b[J"
"""Begin the screen anew."""


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "refs", nargs="+", metavar="TASK", help=f"{TASK_HELP}; a service means all of its running tasks"
    )
    add_flag(parser, "--no-stream", help="measure once")
    add_flag(parser, "--json", help="print a line of JSON for each measurement")


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    names = await _tasks(context, flags.refs)
    context.output.on_interrupt = "no longer measuring"
    outcome = Outcome.OK
    before: dict[TaskId, Measured] = {}
    async with AsyncExitStack() as stack:
        feeds = {
            task: await stack.enter_async_context(aclosing(context.client.inside.measure(task, INTERVAL_S)))
            for task in names
        }
        while feeds:
            rows: list[Row] = []
            for task, measured in zip(list(feeds), await asyncio.gather(*map(_next, feeds.values())), strict=True):
                if isinstance(measured, SwarmError):
                    report(context.output, measured)
                    outcome = outcome_of(measured)
                if not isinstance(measured, Measured):
                    del feeds[task]
                    continue
                if flags.json:
                    context.output.line(json.dumps({"task": task, "name": names[task], **plain(measured)}))
                elif task in before:
                    rows.append(_row(names[task], before[task], measured))
                before[task] = measured
            if rows:
                _show(context, rows, again=not flags.no_stream)
            context.output.out.flush()
            if flags.no_stream and (rows or flags.json):
                break
    return outcome


async def _tasks(context: Context, refs: list[str]) -> Mapping[TaskId, str]:
    """Return names by task."""
    names: dict[TaskId, str] = {}
    for ref in refs:
        try:
            service = await context.client.services.get(ref)
        except (NotFound, FailedPrecondition):
            reply = await find_task(context, ref)
            name = reply.task.service_id if reply.spec is None else reply.spec.annotations.name
            names[reply.task.id] = f"{name}.{reply.task.slot or reply.task.node_id}"
            continue
        running = await running_tasks(context.client, service)
        if not running:
            raise FailedPrecondition(f"service {ref!r} has no running task")
        name = service.spec.annotations.name
        names |= {task.id: f"{name}.{task.slot or task.node_id}" for task in running}
    return names


async def _next(feed: AsyncGenerator[Measured, None]) -> Measured | SwarmError | None:
    """Return the next measurement, why there is none, or None when the task has ended."""
    try:
        return await anext(feed, None)
    except SwarmError as error:
        return error


def _row(name: str, before: Measured, now: Measured) -> Row:
    seconds = now.at - before.at
    share = max(0.0, now.cpu_s - before.cpu_s) / seconds if seconds > 0 else 0.0
    return name, f"{share:.1%}", size(now.memory_bytes), str(now.pids)


def _show(context: Context, rows: list[Row], *, again: bool) -> None:
    if again and context.output.out.isatty():
        context.output.out.write(_HOME)
    context.output.table(HEADER, rows)


COMMANDS = (Command(name="stats", summary="show what tasks use, as they use it", arguments=_arguments, run=_run),)
