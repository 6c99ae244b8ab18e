"""``swarmctl port-forward``: ports of a task on this machine, whether it publishes them or not. Each connection travels through the swarm."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from contextlib import AsyncExitStack

from services.cli.chosen_task import TASK_HELP, find_task
from services.cli.commands import Command
from services.cli.context import Context, report
from services.cli.outcomes import Outcome
from services.cli.parser import Parser, UsageError
from services.client.inside import Conversation
from services.kit.errors import SwarmError
from services.kit.messages.exec import PIECE_BYTES_MAX, ForwardPort
from services.kit.model.ids import TaskId
from services.kit.runtime.tasks import TaskOwner

PORT_MAX = 65535


def _arguments(parser: Parser) -> None:
    parser.add_argument("task", metavar="TASK", help=TASK_HELP)
    parser.add_argument(
        "ports",
        nargs="+",
        metavar="[LOCAL:]PORT",
        help="the task's port by number or name; without LOCAL the same number here, or any for a name",
    )
    parser.add_argument("--address", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default 127.0.0.1)")


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    wanted = [_port(text) for text in flags.ports]
    task = (await find_task(context, flags.task)).task.id
    context.output.on_interrupt = "no longer forwarding"
    async with TaskOwner("port-forward") as owner, AsyncExitStack() as stack:
        for local, port in wanted:
            forward = _Forward(context, task, port)
            try:
                server = await asyncio.start_server(forward.serve, flags.address, local)
            except OSError as error:
                raise UsageError(f"cannot listen on {flags.address}:{local}: {error.strerror}") from error
            stack.callback(server.close)
            host, number = server.sockets[0].getsockname()[:2]
            context.output.line(f"{host}:{number} -> {flags.task} port {port}")
        context.output.out.flush()
        raise await owner.failed()


def _port(text: str) -> tuple[int, str]:
    local, colon, port = text.rpartition(":")
    if not colon:
        local = text if text.isdecimal() else "0"
    if not port or not local.isdecimal() or int(local) > PORT_MAX:
        raise UsageError(f"{text!r} is no port", "write 8080:80, 80, or the port's name")
    return int(local), port


class _Forward:
    """One port."""

    def __init__(self, context: Context, task: TaskId, port: str) -> None:
        self._context = context
        self._task = task
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        try:
            act = ForwardPort(port=self._port)
            async with self._context.client.inside.open(self._task, act) as talk, TaskOwner("connection") as owner:
                owner.spawn("input", _feed(reader, talk))
                async for piece in talk.output():
                    writer.write(piece.data)
                    await writer.drain()
        except OSError:
            return  # the one who connected has gone
        except SwarmError as error:
            report(self._context.output, error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _feed(reader: asyncio.StreamReader, talk: Conversation) -> None:
    try:
        while data := await reader.read(PIECE_BYTES_MAX):
            await talk.write(data)
        await talk.end_input()
    except (OSError, SwarmError):
        return  # one of the two ends has gone: the other way says so


COMMANDS = (
    Command(name="port-forward", summary="reach a task's ports from this machine", arguments=_arguments, run=_run),
)
