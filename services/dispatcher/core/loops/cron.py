"""Cron: starts a run of each scheduled job when it is due. Keys are service ids.

A run begins by one write to the service: the next iteration, and the time at which it was due. The write is based on the version of the
service that was seen, so that each due run begins exactly once, whoever leads; what was due while nobody led is made up for within
the schedule's window, the latest run only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.dispatcher.core.loops.jobs import is_running, schedule_of
from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.dispatcher.core.tasks import is_wanted, iteration_of
from services.kit.model.cron import parse_cron, parse_zone
from services.kit.model.ids import ServiceId
from services.kit.model.objects import JobStatus, Service, Task
from services.kit.model.states import Overlap
from services.kit.state.state import Event
from services.kit.state.tables import Table

_replace = msgspec.structs.replace


class CronRuns:
    """Begins runs."""

    name = "cron"
    tables = frozenset({Table.SERVICE, Table.TASK})

    def __init__(self) -> None:
        self._scheduled: dict[ServiceId, None] = {}

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at all scheduled jobs."""
        self._scheduled = {s.id: None for s in view.services.values() if schedule_of(s) is not None}
        return list(self._scheduled)

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A schedule that changed, and the end of a task: a run may have waited for it."""
        thing = event.object
        if isinstance(thing, Service):
            if event.new is None or schedule_of(thing) is None:
                self._scheduled.pop(thing.id, None)
                return ()
            self._scheduled[thing.id] = None
            return (thing.id,)
        assert isinstance(thing, Task)
        over = event.new is None or thing.status.state.terminal or not is_wanted(thing)
        return (thing.service_id,) if over and thing.service_id in self._scheduled else ()

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Begin what is due, and wake for what comes next."""
        steps: list[Step] = []
        wakes: dict[Key, float] = {}
        for key in keys:
            service = view.services.get(ServiceId(str(key)))
            schedule = None if service is None else schedule_of(service)
            if service is None or schedule is None or schedule.suspended:
                continue
            cron, zone = parse_cron(schedule.cron), parse_zone(schedule.time_zone)
            last = 0.0 if service.job_status is None else service.job_status.last_execution
            due = cron.last_before(now, last, zone)
            may_begin = schedule.overlap is not Overlap.FORBID or not is_running(view, service)
            if due is not None and now - due <= schedule.missed_window_s and may_begin:
                steps.append(Step(key=key, puts=(_begun(service, due),)))
            following = cron.next_after(now, zone)
            if following is not None:
                wakes[key] = following
        return Plan(steps=steps, wakes=wakes)


def _begun(service: Service, due: float) -> Service:
    return _replace(service, job_status=JobStatus(iteration=iteration_of(service) + 1, last_execution=due))
