"""What a published port can be told: where it is answered, by what rules, for how long, and how many may come."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.gateway.core.proxy_header import HEADER_BYTES_MAX, SIGNATURE, Address, encode, parse
from services.kit.model.ids import NodeId
from services.kit.model.specs import IngressConfig
from services.kit.model.states import BalanceAlgorithm, Protocol, ProxyVersion
from tests.support.plane_home import HOST, Plane, Visitor, backend, free_port, plane, route, serving, tasks, visit
from tests.support.running import eventually, run_async

pytestmark = pytest.mark.process

LOOPBACK_NETWORK = "127.0.0.0/8"
CLIENT = Address("203.0.113.9", 50123)
DOOR = Address("198.51.100.1", 443)


@asynccontextmanager
async def header_teller() -> AsyncIterator[int]:
    """Run a task that answers with the PROXY header it got, and then with the first line behind it."""

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while (header := parse(data)) is None:
            data += await reader.readexactly(1)
        line = await reader.readline()
        writer.write(f"{header.source} {line.decode()}".encode())
        await writer.drain()

    async with serving(tell) as port:
        yield port


async def ask_with(port: int, *words: bytes) -> bytes:
    """Say these words one by one and return everything that is answered."""
    visitor = await Visitor.come(port)
    try:
        for word in words:
            visitor.writer.write(word)
            await visitor.writer.drain()
            await asyncio.sleep(0)
        return await visitor.reader.readline()
    finally:
        await visitor.leave()


@pytest.mark.parametrize("version", [ProxyVersion.V1, ProxyVersion.V2])
def test_a_task_is_told_whose_connection_it_is(tmp_path: Path, version: ProxyVersion) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, header_teller() as task_port:
            await running.show(route(port, backend("a", task_port), ingress=IngressConfig(proxy_to=version)))
            visitor = await Visitor.come(port)
            own = Address(*visitor.writer.get_extra_info("sockname"))
            visitor.writer.write(b"hello\n")
            assert await visitor.reader.readline() == f"{own} hello\n".encode()
            await visitor.leave()

    run_async(scenario())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_word_of_a_trusted_balancer_reaches_the_task_once(tmp_path: Path, version: str) -> None:
    async def scenario() -> None:
        port = free_port()
        ingress = IngressConfig(proxy_from=(LOOPBACK_NETWORK,), proxy_to=ProxyVersion.V2)
        header = encode(version, CLIENT, DOOR)
        async with plane(tmp_path) as running, header_teller() as task_port:
            await running.show(route(port, backend("a", task_port), ingress=ingress))
            expected = f"{CLIENT} hello\n".encode()
            assert await ask_with(port, header + b"hello\n") == expected
            assert await ask_with(port, *[bytes([byte]) for byte in header], b"hel", b"lo\n") == expected

    run_async(scenario())


def test_a_trusted_balancers_header_is_taken_out_for_a_task_that_wants_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(
                route(port, task.backend(), ingress=IngressConfig(proxy_from=("10.0.0.0/8", LOOPBACK_NETWORK)))
            )
            assert await ask_with(port, encode("v1", CLIENT, DOOR), b"hello\n") == b"a:hello\n"

    run_async(scenario())


def test_a_header_from_elsewhere_is_ordinary_data(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(route(port, task.backend(), ingress=IngressConfig(proxy_from=("10.0.0.0/8",))))
            header = encode("v1", CLIENT, DOOR)
            assert await ask_with(port, header) == b"a:" + header

    run_async(scenario())


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n", b"PROXY me\r\n", SIGNATURE + b"\xff" * HEADER_BYTES_MAX])
def test_a_trusted_balancer_that_talks_nonsense_is_hung_up_on(tmp_path: Path, words: bytes) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(route(port, task.backend(), ingress=IngressConfig(proxy_from=(LOOPBACK_NETWORK,))))
            with contextlib.suppress(ConnectionResetError):  # it may have had more to say
                assert await ask_with(port, words) == b""
            assert await ask_with(port, encode("v1", CLIENT, DOOR), b"hello\n") == b"a:hello\n"

    run_async(scenario())


def test_a_header_that_does_not_come_is_not_waited_for_long(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(route(port, task.backend(), ingress=IngressConfig(proxy_from=(LOOPBACK_NETWORK,))))
            visitor = await Visitor.come(port)
            visitor.writer.write(b"PROXY TCP4 ")
            with contextlib.suppress(ConnectionResetError):
                async with asyncio.timeout(5.0):
                    assert await visitor.reader.read() == b""
            await visitor.leave()

    run_async(scenario())


def test_an_idle_connection_is_ended_at_both_ends_and_a_busy_one_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(route(port, task.backend(), ingress=IngressConfig(idle_timeout_s=0.4)))
            idle, busy = await Visitor.come(port), await Visitor.come(port)
            await idle.ask()
            ended = asyncio.ensure_future(idle.reader.read())
            while not ended.done():
                assert await busy.ask() == "a"
                await asyncio.sleep(0.05)
            assert await ended == b""
            await eventually(lambda: len(task._open) == 1)
            await idle.leave()
            await busy.leave()

    run_async(scenario())


def test_beyond_its_limit_a_port_lets_newcomers_wait_and_harms_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, other_port = free_port(), free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            limited = route(port, task.backend(), ingress=IngressConfig(connections_max=2))
            await running.show(limited, route(other_port, task.backend()))
            inside = [await Visitor.come(port) for _ in range(2)]
            for visitor in inside:
                await visitor.ask()
            waiting = await Visitor.come(port)
            answer = asyncio.ensure_future(waiting.ask())
            assert await visit(other_port) == "a"
            assert not answer.done()
            await inside[0].leave()
            assert await answer == "a"
            for visitor in (inside[1], waiting):
                await visitor.leave()

    run_async(scenario())


def test_a_client_comes_back_to_its_task_by_hash(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path, workers=2) as running, tasks(*"abcdef") as tasks_:
            ingress = IngressConfig(algorithm=BalanceAlgorithm.MAGLEV)
            await running.show(route(port, *[task.backend() for task in tasks_], ingress=ingress))
            assert len({await visit(port) for _ in range(30)}) == 1

    run_async(scenario())


def test_tasks_of_the_node_are_preferred_where_the_port_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("near", "far") as (near, far):
            there = backend("far", far.port, node="n2")
            await running.show(route(port, near.backend(), there, ingress=IngressConfig(local_first=True)))
            assert {await visit(port) for _ in range(30)} == {"near"}

    run_async(scenario())


def test_a_port_is_answered_on_its_addresses_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            ingress = IngressConfig(addresses=("127.0.0.2", "127.0.0.3", "203.0.113.77"))
            await running.show(route(port, task.backend(), ingress=ingress))
            for host in ("127.0.0.2", "127.0.0.3"):
                visitor = await Visitor.come(port, host)
                assert await visitor.ask() == "a"
                await visitor.leave()
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port)
            assert not running.keeper.closed_ports, "an address of another node is no fault of this one"
            await running.show(route(port, task.backend()))
            assert await visit(port) == "a"
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port, "127.0.0.2")

    run_async(scenario())


def test_a_node_that_a_port_does_not_name_leaves_it_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, tasks("a") as (task,):
            await running.show(route(port, task.backend(), nodes=(NodeId("n2"),)))
            with pytest.raises(ConnectionRefusedError):
                await Visitor.come(port)
            assert not running.keeper.closed_ports
            await running.show(route(port, task.backend(), nodes=(NodeId("n1"), NodeId("n2"))))
            assert await visit(port) == "a"

    run_async(scenario())


def test_a_node_that_listens_everywhere_answers_both_families(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path, host="0.0.0.0") as running, tasks("a") as (task,):
            await running.show(route(port, task.backend()))
            for host in ("127.0.0.1", "::1"):
                visitor = await Visitor.come(port, host)
                assert await visitor.ask() == "a"
                await visitor.leave()

    run_async(scenario())


def test_a_client_of_version_six_reaches_a_task_of_either_and_keeps_its_address(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path, host="::1") as running, header_teller() as task_port:
            ingress = IngressConfig(proxy_to=ProxyVersion.V2)
            await running.show(route(port, backend("a", task_port), ingress=ingress))
            visitor = await Visitor.come(port, "::1")
            own = Address(*visitor.writer.get_extra_info("sockname")[:2])
            visitor.writer.write(b"hello\n")
            assert await visitor.reader.readline() == f"{own} hello\n".encode()
            await visitor.leave()

    run_async(scenario())


# -- UDP


class UdpTask(asyncio.DatagramProtocol):
    """Answers every datagram with its name in front; says from which sockets they came."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.peers: list[tuple[str, int]] = []
        self.closed = asyncio.Event()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()

    def use(self, transport: asyncio.DatagramTransport) -> None:
        """Take the socket."""
        self.transport = transport
        self.port: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.peers.append(addr)
        self.transport.sendto(self.name.encode() + b":" + data, addr)


