"""supervisor.sock: answers the supervise conversation, of the children and of the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from services.kit.bus.api import Bus, Context, Listener
from services.kit.bus.rpc import Table
from services.kit.errors import NotFound
from services.kit.messages import supervise
from services.kit.messages.method import Empty
from services.kit.messages.supervise import (
    Attach,
    Facts,
    LockReport,
    ManagersReport,
    MetricsReport,
    NodeReport,
    Order,
    ReadyReport,
    StatusReply,
    UnlockRequest,
)
from services.kit.model.objects import ManagerPeer
from services.kit.model.unlock_key import parse_unlock_key
from services.supervisor.core.plan import CHILDREN, OPTIONAL
from services.supervisor.shell.board import Board


class Life(Protocol):
    """What the node does when it is told something."""

    def child_serves(self, child: str) -> None:
        """A child reported that it serves."""

    @property
    def ready_children(self) -> frozenset[str]:
        """Children that serve."""

    def managers_seen(self, managers: tuple[ManagerPeer, ...]) -> None:
        """The swarm has these managers now."""

    def node_seen(self, report: NodeReport) -> None:
        """The swarm wants this of the node."""

    def status(self) -> StatusReply:
        """How the node is."""

    def unlock(self, key: bytes) -> None:
        """Somebody gives the key of a locked manager; raises PermissionDenied when it is a wrong one."""

    def measured(self, report: MetricsReport) -> None:
        """A child says what it measures."""

    def begin_stop(self) -> None:
        """Somebody asks the node to stop."""


class Front:
    """The supervisor's socket."""

    def __init__(self, board: Board, life: Life) -> None:
        self._board = board
        self._life = life
        self._listener: Listener | None = None

    async def open(self, bus: Bus, path: str) -> None:
        """Listen."""
        table = Table(trusted=True)
        table.on_feed(supervise.ORDERS, self._orders)
        table.on_call(supervise.READY, self._ready)
        table.on_call(supervise.MANAGERS_SEEN, self._managers)
        table.on_call(supervise.NODE_SEEN, self._node)
        table.on_call(supervise.STATUS, self._status)
        table.on_call(supervise.UNLOCK, self._unlock)
        table.on_call(supervise.LOCKED_UNDER, self._locked_under)
        table.on_call(supervise.METRICS, self._metrics)
        table.on_call(supervise.STOP, self._stop)
        self._listener = await bus.listen_local(path, table)

    async def close(self) -> None:
        """Stop listening; idempotent."""
        if self._listener is not None:
            await self._listener.close()

    async def _orders(self, context: Context, attach: Attach) -> AsyncIterator[Order]:
        """Give a child its first facts when it may begin, then all changes."""
        if attach.process not in (*CHILDREN, *OPTIONAL):
            raise NotFound(f"{attach.process!r} is not a process of a node")
        sent: Facts | None = None
        while True:
            begun = sent is not None and sent.identity_serial > 0
            ready = frozenset(CHILDREN) if begun else self._life.ready_children
            facts = self._board.facts_for(attach.process, ready)
            if facts is not None and facts != sent:
                sent = facts
                yield Order(facts=facts)
            else:
                await self._board.changes.wait()

    async def _ready(self, context: Context, report: ReadyReport) -> Empty:
        self._life.child_serves(report.process)
        return Empty()

    async def _managers(self, context: Context, report: ManagersReport) -> Empty:
        self._life.managers_seen(report.managers)
        return Empty()

    async def _node(self, context: Context, report: NodeReport) -> Empty:
        self._life.node_seen(report)
        return Empty()

    async def _status(self, context: Context, request: Empty) -> StatusReply:
        return self._life.status()

    async def _unlock(self, context: Context, request: UnlockRequest) -> Empty:
        self._life.unlock(parse_unlock_key(request.unlock_key))
        return Empty()

    async def _locked_under(self, context: Context, report: LockReport) -> Empty:
        self._board.lock_under(report.unlock_key)
        return Empty()

    async def _metrics(self, context: Context, request: MetricsReport) -> Empty:
        self._life.measured(request)
        return Empty()

    async def _stop(self, context: Context, request: Empty) -> Empty:
        self._life.begin_stop()
        return Empty()
