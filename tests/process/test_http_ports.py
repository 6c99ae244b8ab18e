"""HTTP ports: requests, bodies and switches of protocol through a real data plane, and clients who mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import pytest

from services.kit.model.specs import HttpConfig, IngressConfig
from tests.support.plane_home import HOST, Plane, Server, Visitor, backend, free_port, plane, route
from tests.support.running import eventually, run_async

pytestmark = pytest.mark.process

HTTP = IngressConfig(http=HttpConfig(head_timeout_s=0.5))


class HttpTask(Server):
    """Answers with its name, the request's head and the digest of its body; echoes lines after a switch to ``echo``."""

    def __init__(self, name: str) -> None:
        super().__init__(self._serve_unless_broken)
        self.name = name
        self.requests = 0
        self.hangs_up_after: int | None = None
        """Number of requests on a connection after which the next one is not answered."""

    async def _serve_unless_broken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(h11.RemoteProtocolError):
            await self._serve_all(reader, writer)

    async def _serve_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        count = 0
        while True:
            request = await self._event(http, reader)
            if not isinstance(request, h11.Request):
                return
            digest = hashlib.sha256()
            while not isinstance(event := await self._event(http, reader), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    return
                digest.update(event.data)
            count += 1
            if self.hangs_up_after is not None and count > self.hangs_up_after:
                return
            self.requests += 1
            if (b"upgrade", b"echo") in list(request.headers):
                await self._echo(http, reader, writer)
                return
            head = "\n".join(f"{name.decode()}: {value.decode('latin-1')}" for name, value in request.headers)
            if request.method == b"HEAD":
                await self._answer(http, writer, b"")
                return
            body = f"{self.name}\n{request.method.decode()} {request.target.decode()}\n{digest.hexdigest()}\n{head}"
            await self._answer(http, writer, body.encode() + b"x" * _wanted(request.target))
            if http.our_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _answer(self, http: h11.Connection, writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(http.send(h11.Response(status_code=200, headers=[("x-task", self.name)])) or b"")
        if body:
            writer.write(http.send(h11.Data(data=body)) or b"")
        writer.write(http.send(h11.EndOfMessage()) or b"")
        await writer.drain()

    async def _echo(self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = [("connection", "upgrade"), ("upgrade", "echo")]
        writer.write(http.send(h11.InformationalResponse(status_code=101, headers=headers)) or b"")
        writer.write(http.trailing_data[0])
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def _event(self, http: h11.Connection, reader: asyncio.StreamReader) -> object:
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await reader.read(1 << 16))
        return event


def _wanted(target: bytes) -> int:
    """Return how many bytes more a request asks for, behind the question mark."""
    number = target.partition(b"?")[2]
    return int(number) if number.isdigit() else 0


@asynccontextmanager
async def http_tasks(*names: str) -> AsyncIterator[list[HttpTask]]:
    """Run these tasks."""
    running = [HttpTask(name) for name in names]
    for task in running:
        await task.open()
    try:
        yield running
    finally:
        for task in running:
            await task.close()


async def show(running: Plane, port: int, *tasks_: HttpTask, draining: str = "", ingress: IngressConfig = HTTP) -> None:
    backends = [backend(task.name, task.port, draining=task.name == draining) for task in tasks_]
    await running.show(route(port, *backends, ingress=ingress))


class Browser:
    """A client with one connection."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.host = "shop"
        self.http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, port: int) -> Browser:
        """Connect."""
        return cls(await Visitor.come(port))

    async def ask(
        self, target: str = "/", method: str = "GET", body: bytes = b"", *headers: tuple[str, str]
    ) -> tuple[int, list[str]]:
        """Send a request and return the status and the lines of the answer."""
        if self.http.our_state is h11.DONE:
            self.http.start_next_cycle()
        length = [("content-length", str(len(body)))] if body else []
        request = h11.Request(method=method, target=target, headers=[("host", self.host), *length, *headers])
        for part in (request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()):
            self.visitor.writer.write(self.http.send(part) or b"")
        await self.visitor.writer.drain()
        status, content = 0, b""
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            else:
                assert isinstance(event, h11.Data), f"hung up: {event!r}"
                content += bytes(event.data)
        return status, content.decode().splitlines()

    async def leave(self) -> None:
        """Hang up."""
        await self.visitor.leave()

    async def _event(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.visitor.reader.read(1 << 16))
        return event


async def say(port: int, *words: bytes) -> bytes:
    """Say this and return all that is answered until the end."""
    visitor = await Visitor.come(port)
    try:
        for word in words:
            visitor.writer.write(word)
        with contextlib.suppress(ConnectionResetError):
            return await visitor.reader.read()
        return b"reset"
    finally:
        await visitor.leave()


def test_requests_of_one_connection_go_where_there_is_room_and_say_who_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await show(running, port, task)
            browser = await Browser.open(port)
            for number in range(5):
                status, lines = await browser.ask(f"/page{number}")
                assert status == 200
                assert lines[:2] == ["a", f"GET /page{number}"]
                assert f"x-forwarded-for: {HOST}" in lines
            await browser.leave()
            assert task.requests == 5
            (counts,) = await running.keeper.counts()
            assert sum(counts.answers["a"][1:]) == 5
            assert sum(counts.connects["a"][1:]) == counts.tasks["a"]["connections"] == 1

    run_async(scenario())


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_bodies_of_any_size_go_through_both_ways(tmp_path: Path, size: int) -> None:
    body = random.Random(size).randbytes(size)

    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await show(running, port, task)
            browser = await Browser.open(port)
            for _ in range(2):
                status, lines = await browser.ask(f"/up?{size}", "POST", body)
                assert status == 200
                assert lines[2] == hashlib.sha256(body).hexdigest()
                assert len(lines[-1]) >= size
            await browser.leave()

    run_async(scenario())


def test_a_chunked_body_goes_through(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await show(running, port, task)
            answer = await say(
                port,
                b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
                b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            )
            assert hashlib.sha256(b"abcde").hexdigest().encode() in answer

    run_async(scenario())


def test_a_kept_connection_moves_on_when_its_task_drains(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("old", "new") as (old, new):
            await show(running, port, old)
            browser = await Browser.open(port)
            assert (await browser.ask())[1][0] == "old"
            await show(running, port, old, new, draining="old")
            assert (await browser.ask())[1][0] == "new"
            await eventually(lambda: not old._open)
            await browser.leave()

    run_async(scenario())


def test_a_task_that_hangs_up_between_requests_costs_no_client_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            task.hangs_up_after = 1
            await show(running, port, task)
            browser = await Browser.open(port)
            for _ in range(5):
                assert (await browser.ask())[0] == 200
            await browser.leave()

    run_async(scenario())


def test_a_dead_task_is_left_for_another_and_none_at_all_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("dead", "well") as (dead, well):
            await dead.close()
            await show(running, port, dead, well)
            for _ in range(10):
                browser = await Browser.open(port)
                assert (await browser.ask())[1][0] == "well"
                await browser.leave()
            await show(running, port, dead)
            browser = await Browser.open(port)
            assert await browser.ask() == (503, ["no task can be reached"])
            await browser.leave()
            await dead.open()

    run_async(scenario())


def test_after_a_switch_of_protocols_bytes_go_both_ways(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await show(running, port, task)
            visitor = await Visitor.come(port)
            visitor.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly")
            head = await visitor.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"upgrade: echo" in head.lower()
            assert await visitor.reader.readexactly(5) == b"early"
            for _ in range(3):
                visitor.writer.write(b"z" * 100_000)
                assert await visitor.reader.readexactly(100_000) == b"z" * 100_000
            await visitor.leave()
            await eventually(lambda: not task._open)

    run_async(scenario())


def test_a_client_that_switched_and_said_all_in_one_breath_is_heard_to_its_end(tmp_path: Path) -> None:
    words = b"z" * 100_000  # more than is read at once

    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await show(running, port, task)
            visitor = await Visitor.come(port)
            head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
            visitor.writer.write(head + words)
            visitor.writer.write_eof()
            assert (await visitor.reader.read()).endswith(b"\r\n\r\n" + words)
            await visitor.leave()
            await eventually(lambda: not task._open)

    run_async(scenario())


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"\x16\x03\x01\x02\x00garbage\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
def test_requests_that_could_be_read_in_two_ways_reach_no_task(tmp_path: Path, request_: bytes) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await show(running, port, task)
            smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
            answer = await say(port, request_ + smuggled)
            assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
            assert answer.count(b"HTTP/1.1 ") == 1
            assert task.requests == 0

    run_async(scenario())


def test_a_head_that_is_too_long_or_too_slow_is_refused_and_harms_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await show(running, port, task)
            slow = [await Visitor.come(port) for _ in range(20)]
            for visitor in slow:
                visitor.writer.write(b"GET / HTTP/1.1\r\nHost: ")
            answer = await say(port, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 431 ") or answer == b"reset"
            browser = await Browser.open(port)
            assert (await browser.ask())[0] == 200
            for visitor in slow:
                assert (await visitor.reader.read()).startswith(b"HTTP/1.1 408 ")
                await visitor.leave()
            assert (await browser.ask())[0] == 200, "a kept connection is not a slow head"
            await browser.leave()

    run_async(scenario())


def test_a_client_of_the_first_version_is_answered_until_the_end_of_the_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await show(running, port, task)
            answer = await say(port, b"GET /?5000 HTTP/1.0\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert f"host: {HOST}:{port}".encode() in answer
            assert answer.endswith(b"x" * 5000)

    run_async(scenario())


SEED = random.SystemRandom().randrange(1 << 30)
FRAGMENTS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nzz",
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nX: \xff\r\n\r\n",
    b"\x00\xff" * 40,
)


def test_no_words_of_a_client_end_a_worker(tmp_path: Path) -> None:
    rng = random.Random(SEED)

    def nonsense() -> bytes:
        words = bytearray(b"".join(rng.choice(FRAGMENTS) for _ in range(rng.randrange(1, 4))))
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(words))
            words[place : place + rng.randrange(3)] = rng.choice((b"", b"\r\n", b":", b" ", b"\0", rng.randbytes(2)))
        return bytes(words)

    async def talk(port: int, words: bytes) -> None:
        visitor = await Visitor.come(port)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(words), 50):
                visitor.writer.write(words[start : start + 50])
                await visitor.writer.drain()
            if rng.random() < 0.7:
                with contextlib.suppress(OSError):  # it may have been hung up on
                    visitor.writer.write_eof()
                async with asyncio.timeout(10.0):
                    await visitor.reader.read()
        await visitor.leave()

    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a", "b") as tasks_:
            await show(running, port, *tasks_)
            (pid,) = running.pids
            for _ in range(15):
                await asyncio.gather(*(talk(port, nonsense()) for _ in range(20)))
            assert running.pids == [pid], f"seed {SEED}"
            browser = await Browser.open(port)
            assert (await browser.ask())[0] == 200, f"seed {SEED}"
            await browser.leave()
            async with asyncio.timeout(10.0):
                while (counts := (await running.keeper.counts())[0]).worker["open"]:
                    continue
            assert all(task["open"] == 0 for task in counts.tasks.values()), f"seed {SEED}: {counts.tasks}"

    run_async(scenario())


def test_a_node_that_stops_finishes_the_answer_and_says_that_it_closes(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with http_tasks("a") as (task,):
            leaving = Plane(tmp_path)
            await leaving.keeper.start()
            await show(leaving, port, task)
            browser = await Browser.open(port)
            await browser.ask()
            draining = asyncio.ensure_future(leaving.keeper.drain(5.0))
            assert await browser.visitor.reader.read() == b"", "between two requests it is closed politely"
            await browser.leave()
            await draining

    run_async(scenario())
