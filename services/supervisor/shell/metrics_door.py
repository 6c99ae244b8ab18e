"""Where Prometheus reads what every process of the node measures: ``--listen-metrics``, path ``/metrics``, plain HTTP.

Owned by the node. Children tell what they measure every few seconds. What must stay true: nothing can be changed here, what a process that
is gone said last is shown no longer than a few reports, and a reader that is slow, wrong or greedy costs a bounded amount.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.kit.bus.ports import parse_address
from services.kit.errors import FailedPrecondition
from services.kit.messages.supervise import MetricFamily, MetricsReport, StatusReply
from services.kit.model.states import Role
from services.kit.runtime import metrics
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log
from services.supervisor.core.exposition import CONTENT_TYPE, exposition

METRICS_INTERVAL_S = 5.0
KEPT_S = 4 * METRICS_INTERVAL_S
REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_S = 5.0
READERS_MAX = 32


class MetricsDoor:
    """See the module."""

    def __init__(self, status: Callable[[], StatusReply], clock: Clock) -> None:
        self._status = status
        self._clock = clock
        self._log = Log("metrics")
        self._reports: dict[str, tuple[float, tuple[MetricFamily, ...]]] = {}
        self._server: asyncio.Server | None = None
        self._readers: set[asyncio.StreamWriter] = set()

    async def open(self, address: str) -> None:
        """Listen, if there is an address; raises FailedPrecondition when that cannot be."""
        if not address:
            return
        place = parse_address(address, path="listen_metrics")
        try:
            self._server = await asyncio.start_server(self._serve, place.host, place.port, limit=REQUEST_BYTES_MAX)
        except OSError as error:
            raise FailedPrecondition(f"cannot listen on {place} for metrics: {error.strerror}") from None
        self._log.info("metrics served", addr=str(place))

    def take(self, report: MetricsReport) -> None:
        """Keep what a child says, in place of what it said before."""
        self._reports[report.process] = (self._clock.monotonic(), report.families)

    def text(self) -> str:
        """Return everything as it is now."""
        status = self._status()
        metrics.NODE_INFO.replace({(status.cluster_id, status.node_id): 1.0})
        metrics.NODE_MANAGER.set(float(status.role is Role.MANAGER))
        metrics.CERTIFICATE_END.set(status.certificate_not_after)
        metrics.CHILD_RESTARTS.replace({(each.process,): float(each.restarts) for each in status.processes})
        since = self._clock.monotonic() - KEPT_S
        self._reports = {name: each for name, each in self._reports.items() if each[0] >= since}
        told = {name: families for name, (_, families) in self._reports.items()}
        return exposition({**told, "supervisor": metrics.families()})

    async def close(self) -> None:
        """Listen no more and hang up; idempotent."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._readers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._readers) >= READERS_MAX:
            writer.transport.abort()
            return
        self._readers.add(writer)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b"\r\n", 1)[0]))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self._log.debug("reader let go", reason=str(error) or type(error).__name__)
        finally:
            self._readers.discard(writer)
            writer.close()

    def _answer(self, line: bytes) -> bytes:
        method, _, rest = line.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        status, kind, body = b"200 OK", CONTENT_TYPE.encode(), b""
        if method not in {b"GET", b"HEAD"}:
            status = b"405 Method Not Allowed"
        elif path != b"/metrics":
            status, kind, body = b"404 Not Found", b"text/plain; charset=utf-8", b"metrics are at /metrics\n"
        else:
            body = self.text().encode()
        head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        return head % (status, kind, len(body)) + (b"" if method == b"HEAD" else body)
