"""Several services on one port, told apart by name and path; TLS that ends at the gateway, or goes through by its name."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import random
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.core.proxy_header import Address, encode
from services.kit.messages.routes import Backend, Route
from services.kit.model.ids import ServiceId
from services.kit.model.specs import HttpConfig, IngressConfig
from services.kit.model.states import ProxyVersion
from tests.process.test_http_ports import Browser, HttpTask, http_tasks, say
from tests.support.pki import web_certificate
from tests.support.plane_home import HOST, Visitor, backend, descriptors, free_port, plane, serving, tasks
from tests.support.running import eventually, run_async

pytestmark = pytest.mark.process


@dataclass(frozen=True)
class Part:
    """A service's part of a port."""

    service: str
    backend: Backend
    ingress: IngressConfig
    certificate: bytes = b""

    def on(self, port: int) -> Route:
        """Return the route."""
        return Route(
            service_id=ServiceId(self.service),
            service_name=self.service,
            published_port=port,
            ingress=self.ingress,
            backends=(self.backend,),
            certificate=self.certificate,
        )


def http_part(task: HttpTask, *hosts: str, paths: tuple[str, ...] = ()) -> Part:
    http = HttpConfig(hosts=hosts, paths=paths, head_timeout_s=2.0)
    return Part(task.name, backend(task.name, task.port), IngressConfig(http=http))


def https_part(task: HttpTask, *hosts: str, head_timeout_s: float = 10.0) -> Part:
    http = HttpConfig(hosts=hosts, head_timeout_s=head_timeout_s)
    ingress = IngressConfig(http=http, tls_secret="site")
    return Part(task.name, backend(task.name, task.port), ingress, web_certificate(*hosts))


