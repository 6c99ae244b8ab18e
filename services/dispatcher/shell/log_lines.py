"""Log subscriptions: users' streams and agents' batches. Part of a term; the rules are in core/logs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

from services.dispatcher.core.logs import Asked
from services.dispatcher.shell.bells import Bell, Bells
from services.kit.bus.api import Context
from services.kit.errors import Details, ResourceExhausted
from services.kit.messages.logs import LogBatch, LogLine, LogRequest, PublishLogs, SubscribeLogs
from services.kit.model.ids import NodeId, SubscriptionId
from services.kit.state.state import Event

if TYPE_CHECKING:
    from services.dispatcher.shell.term import Term

LINES_MAX = 4096
"""Lines that wait for one user; a node that sends more waits until some were read."""
PATIENCE_S = 5.0
"""A node waits at most this long, or half the time its call has, and then sends the batch again."""


class _Outbox:
    """Lines on their way to one user."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.lines: deque[LogLine] = deque()
        self.has_room = asyncio.Event()
        self.has_room.set()

    def put(self, lines: Sequence[LogLine]) -> None:
        self.lines.extend(lines)
        if len(self.lines) >= LINES_MAX:
            self.has_room.clear()
        self.bell.ring()

    def take(self) -> tuple[LogLine, ...]:
        lines = tuple(self.lines)
        self.lines.clear()
        self.has_room.set()
        return lines


class LogLines:
    """All log subscriptions of a term."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self.bells = Bells()
        self._outboxes: dict[SubscriptionId, _Outbox] = {}

    async def subscribe(self, request: SubscribeLogs) -> AsyncIterator[LogBatch]:
        """Yield lines to a user until there are no more."""
        term, broker = self._term, self._term.broker
        subscription = SubscriptionId(term.runtime.ids.new("subscription"))
        outbox = _Outbox(self.bells.add())
        try:
            asked = broker.subscribe(term.state, term.agents.connected(), subscription, request)
            self._outboxes[subscription] = outbox
            self._ask(asked)
            while True:
                lines, missing = outbox.take(), broker.take_missing(term.state, subscription)
                if lines or missing:
                    yield LogBatch(lines=lines, missing=missing)
                    continue
                if broker.is_over(subscription):
                    return
                await outbox.bell.wait()
        finally:
            self.bells.remove(outbox.bell)
            self._outboxes.pop(subscription, None)
            outbox.has_room.set()
            self._ask(broker.unsubscribe(subscription))

    async def publish(self, context: Context, batch: PublishLogs) -> None:
        """Take a node's batch; waiting here is what slows a node down to its reader."""
        outbox = self._outboxes.get(batch.subscription_id)
        if outbox is not None and batch.lines and not outbox.has_room.is_set():
            patience_s = min(PATIENCE_S, (context.remaining_s or PATIENCE_S * 2) / 2)
            try:
                async with asyncio.timeout(patience_s):
                    await outbox.has_room.wait()
            except TimeoutError:
                raise ResourceExhausted("the reader is slow: send it again", Details(retry_ms=200)) from None
        lines = self._term.broker.publish(NodeId(context.caller.node_id), batch)
        if outbox is not None:
            outbox.put(lines)

    def joined(self, node: NodeId) -> list[LogRequest]:
        """Return what a node that has a session now is to be asked."""
        return self._term.broker.joined(node)

    def left(self, node: NodeId) -> None:
        """A node has no session any more."""
        self._term.broker.left(node)
        self._ring()

    def absorb(self, events: Sequence[Event]) -> None:
        """Followers want new tasks."""
        if self._outboxes:
            connected = self._term.agents.connected()
            for event in events:
                self._ask(self._term.broker.notice(event, connected))
            self._ring()

    def _ask(self, asked: Iterable[Asked]) -> None:
        for node, request in asked:
            self._term.agents.ask(node, request)

    def _ring(self) -> None:
        for outbox in self._outboxes.values():
            outbox.bell.ring()
