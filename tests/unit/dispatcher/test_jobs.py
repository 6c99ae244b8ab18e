"""Jobs: so many completions, so many at once; one on every node; runs by the clock."""

from __future__ import annotations

import pytest

from services.kit.model.objects import Task
from services.kit.model.specs import (
    CronSchedule,
    GlobalJob,
    NodeSpec,
    Placement,
    ReplicatedJob,
    RestartPolicy,
    TaskSpec,
)
from services.kit.model.states import Availability, NodeState, Overlap, RestartCondition, TaskState
from tests.support.convergence import Swarm, a_service_spec

HOUR = 3600.0


def job(concurrent: int = 2, total: int = 5, *, restart: RestartPolicy | None = None, nodes: int = 2) -> Swarm:
    swarm = Swarm(nodes)
    mode = ReplicatedJob(max_concurrent=concurrent, total_completions=total)
    swarm.create_service(a_service_spec(mode=mode, restart=restart or RestartPolicy(delay_s=0)))
    swarm.settle()
    return swarm


def at_work(swarm: Swarm) -> list[Task]:
    return swarm.tasks(where=lambda task: task.status.state is TaskState.RUNNING)


def complete(swarm: Swarm, count: int | None = None) -> None:
    for task in at_work(swarm)[:count]:
        swarm.end_task(task, TaskState.COMPLETE)
    swarm.pass_time(1)


def done(swarm: Swarm) -> int:
    iteration = swarm.service().job_status.iteration  # type: ignore[union-attr]
    return len(swarm.tasks(where=lambda t: t.status.state is TaskState.COMPLETE and t.job_iteration == iteration))


def test_no_more_than_the_allowed_number_run_at_once_until_all_are_complete() -> None:
    swarm = job(2, 5)
    seen = []
    while at_work(swarm):
        seen.append(len(at_work(swarm)))
        complete(swarm)
    assert seen == [2, 2, 1]
    assert done(swarm) == 5
    assert sorted(task.slot for task in swarm.tasks()) == [1, 2, 3, 4, 5]
    assert {task.desired_state for task in swarm.tasks()} == {TaskState.COMPLETE}
    swarm.become_leader()
    swarm.pass_time(HOUR)
    assert len(swarm.tasks()) == 5, "a job that is done stays as it is"


def test_concurrency_is_topped_up_when_one_completes() -> None:
    swarm = job(3, 10)
    complete(swarm, 1)
    assert len(at_work(swarm)) == 3
    assert done(swarm) == 1


@pytest.mark.parametrize("condition", [RestartCondition.ANY, RestartCondition.ON_FAILURE])
def test_a_failed_task_is_tried_again_in_its_slot(condition: RestartCondition) -> None:
    swarm = job(1, 1, restart=RestartPolicy(condition=condition, delay_s=5))
    swarm.end_task(at_work(swarm)[0], TaskState.FAILED)
    swarm.pass_time(4.5)
    assert at_work(swarm) == []
    swarm.pass_time(1)
    assert [task.slot for task in at_work(swarm)] == [1]
    complete(swarm)
    assert done(swarm) == 1
    assert at_work(swarm) == []


def test_without_restart_a_failed_slot_is_lost_and_not_used_again() -> None:
    swarm = job(1, 3, restart=RestartPolicy(condition=RestartCondition.NONE))
    swarm.end_task(at_work(swarm)[0], TaskState.FAILED)
    swarm.pass_time(1)
    complete(swarm)
    complete(swarm)
    assert at_work(swarm) == []
    assert done(swarm) == 2


def test_attempts_are_counted_by_slot() -> None:
    swarm = job(1, 1, restart=RestartPolicy(max_attempts=2, delay_s=0))
    for _ in range(3):
        swarm.end_task(at_work(swarm)[0], TaskState.FAILED)
        swarm.pass_time(1)
    assert at_work(swarm) == []
    swarm.become_leader()
    swarm.pass_time(HOUR)
    assert at_work(swarm) == []


def test_tasks_of_a_drained_node_run_elsewhere() -> None:
    swarm = job(2, 2)
    swarm.change_node("n1", spec=NodeSpec(availability=Availability.DRAIN))
    swarm.pass_time(1)
    assert {task.node_id for task in at_work(swarm)} == {"n2"}
    complete(swarm)
    assert done(swarm) == 2


