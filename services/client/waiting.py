"""Waiting for a service: a watch, a picture of the service and its tasks, and what that picture means, after each change."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from msgspec.structs import replace

from services.client.convergence import Convergence, Progress, Stage
from services.client.feed import OPENED, Follower, changes_of
from services.client.line import ControlLine
from services.kit.messages import control
from services.kit.model.ids import ServiceId
from services.kit.runtime.clock import Clock

_TABLES = ("service", "task", "spec")


class Settling:
    """Takes CONVERGED for true only after it has held for a while."""

    def __init__(self, clock: Clock, stable_s: float) -> None:
        self._clock = clock
        self._stable_s = stable_s
        self._since: float | None = None

    def judge(self, progress: Progress) -> tuple[Progress, float | None]:
        """Return the progress, VERIFYING while it has yet to hold, and in how many seconds to ask again without a change."""
        if progress.stage is not Stage.CONVERGED or self._stable_s <= 0:
            self._since = None
            return progress, None
        now = self._clock.monotonic()
        self._since = now if self._since is None else self._since
        left_s = self._since + self._stable_s - now
        if left_s <= 0:
            return progress, None
        return replace(progress, stage=Stage.VERIFYING), left_s


async def follow_progress(
    line: ControlLine, service_id: ServiceId, *, stable_s: float, rollback: bool
) -> AsyncGenerator[Progress, None]:
    """Yield the progress at once and after each change of it, until it ended."""
    settling = Settling(line.clock, stable_s)
    view: Convergence | None = None
    last: Progress | None = None
    left_s: float | None = None
    async with Follower(line, control.WatchObjects(tables=_TABLES, service_ids=(service_id,))) as follower:
        while True:
            item = await follower.next(timeout_s=left_s)
            if item is OPENED or view is None:
                view = await _picture(line, service_id, rollback=rollback)
            elif isinstance(item, control.ObjectEvents):
                for change in changes_of(item):
                    view.absorb(change.action, change.object)
            progress, left_s = settling.judge(view.progress())
            if progress != last:
                yield progress
            if progress.ended:
                return
            last = progress


async def _picture(line: ControlLine, service_id: ServiceId, *, rollback: bool) -> Convergence:
    service = await line.call(control.GET_SERVICE, control.GetRequest(ref=service_id))
    filters = control.Filters(service_ids=(service_id,))
    tasks = await line.call(control.LIST_TASKS, control.ListRequest(filters=filters))
    return Convergence(service.service, tasks.tasks, tasks.specs, rollback=rollback)
