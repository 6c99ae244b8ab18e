"""``swarmctl exec``: run a command inside a task, with the user's own terminal if wanted."""

from __future__ import annotations

import argparse
import os

from services.cli.chosen_task import TASK_HELP, find_task
from services.cli.commands import Command, Tail
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.parser import Parser, UsageError, add_flag
from services.cli.reading import Reading
from services.cli.standard import talk
from services.client import text
from services.kit.messages.exec import RunCommand


def _arguments(parser: Parser) -> None:
    add_flag(parser, "-i", "--interactive", help="give it our standard input")
    add_flag(parser, "-t", "--tty", help="give it a terminal")
    add_flag(parser, "-it", "-ti", dest="both", help="both")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable of its environment"
    )
    parser.add_argument("-w", "--workdir", default="", metavar="DIR", help="start it there, not where the task did")
    parser.add_argument("-u", "--user", default="", metavar="USER", help="as this user, not the task's")


async def _run(context: Context, flags: argparse.Namespace) -> int:
    argv = _command(flags.words, flags.dashed)
    if not argv:
        raise UsageError("a task and a command are needed", f"write `swarmctl exec TASK COMMAND`; TASK: {TASK_HELP}")
    reading = Reading()
    env = tuple(f"{name}={value}" for name, value in reading.all(text.pair, flags.env, "--env"))
    reading.finish()
    terminal, with_input = flags.tty or flags.both, flags.interactive or flags.both
    if terminal and not any(entry.startswith("TERM=") for entry in env):
        env = (f"TERM={os.environ.get('TERM', 'xterm')}", *env)
    task = (await find_task(context, flags.words[0])).task
    act = RunCommand(argv=argv, env=env, dir=flags.workdir, user=flags.user, terminal=terminal, input=with_input)
    async with context.client.inside.open(task.id, act) as conversation:
        await talk(conversation, with_input=with_input, terminal=terminal)
        if conversation.exit_code is None:
            context.output.error("how the command ended is not known")
            return Outcome.FAILED
        return conversation.exit_code


def _command(words: list[str], dashed: list[str] | None) -> tuple[str, ...]:
    """Return the command; a ``--`` right behind the task is ours, a later one is the command's own."""
    command = words[1:]
    if dashed is not None:
        command = [*command, "--", *dashed] if command else dashed
    return tuple(command) if words else ()


COMMANDS = (
    Command(
        name="exec",
        summary="run a command inside a task; ends with the command's exit code",
        arguments=_arguments,
        run=_run,
        tail=Tail.WORDS,
        usage="TASK COMMAND [ARGUMENT…]",
    ),
)
