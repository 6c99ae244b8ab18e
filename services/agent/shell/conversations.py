"""Opens what a user asked for inside a task, and makes all of it look alike: a ``Conversation`` of the driver contract. Used by ``shell.execs``.

What a driver cannot do itself is made of what it can: files travel through ``tar`` inside the task, a task that nobody can attach to
has its output followed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import PurePosixPath

from services.agent.core.health import find_port
from services.agent.drivers.api import (
    Command,
    Controller,
    Conversation,
    Failed,
    SupportsAttach,
    SupportsExec,
    SupportsLogs,
)
from services.kit.messages import exec as messages
from services.kit.messages.logs import LogOptions
from services.kit.model.states import LogStream

CONNECT_TIMEOUT_S = 10.0


async def open_conversation(controller: Controller, act: messages.Act, node_addr: str) -> Conversation:
    """Open it; raises Failed with the reason, and what drivers raise."""
    match act:
        case messages.RunCommand():
            return await _run(controller, _command_of(act))
        case messages.Attach():
            if isinstance(controller, SupportsAttach):
                return await controller.attach()
            if isinstance(controller, SupportsLogs) and not act.input:
                return Following(controller)
            raise Failed("the driver of this task keeps its input closed")
        case messages.ReadFiles(path=path):
            place = PurePosixPath(path)
            argv = ("tar", "-C", str(place.parent), "-cf", "-", "--", place.name or ".")
            return await _run(controller, Command(argv=argv))
        case messages.WriteFiles(path=path):
            return await _run(controller, Command(argv=("tar", "-C", path, "-xf", "-"), input=True))
        case messages.ForwardPort(port=port):
            return await Tunnel.open(*find_port(port, await controller.inspect(), node_addr))
        case messages.Measure():
            raise AssertionError("a measurement is no conversation")


def _command_of(act: messages.RunCommand) -> Command:
    return Command(argv=act.argv, env=act.env, dir=act.dir, user=act.user, terminal=act.terminal, input=act.input)


async def _run(controller: Controller, command: Command) -> Conversation:
    if not isinstance(controller, SupportsExec):
        raise Failed("the driver of this task runs no commands inside it")
    if not command.argv:
        raise Failed("there is no command")
    return await controller.open_exec(command)


class Following:
    """A task's output from now on, and nothing else."""

    def __init__(self, controller: SupportsLogs) -> None:
        self._controller = controller

    async def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield its lines."""
        async with aclosing(self._controller.logs(LogOptions(follow=True, tail=0))) as batches:
            async for batch in batches:
                for line in batch:
                    yield line.stream, line.data + b"\n"

    async def write(self, data: bytes) -> None:
        """Drop it: nobody listens."""

    async def close_input(self) -> None:
        """There is none."""

    async def resize(self, rows: int, columns: int) -> None:
        """There is no terminal."""

    async def wait(self) -> int | None:
        """Nobody knows."""
        return None

    async def close(self) -> None:
        """Nothing is held."""


class Tunnel:
    """A TCP connection to a port of a task."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Tunnel:
        """Connect; raises Failed."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return cls(*await asyncio.open_connection(host, port))
        except TimeoutError:
            raise Failed(f"port {port} of the task does not answer") from None
        except OSError as error:
            raise Failed(f"port {port} of the task refuses: {error.strerror or error}") from error

    async def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield what the task sends."""
        with contextlib.suppress(OSError):
            while data := await self._reader.read(messages.PIECE_BYTES_MAX):
                yield LogStream.STDOUT, data

    async def write(self, data: bytes) -> None:
        """Send to the task."""
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def close_input(self) -> None:
        """Half-close."""
        if not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    async def resize(self, rows: int, columns: int) -> None:
        """There is no terminal."""

    async def wait(self) -> int | None:
        """A connection has no exit code."""
        return None

    async def close(self) -> None:
        """Hang up."""
        self._writer.transport.abort()
