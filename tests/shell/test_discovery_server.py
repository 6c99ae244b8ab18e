"""The discovery endpoint over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.gateway.shell.discovery import READERS_MAX, DiscoveryServer
from services.kit.messages.routes import Backend, IngressStatus, Route
from services.kit.model.ids import NodeId, ServiceId, TaskId
from tests.support.running import eventually, run_async

HOST = "127.0.0.1"
ROUTE = Route(
    service_id=ServiceId("s"),
    service_name="web",
    published_port=80,
    backends=(Backend(task_id=TaskId("a"), node_id=NodeId("n"), addr="10.0.0.1", port=20_000),),
)


@asynccontextmanager
async def server() -> AsyncIterator[DiscoveryServer]:
    async def status() -> IngressStatus:
        return IngressStatus(epoch=3, workers=1)

    running = DiscoveryServer(lambda: [ROUTE], status)
    await running.open(HOST, 0)
    try:
        yield running
    finally:
        await running.close()


async def say(port: int, words: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(words)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_each_path_has_its_page_on_one_connection() -> None:
    async def scenario() -> None:
        async with server() as running:
            paths = ("/metrics", "/v1/discovery/prometheus?x=1", "/v1/discovery/traefik", "/else")
            requests = b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths[:-1])
            answer = await say(running.port, requests + b"GET /else HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.count(b"HTTP/1.1 200 ") == 3
            assert answer.count(b"HTTP/1.1 404 ") == 1
            assert b"swarmbus_ingress_epoch 3\n" in answer
            assert b'"targets":["10.0.0.1:20000"]' in answer

    run_async(scenario())


def test_nothing_can_be_changed_and_a_head_has_no_body() -> None:
    async def scenario() -> None:
        async with server() as running:
            close = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert (await say(running.port, b"POST /metrics" + close)).startswith(b"HTTP/1.1 405 ")
            head, _, body = (await say(running.port, b"HEAD /v1/discovery/prometheus" + close)).partition(b"\r\n\r\n")
            assert b"200" in head
            assert body == b""
            page = await running.page(b"GET", b"/v1/discovery/prometheus")
            assert json.loads(page.body)[0]["labels"]["__meta_swarmbus_service"] == "web"

    run_async(scenario())


def test_nonsense_and_too_many_readers_harm_nobody() -> None:
    async def scenario() -> None:
        async with server() as running:
            assert await say(running.port, b"\x00" * 100_000) == b""
            idle = [await asyncio.open_connection(HOST, running.port) for _ in range(READERS_MAX)]
            await eventually(lambda: len(running._readers) == READERS_MAX)
            assert await say(running.port, b"") == b""
            for _, writer in idle:
                writer.close()
            await eventually(lambda: not running._readers)
            words = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert b"200" in await say(running.port, words)

    run_async(scenario())
