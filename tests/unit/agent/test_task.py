"""The life of one task: SwarmKit's transitions, retries, cancellation, removal."""

from __future__ import annotations

import pytest

from services.agent.core.now import Now
from services.agent.core.outcome import Exit, Handle, Observed
from services.agent.core.task import (
    REMOVE_ATTEMPTS_MAX,
    Action,
    Begin,
    Cancel,
    Desire,
    Due,
    Ended,
    Erred,
    Event,
    Forget,
    Prepared,
    Removed,
    Report,
    Run,
    Served,
    Started,
    Stopped,
    TakenAway,
    TaskMachine,
    Verb,
    advance,
)
from services.kit.model.ids import TaskId
from services.kit.model.objects import PortStatus, TaskStatus
from services.kit.model.states import TaskState

SEEN = Observed(container_id="c1", pid=7, ports=(PortStatus(target_port=80, port=20001),))
HANDLE = Handle(b"handle")


class Life:
    """A machine with a clock of its own."""

    def __init__(
        self,
        state: TaskState = TaskState.ASSIGNED,
        desired: TaskState = TaskState.RUNNING,
        handle: Handle | None = None,
    ) -> None:
        self.machine = TaskMachine(TaskId("t"), desired=desired, status=TaskStatus(state=state), handle=handle)
        self.time = 100.0

    def step(self, event: Event) -> list[Action]:
        actions = self.machine.step(Now(self.time, 1_000_000.0 + self.time), event)
        self.machine.check()
        return actions

    def steps(self, *events: Event) -> list[Action]:
        actions: list[Action] = []
        for event in events:
            actions = self.step(event)
        return actions

    @property
    def state(self) -> TaskState:
        return self.machine.status.state


def states(actions: list[Action]) -> list[TaskState]:
    return [action.status.state for action in actions if isinstance(action, Report)]


def verbs(actions: list[Action]) -> list[Verb]:
    return [action.verb for action in actions if isinstance(action, Run)]


@pytest.mark.parametrize(
    ("desired", "state", "expected"),
    [
        (TaskState.RUNNING, TaskState.NEW, (TaskState.ACCEPTED, "accepted")),
        (TaskState.RUNNING, TaskState.PENDING, (TaskState.ACCEPTED, "accepted")),
        (TaskState.RUNNING, TaskState.ASSIGNED, (TaskState.ACCEPTED, "accepted")),
        (TaskState.RUNNING, TaskState.ACCEPTED, (TaskState.PREPARING, "preparing")),
        (TaskState.RUNNING, TaskState.PREPARING, Verb.PREPARE),
        (TaskState.RUNNING, TaskState.READY, (TaskState.STARTING, "starting")),
        (TaskState.RUNNING, TaskState.STARTING, Verb.START),
        (TaskState.RUNNING, TaskState.RUNNING, Verb.WAIT),
        (TaskState.COMPLETE, TaskState.RUNNING, Verb.WAIT),
        (TaskState.ASSIGNED, TaskState.ASSIGNED, None),
        (TaskState.ACCEPTED, TaskState.ACCEPTED, None),
        (TaskState.PREPARING, TaskState.PREPARING, Verb.PREPARE),
        (TaskState.READY, TaskState.READY, None),
        (TaskState.READY, TaskState.STARTING, None),
        (TaskState.READY, TaskState.RUNNING, None),
        *((TaskState.SHUTDOWN, state, Verb.SHUTDOWN) for state in TaskState if state < TaskState.COMPLETE),
        *((TaskState.REMOVE, state, Verb.SHUTDOWN) for state in TaskState if state < TaskState.COMPLETE),
        *((TaskState.SHUTDOWN, state, None) for state in TaskState if state >= TaskState.COMPLETE),
        *((TaskState.REMOVE, state, None) for state in TaskState if state >= TaskState.COMPLETE),
        *((TaskState.RUNNING, state, None) for state in TaskState if state >= TaskState.COMPLETE),
    ],
)
def test_what_follows_from_desired_and_observed_state(
    desired: TaskState, state: TaskState, expected: tuple[TaskState, str] | Verb | None
) -> None:
    assert advance(desired, state) == expected


