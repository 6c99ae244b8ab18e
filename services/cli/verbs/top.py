"""``swarmctl top``: nodes and their tasks, services, what waits and why, what happens, live on a terminal."""

from __future__ import annotations

import argparse
import sys
from contextlib import aclosing

from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.output import clean
from services.cli.parser import Parser, UsageError, add_flag
from services.cli.top.pictures import picture_of, pictures
from services.cli.top.scene import plain_lines
from services.cli.verbs.why import why_lines

MISSING = "swarmctl top needs the textual package"


def _arguments(parser: Parser) -> None:
    add_flag(parser, "--once", help="print the swarm as it is now and leave; needs no terminal")


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    if flags.once:
        for line in plain_lines(await picture_of(context.client), width=context.output.width):
            context.output.line(clean(line))
        return Outcome.OK
    if not sys.stdout.isatty():
        raise UsageError("swarmctl top needs a terminal", "give --once to print the swarm as it is now")
    try:
        from services.cli.top.screen import Screen  # noqa: PLC0415 (textual is loaded only where it is used, and may be missing)
    except ImportError:
        raise UsageError(MISSING, "pip install 'swarmbus[top]', or give --once") from None

    async def why(ref: str) -> str:
        return "\n".join(why_lines(await context.client.why(ref, stale=True), context.clock.wall()))

    async with aclosing(pictures(context.client, context.clock)) as seen:
        ended = await Screen(seen, why, context.clock).run_async()
    if ended:
        context.output.error(ended)
        return Outcome.UNAVAILABLE
    return Outcome.OK


COMMANDS = (Command(name="top", summary="watch the swarm on the terminal", arguments=_arguments, run=_run),)
