"""The zone of service names, asked as resolvers ask."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.dns import Zone, answer
from services.gateway.shell.dns import DnsServer
from services.kit.messages.routes import Backend, Route
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.states import Protocol
from tests.support.running import run_async

HOST = "127.0.0.1"
A, SOA, AAAA, SRV = 1, 6, 28, 33
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 3, 4, 5


def backend(name: str, addr: str, *, draining: bool = False) -> Backend:
    return Backend(task_id=TaskId(name), node_id=NodeId("n"), addr=addr, port=20_001, draining=draining)


WEB = Route(
    service_id=ServiceId("s"),
    service_name="Web",
    published_port=8080,
    protocol=Protocol.TCP,
    backends=(
        backend("t1", "10.0.0.1"),
        backend("t2", "10.0.0.2"),
        backend("t3", "10.0.0.2"),
        backend("t4", "2001:db8::4"),
        backend("t5", "10.0.0.5", draining=True),
    ),
)
MANY = Route(
    service_id=ServiceId("m"),
    service_name="many",
    published_port=9090,
    backends=tuple(backend(f"t{n}", f"10.1.{n // 200}.{n % 200 + 1}") for n in range(400)),
)
ZONE = Zone([WEB, MANY])


def query(name: str, kind: int = A, *, edns: int = 0, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    extra = b"\0" + struct.pack("!HHIH", 41, edns, 0, 0) if edns else b""
    return struct.pack("!6H", 77, flags, 1, 0, 0, bool(edns)) + labels + struct.pack("!HH", kind, 1) + extra


class Reply:
    """A parsed answer; names in it are not compressed, but for the asked one."""

    def __init__(self, data: bytes) -> None:
        self.number, self.flags, _, answers, authorities, _ = struct.unpack_from("!6H", data)
        self.code = self.flags & 15
        self.is_cut = bool(self.flags & 0x0200)
        here = data.index(b"\0", 12) + 5
        self.records: list[tuple[int, int, bytes]] = []
        for _ in range(answers + authorities):
            here = here + 2 if data[here] & 0xC0 else data.index(b"\0", here) + 1
            kind, _, ttl, size = struct.unpack_from("!HHIH", data, here)
            self.records.append((kind, ttl, data[here + 10 : here + 10 + size]))
            here += 10 + size

    def addresses(self) -> set[str]:
        families = {A: socket.AF_INET, AAAA: socket.AF_INET6}
        return {socket.inet_ntop(families[kind], data) for kind, _, data in self.records if kind in families}


def asked(name: str, kind: int = A, **more: int) -> Reply:
    reply = answer(query(name, kind, **more), ZONE, random.Random(1).shuffle)
    assert reply is not None
    return Reply(reply)


@pytest.mark.parametrize("name", ["web.swarm", "WEB.swarm", "tasks.web.swarm"])
def test_a_service_has_the_addresses_of_its_tasks(name: str) -> None:
    assert asked(name).addresses() == {"10.0.0.1", "10.0.0.2"}
    assert asked(name, AAAA).addresses() == {"2001:db8::4"}
    assert {ttl for _, ttl, _ in asked(name).records} == {2}


def test_a_port_has_srv_records_that_lead_to_its_tasks() -> None:
    reply = asked("_8080._tcp.web.swarm", SRV)
    assert {struct.unpack_from("!3H", data)[2] for _, _, data in reply.records} == {20_001}
    assert len(reply.records) == 4
    assert all(b"\x05tasks\x03web\x05swarm\0" in data for _, _, data in reply.records)
    assert asked("t2.tasks.web.swarm").addresses() == {"10.0.0.2"}


def test_answers_are_in_another_order_each_time() -> None:
    rng = random.Random(3)
    replies = {answer(query("web.swarm"), ZONE, rng.shuffle) for _ in range(20)}
    assert len(replies) > 1


def test_a_name_without_such_a_record_exists_all_the_same() -> None:
    reply = asked("web.swarm", SRV)
    assert reply.code == NOERROR
    assert [kind for kind, _, _ in reply.records] == [SOA]
    assert asked("t1.tasks.web.swarm", AAAA).code == NOERROR
    assert asked("swarm").code == NOERROR


@pytest.mark.parametrize("name", ["nobody.swarm", "t5.tasks.web.swarm", "_9._tcp.web.swarm", "a.b.c.web.swarm"])
def test_a_name_that_is_not_there_is_denied_for_a_moment(name: str) -> None:
    reply = asked(name)
    assert reply.code == NXDOMAIN
    assert [(kind, ttl) for kind, ttl, _ in reply.records] == [(SOA, 1)]


def test_other_zones_and_other_wishes_are_refused() -> None:
    assert asked("example.org").code == REFUSED
    assert asked("web.swarm", flags=0x2800).code == NOTIMP
    reply = answer(query("web.swarm")[:-3], ZONE, random.shuffle)
    assert reply is not None
    assert reply[3] & 15 == FORMERR
    assert answer(query("web.swarm", flags=0x8100), ZONE, random.shuffle) is None, "an answer gets no answer"


def test_what_does_not_fit_is_cut_and_comes_whole_over_tcp() -> None:
    assert asked("many.swarm").is_cut
    assert asked("many.swarm", edns=4096).is_cut
    whole = answer(query("many.swarm"), ZONE, random.shuffle, is_stream=True)
    assert whole is not None
    assert len(Reply(whole).addresses()) == 400
    assert not asked("web.swarm", edns=1232).is_cut


@given(st.binary(max_size=600))
def test_any_bytes_are_answered_or_passed_over(data: bytes) -> None:
    reply = answer(data, ZONE, random.Random(1).shuffle)
    assert reply is None or reply[:2] == data[:2]


@asynccontextmanager
async def server(routes: list[Route]) -> AsyncIterator[DnsServer]:
    running = DnsServer(lambda: routes, random.Random(1))
    await running.open(HOST, 0)
    try:
        yield running
    finally:
        await running.close()


async def ask_over_udp(port: int, words: bytes) -> Reply:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((HOST, port))
        await loop.sock_sendall(sock, words)
        return Reply(await asyncio.wait_for(loop.sock_recv(sock, 65535), 5.0))


def test_both_transports_answer_and_follow_the_table() -> None:
    async def scenario() -> None:
        routes = [WEB]
        async with server(routes) as running:
            assert (await ask_over_udp(running.port, query("web.swarm"))).addresses() == {"10.0.0.1", "10.0.0.2"}
            assert (await ask_over_udp(running.port, query("many.swarm"))).code == NXDOMAIN
            routes.append(MANY)
            running.refresh()
            assert (await ask_over_udp(running.port, query("many.swarm"))).is_cut
            reader, writer = await asyncio.open_connection(HOST, running.port)
            words = query("many.swarm")
            for _ in range(2):
                writer.write(struct.pack("!H", len(words)) + words)
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                assert len(Reply(await reader.readexactly(size)).addresses()) == 400
            writer.write(struct.pack("!H", 60_000))
            assert await reader.read() == b""
            writer.close()

    run_async(scenario())
