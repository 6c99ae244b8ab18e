"""Handlers of ``control.backup`` and ``control.restore``; the rules are in core/control/backup.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

from services.dispatcher.core.control import backup as rules
from services.dispatcher.core.control.answers import Answer
from services.dispatcher.core.control.refs import find_cluster
from services.dispatcher.shell.payloads import Change, Readable
from services.kit.bus.api import Context
from services.kit.bus.rpc import Table
from services.kit.messages import backup
from services.kit.runtime.clock import Clock
from services.kit.state.state import State


class Backup:
    """Answers operators who keep a copy of the swarm, or bring one back."""

    def __init__(self, clock: Clock, state: State, readable: Readable, change: Change) -> None:
        self._clock = clock
        self._state = state
        self._readable = readable
        self._change = change

    def serve(self, table: Table) -> None:
        """Put the handlers into a table."""
        table.on_feed(backup.BACKUP, self._backup)
        table.on_call(backup.RESTORE, self._restore)

    async def _backup(self, context: Context, request: backup.BackupRequest) -> AsyncIterator[backup.BackupItem]:
        await self._readable(stale=False)
        cluster_id = find_cluster(self._state, "").id
        frozen, now = self._state.freeze(), self._clock.wall()
        groups = rules.saved(self._state, frozen)
        total = sum(len(group) for group in groups)
        for part in rules.parts(groups):
            yield backup.BackupItem(version=frozen.version, cluster_id=cluster_id, at=now, total=total, objects=part)

    async def _restore(self, context: Context, request: backup.RestoreRequest) -> backup.RestoreReply:
        written = 0

        def judge() -> Answer:
            nonlocal written
            answer = rules.restore(self._state, request.objects)
            written = len({(op.table, op.id) for op in answer.ops})
            return answer

        await self._change(context, judge)
        return backup.RestoreReply(written=written)