@asynccontextmanager
async def udp_tasks(*names: str, host: str = HOST) -> AsyncIterator[list[UdpTask]]:
    """Run these tasks."""
    running = [UdpTask(name) for name in names]
    loop = asyncio.get_running_loop()
    for task in running:
        transport, _ = await loop.create_datagram_endpoint(lambda task=task: task, (host, 0))  # type: ignore[misc]
        task.use(transport)
    try:
        yield running
    finally:
        for task in running:
            task.transport.close()
            await task.closed.wait()


class UdpVisitor:
    """A client with one UDP socket."""

    def __init__(self, port: int, host: str = HOST) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.connect((host, port))

    async def ask(self, word: bytes = b"hello") -> str:
        """Send a datagram and return the name of the task that answered; again when nothing comes, as UDP clients do."""
        loop = asyncio.get_running_loop()
        for _ in range(20):
            try:
                await loop.sock_sendall(self.sock, word)
                answer = await asyncio.wait_for(loop.sock_recv(self.sock, 65535), 0.5)
            except (TimeoutError, ConnectionRefusedError):
                continue
            name, _, echoed = answer.partition(b":")
            assert echoed == word
            return name.decode()
        raise AssertionError("no answer")


@asynccontextmanager
async def udp_visitors(port: int, count: int = 1, host: str = HOST) -> AsyncIterator[list[UdpVisitor]]:
    """Have clients."""
    found = [UdpVisitor(port, host) for _ in range(count)]
    try:
        yield found
    finally:
        for visitor in found:
            visitor.sock.close()


