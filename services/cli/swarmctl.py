"""``swarmctl``: what users type. Finds the command, reads its flags, runs it over the control API, and turns the end into an exit code.

What must stay true: it starts in under 150 ms (only the used group's module is imported), a mistake gives one clear message on standard
error and a non-zero exit code, and nothing is changed by a command line that is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from services.cli.commands import GROUPS, Command, Group, Tail
from services.cli.context import Context, report
from services.cli.outcomes import MEANINGS, Outcome, outcome_of
from services.cli.output import Output
from services.cli.parser import Parser, UsageError, did_you_mean
from services.client.client import Client
from services.client.line import NobodyListens
from services.client.socket import SOCKET_VARIABLE
from services.kit.errors import SwarmError

_HELP = ("-h", "--help")
COMPLETE = "__complete"
_WITH_VALUE = ("-s", "--socket")


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the command; returns the exit code."""
    output = Output()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(_run(words, output))
    except UsageError as error:
        output.error(error.message, [error.hint] if error.hint else [])
        return int(Outcome.USAGE)
    except SystemExit as leaving:  # argparse leaves so after it has printed its help
        return int(leaving.code or 0)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the interpreter flushes it at its end)
        return int(Outcome.OK)


def _run(words: list[str], output: Output) -> int:
    if words[:1] == [COMPLETE]:
        return _complete(words[1:], output)
    leading, rest = _leading_flags(words)
    if any(word in _HELP for word in leading) or rest[:1] == ["help"]:
        output.line(_help())
        return Outcome.OK
    if "--version" in leading:
        leading.remove("--version")
        rest = ["version", *rest]
    if not rest:
        output.note(_help())
        return Outcome.USAGE
    group = _group(rest[0])
    command, rest = _command(group, rest[1:], output)
    if command is None:
        return Outcome.OK
    prog = f"swarmctl {group.name}" if command.name == group.name else f"swarmctl {group.name} {command.name}"
    return _execute(prog, command, [*leading, *rest], output)


def _complete(words: list[str], output: Output) -> Outcome:
    """Answer a shell's completion script; it wants candidates and no complaints."""
    from services.cli.completion import complete  # noqa: PLC0415 (loaded only where it is used)

    complete(words, output)
    return Outcome.OK


def _leading_flags(words: list[str]) -> tuple[list[str], list[str]]:
    """Split off the flags that stand before the noun; they are read with the command's own."""
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in _WITH_VALUE else 1
    return words[:index], words[index:]


def _group(word: str) -> Group:
    for group in GROUPS:
        if word == group.name:
            return group
    hint = did_you_mean(word, [group.name for group in GROUPS]) or "see `swarmctl --help`"
    raise UsageError(f"unknown command {word!r}", hint)


def _command(group: Group, words: list[str], output: Output) -> tuple[Command | None, list[str]]:
    """Return the verb and the words behind it; None when only help was asked for."""
    commands = group.commands()
    if len(commands) == 1 and commands[0].name == group.name:
        return commands[0], words
    if words and words[0] in _HELP:
        output.line(_group_help(group, commands))
        return None, words
    if not words:
        raise UsageError(f"what about the {group.name}?", f"verbs are {', '.join(c.name for c in commands)}")
    for command in commands:
        if words[0] in (command.name, *command.aliases):
            return command, words[1:]
    names = [name for command in commands for name in (command.name, *command.aliases)]
    hint = did_you_mean(words[0], names) or f"verbs are {', '.join(command.name for command in commands)}"
    raise UsageError(f"unknown verb {words[0]!r} of swarmctl {group.name}", hint)


def _execute(prog: str, command: Command, words: list[str], output: Output) -> int:
    usage = f"{prog} [flags] {command.usage}" if command.usage else None
    parser = Parser(prog, command.summary[:1].upper() + command.summary[1:] + ".", usage=usage)
    socket_help = f"control socket (default ${SOCKET_VARIABLE}, then the well-known one)"
    parser.add_argument("-s", "--socket", metavar="PATH", help=socket_help)
    command.arguments(parser)
    values = _read(parser, command.tail, words)
    try:
        return asyncio.run(_with_client(command, values, output))
    except NobodyListens as error:
        output.error(
            str(error),
            [
                "start a node with `supervisor up --state-dir DIR --listen-remote-api HOST:PORT`,"
                f" or name the socket of a running one with --socket or ${SOCKET_VARIABLE}"
            ],
        )
        return outcome_of(error)
    except SwarmError as error:
        report(output, error)
        return outcome_of(error)
    except KeyboardInterrupt:
        output.note(output.on_interrupt or "interrupted")
        return Outcome.INTERRUPTED


def _read(parser: Parser, tail: Tail, words: list[str]) -> argparse.Namespace:
    if tail is Tail.NONE:
        return parser.read(words)
    if tail is Tail.WORDS:
        flags, loose, dashed = parser.split(words)
    else:
        cut = words.index("--") if "--" in words else None
        flags, loose, dashed = words[:cut], [], None if cut is None else words[cut + 1 :]
    values = parser.read(flags)
    values.words, values.dashed = loose, dashed
    return values


async def _with_client(command: Command, values: argparse.Namespace, output: Output) -> int:
    if not command.needs_node:
        return await command.run(Context(client=Client(values.socket), output=output), values)
    async with Client(values.socket) as client:
        return await command.run(Context(client=client, output=output), values)


def _help() -> str:
    groups = "\n".join(f"  {group.name:<14} {group.summary}" for group in GROUPS)
    codes = "\n".join(f"  {outcome.value:>3}  {meaning}" for outcome, meaning in MEANINGS.items())
    return (
        "usage: swarmctl [-s PATH] NOUN VERB [flags] …\n\n"
        "Rule a swarm through the control socket of one of its managers.\n\n"
        f"nouns:\n{groups}\n\n"
        "`swarmctl NOUN --help` shows a noun's verbs, `swarmctl NOUN VERB --help` a verb's flags.\n"
        "Objects are named by id, by name, or by the beginning of an id that only one has.\n\n"
        f"exit codes:\n{codes}"
    )


def _group_help(group: Group, commands: tuple[Command, ...]) -> str:
    verbs = "\n".join(f"  {', '.join((c.name, *c.aliases)):<14} {c.summary}" for c in commands)
    return f"usage: swarmctl {group.name} VERB [flags] …\n\n{group.name}: {group.summary}.\n\nverbs:\n{verbs}"


if __name__ == "__main__":
    sys.exit(main())
