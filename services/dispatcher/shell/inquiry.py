"""Handlers of ``history`` and ``why``, part of the control API; the rules are in core/inquiry."""

from __future__ import annotations

from collections.abc import Callable

from services.dispatcher.core.control.payloads import CONFIGS, SECRETS, find_payload
from services.dispatcher.core.desk import Desk
from services.dispatcher.core.inquiry.answers import find_any, why
from services.dispatcher.shell.payloads import Readable
from services.dispatcher.shell.watches import Watches
from services.kit.bus.api import Context
from services.kit.bus.rpc import Table
from services.kit.errors import NotFound
from services.kit.messages import inquiry
from services.kit.model.objects import Object, Task
from services.kit.runtime.clock import Clock
from services.kit.state.state import Event, State


class Inquiry:
    """Answers users who want to know what happened, or why something does not."""

    def __init__(self, clock: Clock, state: State, readable: Readable, watches: Watches) -> None:
        self._clock = clock
        self._state = state
        self._readable = readable
        self._watches = watches

    def serve(self, table: Table) -> None:
        """Put the handlers into a table."""
        table.on_call(inquiry.HISTORY, self._history)
        table.on_call(inquiry.WHY, self._why)

    async def _history(self, context: Context, request: inquiry.HistoryRequest) -> inquiry.HistoryReply:
        object_id = self._find(request.ref)

        def concerns(event: Event) -> bool:
            thing = event.object
            if thing.id == object_id:
                return True
            return request.related and isinstance(thing, Task) and object_id in {thing.service_id, thing.node_id}

        steps = self._watches.history(concerns, max(1, request.most))
        return inquiry.HistoryReply(steps=steps, since=self._watches.since)

    async def _why(self, context: Context, request: inquiry.WhyRequest) -> inquiry.WhyReply:
        await self._readable(stale=request.stale)
        return why(Desk(self._state), request.ref, self._clock.wall())

    def _find(self, ref: str) -> str:
        """Return the id of any object that is meant; one that is gone is found by its id or name among what is remembered."""
        finders: tuple[Callable[[], Object], ...] = (
            lambda: find_any(self._state, ref),
            lambda: find_payload(self._state, SECRETS, ref),
            lambda: find_payload(self._state, CONFIGS, ref),
        )
        for find in finders:
            try:
                return find().id
            except NotFound:
                continue
        gone = self._watches.remembered(ref)
        if gone is None:
            raise NotFound(f"nothing called {ref!r} is there or remembered")
        return gone
