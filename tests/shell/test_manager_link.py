"""The link to the managers, over the in-memory bus in virtual time: redirects, back-off, changing lists."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from services.kit.bus.api import Caller, Context
from services.kit.bus.memory import MemoryBus, MemoryListener, MemoryNetwork
from services.kit.bus.ports import parse_address
from services.kit.bus.rpc import Table
from services.kit.bus.session import BACK_OFF_MAX_S, ManagerLink
from services.kit.errors import Details, NotFound, SwarmError, Unavailable
from services.kit.messages.method import MANAGER, WORKER
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from tests.sim.loop import run_virtual
from tests.support.buses import ECHO, Word
from tests.support.pki import CLUSTER

SEED = 5


class Managers:
    """Some managers, of which one leads; and the link of a worker to them."""

    def __init__(self, count: int, leader: int) -> None:
        self.network = MemoryNetwork()
        self.leader = leader
        self.asked: list[int] = []
        self.listeners: dict[int, MemoryListener] = {}
        self.buses = {number: self._bus(f"m{number}", MANAGER) for number in range(count)}
        self.worker = self._bus("w", WORKER)
        self.link = ManagerLink(self.worker, self.peers(), rng=random.Random(SEED))

    def _bus(self, name: str, role: str) -> MemoryBus:
        return MemoryBus(self.network, Caller(node_id=name, role=role, cluster_id=CLUSTER), host=name)

    def peers(self, *numbers: int) -> list[ManagerPeer]:
        return [
            ManagerPeer(node_id=NodeId(f"m{number}"), addr=f"10.0.0.{number}:4242", certificate=b"pem")
            for number in numbers or self.buses
        ]

    async def start(self, number: int) -> None:
        """Let a manager listen."""

        async def answer(context: Context, request: Word) -> Word:
            self.asked.append(number)
            if request.text == "not-found":
                raise NotFound("no such word")
            if number != self.leader:
                named = f"m{self.leader}" if self.leader >= 0 else ""
                raise Unavailable("not the leader", Details(leader=named))
            return request

        table = Table()
        table.on_call(ECHO, answer)
        host, port = parse_address(f"10.0.0.{number}:4242")
        self.listeners[number] = await self.buses[number].listen_remote(host, port, table)

    async def ask(self) -> Word:
        """Ask until it works, as an agent does."""
        while True:
            connection = await self.link.connection()
            try:
                reply = await connection.call(ECHO, Word(number=len(self.asked)))
            except SwarmError as error:
                await self.link.report(connection, error)
            else:
                self.link.succeeded()
                return reply

    async def close(self) -> None:
        await self.link.close()
        for bus in (self.worker, *self.buses.values()):
            await bus.close()


def play(scene: Callable[[Managers], Awaitable[None]], count: int = 3, leader: int = 0) -> None:
    async def whole() -> None:
        managers = Managers(count, leader)
        try:
            await scene(managers)
        finally:
            await managers.close()

    run_virtual(lambda loop: whole())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_link_goes_where_the_answer_says_that_the_leader_is_and_stays_there() -> None:
    async def scene(managers: Managers) -> None:
        for number in range(3):
            await managers.start(number)
        begun = now()
        for _ in range(5):
            await managers.ask()
        assert managers.asked.count(0) == 5
        assert len(managers.asked) <= 6, "at most one detour"
        assert now() - begun < 0.1, "a redirect is followed at once"
        assert managers.link.peer is not None
        assert managers.link.peer.node_id == "m0"

    play(scene)


def test_a_link_finds_the_new_leader_after_the_old_one_is_gone() -> None:
    async def scene(managers: Managers) -> None:
        for number in range(3):
            await managers.start(number)
        await managers.ask()
        await managers.listeners[0].close()
        managers.leader = 2
        await managers.ask()
        assert managers.asked[-1] == 2
        assert managers.link.problem is None

    play(scene)


def test_a_link_waits_longer_and_longer_while_nobody_answers_and_is_quick_again_afterwards() -> None:
    async def scene(managers: Managers) -> None:
        with pytest.raises(Unavailable, match="nobody listens"):
            await managers.link.connection(timeout_s=60)
        await managers.start(0)
        await managers.start(1)
        begun = now()
        await managers.ask()
        assert now() - begun <= 5 * BACK_OFF_MAX_S
        await managers.listeners[0].close()
        managers.leader = 1
        begun = now()
        await managers.ask()
        assert now() - begun <= 1.0

    play(scene, count=2)


def test_a_link_does_not_rush_while_there_is_no_leader() -> None:
    async def scene(managers: Managers) -> None:
        for number in range(3):
            await managers.start(number)
        asking = asyncio.get_running_loop().create_task(managers.ask())
        await asyncio.sleep(60)
        assert 5 < len(managers.asked) < 40
        managers.leader = 1
        await asking

    play(scene, leader=-1)


def test_two_managers_that_name_each_other_are_not_asked_in_a_tight_loop() -> None:
    async def scene(managers: Managers) -> None:
        asked: list[int] = []

        def naming(number: int, other: int) -> Table:
            async def answer(context: Context, request: Word) -> Word:
                asked.append(number)
                raise Unavailable("not the leader", Details(leader_addr=f"10.0.0.{other}:4242"))

            table = Table()
            table.on_call(ECHO, answer)
            return table

        for number, other in ((0, 1), (1, 0)):
            await managers.buses[number].listen_remote(f"10.0.0.{number}", 4242, naming(number, other))
        asking = asyncio.get_running_loop().create_task(managers.ask())
        await asyncio.sleep(60)
        asking.cancel()
        await asyncio.wait([asking])
        assert 5 < len(asked) < 40

    play(scene, count=2)


def test_a_new_list_of_managers_ends_the_waiting() -> None:
    async def scene(managers: Managers) -> None:
        managers.link.set_managers([])
        await managers.start(0)
        waiting = asyncio.get_running_loop().create_task(managers.link.connection())
        await asyncio.sleep(100)
        assert not waiting.done()
        managers.link.set_managers(managers.peers(0))
        begun = now()
        assert (await waiting).peer.node_id == "m0"
        assert now() - begun < 0.1

    play(scene)


def test_an_error_that_is_the_callers_own_does_not_change_the_manager() -> None:
    async def scene(managers: Managers) -> None:
        await managers.start(0)
        connection = await managers.link.connection()
        with pytest.raises(NotFound) as caught:
            await connection.call(ECHO, Word(text="not-found"))
        await managers.link.report(connection, caught.value)
        assert await managers.link.connection() is connection

    play(scene, count=1)


def test_what_is_said_of_a_replaced_connection_is_ignored() -> None:
    async def scene(managers: Managers) -> None:
        await managers.start(0)
        old = await managers.link.connection()
        await managers.link.report(old, Unavailable("first"))
        new = await managers.link.connection()
        assert new is not old
        await managers.link.report(old, Unavailable("late"))
        assert await managers.link.connection() is new

    play(scene, count=1)


def test_all_who_ask_at_once_share_one_dial() -> None:
    async def scene(managers: Managers) -> None:
        await managers.start(0)
        connections = await asyncio.gather(*(managers.link.connection() for _ in range(10)))
        assert len(set(map(id, connections))) == 1

    play(scene, count=1)
