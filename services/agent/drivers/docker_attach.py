"""Talks both ways with a process in a container: the engine turns an HTTP request into a raw connection. Used by the docker driver.

The docker package reads such an answer through a buffer that may keep the first output to itself, and needs a thread for each; here
it is one connection to the engine's local socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Self

import msgspec

from services.agent.drivers.api import DriverError, Temporary
from services.kit.errors import AlreadyExists, NotFound
from services.kit.model.states import LogStream

HEAD_BYTES_MAX = 64 << 10
PIECE_BYTES_MAX = 64 << 10
_STREAMS = {1: LogStream.STDOUT, 2: LogStream.STDERR}
_HEADER_BYTES = 8


class EngineRefused(DriverError):
    """The engine said no; the message is its own."""


class _Problem(msgspec.Struct):
    message: str = ""


class Attached:
    """An open conversation. What it says comes from ``output``; ``write`` waits while the process does not read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, terminal: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._terminal = terminal

    @classmethod
    async def open(cls, socket: str, path: str, body: Mapping[str, object], *, terminal: bool) -> Self:
        """Ask the engine; raises NotFound, AlreadyExists (its conflict), EngineRefused and Temporary."""
        try:
            reader, writer = await asyncio.open_unix_connection(socket, limit=HEAD_BYTES_MAX)
        except OSError as error:
            raise Temporary(f"the Docker engine at {socket} does not answer: {error.strerror or error}") from error
        try:
            await _request(reader, writer, path, msgspec.json.encode(body))
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
            writer.transport.abort()
            raise Temporary(f"the Docker engine at {socket} broke off: {error}") from error
        except BaseException:
            writer.transport.abort()
            raise
        return cls(reader, writer, terminal=terminal)

    async def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield what the process writes until it ends or the engine goes."""
        try:
            if self._terminal:
                while data := await self._reader.read(PIECE_BYTES_MAX):
                    yield LogStream.STDOUT, data
                return
            while True:
                header = await self._reader.readexactly(_HEADER_BYTES)
                left = int.from_bytes(header[4:], "big")
                while left:
                    data = await self._reader.read(min(left, PIECE_BYTES_MAX))
                    if not data:
                        return
                    left -= len(data)
                    yield _STREAMS.get(header[0], LogStream.STDOUT), data
        except (OSError, EOFError):
            return

    async def write(self, data: bytes) -> None:
        """Give the process input; what it can no longer read is dropped."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            return

    def close_input(self) -> None:
        """Let the process see the end of its input."""
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()

    def close(self) -> None:
        """Hang up."""
        self._writer.transport.abort()


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes) -> None:
    head = (
        f"POST {path} HTTP/1.1",
        "Host: docker",
        "Connection: Upgrade",
        "Upgrade: tcp",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    writer.write("\r\n".join((*head, "", "")).encode() + body)
    await writer.drain()
    answer = await reader.readuntil(b"\r\n\r\n")
    status, *lines = answer.decode("latin-1").split("\r\n")
    code = int(status.split(" ")[1])
    if code in {101, 200}:
        return
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = min(int(headers.get("content-length", "0")), HEAD_BYTES_MAX)
    text = await reader.readexactly(size)
    try:
        message = msgspec.json.decode(text, type=_Problem).message
    except msgspec.DecodeError:
        message = text.decode(errors="replace").strip()
    error = {404: NotFound, 409: AlreadyExists}.get(code, EngineRefused)
    raise error(message or status)
