"""When to take a snapshot, and what is dropped behind it. Writing happens in a thread, from a frozen state; nothing is forked (H17).

While something still lies under an older data key, a snapshot is taken as soon as there is anything new, and everything before it goes.
"""

from __future__ import annotations

import asyncio

from services.kit.model.specs import RaftConfig
from services.kit.runtime.log import Log
from services.kit.runtime.metrics import RAFT_SNAPSHOT
from services.raft.shell.driver import Driver
from services.raft.shell.keys import KeyStore
from services.raft.shell.snapshots import Snapshots


class Compaction:
    """One member's snapshots of its own state."""

    def __init__(
        self, driver: Driver, snapshots: Snapshots, keys: KeyStore, *, last_index: int, log_bytes: int
    ) -> None:
        self._driver = driver
        self._member = driver.member
        self._snapshots = snapshots
        self._keys = keys
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
        if self._keys.older:
            return True
        grown = self._member.log.entries.bytes - self._bytes_kept
        return behind >= self._config.snapshot_interval or grown >= self._log_bytes

    async def _take(self) -> None:
        head = self._member.head()
        frozen = self._member.machine.state.freeze()
        leaving_keys = bool(self._keys.older)
        self._snapshots.keep_old = 0 if leaving_keys else self._config.keep_old_snapshots
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.to_thread(self._snapshots.write, head, frozen)
        RAFT_SNAPSHOT.observe(loop.time() - begun)
        self._last_index = head.index
        keep = 0 if leaving_keys else self._config.log_entries_for_slow_followers
        self._member.log.compact(head.index, keep=keep, keep_bytes=self._log_bytes // 2)
        self._bytes_kept = self._member.log.entries.bytes
        self._log.info("snapshot written", index=head.index, version=head.version)
        if self._keys.older and not (self._member.log.lies_under_older_keys or self._snapshots.lie_under_older_keys):
            self._keys.forget_older()
            self._log.info("older data keys forgotten")