def test_a_task_goes_through_every_state_with_one_verb_each() -> None:
    life = Life()
    actions = life.step(Begin())
    assert (states(actions), verbs(actions)) == ([TaskState.ACCEPTED, TaskState.PREPARING], [Verb.PREPARE])
    actions = life.step(Prepared())
    assert (states(actions), verbs(actions)) == ([TaskState.READY, TaskState.STARTING], [Verb.START])
    actions = life.step(Started(HANDLE, SEEN, gated=False))
    assert (states(actions), verbs(actions)) == ([TaskState.RUNNING], [Verb.WAIT])
    assert actions[0] == Report(life.machine.status, HANDLE)
    assert (life.machine.status.container_id, life.machine.status.pid, life.machine.status.ports) == (
        "c1",
        7,
        SEEN.ports,
    )
    actions = life.step(Ended(Exit(code=0)))
    assert (states(actions), verbs(actions)) == ([TaskState.COMPLETE], [])
    assert (life.machine.status.exit_code, life.machine.status.message) == (0, "finished")


def test_a_gated_start_reports_running_only_when_it_serves() -> None:
    life = Life(TaskState.STARTING)
    life.step(Begin())
    actions = life.step(Started(HANDLE, SEEN, gated=True))
    assert (states(actions), verbs(actions)) == ([TaskState.STARTING], [Verb.READY])
    assert actions[0] == Report(life.machine.status, HANDLE), "the handle is kept before the task is healthy"
    assert states(life.step(Served(SEEN))) == [TaskState.RUNNING]


@pytest.mark.parametrize(
    ("end", "code", "error"),
    [
        (Exit(code=3), 3, "task: non-zero exit (3)"),
        (Exit(signal=11), 139, "task: killed by signal 11"),
        (Exit(signal=9, oom=True), 137, "task: killed, it used more memory than its limit"),
        (Exit(), None, "task: nobody saw how it ended"),
        (Exit(code=1, message="unhealthy container"), 1, "unhealthy container"),
    ],
)
def test_an_end_that_is_not_clean_is_a_failure(end: Exit, code: int | None, error: str) -> None:
    life = Life(TaskState.RUNNING)
    life.steps(Begin(), Ended(end))
    assert life.state is TaskState.FAILED
    assert (life.machine.status.exit_code, life.machine.status.error) == (code, error)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (TaskState.ASSIGNED, TaskState.REJECTED),
        (TaskState.PREPARING, TaskState.REJECTED),
        (TaskState.STARTING, TaskState.FAILED),
        (TaskState.RUNNING, TaskState.FAILED),
    ],
)
def test_a_final_error_rejects_before_starting_and_fails_after(state: TaskState, expected: TaskState) -> None:
    life = Life(state)
    life.steps(Begin(), Erred("no"))
    assert (life.state, life.machine.status.error) == (expected, "no")


def test_a_temporary_error_is_tried_again_with_growing_pauses_and_then_forgotten() -> None:
    life = Life(TaskState.PREPARING)
    life.step(Begin())
    pauses = []
    for _ in range(7):
        assert life.step(Erred("not now", retry_after_s=0.0)) in ([Report(life.machine.status, None)], [])
        deadline = life.machine.deadline()
        assert deadline is not None
        pauses.append(deadline - life.time)
        life.time = deadline - 0.001
        assert life.step(Due()) == []
        life.time = deadline
        assert verbs(life.step(Due())) == [Verb.PREPARE]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert (life.state, life.machine.status.error) == (TaskState.PREPARING, "not now")
    life.step(Prepared())
    assert life.machine.status.error == ""


def test_a_driver_may_ask_for_a_longer_pause() -> None:
    life = Life(TaskState.PREPARING)
    life.steps(Begin(), Erred("busy", retry_after_s=60.0))
    assert life.machine.deadline() == life.time + 60.0


def test_the_same_error_again_is_not_reported_again() -> None:
    life = Life(TaskState.PREPARING)
    life.step(Begin())
    assert len(life.step(Erred("busy", retry_after_s=0.0))) == 1
    life.time += 10
    life.step(Due())
    assert life.step(Erred("busy", retry_after_s=0.0)) == []


