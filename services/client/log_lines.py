"""Log lines of tasks as the client follows them, over a change of leader if need be."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from msgspec.structs import replace

from services.client.line import ControlLine, Patience
from services.kit.errors import Unavailable
from services.kit.messages import logs
from services.kit.model.ids import TaskId


class Cursor:
    """How far each task's log was read, so that a subscription that is made again repeats nothing."""

    def __init__(self) -> None:
        self._last: dict[TaskId, float] = {}
        self._again: dict[TaskId, float] = {}

    def reopen(self, request: logs.SubscribeLogs) -> logs.SubscribeLogs:
        """Return the request that goes on where the lines so far end."""
        self._again = dict(self._last)
        if not self._last:
            return request
        since = max(request.options.since, min(self._last.values()))
        return replace(request, options=replace(request.options, tail=-1, since=since))

    def fresh(self, batch: logs.LogBatch) -> logs.LogBatch:
        """Return the batch without the lines that an earlier subscription brought."""
        lines = tuple(line for line in batch.lines if line.timestamp > self._again.get(line.task_id, -1.0))
        for line in lines:
            self._last[line.task_id] = line.timestamp
        return replace(batch, lines=lines)


async def follow(line: ControlLine, request: logs.SubscribeLogs) -> AsyncGenerator[logs.LogBatch, None]:
    """Yield batches until the logs end; with ``follow`` a broken subscription is made again behind the last line of each task."""
    patience = Patience(line)
    cursor = Cursor()
    current = request
    while True:
        try:
            async with line.stream(logs.SUBSCRIBE, current) as batches:
                async for batch in batches:
                    patience.reset()
                    fresh = cursor.fresh(batch)
                    if fresh.lines or fresh.missing:
                        yield fresh
        except Unavailable as error:
            await patience.wait(error)
            current = cursor.reopen(request)
        else:
            return
