"""Links to the other members: one dialled connection each, dialled again with a back-off, closed when the other end falls silent.

What must stay true: a link belongs to the node whose certificate was proven at the other end, whatever the address says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.kit.bus.api import Bus, Connection, RemoteAddress
from services.kit.bus.ports import parse_address
from services.kit.errors import FailedPrecondition, SwarmError, Unauthenticated
from services.kit.messages.consensus import RAFT, REFUSED, RaftMessage, Refused
from services.kit.model.ids import NodeId
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from services.kit.store.line import BackOff
from services.raft.core.members import MemberRecord

DIAL_TIMEOUT_S = 2.0
BACK_OFF_MAX_S = 0.5
KNOWN_BY_KEY_S = 366 * 24 * 3600.0
"""A member is known by the key it was added with. Managers whose certificates ran out while all of them were off must form a quorum again
before any of them can get a fresh one."""

Told = Callable[[NodeId], None]


@dataclass(slots=True)
class _Link:
    record: MemberRecord
    task: asyncio.Task[None] | None = None
    connection: Connection | None = None


class Links:
    """All links of one member."""

    def __init__(self, bus: Bus, tasks: TaskOwner, *, on_up: Told, on_down: Told) -> None:
        self._bus = bus
        self._tasks = tasks
        self._on_up = on_up
        self._on_down = on_down
        self._links: dict[NodeId, _Link] = {}
        self._log = Log("links")

    def want(self, records: Mapping[NodeId, MemberRecord]) -> None:
        """Have a link to each of these and to nobody else."""
        for node_id in [node_id for node_id in self._links if node_id not in records]:
            gone = self._links.pop(node_id)
            assert gone.task is not None, "a link is kept by a task"
            gone.task.cancel()
        for node_id, record in sorted(records.items()):
            link = self._links.get(node_id)
            if link is not None and link.record.raft_addr == record.raft_addr:
                link.record = record  # a renewed certificate is for the same key: the connection goes on
                continue
            if link is not None:
                assert link.task is not None, "a link is kept by a task"
                link.task.cancel()
            link = self._links[node_id] = _Link(record)
            link.task = self._tasks.spawn(f"link {node_id}", self._keep(link))

    def send(self, node_id: NodeId, data: bytes) -> bool:
        """Put a message on a link; False when there is none or its queue is full."""
        connection = self.connection(node_id)
        return connection is not None and connection.cast(RAFT, RaftMessage(message=data))

    def refuse(self, node_id: NodeId, reason: str, *, removed: bool) -> bool:
        """Tell somebody that it is no member."""
        connection = self.connection(node_id)
        return connection is not None and connection.cast(REFUSED, Refused(reason=reason, removed=removed))

    def connection(self, node_id: NodeId) -> Connection | None:
        """Return the live connection to a node."""
        link = self._links.get(node_id)
        if link is None or link.connection is None or link.connection.lost is not None:
            return None
        return link.connection

    @property
    def up(self) -> list[NodeId]:
        """Nodes with a live connection."""
        return [node_id for node_id in sorted(self._links) if self.connection(node_id) is not None]

    async def redial(self, node_id: NodeId) -> None:
        """Give up a connection whose other end is silent."""
        connection = self.connection(node_id)
        if connection is not None:
            self._log.info("raft peer silent", peer=node_id)
            await connection.close()

    async def probe(self, record: MemberRecord) -> None:
        """Make sure that a joiner can be reached where it says; raises FailedPrecondition."""
        try:
            connection = await self._dial(record)
        except SwarmError as error:
            raise FailedPrecondition(
                f"could not connect to prospective new cluster member using its advertised address {record.raft_addr}: {error}"
            ) from error
        await connection.close()

    async def _keep(self, link: _Link) -> None:
        back_off = BackOff(max_s=BACK_OFF_MAX_S)
        reported = ""
        while True:
            try:
                connection = await self._dial(link.record)
            except SwarmError as error:
                if str(error) != reported:
                    reported = str(error)
                    self._log.debug("raft peer cannot be dialled", peer=link.record.node_id, reason=reported)
                await back_off.wait()
                continue
            back_off.reset()
            reported = ""
            await self._use(link, connection)

    async def _use(self, link: _Link, connection: Connection) -> None:
        peer = link.record.node_id
        try:
            if self._links.get(peer) is not link:
                return
            link.connection = connection
            self._on_up(peer)
            error = await connection.wait_lost()
            self._log.debug("raft peer lost", peer=peer, reason=str(error))
        finally:
            if link.connection is connection:
                link.connection = None
                self._on_down(peer)
            await connection.close()

    async def _dial(self, record: MemberRecord) -> Connection:
        host, port = parse_address(record.raft_addr, path="raft_addr")
        address = RemoteAddress(host=host, port=port, certificate=record.certificate, grace_s=KNOWN_BY_KEY_S)
        connection = await self._bus.dial(address, timeout_s=DIAL_TIMEOUT_S)
        if connection.peer.node_id != record.node_id:
            await connection.close()
            raise Unauthenticated(f"{record.raft_addr} is {connection.peer.node_id}, not {record.node_id}")
        return connection
