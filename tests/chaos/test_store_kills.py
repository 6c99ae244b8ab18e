"""Kill -9 loops on real raft processes under load, with a checker: the leader, a follower, two, all, half of the time with the power cut as well.

After every round each member must hold every write that was acknowledged so far, in the same state. A failing run names its seed; ``STORE_KILLS_SEED``
plays its choices again.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.support.forgetful_raft import MODULE, lose_power
from tests.support.raft_processes import RaftNode, RaftProcesses
from tests.support.store_writer import Writer, assert_all_there

pytestmark = [pytest.mark.process, pytest.mark.chaos]

SEED = int(os.environ.get("STORE_KILLS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
WRITES_A_ROUND = 120
SNAPSHOT_LOG_BYTES = 300_000
"""Small, so that snapshots are written and the log is cut while kills fall."""


class Kills:
    """The rounds of one run."""

    def __init__(self, cluster: RaftProcesses, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self.harmed = 0

    async def run(self, rounds: int) -> None:
        """Kill, bring back, check; again and again."""
        writer = Writer(self._cluster, "w")
        writing = asyncio.ensure_future(writer.run())
        try:
            for _ in range(rounds):
                await writer.wait_for(WRITES_A_ROUND)
                await self._round()
                assert not writing.done(), writing.exception()
        finally:
            writer.stop()
            await writing
        await assert_all_there(self._cluster, writer.acknowledged)
        assert self.harmed, "no power cut has taken anything: the run shows less than it says"

    async def _round(self) -> None:
        victims = await self._victims()
        power = self._rng.random() < 0.5
        await asyncio.gather(*(victim.kill() for victim in victims))
        if power:
            self.harmed += sum(lose_power(victim.directory, self._rng) for victim in victims)
        await asyncio.gather(*(victim.start(**self._cluster.settings) for victim in victims))

    async def _victims(self) -> list[RaftNode]:
        nodes = list(self._cluster.nodes.values())
        leader = await self._cluster.leader()
        followers = [node for node in nodes if node is not leader]
        match self._rng.randrange(5):
            case 0 | 1:
                return [leader]
            case 2:
                return [self._rng.choice(followers)]
            case 3:
                return [leader, self._rng.choice(followers)]
            case _:
                return nodes


async def kill_for(directory: Path, rounds: int) -> None:
    async with RaftProcesses(directory, module=MODULE, snapshot_log_bytes=SNAPSHOT_LOG_BYTES) as cluster:
        await cluster.grow("a", "b", "c")
        kills = Kills(cluster, random.Random(SEED))
        try:
            await kills.run(rounds)
        except AssertionError as error:
            raise AssertionError(f"seed {SEED}: {error}") from error


@pytest.mark.timeout(180)
def test_no_acknowledged_write_is_lost_in_25_kills(tmp_path: Path) -> None:
    asyncio.run(kill_for(tmp_path, 25))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_acknowledged_write_is_lost_in_200_kills(tmp_path: Path) -> None:
    asyncio.run(kill_for(tmp_path, 200))
