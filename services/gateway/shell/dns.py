"""The DNS responder: the zone ``swarm.`` over UDP and TCP. Owned by the app where ``listen_dns`` is set; the answers are core/dns."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Iterable

from services.gateway.core.dns import QUERY_BYTES_MAX, Zone, answer
from services.kit.errors import FailedPrecondition
from services.kit.messages.routes import Route

STREAM_TIMEOUT_S = 5.0
STREAMS_MAX = 64


class DnsServer:
    """See the module."""

    def __init__(self, routes: Callable[[], Iterable[Route]], rng: random.Random) -> None:
        self._routes = routes
        self._rng = rng
        self._zone = Zone(())
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._streams: set[asyncio.StreamWriter] = set()

    async def open(self, host: str, port: int) -> None:
        """Listen; raises FailedPrecondition when that cannot be."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await asyncio.start_server(self._serve, host, port)
            port = self._server.sockets[0].getsockname()[1]
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), (host, port))
        except OSError as error:
            await self.close()
            raise FailedPrecondition(f"cannot listen on {host}:{port} for DNS: {error.strerror}") from None
        self.refresh()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None, "it is open"
        return int(self._server.sockets[0].getsockname()[1])

    def refresh(self) -> None:
        """Take the names of the table as it is now."""
        if self._server is not None:
            self._zone = Zone(self._routes())

    def answer(self, query: bytes, *, is_stream: bool) -> bytes | None:
        """Return the answer to a query."""
        return answer(query, self._zone, self._rng.shuffle, is_stream=is_stream)

    async def close(self) -> None:
        """Listen no more and hang up; idempotent."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        if self._server is not None:
            self._server.close()
            for writer in list(self._streams):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._streams) >= STREAMS_MAX:
            writer.transport.abort()
            return
        self._streams.add(writer)
        try:
            while True:
                async with asyncio.timeout(STREAM_TIMEOUT_S):
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    reply = None
                    if size <= QUERY_BYTES_MAX:
                        reply = self.answer(await reader.readexactly(size), is_stream=True)
                    if reply is None:
                        return
                    writer.write(struct.pack("!H", len(reply)) + reply)
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._streams.discard(writer)
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.answer(data, is_stream=False)
        if reply is not None:
            self._transport.sendto(reply, addr)