def test_tasks_of_a_dead_node_run_elsewhere() -> None:
    swarm = job(2, 2)
    swarm.lose_node("n1")
    swarm.pass_time(1)
    wanted = [t for t in swarm.tasks() if t.desired_state <= TaskState.COMPLETE]
    assert {task.node_id for task in wanted} == {"n2"}


def test_an_update_runs_the_job_again_and_gives_up_the_run_before() -> None:
    swarm = job(2, 4)
    complete(swarm, 1)
    swarm.set_image("web", "v2")
    swarm.pass_time(1)
    assert swarm.images(at_work(swarm)) == ["v2", "v2"]
    assert {task.job_iteration for task in at_work(swarm)} == {1}
    while at_work(swarm):
        complete(swarm)
    assert done(swarm) == 4


def test_finished_runs_are_forgotten_beyond_the_history() -> None:
    swarm = job(1, 1)
    for number in range(8):
        complete(swarm)
        swarm.set_image("web", f"v{number + 2}")
        swarm.pass_time(1)
    assert sorted(task.job_iteration for task in swarm.tasks()) == [4, 5, 6, 7, 8]


def test_restarts_of_a_job_do_not_pile_up() -> None:
    swarm = job(1, 1)
    for _ in range(12):
        swarm.end_task(at_work(swarm)[0], TaskState.FAILED)
        swarm.pass_time(1)
    assert len(swarm.tasks()) == 5


def test_removing_the_job_removes_its_tasks() -> None:
    swarm = job(2, 4)
    complete(swarm, 1)
    swarm.remove_service("web")
    swarm.settle()
    assert swarm.tasks() == []


def test_fewer_completions_than_are_at_work_start_nothing_more() -> None:
    swarm = job(3, 3)
    complete(swarm, 2)
    assert len(at_work(swarm)) == 1
    swarm.pass_time(10)
    assert len(at_work(swarm)) == 1


def global_job(nodes: int = 3, *, restart: RestartPolicy | None = None, placement: Placement | None = None) -> Swarm:
    swarm = Swarm(nodes)
    task = TaskSpec(driver="fake", restart=restart or RestartPolicy(delay_s=0), placement=placement or Placement())
    swarm.create_service(a_service_spec(mode=GlobalJob(), task=task))
    swarm.settle()
    return swarm


def test_a_global_job_runs_once_on_every_node_and_on_one_that_joins() -> None:
    swarm = global_job()
    assert sorted(str(task.node_id) for task in at_work(swarm)) == ["n1", "n2", "n3"]
    complete(swarm)
    assert at_work(swarm) == []
    swarm.add_node("n4")
    swarm.settle()
    assert [task.node_id for task in at_work(swarm)] == ["n4"]
    swarm.set_node_state("n1", NodeState.UNKNOWN)
    swarm.set_node_state("n1", NodeState.READY)
    swarm.settle()
    assert [task.node_id for task in at_work(swarm)] == ["n4"], "a node that has done its part is left alone"


def test_a_global_job_leaves_out_nodes_that_do_not_fit() -> None:
    swarm = Swarm(4)
    swarm.change_node("n2", spec=NodeSpec(availability=Availability.PAUSE))
    swarm.change_node("n3", spec=NodeSpec(availability=Availability.DRAIN))
    swarm.lose_node("n4")
    swarm.create_service(a_service_spec(mode=GlobalJob()))
    swarm.settle()
    assert [task.node_id for task in at_work(swarm)] == ["n1"]


def test_a_global_job_keeps_to_its_constraints() -> None:
    swarm = global_job(placement=Placement(constraints=("node.hostname!=n2",)))
    assert sorted(str(task.node_id) for task in at_work(swarm)) == ["n1", "n3"]


def test_a_drained_node_gives_a_global_jobs_task_up_and_gets_it_when_it_returns() -> None:
    swarm = global_job()
    swarm.change_node("n1", spec=NodeSpec(availability=Availability.DRAIN))
    swarm.settle()
    assert sorted(str(task.node_id) for task in at_work(swarm)) == ["n2", "n3"]
    swarm.change_node("n1", spec=NodeSpec())
    swarm.settle()
    assert sorted(str(task.node_id) for task in at_work(swarm)) == ["n1", "n2", "n3"]


def test_a_global_jobs_failed_task_is_tried_again_as_often_as_allowed() -> None:
    swarm = global_job(1, restart=RestartPolicy(max_attempts=1, delay_s=0))
    for _ in range(2):
        swarm.end_task(at_work(swarm)[0], TaskState.FAILED)
        swarm.pass_time(1)
    assert at_work(swarm) == []
    assert len(swarm.tasks()) == 2