@asynccontextmanager
async def tls_echo(name: str) -> AsyncIterator[int]:
    """Run a task that speaks TLS itself, and answers lines with its name."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(name.encode() + b":" + line)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0, ssl=server_context(name))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def server_context(name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    memory = os.memfd_create("certificate")
    os.write(memory, web_certificate(name))
    context.load_cert_chain(f"/proc/self/fd/{memory}")
    os.close(memory)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def tls_visitor(port: int, name: str | None) -> Visitor:
    return Visitor(*await asyncio.open_connection(HOST, port, ssl=client_context(), server_hostname=name or ""))


def shown_names(visitor: Visitor) -> str:
    """Return the names in the certificate that was shown."""
    from cryptography import x509

    data = visitor.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    names = x509.load_der_x509_certificate(data).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return ",".join(names.get_values_for_type(x509.DNSName))


async def ask(browser: Browser, host: str, target: str = "/") -> tuple[int, str]:
    """Return the status and the name of the task that answered."""
    browser.host = host
    status, lines = await browser.ask(target)
    return status, lines[0]


def test_services_share_a_port_by_name_and_path_even_on_one_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("shop", "api", "rest") as (shop, api, rest):
            parts = (http_part(shop, "shop.example"), http_part(api, "shop.example", paths=("/api",)), http_part(rest))
            await running.show(*(part.on(port) for part in parts))
            browser = await Browser.open(port)
            assert await ask(browser, "shop.example") == (200, "shop")
            assert await ask(browser, "shop.example:80", "/api/1") == (200, "api")
            assert await ask(browser, "shop.example", "/apiary") == (200, "shop")
            assert await ask(browser, "other.example", "/api") == (200, "rest")
            await browser.leave()

    run_async(scenario())


def test_a_name_that_is_nobodys_is_told_so_and_a_service_may_come_and_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a", "b") as (a, b):
            await running.show(http_part(a, "a.example").on(port))
            browser, kept = await Browser.open(port), await Browser.open(port)
            assert await ask(kept, "a.example") == (200, "a")
            assert (await ask(browser, "b.example"))[0] == 404
            await browser.leave()
            await running.show(http_part(a, "a.example").on(port), http_part(b, "b.example").on(port))
            assert await ask(kept, "b.example") == (200, "b")
            await running.show(http_part(b, "b.example").on(port))
            assert (await ask(kept, "a.example"))[0] == 404
            await kept.leave()
            await running.show()
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port)

    run_async(scenario())


def test_a_port_may_change_from_plain_to_shared_and_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,), tasks("plain") as (plain,):
            for _ in range(2):
                await running.show(Part("plain", plain.backend(), IngressConfig()).on(port))
                visitor = await Visitor.come(port)
                assert await visitor.ask() == "plain"
                await visitor.leave()
                await running.show(http_part(task, "a.example").on(port))
                browser = await Browser.open(port)
                assert await ask(browser, "a.example") == (200, "a")
                await browser.leave()

    run_async(scenario())


def test_tls_ends_at_the_gateway_with_the_certificate_of_the_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a", "b") as (a, b):
            await running.show(https_part(a, "a.example").on(port), https_part(b, "b.example").on(port))
            for name in ("a", "b"):
                visitor = await tls_visitor(port, f"{name}.example")
                assert shown_names(visitor) == f"{name}.example"
                browser = Browser(visitor)
                browser.host = f"{name}.example"
                for _ in range(3):
                    status, lines = await browser.ask("/x", "POST", b"z" * 100_000)
                    assert (status, lines[0]) == (200, name)
                    assert "x-forwarded-proto: https" in lines
                    assert f"x-forwarded-for: {HOST}" in lines
                await browser.leave()
            with pytest.raises(OSError, match=r"."):
                await tls_visitor(port, "c.example")

    run_async(scenario())


@pytest.mark.parametrize("size", [1, 300_000, 5_000_000])
def test_what_goes_through_tls_arrives_whole(tmp_path: Path, size: int) -> None:
    body = random.Random(size).randbytes(size)

    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await running.show(https_part(task, "a.example").on(port))
            browser = Browser(await tls_visitor(port, "a.example"))
            browser.host = "a.example"
            status, lines = await browser.ask(f"/up?{size}", "POST", body)
            assert status == 200
            assert lines[2] == hashlib.sha256(body).hexdigest()
            assert len(lines[-1]) >= size
            await browser.leave()

    run_async(scenario(), timeout_s=60)


def test_tls_may_end_for_a_protocol_that_is_not_http(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("db") as (task,):
            ingress = IngressConfig(tls_secret="site")
            await running.show(Part("db", task.backend(), ingress, web_certificate("db.example")).on(port))
            (pid,) = running.pids
            before = descriptors(pid)
            for _ in range(5):
                visitor = await tls_visitor(port, None)
                assert await visitor.ask() == "db"
                await visitor.leave()
            await eventually(lambda: descriptors(pid) <= before)

    run_async(scenario())


def test_a_new_certificate_is_shown_to_newcomers_and_harms_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            part = https_part(task, "a.example")
            await running.show(part.on(port))
            old = await tls_visitor(port, "a.example")
            browser = Browser(old)
            browser.host = "a.example"
            assert (await browser.ask())[0] == 200
            await running.show(
                Part("a", part.backend, part.ingress, web_certificate("a.example", "new.example")).on(port)
            )
            new = await tls_visitor(port, "a.example")
            assert shown_names(new) == "a.example,new.example"
            assert (await browser.ask())[0] == 200
            await new.leave()
            await browser.leave()

    run_async(scenario())


@pytest.mark.parametrize("certificate", [b"", b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"])
def test_without_a_certificate_newcomers_are_refused_and_other_services_go_on(
    tmp_path: Path, certificate: bytes
) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a", "b") as (a, b):
            part = https_part(a, "a.example")
            broken = Part("a", part.backend, part.ingress, certificate)
            await running.show(broken.on(port), https_part(b, "b.example").on(port))
            with pytest.raises(OSError, match=r"."):
                await tls_visitor(port, "a.example")
            browser = Browser(await tls_visitor(port, "b.example"))
            assert await ask(browser, "b.example") == (200, "b")
            assert (await ask(browser, "a.example"))[0] == 404
            await browser.leave()

    run_async(scenario())


def test_tls_goes_through_by_its_name_beside_services_whose_tls_ends_here(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            plane(tmp_path) as running,
            tls_echo("one.example") as one,
            tls_echo("rest.example") as rest,
            http_tasks("web") as (web,),
        ):
            await running.show(
                Part("one", backend("one", one), IngressConfig(sni=("one.example",))).on(port),
                Part("rest", backend("rest", rest), IngressConfig(sni=("*",))).on(port),
                https_part(web, "web.example").on(port),
            )
            for asked, shown in (("one.example", "one.example"), ("x.example", "rest.example"), (None, "rest.example")):
                visitor = await tls_visitor(port, asked)
                assert shown_names(visitor) == shown
                assert await visitor.ask() == shown
                await visitor.leave()
            browser = Browser(await tls_visitor(port, "web.example"))
            assert await ask(browser, "web.example") == (200, "web")
            await browser.leave()

    run_async(scenario())


def test_a_passed_on_client_may_be_behind_a_balancer_and_its_task_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        client = Address("203.0.113.9", 50123)
        heard = asyncio.get_running_loop().create_future()

        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.set_result(await reader.readuntil(b"\r\n"))

        async with plane(tmp_path) as running, serving(hear) as task_port:
            ingress = IngressConfig(sni=("a.example",), proxy_from=("127.0.0.0/8",), proxy_to=ProxyVersion.V1)
            await running.show(Part("a", backend("a", task_port), ingress).on(port))
            visitor = await Visitor.come(port)
            hello = _hello("a.example")
            for piece in (encode("v1", client, Address("198.51.100.1", 443)), hello[:40], hello[40:]):
                visitor.writer.write(piece)
                await visitor.writer.drain()
            assert b" 203.0.113.9 " in await asyncio.wait_for(heard, 10.0)
            await visitor.leave()

    run_async(scenario())


def _hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


SEED = random.SystemRandom().randrange(1 << 30)


def test_no_first_words_end_a_worker_or_keep_a_connection(tmp_path: Path) -> None:
    rng = random.Random(SEED)

    def nonsense() -> bytes:
        words = bytearray(_hello("a.example"))
        for _ in range(rng.randrange(4)):
            words[rng.randrange(min(len(words), 60))] = rng.randrange(256)
        return bytes(words[: rng.randrange(len(words) + 1)]) + rng.randbytes(rng.randrange(30))

    async def talk(port: int, words: bytes) -> None:
        visitor = await Visitor.come(port)
        with contextlib.suppress(OSError):  # it may have been hung up on
            visitor.writer.write(words)
            visitor.writer.write_eof()
            async with asyncio.timeout(20.0):
                await visitor.reader.read()
        await visitor.leave()

    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await running.show(https_part(task, "a.example").on(port))
            (pid,) = running.pids
            for _ in range(10):
                await asyncio.gather(*(talk(port, nonsense()) for _ in range(20)))
            assert running.pids == [pid], f"seed {SEED}"
            browser = Browser(await tls_visitor(port, "a.example"))
            assert await ask(browser, "a.example") == (200, "a"), f"seed {SEED}"
            await browser.leave()
            async with asyncio.timeout(20.0):
                while (await running.keeper.counts())[0].worker["open"]:
                    continue

    run_async(scenario(), timeout_s=60)


def test_clients_that_say_half_a_hello_harm_nobody_and_are_hung_up_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a") as (task,):
            await running.show(https_part(task, "a.example", head_timeout_s=1.0).on(port))
            slow = [await Visitor.come(port) for _ in range(50)]
            for visitor in slow:
                visitor.writer.write(_hello("a.example")[:30])
            browser = Browser(await tls_visitor(port, "a.example"))
            assert await ask(browser, "a.example") == (200, "a")
            await browser.leave()
            async with asyncio.timeout(25.0):
                for visitor in slow:
                    with contextlib.suppress(ConnectionError):
                        assert await visitor.reader.read() == b""
                    await visitor.leave()

    run_async(scenario(), timeout_s=60)


# -- WebSocket (RFC 6455)


def _frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    length = len(payload)
    head = bytes([0x80 | opcode])
    size = bytes([0x80 | length]) if length < 126 else bytes([0x80 | 126]) + struct.pack("!H", length)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + size + mask + masked


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
    mask = await reader.readexactly(4) if second & 0x80 else b"\0\0\0\0"
    data = await reader.readexactly(length)
    return first & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


async def _web_socket_task(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n"))}
    accept = base64.b64encode(
        hashlib.sha1(headers["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    )
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    writer.write(b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while True:
        opcode, payload = await _read_frame(reader)
        if opcode == 8:
            writer.write(bytes([0x88, len(payload)]) + payload)
            return
        size = bytes([len(payload)]) if len(payload) < 126 else bytes([126]) + struct.pack("!H", len(payload))
        writer.write(bytes([0x80 | opcode]) + size + payload)


@pytest.mark.parametrize("encrypted", [False, True])
def test_web_sockets_go_through(tmp_path: Path, encrypted: bool) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, serving(_web_socket_task) as task_port:
            http = HttpConfig(hosts=("chat.example",))
            ingress = IngressConfig(http=http, tls_secret="site" if encrypted else "")
            certificate = web_certificate("chat.example") if encrypted else b""
            await running.show(Part("chat", backend("chat", task_port), ingress, certificate).on(port))
            visitor = await (tls_visitor(port, "chat.example") if encrypted else Visitor.come(port))
            key = base64.b64encode(os.urandom(16))
            visitor.writer.write(
                b"GET /room HTTP/1.1\r\nHost: chat.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
            )
            head = (await visitor.reader.readuntil(b"\r\n\r\n")).lower()
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            assert b" 101 " in head
            assert b"sec-websocket-accept: " + accept.lower() in head
            assert b"sec-websocket-protocol: chat" in head
            for size in (1, 200, 60_000):
                words = random.Random(size).randbytes(size)
                visitor.writer.write(_frame(2, words, b"mask"))
                assert await _read_frame(visitor.reader) == (2, words)
            visitor.writer.write(_frame(8, struct.pack("!H", 1000), b"mask"))
            assert await _read_frame(visitor.reader) == (8, struct.pack("!H", 1000))
            assert await visitor.reader.read() == b""
            await visitor.leave()

    run_async(scenario())


def test_a_request_that_names_another_host_in_its_target_goes_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, http_tasks("a", "b") as (a, b):
            await running.show(http_part(a, "a.example").on(port), http_part(b, "b.example").on(port))
            answer = await say(port, b"GET http://b.example/x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            assert b"x-task: b" in answer.lower()

    run_async(scenario())