@pytest.mark.parametrize(
    "events", [(), (Begin(),), (Begin(), Prepared()), (Begin(), Prepared(), Started(HANDLE, SEEN, False))]
)
def test_a_wish_to_stop_interrupts_whatever_is_under_way(events: tuple[Event, ...]) -> None:
    life = Life()
    life.steps(*events)
    actions = life.step(Desire(TaskState.SHUTDOWN))
    assert actions == ([Cancel()] if events else []) + [Run(Verb.SHUTDOWN)]
    actions = life.step(Stopped(Exit(signal=15) if len(events) == 3 else None))
    assert states(actions) == [TaskState.SHUTDOWN]
    assert life.machine.status.exit_code == (143 if len(events) == 3 else None)


def test_a_wish_to_stop_ends_the_wait_for_a_retry() -> None:
    life = Life(TaskState.PREPARING)
    life.steps(Begin(), Erred("busy", retry_after_s=50.0))
    assert life.step(Desire(TaskState.SHUTDOWN)) == [Run(Verb.SHUTDOWN)]
    assert life.machine.deadline() is None


def test_a_shutdown_that_fails_for_now_is_tried_again() -> None:
    life = Life(TaskState.RUNNING)
    life.steps(Begin(), Desire(TaskState.SHUTDOWN), Erred("engine is away", retry_after_s=0.0))
    life.time += 1.0
    assert life.step(Due()) == [Run(Verb.SHUTDOWN)]


def test_a_wish_for_remove_is_a_shutdown_and_touches_no_ended_task() -> None:
    life = Life(TaskState.RUNNING)
    assert life.steps(Begin(), Desire(TaskState.REMOVE)) == [Cancel(), Run(Verb.SHUTDOWN)]
    ended = Life(TaskState.FAILED)
    assert ended.steps(Begin(), Desire(TaskState.REMOVE)) == []


def test_a_lower_or_equal_wish_is_ignored() -> None:
    life = Life(TaskState.RUNNING)
    life.step(Begin())
    assert life.steps(Desire(TaskState.READY)) == []
    assert life.steps(Desire(TaskState.RUNNING)) == []


def test_a_higher_wish_moves_a_task_that_rested() -> None:
    life = Life(desired=TaskState.READY)
    life.step(Begin())
    assert states(life.step(Prepared())) == [TaskState.READY]
    assert verbs(life.step(Desire(TaskState.RUNNING))) == [Verb.START]


def test_a_higher_wish_does_not_disturb_a_verb() -> None:
    life = Life(desired=TaskState.READY)
    life.step(Begin())
    assert life.step(Desire(TaskState.RUNNING)) == []
    assert verbs(life.step(Prepared())) == [Verb.START]


@pytest.mark.parametrize("state", [TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED])
def test_a_task_that_is_taken_away_is_removed_and_forgotten_once(state: TaskState) -> None:
    life = Life(state)
    begun = life.step(Begin())
    actions = life.step(TakenAway())
    assert actions == ([Cancel()] if verbs(begun) else []) + [Run(Verb.REMOVE)]
    assert life.step(TakenAway()) == []
    assert life.step(Removed()) == [Forget()]


def test_a_removal_that_fails_is_tried_again_and_given_up_in_the_end() -> None:
    life = Life(TaskState.FAILED)
    life.steps(Begin(), TakenAway())
    for _ in range(REMOVE_ATTEMPTS_MAX - 1):
        assert life.step(Erred("stuck")) == []
        deadline = life.machine.deadline()
        assert deadline is not None
        life.time = deadline
        assert life.step(Due()) == [Run(Verb.REMOVE)]
    assert life.step(Erred("stuck")) == [Forget(left_behind="stuck")]


@pytest.mark.parametrize(
    ("state", "verb"),
    [
        (TaskState.PREPARING, Verb.PREPARE),
        (TaskState.STARTING, Verb.START),
        (TaskState.RUNNING, Verb.WAIT),
    ],
)
def test_an_adopted_task_goes_on_where_it_stood(state: TaskState, verb: Verb) -> None:
    assert Life(state, handle=HANDLE).step(Begin()) == [Run(verb)]


def test_timestamps_never_go_back() -> None:
    life = Life(TaskState.RUNNING)
    life.step(Begin())
    life.machine = TaskMachine(
        TaskId("t"), desired=TaskState.RUNNING, status=TaskStatus(state=TaskState.RUNNING, timestamp=9e9)
    )
    life.steps(Begin(), Ended(Exit(code=0)))
    assert life.machine.status.timestamp == 9e9
