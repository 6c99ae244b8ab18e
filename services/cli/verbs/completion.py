"""``swarmctl completion``: the scripts that let shells complete swarmctl's command line."""

from __future__ import annotations

import argparse

from services.cli.commands import Command
from services.cli.completion import SCRIPTS
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.parser import Parser


def _arguments(parser: Parser) -> None:
    parser.add_argument("shell", choices=sorted(SCRIPTS), metavar="SHELL", help="bash, zsh or fish")


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    context.output.out.write(SCRIPTS[flags.shell])
    return Outcome.OK


COMMANDS = (
    Command(
        name="completion",
        summary="print the script that completes swarmctl in bash, zsh or fish",
        arguments=_arguments,
        run=_run,
        needs_node=False,
    ),
)
