"""What only the in-memory bus has: a network that can be slow, silent or cut between hosts; in virtual time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

import pytest

from services.kit.bus.api import Caller, Context, LocalAddress, RemoteAddress
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.bus.ports import parse_address
from services.kit.bus.rpc import Table
from services.kit.errors import DeadlineExceeded, PermissionDenied, Unauthenticated, Unavailable
from services.kit.messages.method import MANAGER, WORKER
from tests.sim.loop import run_virtual
from tests.support.buses import ECHO, TELL, Answers, Word
from tests.support.pki import CLUSTER, Authority


class World:
    """Two hosts, a manager that listens on one, a worker on the other."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.answers = Answers()
        manager = Caller(node_id="m", role=MANAGER, cluster_id=CLUSTER, public_key=b"m" * 32)
        worker = Caller(node_id="w", role=WORKER, cluster_id=CLUSTER, public_key=b"w" * 32)
        self.server = MemoryBus(self.network, manager, host="one")
        self.client = MemoryBus(self.network, worker, host="two")

    async def listen(self) -> RemoteAddress:
        self.listener = await self.server.listen_remote("10.0.0.1", 0, self.answers.table())
        host, port = parse_address(self.listener.endpoint)
        return RemoteAddress(host=host, port=port, certificate=b"")


