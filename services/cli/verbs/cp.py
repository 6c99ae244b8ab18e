"""``swarmctl cp``: files and directories into tasks and out of them. They travel as tar archives, packed and unpacked by ``tar`` in the task."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tarfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path, PurePosixPath

from services.cli.archives import packed, unpacking
from services.cli.chosen_task import TASK_HELP, find_task
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.parser import Parser, UsageError
from services.cli.standard import input_pieces
from services.client.inside import Conversation
from services.kit.errors import SwarmError
from services.kit.messages.exec import ReadFiles, WriteFiles
from services.kit.model.ids import TaskId
from services.kit.model.states import LogStream
from services.kit.runtime.tasks import TaskOwner

STREAM = "-"
"""A tar archive on standard input or output."""


def _arguments(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="PATH, TASK:PATH, or - for a tar archive on standard input")
    parser.add_argument("target", metavar="TARGET", help=f"PATH, TASK:PATH, or - for a tar archive; TASK: {TASK_HELP}")


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    source, target = _place(flags.source), _place(flags.target)
    if (source[0] == "") == (target[0] == ""):
        raise UsageError("one of the two is in a task, the other is not", "write TASK:PATH for the one that is")
    if source[0]:
        task = (await find_task(context, source[0])).task.id
        return await _out(context, task, source[1], flags.target)
    task = (await find_task(context, target[0])).task.id
    return await _in(context, flags.source, task, target[1])


def _place(text: str) -> tuple[str, str]:
    """Return task and path; the task is empty for a path of ours."""
    task, colon, path = text.partition(":")
    if not colon or "/" in task or task.startswith("."):
        return "", text
    if not path:
        raise UsageError(f"{text!r} names no path in the task", f"write {task}:/path")
    return task, path


async def _out(context: Context, task: TaskId, path: str, target: str) -> Outcome:
    """Copy out of a task."""
    async with context.client.inside.open(task, ReadFiles(path=path)) as talk:
        said = _Said()
        if target == STREAM:
            async for data in said.of(talk):
                await asyncio.to_thread(_write, data)
        else:
            try:
                async with unpacking(*_landing(target)) as take:
                    async for data in said.of(talk):
                        await take(data)
            except (OSError, tarfile.TarError) as error:
                if not said.errors:
                    context.output.error(f"cannot unpack: {error}")
                    return Outcome.FAILED
        return said.outcome(context, talk)


async def _in(context: Context, source: str, task: TaskId, path: str) -> Outcome:
    """Copy into a task: into a directory that is there, else under a new name."""
    into, pieces = path, input_pieces()
    if source != STREAM:
        name = _name(source)
        if not path.endswith("/") and (await context.client.inside.run(task, ("test", "-d", path)))[0] != 0:
            into, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
        pieces = packed(Path(source), name)
    async with context.client.inside.open(task, WriteFiles(path=into)) as talk, TaskOwner("cp") as owner:
        said = _Said()
        hearing = owner.spawn("hear", said.drain(talk))
        async with aclosing(pieces):
            try:
                async for data in pieces:
                    await talk.write(data)
                await talk.end_input()
            except SwarmError:
                await hearing  # it takes no more: what it said says why
        await hearing
        return said.outcome(context, talk)


def _landing(target: str) -> tuple[Path, str]:
    """Return the directory that something is unpacked in, and its name there (empty: its own)."""
    path = Path(target)
    if path.is_dir():
        return path, ""
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent}")
    return path.parent, path.name


def _name(source: str) -> str:
    """Return what something of ours is called."""
    path = Path(source).resolve()
    if not path.exists():
        raise UsageError(f"there is no {source}")
    return path.name


class _Said:
    """What ``tar`` in the task had to say."""

    def __init__(self) -> None:
        self.errors = bytearray()

    async def of(self, talk: Conversation) -> AsyncGenerator[bytes, None]:
        """Yield what it writes, and keep its complaints."""
        async for piece in talk.output():
            if piece.stream is LogStream.STDERR:
                self.errors += piece.data
            else:
                yield piece.data

    async def drain(self, talk: Conversation) -> None:
        """Keep its complaints."""
        async for _ in self.of(talk):
            continue

    def outcome(self, context: Context, talk: Conversation) -> Outcome:
        """Say how it went."""
        if talk.exit_code == 0:
            return Outcome.OK
        text = bytes(self.errors).decode(errors="replace").strip()
        context.output.error(text or f"tar in the task ended with {talk.exit_code}")
        return Outcome.FAILED


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


COMMANDS = (Command(name="cp", summary="copy files into a task or out of it", arguments=_arguments, run=_run),)
