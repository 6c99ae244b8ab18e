"""Whole nodes, harmed while users read and write: kill -9 of any process, of a whole node, SIGSTOP, and cables that are pulled.

The users' histories are judged for linearizability, and what they were told is there when calm returns. ``CHAOS_ROUNDS`` asks for more than the few
rounds of a default run, ``CHAOS_SEED`` plays the choices of a run again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.client.line import ControlLine
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import SwarmError
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SystemIds
from tests.support.linearizability import Kind, check
from tests.support.netns import Cables, is_possible
from tests.support.registers import Registers
from tests.support.swarm import READY_S, Swarm, SwarmNode, send

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "4"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
USERS = 4
REGISTERS = 3
CALL_S = 5.0
CALM_S = 60.0
WITHIN_S = 90.0 + 15.0 * ROUNDS

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.timeout(WITHIN_S + 60.0)]
Harm = Callable[["Story", SwarmNode], None]


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with Swarm(tmp_path) as swarm:
        yield swarm


class Story:
    """One run: users, rounds of harm, calm, judgement."""

    def __init__(self, nodes: list[SwarmNode], rng: random.Random) -> None:
        self.nodes = nodes
        self.rng = rng
        self.done: Counter[str] = Counter()
        self._clock = SystemClock()
        self._bus = ZmqBus(clock=self._clock, process="user")
        self._registers = Registers(REGISTERS, self._clock.monotonic)

    async def run(self, harms: tuple[Harm, ...], rounds: int) -> None:
        """Play it."""
        line = self._line(self.nodes[0])
        try:
            with self.nodes[0].client() as client:
                for key in self._registers.keys:
                    await asyncio.to_thread(client.services.create, self._registers.spec(key))
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                users = [group.create_task(self._use(random.Random(n)), name=f"user {n}") for n in range(USERS)]
                for _ in range(rounds):
                    await asyncio.sleep(self.rng.uniform(0.2, 1.0))
                    harm, node = self.rng.choice(harms), self.rng.choice(self.nodes)
                    self.done[harm.__name__.strip("_")] += 1
                    await asyncio.to_thread(harm, self, node)
                for user in users:
                    user.cancel()
            await self._settle()
        finally:
            await line.close()
            await self._bus.close()
        self._judge()

    async def _use(self, rng: random.Random) -> None:
        while True:
            line = self._line(rng.choice(self.nodes))
            key = rng.choice(self._registers.keys)
            try:
                if rng.random() < 0.5:
                    await self._registers.write(line, key)
                else:
                    await self._registers.read(line, key)
            except SwarmError:
                await asyncio.sleep(0.05)
            finally:
                await line.close()

    async def _settle(self) -> None:
        """Wait until every node answers again; what it reads is part of the history."""
        async with asyncio.timeout(CALM_S):
            for node in self.nodes:
                for key in self._registers.keys:
                    await self._read_at_last(node, key)

    async def _read_at_last(self, node: SwarmNode, key: str) -> None:
        while True:
            line = self._line(node)
            try:
                await self._registers.read(line, key)
            except SwarmError:
                await asyncio.sleep(0.1)
                continue
            finally:
                await line.close()
            return

    def _judge(self) -> None:
        history = self._registers.history
        written = [each for each in history if each.kind is Kind.CAS and each.known]
        assert len(written) > 10, f"only {len(written)} writes were acknowledged"
        violations = check(history, initial=0)
        assert not violations, "\n".join(str(violation) for violation in violations)

    def _line(self, node: SwarmNode) -> ControlLine:
        return ControlLine(self._bus, node.control_socket, timeout_s=CALL_S, clock=self._clock, ids=SystemIds())


def _kill_process(story: Story, node: SwarmNode) -> None:
    name = story.rng.choice(("raft", "dispatcher", "gateway", "ca", "agent"))
    pid = _pid_of(node, name)
    if pid:
        node.was_cut = True
        send(pid, signal.SIGKILL)


def _kill_node(story: Story, node: SwarmNode) -> None:
    node.kill()
    node.start(wait=False)
    node.wait_ready(2 * READY_S)


def _halt_process(story: Story, node: SwarmNode) -> None:
    pid = _pid_of(node, story.rng.choice(("raft", "dispatcher", "gateway")))
    if pid:
        send(pid, signal.SIGSTOP)
        _wait(story.rng.uniform(0.3, 2.0))
        send(pid, signal.SIGCONT)


def _pid_of(node: SwarmNode, name: str) -> int:
    """Return a process's pid, 0 while it is being started again."""
    return next((each.pid for each in node.status().processes if each.process == name and each.state == "ready"), 0)


def _wait(seconds: float) -> None:
    """Let something last; runs in a thread of its own."""
    asyncio.run(asyncio.sleep(seconds))


def three_managers(swarm: Swarm) -> list[SwarmNode]:
    first = swarm.start("n1")
    return [first, swarm.join("n2", role="manager"), swarm.join("n3", role="manager")]


def test_users_see_one_history_while_processes_and_nodes_are_killed(swarm: Swarm) -> None:
    story = Story(three_managers(swarm), random.Random(SEED))
    try:
        asyncio.run(story.run((_kill_process, _kill_process, _halt_process, _kill_node), ROUNDS))
    except AssertionError as error:
        raise AssertionError(f"seed {SEED}, {dict(story.done)}: {error}") from error


@pytest.mark.netns
@pytest.mark.skipif(bool(is_possible()), reason=is_possible() or "namespaces work")
def test_users_see_one_history_while_cables_are_pulled(swarm: Swarm) -> None:
    with Cables(3) as cables:
        nodes: list[SwarmNode] = []
        for number in range(3):
            node = swarm.node(f"n{number + 1}") if not nodes else swarm.joining(f"n{number + 1}", role="manager")
            node.remote_api = f"{cables.address(number)}:4242"
            node.wrapper = cables.wrapper(number)
            nodes.append(node.start())

        def pull(story: Story, node: SwarmNode) -> None:
            cables.pull(nodes.index(node))
            _wait(story.rng.uniform(0.5, 4.0))
            cables.put_back(nodes.index(node))

        story = Story(nodes, random.Random(SEED))
        try:
            asyncio.run(story.run((pull,), max(2, ROUNDS // 2)))
        except AssertionError as error:
            raise AssertionError(f"seed {SEED}, {dict(story.done)}: {error}") from error
        finally:
            for node in reversed(nodes):
                node.end()
