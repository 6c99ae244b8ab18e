"""Snapshots between members: served piece by piece under the stream's credit, fetched by the one who is behind, resumed where it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.kit.bus.api import Connection, Context
from services.kit.errors import DataLoss, FailedPrecondition, SwarmError
from services.kit.messages import consensus
from services.kit.model.ids import NodeId
from services.kit.runtime.log import Log
from services.raft.shell.driver import Driver
from services.raft.shell.links import Links
from services.raft.shell.snapshots import Incoming, Snapshots


class SnapshotTransfer:
    """Both directions, of one member."""

    def __init__(self, driver: Driver, links: Links, snapshots: Snapshots) -> None:
        self._driver = driver
        self._member = driver.member
        self._links = links
        self._snapshots = snapshots
        self._log = Log("snapshots")
        self._wanted: asyncio.Queue[NodeId] = asyncio.Queue(maxsize=1)
        self._incoming: Incoming | None = None
        self._incoming_index = 0

    async def serve(
        self, context: Context, request: consensus.SnapshotRequest
    ) -> AsyncIterator[consensus.SnapshotPiece]:
        """Send the newest snapshot to a member or a joiner (a handler)."""
        asker = NodeId(context.peer.node_id)
        if asker not in self._member.member_ids and asker not in self._member.observers:
            raise FailedPrecondition("only members are served")
        index = self._snapshots.newest()
        if not index:
            raise FailedPrecondition("there is no snapshot here")
        sequence = request.sequence if request.index == index else 0
        for number, payload, last in self._snapshots.payloads(index, sequence):
            yield consensus.SnapshotPiece(index=index, sequence=number, payload=payload, last=last)

    def want(self, leader: NodeId, _index: int) -> None:
        """Fetch the leader's snapshot unless that is under way."""
        if self._wanted.empty():
            self._wanted.put_nowait(leader)

    async def run(self) -> None:
        """Fetch what is wanted, one at a time."""
        while True:
            leader = await self._wanted.get()
            connection = self._links.connection(leader)
            if connection is None:
                continue
            try:
                await self._fetch(connection)
            except DataLoss as error:
                self._drop_incoming()
                self._log.warning("received snapshot unusable", leader=leader, reason=str(error))
            except SwarmError as error:
                self._log.info("snapshot transfer broken off", leader=leader, reason=str(error))

    def close(self) -> None:
        """Let go of files; idempotent."""
        self._drop_incoming()

    async def _fetch(self, connection: Connection) -> None:
        incoming = self._incoming
        request = consensus.SnapshotRequest(
            index=self._incoming_index, sequence=incoming.next_sequence if incoming is not None else 0
        )
        async with connection.open(consensus.SNAPSHOT, request) as pieces:
            async for piece in pieces:
                self._take(piece)
                if piece.last:
                    await self._install(piece.index)
                    return

    def _take(self, piece: consensus.SnapshotPiece) -> None:
        if piece.sequence == 0:
            self._drop_incoming()
            self._incoming = self._snapshots.receive(piece.index)
            self._incoming_index = piece.index
        incoming = self._incoming
        if incoming is None or (piece.index, piece.sequence) != (self._incoming_index, incoming.next_sequence):
            raise DataLoss(f"piece {piece.sequence} of snapshot {piece.index} is out of place")
        incoming.take(piece.payload)

    async def _install(self, index: int) -> None:
        incoming = self._incoming
        assert incoming is not None
        self._incoming, self._incoming_index = None, 0
        assembly = await asyncio.to_thread(self._snapshots.install, incoming, index)
        installed = self._member.install(assembly)
        self._log.info("snapshot received", index=index, installed=installed)
        self._driver.wake()

    def _drop_incoming(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
        self._incoming, self._incoming_index = None, 0