# -- scheduled runs


def scheduled(
    overlap: Overlap = Overlap.FORBID, *, window: float = 600, keep: int = 2, cron: str = "0 * * * *"
) -> Swarm:
    swarm = Swarm(2)
    swarm.now = 1_700_000_000.0 // HOUR * HOUR + 60  # a minute past the hour
    schedule = CronSchedule(cron=cron, overlap=overlap, missed_window_s=window, keep_last=keep)
    mode = ReplicatedJob(max_concurrent=1, total_completions=1, schedule=schedule)
    swarm.create_service(a_service_spec(mode=mode, restart=RestartPolicy(delay_s=0)))
    swarm.settle()
    return swarm


def run_of(swarm: Swarm) -> int:
    return swarm.service().job_status.iteration  # type: ignore[union-attr]


def test_a_scheduled_job_waits_for_its_time_and_runs_once_each() -> None:
    swarm = scheduled()
    assert swarm.tasks() == []
    for number in range(1, 4):
        swarm.pass_time(HOUR)
        assert run_of(swarm) == number
        assert len(at_work(swarm)) == 1
        complete(swarm)
        swarm.now -= 1  # stay a minute past the hour
    assert sorted({task.job_iteration for task in swarm.tasks()}) == [2, 3], "two runs are kept"


def test_a_due_run_begins_exactly_once_through_changes_of_leader() -> None:
    swarm = scheduled()
    swarm.pass_time(HOUR - 60)
    assert run_of(swarm) == 1
    for _ in range(3):
        swarm.become_leader()
        swarm.pass_time(1)
    assert run_of(swarm) == 1
    assert len(swarm.tasks()) == 1


def test_a_run_whose_write_was_lost_begins_under_the_next_leader() -> None:
    swarm = scheduled()
    swarm.now += HOUR - 60
    assert swarm.plan(), "the run is on its way to the store"
    swarm.become_leader()
    swarm.settle()
    assert run_of(swarm) == 1


def test_two_leaders_begin_a_due_run_once() -> None:
    swarm = scheduled()
    swarm.now += HOUR - 60
    (late,) = swarm.plan()
    swarm.become_leader()
    swarm.settle()
    assert swarm.write(*late.ops).conflict is not None
    assert run_of(swarm) == 1


def test_a_missed_run_is_made_up_for_within_the_window_the_latest_only() -> None:
    swarm = scheduled(window=300)
    swarm.now += 3 * HOUR  # nobody led; a minute past the hour
    swarm.become_leader()
    swarm.settle()
    assert run_of(swarm) == 1


def test_a_run_that_was_missed_for_longer_is_left_out() -> None:
    swarm = scheduled(window=300)
    swarm.now += 3 * HOUR + 600
    swarm.become_leader()
    swarm.settle()
    assert run_of(swarm) == 0
    swarm.pass_time(HOUR)
    assert run_of(swarm) == 1


def test_forbid_waits_for_the_run_before_within_the_window_and_then_leaves_it_out() -> None:
    swarm = scheduled(window=300)
    swarm.pass_time(HOUR)
    swarm.pass_time(HOUR)
    assert run_of(swarm) == 1
    complete(swarm)
    assert run_of(swarm) == 2, "two minutes late is within the window"
    swarm.pass_time(HOUR + 600)
    complete(swarm)
    assert run_of(swarm) == 2


def test_replace_stops_the_run_before() -> None:
    swarm = scheduled(Overlap.REPLACE)
    swarm.pass_time(HOUR)
    swarm.pass_time(HOUR)
    assert run_of(swarm) == 2
    assert [task.job_iteration for task in at_work(swarm)] == [2]


def test_allow_lets_runs_overlap() -> None:
    swarm = scheduled(Overlap.ALLOW)
    swarm.pass_time(HOUR)
    swarm.pass_time(HOUR)
    assert [task.job_iteration for task in at_work(swarm)] == [1, 2]


def test_a_new_spec_is_used_at_the_next_run_and_starts_none() -> None:
    swarm = scheduled()
    swarm.pass_time(HOUR)
    complete(swarm)
    swarm.set_image("web", "v2")
    swarm.pass_time(10)
    assert run_of(swarm) == 1
    swarm.pass_time(HOUR)
    assert swarm.images(at_work(swarm)) == ["v2"]
