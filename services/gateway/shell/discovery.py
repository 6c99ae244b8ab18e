"""The discovery endpoint: what stands behind the published ports, over plain HTTP, for those who only read.

Owned by the app where ``listen_discovery`` is set. Paths: ``/metrics``, ``/v1/discovery/prometheus``, ``/v1/discovery/traefik``. What must
stay true: nothing can be changed here; a reader that is slow, wrong or greedy costs a bounded amount of memory and time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import h11

from services.gateway.core import discovery
from services.kit.errors import FailedPrecondition
from services.kit.messages.routes import IngressStatus, Route
from services.kit.model.value import Value

READ_BYTES = 1 << 14
REQUEST_TIMEOUT_S = 10.0
READERS_MAX = 64


class Page(Value, frozen=True, kw_only=True):
    """An answer."""

    status: int = 200
    kind: str = "application/json"
    body: bytes = b""


class DiscoveryServer:
    """See the module."""

    def __init__(self, routes: Callable[[], Iterable[Route]], status: Callable[[], Awaitable[IngressStatus]]) -> None:
        self._routes = routes
        self._status = status
        self._server: asyncio.Server | None = None
        self._readers: set[asyncio.StreamWriter] = set()

    async def open(self, host: str, port: int) -> None:
        """Listen; raises FailedPrecondition when that cannot be."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=READ_BYTES)
        except OSError as error:
            raise FailedPrecondition(f"cannot listen on {host}:{port} for discovery: {error.strerror}") from None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None, "it is open"
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more and hang up; idempotent."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._readers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def page(self, method: bytes, target: bytes) -> Page:
        """Return the answer to a request."""
        if method not in {b"GET", b"HEAD"}:
            return Page(status=405)
        match target.partition(b"?")[0]:
            case b"/metrics":
                body = discovery.metrics(await self._status(), list(self._routes()))
                return Page(kind="text/plain; version=0.0.4", body=body)
            case b"/v1/discovery/prometheus":
                return Page(body=discovery.prometheus_targets(self._routes()))
            case b"/v1/discovery/traefik":
                return Page(body=discovery.traefik_config(self._routes()))
            case _:
                return Page(status=404)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._readers) >= READERS_MAX:
            writer.transport.abort()
            return
        self._readers.add(writer)
        try:
            await self._answer_all(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError):
            writer.transport.abort()
        finally:
            self._readers.discard(writer)
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=READ_BYTES)
        while True:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = await self._event(http, reader)
                if not isinstance(request, h11.Request):
                    return
                while not isinstance(event := await self._event(http, reader), h11.EndOfMessage):
                    if not isinstance(event, h11.Data):
                        return
                page = await self.page(request.method, request.target)
                headers = [("content-type", page.kind), ("content-length", str(len(page.body)))]
                writer.write(http.send(h11.Response(status_code=page.status, headers=headers)) or b"")
                if request.method != b"HEAD":
                    writer.write(http.send(h11.Data(data=page.body)) or b"")
                writer.write(http.send(h11.EndOfMessage()) or b"")
                await writer.drain()
            if http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                return
            http.start_next_cycle()

    async def _event(self, http: h11.Connection, reader: asyncio.StreamReader) -> object:
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await reader.read(READ_BYTES))
        return event
