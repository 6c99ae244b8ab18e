"""What this manager knows of leadership: follows its own raft process, and tells those who wait when something has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from services.kit.errors import SwarmError
from services.kit.messages import store
from services.kit.messages.method import Empty
from services.kit.messages.store import RaftStatus
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.changes import Changes
from services.kit.store.line import BackOff, Line


class Leadership:
    """The newest status of raft. Runs as a task of the manager's doors."""

    def __init__(self, raft: Line, known_managers: Callable[[], tuple[ManagerPeer, ...]]) -> None:
        self._raft = raft
        self._known_managers = known_managers
        self._status: RaftStatus | None = None
        self._changes = Changes()

    async def follow(self) -> None:
        """Follow raft until cancelled; a lost raft process is dialled again."""
        back_off = BackOff()
        while True:
            with contextlib.suppress(SwarmError):
                connection = await self._raft.connection()
                async with connection.open(store.STATUS_FEED, Empty()) as statuses:
                    async for status in statuses:
                        back_off.reset()
                        self._take(status)
            await back_off.wait()

    async def change(self, at_most_s: float) -> bool:
        """Wait until raft reports something new, or for this time; tells whether there was something new."""
        try:
            async with asyncio.timeout(at_most_s):
                await self._changes.wait()
        except TimeoutError:
            return False
        return True

    def peer(self, node_id: str, addr: str) -> ManagerPeer | None:
        """Return how to reach a manager, its certificate included; None while nobody has said."""
        for known in self._peers():
            if known.node_id == node_id and known.certificate:
                return ManagerPeer(node_id=known.node_id, addr=known.addr or addr, certificate=known.certificate)
        return None

    def _peers(self) -> list[ManagerPeer]:
        status = self._status
        peers = []
        if status is not None:
            if status.leader_peer is not None:
                peers.append(status.leader_peer)
            peers += [
                ManagerPeer(node_id=member.node_id, addr=member.remote_addr, certificate=member.certificate)
                for member in status.members
            ]
        return peers + list(self._known_managers())

    def _take(self, status: RaftStatus) -> None:
        self._status = status
        self._changes.announce()
