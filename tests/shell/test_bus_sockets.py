"""What only the ZeroMQ bus can get wrong: readiness edges, silent and rude peers, stolen paths, leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq

from services.kit.bus.api import Limits, LocalAddress, RemoteAddress
from services.kit.bus.identity import Identity
from services.kit.bus.ports import HostPort, parse_address
from services.kit.bus.zmq import ZmqBus
from services.kit.bus.zmq_desk import LocalDesk
from services.kit.bus.zmq_listener import ZmqListener
from services.kit.bus.zmq_socket import Drained, new_context
from services.kit.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from services.kit.runtime.clock import SystemClock
from services.kit.wire import frames
from services.kit.wire.codec import encode, encode_frame
from tests.support.buses import COUNT, ECHO, SLOW, TELL, Answers, Word, line
from tests.support.pki import Authority
from tests.support.running import eventually, open_descriptors, run_async


@asynccontextmanager
async def listening(
    limits: Limits | None = None, authority: Authority | None = None
) -> AsyncIterator[tuple[Authority, Identity, ZmqListener, Answers]]:
    authority = authority or Authority()
    manager = authority.manager()
    bus = ZmqBus(manager, clock=SystemClock(), limits=limits)
    answers = Answers()
    try:
        yield authority, manager, await bus.listen_remote("127.0.0.1", 0, answers.table()), answers
    finally:
        await bus.close()


class RawPeer:
    """A DEALER that says what a test wants, under a proven key."""

    def __init__(self, server: Identity, me: Identity, endpoint: str, routing_id: bytes = b"") -> None:
        self.context = new_context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.socket.setsockopt(zmq.CURVE_SERVERKEY, server.public_key)
        self.socket.setsockopt(zmq.CURVE_PUBLICKEY, me.key.public)
        self.socket.setsockopt(zmq.CURVE_SECRETKEY, me.key.secret)
        if routing_id:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(f"tcp://{endpoint}")
        self.hello = encode_frame(frames.Hello(frames.VERSION, frames.VERSION, me.certificate))

    async def read(self) -> bytes:
        await eventually(lambda: self.socket.poll(0))
        return self.socket.recv()

    async def cut_off(self) -> None:
        """Wait until the server has cut the connection."""
        await eventually(lambda: self.monitor.poll(0))

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.context.destroy(0)


def test_a_message_that_came_before_our_own_send_is_not_left_lying() -> None:
    """zmq.FD is edge-triggered and a send swallows the edge; a naive reader hangs here every time."""

    async def check() -> None:
        context = new_context()
        left, right = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
        try:
            left.bind("inproc://edge")
            right.connect("inproc://edge")
            seen: list[bytes] = []
            drained = Drained(right, lambda: seen.append(right.recv(zmq.DONTWAIT)))
            for number in range(60):
                await eventually(lambda: not drained._scheduled)
                left.send(b"%d" % number)
                right.send(b"swallows the edge", zmq.DONTWAIT)
                right.getsockopt(zmq.EVENTS)
                drained.look_again()
                await eventually(lambda number=number: len(seen) == number + 1, 2)  # type: ignore[misc]
            drained.close()
        finally:
            context.destroy(0)

    run_async(check())


def test_calls_in_both_directions_of_load_never_hang(tmp_path: Path) -> None:
    async def check() -> None:
        async with line("zmq-local", tmp_path) as on:

            async def many(count: int) -> None:
                for number in range(count):
                    assert (await on.connection.call(ECHO, Word(number=number))).number == number

            for concurrency in (1, 7, 64):
                async with asyncio.TaskGroup() as group:
                    for _ in range(concurrency):
                        group.create_task(many(600 // concurrency))

    run_async(check())


def test_a_connection_without_hello_is_cut_after_a_while() -> None:
    async def check() -> None:
        async with listening(Limits(hello_timeout_s=0.1)) as (_, _, listener, _):
            host, port = parse_address(listener.endpoint)
            reader, writer = await asyncio.open_connection(host, port)
            async with asyncio.timeout(5):
                while await reader.read(100):
                    pass
            writer.close()
            await eventually(lambda: not listener._awaited)

    run_async(check())


def test_a_peer_that_proves_its_key_and_says_nothing_is_cut_too() -> None:
    async def check() -> None:
        async with listening(Limits(hello_timeout_s=0.1)) as (authority, manager, listener, _):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            await peer.cut_off()
            peer.close()

    run_async(check())


def test_hundreds_of_idle_connections_do_not_keep_an_honest_node_out() -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, _):
            host, port = parse_address(listener.endpoint)
            idle = [socket.create_connection((host, port)) for _ in range(300)]
            bus = ZmqBus(authority.worker(), clock=SystemClock())
            address = RemoteAddress(host=host, port=port, certificate=manager.certificate)
            connection = await bus.dial(address, timeout_s=2)
            assert await connection.call(ECHO, Word(number=1)) == Word(number=1)
            for one in idle:
                one.close()
            await eventually(lambda: not listener._awaited)
            await bus.close()

    run_async(check())


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\xc1",
        encode_frame(frames.Ping()),
        encode_frame(frames.Request(1, ECHO.name, 0, 0, b"", b"\x80")),
        encode_frame(frames.Welcome(1)),
        b"\x91" * 3000,
    ],
)
def test_a_first_frame_that_is_no_hello_ends_the_connection(first: bytes) -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, answers):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            peer.socket.send(first)
            await peer.cut_off()
            peer.close()
            await eventually(lambda: not listener._peers)
            assert not answers.contexts

    run_async(check())


def test_nobody_is_served_under_a_version_that_we_do_not_speak() -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, _):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            peer.socket.send(encode_frame(frames.Hello(7, 9, authority.worker().certificate)))
            assert b"no common version" in await peer.read()
            await peer.cut_off()
            peer.close()

    run_async(check())


@pytest.mark.parametrize("routing_id", [b"manager", b"\xff\xfe", b"x" * 200])
def test_a_peer_that_names_itself_is_refused(routing_id: bytes) -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, _):
            peer = RawPeer(manager, authority.worker(), listener.endpoint, routing_id)
            peer.socket.send(peer.hello)
            assert b"names itself" in await peer.read()
            await peer.cut_off()
            peer.close()

    run_async(check())


@pytest.mark.parametrize("parts", [[b"", b""], [b"x"] * 1000])
def test_a_message_of_several_parts_ends_the_connection(parts: list[bytes]) -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, _):
            for greeted in (False, True):
                peer = RawPeer(manager, authority.worker(), listener.endpoint)
                if greeted:
                    peer.socket.send(peer.hello)
                    await peer.read()
                peer.socket.send_multipart(parts)
                await peer.cut_off()
                peer.close()
            await eventually(lambda: not listener._peers)

    run_async(check())


def test_a_frame_over_the_bound_ends_the_connection() -> None:
    async def check() -> None:
        async with listening(Limits(frame_bytes_max=10_000)) as (authority, manager, listener, _):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            peer.socket.send(peer.hello)
            await peer.read()
            peer.socket.send(encode_frame(frames.Request(1, ECHO.name, 0, 0, b"", b"x" * 20_000)))
            await peer.cut_off()
            peer.close()

    run_async(check())


def test_a_peer_that_asks_and_does_not_read_is_cut_at_the_bound_of_the_outbox() -> None:
    async def check() -> None:
        limits = Limits(outbox_bytes_max=200_000, calls_max=100_000)
        async with listening(limits) as (authority, manager, listener, answers):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            peer.socket.setsockopt(zmq.SNDHWM, 0)
            peer.socket.send(peer.hello)
            await eventually(lambda: len(listener._ends) == 1)
            (end,) = listener._ends
            lost: list[object] = []
            end.on_lost = lost.append
            body = encode(Word(data=b"x" * 10_000))
            for number in range(1, 5000):
                if lost:
                    break
                peer.socket.send(encode_frame(frames.Request(number, ECHO.name, 0, 0, b"", body)), zmq.DONTWAIT)
                if number % 20 == 0:
                    await asyncio.sleep(0)
            await eventually(lambda: lost)
            assert isinstance(lost[0], ResourceExhausted)
            assert answers.contexts
            peer.close()

    run_async(check())


def test_a_stream_to_a_peer_that_does_not_read_costs_one_window() -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, answers):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            peer.socket.send(peer.hello)
            await peer.read()
            ask = encode(Word(number=1_000_000, data=b"x" * 1000))
            peer.socket.send(encode_frame(frames.Request(1, COUNT.name, 0, 64 << 10, b"", ask)))
            await eventually(lambda: answers.produced >= 60)
            peer.socket.send(encode_frame(frames.Ping()))
            await eventually(lambda: answers.produced <= 64 * 1024 // 1000 + 2)
            assert answers.feeds_closed == 0
            peer.close()
            await eventually(lambda: answers.feeds_closed == 1)

    run_async(check())


def test_a_peer_that_vanishes_is_noticed_at_once_and_its_calls_are_cancelled() -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, answers):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            peer.socket.send(peer.hello)
            await peer.read()
            peer.socket.send(encode_frame(frames.Request(1, SLOW.name, 0, 0, b"", b"\x80")))
            await eventually(lambda: answers.slow == 1)
            peer.close()
            await eventually(lambda: answers.cancelled == 1, 2)
            await eventually(lambda: not (listener._peers or listener._ends or listener._by_descriptor), 2)

    run_async(check())


def test_what_a_peer_said_is_heard_even_when_its_end_is_noticed_first() -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, answers):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            peer.socket.send(peer.hello)
            await peer.read()
            for number in range(500):
                peer.socket.send(encode_frame(frames.CastFrame(TELL.name, b"", encode(Word(number=number)))))
            peer.socket.setsockopt(zmq.LINGER, 5000)
            peer.socket.disable_monitor()
            peer.monitor.close(0)
            peer.socket.close()
            peer.context.term()
            assert listener._monitor._socket.poll(5000), "both the casts and the end wait to be read"
            listener._monitor._drained.look_again()  # our own look has swallowed the edge
            await eventually(lambda: not listener._ends)
            assert answers.told == list(range(500))
            assert not listener._peers

    run_async(check())


def test_a_peer_that_falls_silent_is_cut_after_three_heartbeats() -> None:
    async def check() -> None:
        async with listening(Limits(heartbeat_interval_s=0.05)) as (authority, manager, listener, _):
            peer = RawPeer(manager, authority.worker(), listener.endpoint)
            peer.socket.send(peer.hello)
            await peer.cut_off()
            peer.close()
            await eventually(lambda: not listener._peers)

    run_async(check())


def test_a_dialler_gives_up_on_a_listener_that_falls_silent(tmp_path: Path) -> None:
    async def check() -> None:
        async with line("zmq-local", tmp_path, Limits(heartbeat_interval_s=0.05)) as on:
            assert isinstance(on.listener, ZmqListener)
            (end,) = on.listener._ends
            end.feed = lambda data: None  # type: ignore[method-assign]  # hears, and does not answer
            async with asyncio.timeout(5):
                assert "no sign of life" in str(await on.connection.wait_lost())

    run_async(check())


@pytest.mark.parametrize("kind", ["zmq-local", "zmq-remote"])
def test_dialling_where_nobody_listens_fails_at_once(kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        async with line(kind, tmp_path) as on:
            await on.listener.close()
            loop = asyncio.get_running_loop()
            begun = loop.time()
            with pytest.raises(Unavailable, match="nobody listens"):
                await on.client.dial(on.address, timeout_s=30)
            assert loop.time() - begun < 5

    run_async(check())


def test_dialling_a_host_that_does_not_exist_or_does_not_answer_fails_in_time() -> None:
    async def check() -> None:
        authority = Authority()
        bus = ZmqBus(authority.worker(), clock=SystemClock())
        certificate = authority.manager().certificate
        mute = socket.create_server(("127.0.0.1", 0))
        try:
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await bus.dial(RemoteAddress(host="no.such.invalid", port=1, certificate=certificate), timeout_s=2)
            address = RemoteAddress(host="127.0.0.1", port=mute.getsockname()[1], certificate=certificate)
            with pytest.raises(DeadlineExceeded):
                await bus.dial(address, timeout_s=0.1)
        finally:
            mute.close()
            await bus.close()

    run_async(check())


def test_a_dial_that_is_cancelled_leaves_nothing() -> None:
    async def check() -> None:
        authority = Authority()
        bus = ZmqBus(authority.worker(), clock=SystemClock())
        mute = socket.create_server(("127.0.0.1", 0))
        certificate = authority.manager().certificate
        address = RemoteAddress(host="127.0.0.1", port=mute.getsockname()[1], certificate=certificate)
        await _expect_no_dial(bus, address)
        before = open_descriptors()
        for _ in range(10):
            await _expect_no_dial(bus, address)
        await eventually(lambda: open_descriptors() <= before)
        mute.close()
        await bus.close()

    run_async(check())


async def _expect_no_dial(bus: ZmqBus, address: RemoteAddress) -> None:
    dialling = asyncio.get_running_loop().create_task(bus.dial(address))
    await asyncio.wait([dialling], timeout=0.01)
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling


def test_the_listeners_file_is_for_its_owner_only_and_goes_with_the_listener(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "a.sock"
        bus = ZmqBus(clock=SystemClock())
        before = os.umask(0)
        try:
            listener = await bus.listen_local(str(path), Answers().table(trusted=True))
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await listener.close()
        assert not path.exists()
        await bus.close()

    run_async(check())


def test_a_live_path_is_not_stolen_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    async def check() -> None:
        path = str(tmp_path / "a.sock")
        first, second = ZmqBus(clock=SystemClock()), ZmqBus(clock=SystemClock())
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(path)
        dead.close()
        await first.listen_local(path, Answers().table(trusted=True))
        with pytest.raises(FailedPrecondition, match="somebody listens"):
            await second.listen_local(path, Answers().table(trusted=True))
        connection = await second.dial(LocalAddress(path=path))
        assert await connection.call(ECHO, Word(number=1)) == Word(number=1)
        await first.close()
        await second.listen_local(path, Answers().table(trusted=True))
        await second.close()

    run_async(check())


def test_of_many_claims_at_once_exactly_one_gets_the_path(tmp_path: Path) -> None:
    async def check() -> None:
        path = str(tmp_path / "a.sock")
        bus = ZmqBus(clock=SystemClock())
        claims = (bus.listen_local(path, Answers().table(trusted=True)) for _ in range(8))
        results = await asyncio.gather(*claims, return_exceptions=True)
        assert sum(isinstance(result, ZmqListener) for result in results) == 1
        assert sum(isinstance(result, FailedPrecondition) for result in results) == 7
        await bus.close()

    run_async(check())


def test_a_successors_file_is_not_removed_by_its_predecessor(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "a.sock"
        bus = ZmqBus(clock=SystemClock())
        listener = await bus.listen_local(str(path), Answers().table(trusted=True))
        path.unlink()
        successor = socket.socket(socket.AF_UNIX)
        successor.bind(str(path))
        await listener.close()
        assert path.exists()
        successor.close()
        await bus.close()

    run_async(check())


@pytest.mark.parametrize("name", ["x" * 120, "no/such/directory/a.sock", "file"])
def test_a_path_that_cannot_be_a_socket_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    async def check() -> None:
        (tmp_path / "file").write_text("precious")
        bus = ZmqBus(clock=SystemClock())
        with pytest.raises(InvalidArgument) as caught:
            await bus.listen_local(str(tmp_path / name), Answers().table(trusted=True))
        assert "\n" not in str(caught.value)
        assert (tmp_path / "file").read_text() == "precious"
        await bus.close()

    run_async(check())


def test_a_taken_port_is_refused_in_one_sentence() -> None:
    async def check() -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        bus = ZmqBus(Authority().manager(), clock=SystemClock())
        port = taken.getsockname()[1]
        with pytest.raises(FailedPrecondition, match=f"cannot listen on 127.0.0.1:{port}"):
            await bus.listen_remote("127.0.0.1", port, Answers().table())
        with pytest.raises(FailedPrecondition, match=f"cannot listen on 127.0.0.1:{port}"):
            await bus.open_door("127.0.0.1", port, b"")
        taken.close()
        await bus.close()

    run_async(check())


def test_other_users_of_the_machine_are_refused_at_a_local_socket() -> None:
    desk = LocalDesk(trusted=True, leave=lambda: None)
    me = os.geteuid()
    assert desk.judge(f"localhost:{me}:0:4711", b"NULL", []) == f"uid:{me}"
    assert desk.judge("localhost:0:0:1", b"NULL", []) == "uid:0"
    for address in (f"localhost:{me + 1}:0:1", "localhost", "localhost::0:1", "127.0.0.1", "", f"elsewhere:{me}:0:1"):
        assert desk.judge(address, b"NULL", []) == ""
    assert desk.judge(f"localhost:{me}:0:1", b"PLAIN", [b"user", b"password"]) == ""


def test_ten_processes_of_one_node_may_be_connected_at_once() -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, _):
            host, port = parse_address(listener.endpoint)
            node = authority.worker()
            address = RemoteAddress(host=host, port=port, certificate=manager.certificate)
            buses = [ZmqBus(node, clock=SystemClock(), process=f"p{number}") for number in range(10)]
            connections = [await bus.dial(address) for bus in buses]
            assert [await connection.call(ECHO, Word()) for connection in connections] == [Word()] * 10
            listener.revoke(node.public_key)
            for connection in connections:
                await connection.wait_lost()
            for bus in buses:
                await bus.close()

    run_async(check())


def test_churn_leaves_nothing_and_does_not_disturb_the_others() -> None:
    async def check() -> None:
        async with listening() as (authority, manager, listener, _):
            host, port = parse_address(listener.endpoint)
            address = RemoteAddress(host=host, port=port, certificate=manager.certificate)
            stable = ZmqBus(authority.worker("stable"), clock=SystemClock())
            kept = [await stable.dial(address) for _ in range(5)]
            before = open_descriptors()
            for round_number in range(6):
                bus = ZmqBus(authority.worker(f"w{round_number}"), clock=SystemClock())
                connections = await asyncio.gather(*(bus.dial(address) for _ in range(20)))
                await asyncio.gather(*(connection.call(ECHO, Word()) for connection in connections))
                if round_number % 2:
                    listener.revoke(bus.identity.public_key)
                    for connection in connections:
                        await connection.wait_lost()
                await bus.close()
            assert [await connection.call(ECHO, Word()) for connection in kept] == [Word()] * 5
            await eventually(lambda: len(listener._peers) == 5)
            assert len(listener._by_descriptor) == len(listener._ends) == 5
            assert not listener._awaited
            gc.collect()
            await eventually(lambda: open_descriptors() <= before)
            await stable.close()

    run_async(check())


@pytest.mark.parametrize("kind", ["zmq-local", "zmq-remote"])
def test_closing_both_buses_leaves_no_descriptor_and_no_file(kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        async def once() -> None:
            async with line(kind, tmp_path) as on:
                await on.connection.call(ECHO, Word())
                async with on.connection.open(COUNT, Word(number=10)) as items:
                    await anext(items)

        await once()
        before = open_descriptors()
        for _ in range(5):
            await once()
        await eventually(lambda: open_descriptors() <= before)

    run_async(check())
    assert list(tmp_path.iterdir()) == []


def test_a_bus_that_was_never_used_opens_nothing() -> None:
    async def check() -> None:
        before = open_descriptors()
        bus = ZmqBus(clock=SystemClock())
        assert open_descriptors() == before
        await bus.close()

    run_async(check())


def test_the_door_answers_everybody_and_nothing_else() -> None:
    async def check() -> None:
        gateway, joiner = ZmqBus(clock=SystemClock()), ZmqBus(clock=SystemClock())
        door = await gateway.open_door("127.0.0.1", 0, b"first")
        address = parse_address(door.endpoint)
        assert await joiner.knock(*address) == b"first"
        door.answer = b"second" * 10_000
        assert await joiner.knock(*address) == door.answer
        await _send_too_much(address)
        assert await joiner.knock(*address) == door.answer
        await door.close()
        with pytest.raises(Unavailable):
            await joiner.knock(*address)
        await joiner.close()
        await gateway.close()

    run_async(check())


async def _send_too_much(address: HostPort) -> None:
    """Be a visitor that says more than a question."""
    context = new_context()
    rude = context.socket(zmq.DEALER)
    rude.setsockopt(zmq.RECONNECT_IVL, -1)
    monitor = rude.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    rude.connect(f"tcp://{address}")
    rude.send(b"x" * 10_000)
    await eventually(lambda: monitor.poll(0))
    rude.disable_monitor()
    monitor.close(0)
    context.destroy(0)


def test_a_crowd_at_the_door_does_not_keep_a_joiner_out() -> None:
    async def check() -> None:
        gateway, joiner = ZmqBus(clock=SystemClock()), ZmqBus(clock=SystemClock())
        door = await gateway.open_door("127.0.0.1", 0, b"roots")
        address = parse_address(door.endpoint)
        idle = [socket.create_connection(address) for _ in range(600)]
        assert await joiner.knock(*address, timeout_s=2) == b"roots"
        await eventually(lambda: len(door._visitors) <= 512)
        for one in idle:
            one.close()
        await eventually(lambda: not door._visitors)
        await joiner.close()
        await gateway.close()

    run_async(check())
