"""Reports: the newest status of each task, again until it is acknowledged."""

from __future__ import annotations

from services.agent.core.reports import BATCH_MAX, COALESCE_S, Reports
from services.kit.messages.session import StatusUpdate
from services.kit.model.objects import TaskStatus
from services.kit.model.states import TaskState
from tests.support.agents import task_id

ONE, TWO = task_id(1), task_id(2)
STARTING, RUNNING, FAILED = (
    TaskStatus(state=state) for state in (TaskState.STARTING, TaskState.RUNNING, TaskState.FAILED)
)


def states(batch: tuple[StatusUpdate, ...]) -> list[TaskState]:
    return [update.status.state for update in batch]


def test_an_idle_reporter_sends_at_once_and_a_busy_one_collects() -> None:
    reports = Reports()
    assert reports.take(10.0) == ()
    reports.put(ONE, STARTING)
    assert states(reports.take(10.0)) == [TaskState.STARTING]
    reports.put(ONE, RUNNING)
    reports.put(TWO, STARTING)
    assert reports.deadline() is None
    assert reports.take(11.0) == (), "one batch at a time"
    reports.acknowledged(11.0)
    assert reports.take(11.0) == ()
    assert reports.deadline() == 11.0 + COALESCE_S
    assert states(reports.take(11.0 + COALESCE_S)) == [TaskState.RUNNING, TaskState.STARTING]
    reports.acknowledged(12.0)
    assert len(reports) == 0


def test_only_the_newest_status_of_a_task_is_sent() -> None:
    reports = Reports()
    for status in (STARTING, RUNNING, FAILED):
        reports.put(ONE, status)
    assert states(reports.take(0.0)) == [TaskState.FAILED]


def test_older_and_repeated_statuses_are_dropped() -> None:
    reports = Reports()
    reports.put(ONE, RUNNING)
    reports.put(ONE, STARTING)
    reports.put(ONE, RUNNING)
    assert states(reports.take(0.0)) == [TaskState.RUNNING]
    reports.put(ONE, RUNNING)
    reports.put(ONE, STARTING)
    reports.acknowledged(0.0)
    assert len(reports) == 0


def test_a_lost_batch_goes_again_unless_there_is_newer_news() -> None:
    reports = Reports()
    reports.put(ONE, STARTING)
    reports.put(TWO, STARTING)
    reports.take(0.0)
    reports.put(ONE, FAILED)
    reports.lost()
    assert sorted(states(reports.take(0.0))) == [TaskState.STARTING, TaskState.FAILED]


def test_a_batch_is_bounded() -> None:
    reports = Reports()
    for number in range(BATCH_MAX + 5):
        reports.put(task_id(number), RUNNING)
    assert len(reports.take(0.0)) == BATCH_MAX
    reports.acknowledged(0.0)
    assert len(reports.take(1.0)) == 5


def test_a_forgotten_task_is_not_reported() -> None:
    reports = Reports()
    reports.put(ONE, RUNNING)
    reports.forget(ONE)
    assert reports.take(0.0) == ()