def play(scene: Callable[[World, RemoteAddress], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = World()
        await scene(world, await world.listen())
        await world.client.close()
        await world.server.close()

    run_virtual(lambda loop: whole())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_frames_take_their_time_and_keep_their_order() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        delays = iter([0.5, 0.1, 0.3] * 100)
        on.network.delay_s = lambda source, target: next(delays)
        connection = await on.client.dial(address)
        for number in range(50):
            assert connection.cast(TELL, Word(number=number))
        begun = now()
        await connection.call(ECHO, Word())
        assert now() - begun >= 0.6
        assert on.answers.told == list(range(50))

    play(scene)


def test_silence_is_found_out_by_heartbeats_and_dials_time_out() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        connection = await on.client.dial(address)
        on.network.silence("one", "two")
        begun = now()
        with pytest.raises(Unavailable, match="no sign of life"):
            await connection.call(ECHO, Word(), timeout_s=1000)
        assert 15 <= now() - begun <= 25
        with pytest.raises(DeadlineExceeded):
            await on.client.dial(address, timeout_s=3)
        on.network.restore("one", "two")
        again = await on.client.dial(address)
        assert await again.call(ECHO, Word(number=1)) == Word(number=1)
        await asyncio.sleep(30)
        assert len(on.listener._answered) == 1, "the listener has noticed too"

    play(scene)


def test_a_cut_breaks_connections_at_once_and_new_ones_can_be_made() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        connection = await on.client.dial(address)
        on.network.cut("two", "one")
        assert isinstance(await connection.wait_lost(), Unavailable)
        again = await on.client.dial(address)
        assert await again.call(ECHO, Word(number=1)) == Word(number=1)

    play(scene)


def test_a_local_path_is_seen_on_its_own_host_only() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        await on.server.listen_local("/run/a.sock", on.answers.table(trusted=True))
        neighbour = MemoryBus(on.network, host="one", process="ca")
        connection = await neighbour.dial(LocalAddress(path="/run/a.sock"))
        await connection.call(ECHO, Word())
        assert on.answers.contexts[0].peer.process == "ca"
        with pytest.raises(Unavailable):
            await on.client.dial(LocalAddress(path="/run/a.sock"))
        await neighbour.close()

    play(scene)


def test_revoked_keys_and_workers_that_pose_as_managers_are_refused() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        connection = await on.client.dial(address)
        on.listener.revoke(b"w" * 32)
        assert isinstance(await connection.wait_lost(), Unauthenticated)
        with pytest.raises(Unauthenticated):
            await on.client.dial(address)
        on.server.identity = Caller(node_id="x", role=WORKER, cluster_id=CLUSTER)
        with pytest.raises(PermissionDenied):
            await on.client.dial(address)

    play(scene)


def test_a_bus_takes_the_names_of_an_identity() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        identity = Authority().worker("w7")
        on.client.set_identity(identity)
        connection = await on.client.dial(address)
        await connection.call(ECHO, Word())
        caller = on.answers.contexts[0].caller
        assert (caller.node_id, caller.role, caller.public_key) == ("w7", WORKER, identity.public_key)

    play(scene)


def test_a_door_is_answered_until_it_is_closed() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        door = await on.server.open_door("10.0.0.1", 4243, b"first")
        assert await on.client.knock("10.0.0.1", 4243) == b"first"
        door.answer = b"second"
        assert await on.client.knock("10.0.0.1", 4243) == b"second"
        on.network.silence("one", "two")
        with pytest.raises(DeadlineExceeded):
            await on.client.knock("10.0.0.1", 4243)
        on.network.restore("one", "two")
        await door.close()
        with pytest.raises(Unavailable):
            await on.client.knock("10.0.0.1", 4243)

    play(scene)


def test_what_a_silence_held_back_arrives_in_order_when_it_ends_in_time() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        connection = await on.client.dial(address)
        on.network.silence("one", "two")
        for number in range(20):
            assert connection.cast(TELL, Word(number=number))
        await asyncio.sleep(3)
        assert on.answers.told == []
        on.network.restore("one", "two")
        await connection.call(ECHO, Word())
        assert on.answers.told == list(range(20))

    play(scene)


def test_a_stalled_direction_lets_the_other_one_pass() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        connection = await on.client.dial(address)
        on.network.stall("one", "two")
        with pytest.raises(DeadlineExceeded):
            await connection.call(ECHO, Word(number=1), timeout_s=1)
        assert [context.peer.node_id for context in on.answers.contexts] == ["w"], "the question has arrived"

    play(scene)


def test_a_dial_succeeds_when_a_silence_ends_within_its_time() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        on.network.silence("one", "two")
        asyncio.get_running_loop().call_later(2, on.network.restore, "one", "two")
        connection = await on.client.dial(address, timeout_s=5)
        assert await connection.call(ECHO, Word(number=1)) == Word(number=1)

    play(scene)


def test_a_killed_process_leaves_connections_that_end_and_a_name_that_is_free() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        connection = await on.client.dial(address)
        on.server.die()
        assert isinstance(await connection.wait_lost(), Unavailable)
        with pytest.raises(Unavailable):
            await on.client.dial(address)
        successor = MemoryBus(on.network, on.server.identity, host="one")
        await successor.listen_remote(address.host, address.port, on.answers.table())
        await (await on.client.dial(address)).call(ECHO, Word())
        await successor.close()

    play(scene)


def test_a_machine_that_vanishes_is_missed_by_the_heartbeats_only() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        connection = await on.client.dial(address)
        on.server.die(silently=True)
        begun = now()
        await connection.wait_lost()
        assert 15 <= now() - begun <= 25

    play(scene)


def test_frames_can_be_lost_and_doubled() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        connection = await on.client.dial(address)
        copies = iter([0, 2, 1])
        on.network.copies = lambda source, target, data: next(copies, 1)
        for number in range(3):
            connection.cast(TELL, Word(number=number))
        await connection.call(ECHO, Word())
        assert on.answers.told == [1, 1, 2]

    play(scene)


def test_what_a_frame_causes_runs_in_the_context_of_the_receiving_bus() -> None:
    async def scene(on: World, address: RemoteAddress) -> None:
        place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="outside")
        seen: list[str] = []
        table = Table()

        async def answer(context: Context, request: Word) -> Word:
            seen.append(place.get())
            return request

        def make_server() -> MemoryBus:
            place.set("server")
            return MemoryBus(on.network, on.server.identity, host="three")

        table.on_call(ECHO, answer)
        server = contextvars.copy_context().run(make_server)
        listener = await server.listen_remote("10.0.0.3", 0, table)
        place.set("client")
        host, port = parse_address(listener.endpoint)
        connection = await on.client.dial(RemoteAddress(host=host, port=port, certificate=b""))
        await connection.call(ECHO, Word())
        assert seen == ["server"]
        await server.close()

    play(scene)
