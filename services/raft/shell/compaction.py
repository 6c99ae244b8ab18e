"""When to take a snapshot, and what is dropped behind it. Writing happens in a thread, from a frozen state; nothing is forked (H17)."""

from __future__ import annotations

import asyncio

from services.kit.model.specs import RaftConfig
from services.kit.runtime.log import Log
from services.raft.shell.driver import Driver
from services.raft.shell.snapshots import Snapshots


class Compaction:
    """One member's snapshots of its own state."""

    def __init__(self, driver: Driver, snapshots: Snapshots, *, last_index: int, log_bytes: int) -> None:
        self._driver = driver
        self._member = driver.member
        self._snapshots = snapshots
        self._last_index = last_index
        self._log_bytes = log_bytes
        self._log = Log("snapshots")
        self._bytes_kept = driver.member.log.entries.bytes

    async def run(self) -> None:
        """Take a snapshot whenever one is due."""
        while True:
            await self._driver.until(self._due)
            await self._take()

    @property
    def _config(self) -> RaftConfig:
        cluster = self._member.machine.state.cluster
        return RaftConfig() if cluster is None else cluster.spec.raft

    def _due(self) -> bool:
        behind = self._member.machine.applied_index - max(self._last_index, self._member.installed_index)
        if behind <= 0:
            return False
        grown = self._member.log.entries.bytes - self._bytes_kept
        return behind >= self._config.snapshot_interval or grown >= self._log_bytes

    async def _take(self) -> None:
        head = self._member.head()
        frozen = self._member.machine.state.freeze()
        self._snapshots.keep_old = self._config.keep_old_snapshots
        await asyncio.to_thread(self._snapshots.write, head, frozen)
        self._last_index = head.index
        keep = self._config.log_entries_for_slow_followers
        self._member.log.compact(head.index, keep=keep, keep_bytes=self._log_bytes // 2)
        self._bytes_kept = self._member.log.entries.bytes
        self._log.info("snapshot written", index=head.index, version=head.version)