async def show_udp(
    running: Plane, port: int, *shown: UdpTask, draining: tuple[str, ...] = (), addr: str = HOST
) -> None:
    backends = [backend(task.name, task.port, draining=task.name in draining, addr=addr) for task in shown]
    await running.show(route(port, *backends, protocol=Protocol.UDP))


def test_a_client_stays_with_its_task_and_clients_are_shared_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path, workers=2) as running, udp_tasks(*"abcd") as tasks_:
            await show_udp(running, port, *tasks_)
            async with udp_visitors(port, 30) as visitors:
                firsts = [await visitor.ask() for visitor in visitors]
                assert len(set(firsts)) >= 3
                for visitor, first in zip(visitors, firsts, strict=True):
                    assert await visitor.ask() == first
            assert len({peer for task in tasks_ for peer in task.peers}) == 30, "one socket for each client"

    run_async(scenario())


def test_the_next_datagram_leaves_a_task_that_drains(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, udp_tasks("old", "new") as (old, new):
            await show_udp(running, port, old)
            async with udp_visitors(port) as (visitor,):
                assert await visitor.ask() == "old"
                await show_udp(running, port, old, new, draining=("old",))
                assert await visitor.ask() == "new"
                await eventually(lambda: running.confirmations[-1][1].get("old", 0) == 0)

    run_async(scenario())


def test_a_dead_udp_task_is_left_for_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, udp_tasks("dead", "well") as (dead, well):
            dead.transport.close()
            await show_udp(running, port, dead, well)
            async with udp_visitors(port, 10) as visitors:
                assert {await visitor.ask() for visitor in visitors} == {"well"}

    run_async(scenario())


def test_large_datagrams_and_version_six_go_through(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path, host="::1") as running, udp_tasks("six", host="::1") as (task,):
            await show_udp(running, port, task, addr="::1")
            async with udp_visitors(port, host="::1") as (visitor,):
                assert await visitor.ask(b"x" * 60_000) == "six"

    run_async(scenario())


def test_quiet_udp_exchanges_are_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with plane(tmp_path) as running, udp_tasks("a") as (task,):
            ingress = IngressConfig(idle_timeout_s=0.3)
            await running.show(route(port, backend("a", task.port), protocol=Protocol.UDP, ingress=ingress))
            async with udp_visitors(port, 5) as visitors:
                for visitor in visitors:
                    await visitor.ask()
                (counts,) = await running.keeper.counts()
                assert counts.worker["open"] == 5
                async with asyncio.timeout(5.0):
                    while counts.worker["open"]:
                        (counts,) = await running.keeper.counts()
                assert await visitors[0].ask() == "a"

    run_async(scenario())
