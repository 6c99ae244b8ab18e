"""When a service has become what its spec says."""

from __future__ import annotations

from msgspec.structs import replace

from services.client.convergence import Convergence, Stage
from services.kit.model.ids import NodeId, ServiceId, TaskId, spec_version_id
from services.kit.model.objects import JobStatus, Meta, Service, SpecVersion, Task, TaskStatus, UpdateStatus
from services.kit.model.specs import Global, Replicated, ReplicatedJob, RestartPolicy, ServiceMode, ServiceSpec
from services.kit.model.states import RestartCondition, TaskState, UpdateState
from swarmbus import service_spec

WEB = ServiceId("web")


def spec(mode: ServiceMode, word: str = "run", restart: RestartCondition = RestartCondition.ANY) -> ServiceSpec:
    made = service_spec("web", command=(word,), restart=RestartPolicy(condition=restart))
    return replace(made, mode=mode)


def service(mode: ServiceMode = Replicated(replicas=2), version: int = 2, **more: object) -> Service:
    made = Service(id=WEB, spec=spec(mode), spec_version=version, meta=Meta(version=10))
    return replace(made, **more)


def task(name: str, slot: int, state: TaskState, *, version: int = 2, at: float = 0.0, **more: object) -> Task:
    made = Task(
        id=TaskId(name),
        meta=Meta(version=5, created_at=at),
        service_id=WEB,
        spec_version=version,
        slot=slot,
        status=TaskStatus(state=state),
    )
    return replace(made, **more)


def template(version: int, word: str) -> SpecVersion:
    made = spec(Replicated(), word)
    return SpecVersion(
        id=spec_version_id(WEB, version),
        service_id=WEB,
        version=version,
        annotations=made.annotations,
        task=made.task,
        endpoint=made.endpoint,
    )


RUNNING = TaskState.RUNNING


def test_all_slots_running_is_converged() -> None:
    view = Convergence(service(), [task("a", 1, RUNNING), task("b", 2, RUNNING)], [])
    assert view.progress().stage is Stage.CONVERGED


def test_tasks_of_an_older_version_count_when_their_template_is_the_same() -> None:
    tasks = [task("a", 1, RUNNING, version=1), task("b", 2, RUNNING)]
    assert Convergence(service(), tasks, [template(1, "run")]).progress().done == 2
    assert Convergence(service(), tasks, [template(1, "other")]).progress().done == 1
    assert Convergence(service(), tasks, []).progress().done == 1


def test_tasks_beyond_the_wanted_number_must_go_first() -> None:
    tasks = [task("a", 1, RUNNING), task("b", 2, RUNNING), task("c", 3, RUNNING)]
    view = Convergence(service(), tasks, [])
    assert view.progress().stage is Stage.WORKING
    view.absorb("update", replace(tasks[2], desired_state=TaskState.REMOVE))
    assert view.progress().stage is Stage.CONVERGED


def test_a_scale_to_nothing_converges_when_nothing_is_left() -> None:
    view = Convergence(service(Replicated(replicas=0)), [task("a", 1, RUNNING)], [])
    assert view.progress().stage is Stage.WORKING
    view.absorb("remove", task("a", 1, RUNNING))
    assert view.progress().stage is Stage.CONVERGED


def test_an_update_under_way_is_not_converged_whatever_runs() -> None:
    tasks = [task("a", 1, RUNNING), task("b", 2, RUNNING)]
    updating = service(update_status=UpdateStatus(state=UpdateState.UPDATING))
    assert Convergence(updating, tasks, []).progress().stage is Stage.WORKING


def test_a_rollback_fails_unless_it_was_wanted() -> None:
    tasks = [task("a", 1, RUNNING), task("b", 2, RUNNING)]
    rolled = service(update_status=UpdateStatus(state=UpdateState.ROLLBACK_COMPLETED))
    assert Convergence(rolled, tasks, []).progress().stage is Stage.FAILED
    assert Convergence(rolled, tasks, [], rollback=True).progress().stage is Stage.CONVERGED


def test_the_reason_of_a_slot_is_the_last_error_of_its_present_version() -> None:
    failed = replace(
        task("old", 1, TaskState.FAILED, at=1, desired_state=TaskState.SHUTDOWN),
        status=TaskStatus(state=TaskState.FAILED, error="exit status 1"),
    )
    view = Convergence(service(Replicated()), [failed, task("new", 1, TaskState.STARTING, at=2)], [])
    (slot,) = view.progress().slots
    assert (slot.task_id, slot.reason) == ("new", "exit status 1")


def test_what_is_older_than_what_is_known_changes_nothing() -> None:
    view = Convergence(service(), [task("a", 1, RUNNING), task("b", 2, RUNNING)], [])
    view.absorb("update", task("a", 1, TaskState.NEW, meta=Meta(version=4)))
    view.absorb("update", service(Replicated(replicas=9), meta=Meta(version=9)))
    view.absorb("create", task("x", 3, RUNNING, service_id=ServiceId("other")))
    assert view.progress().stage is Stage.CONVERGED


def test_a_removed_service_fails() -> None:
    view = Convergence(service(), [], [])
    view.absorb("remove", service())
    assert view.progress().stage is Stage.FAILED


def test_a_one_shot_that_completed_is_done() -> None:
    once = Service(
        id=WEB, spec=spec(Replicated(), restart=RestartCondition.ON_FAILURE), spec_version=2, meta=Meta(version=1)
    )
    complete = task("a", 1, TaskState.COMPLETE, desired_state=TaskState.SHUTDOWN)
    assert Convergence(once, [complete], []).progress().stage is Stage.CONVERGED
    failed = task("a", 1, TaskState.FAILED, desired_state=TaskState.SHUTDOWN)
    assert Convergence(once, [failed], []).progress().stage is Stage.WORKING


def test_a_task_that_failed_for_good_is_not_counted_as_done() -> None:
    once = Service(id=WEB, spec=spec(Replicated(), restart=RestartCondition.NONE), spec_version=2, meta=Meta(version=1))
    progress = Convergence(once, [task("a", 1, TaskState.FAILED)], []).progress()
    assert (progress.stage, progress.done) == (Stage.FAILED, 0)


def test_a_global_service_waits_for_its_first_task() -> None:
    view = Convergence(service(Global()), [], [])
    assert view.progress().stage is Stage.WORKING
    view.absorb("create", task("a", 0, RUNNING, node_id=NodeId("n1")))
    view.absorb("create", task("b", 0, TaskState.STARTING, node_id=NodeId("n2")))
    assert (view.progress().done, view.progress().desired) == (1, 2)


def test_a_job_counts_completions_of_its_present_run() -> None:
    job = service(ReplicatedJob(max_concurrent=1, total_completions=2), job_status=JobStatus(iteration=1))
    done = [task("old", 1, TaskState.COMPLETE, job_iteration=0), task("a", 1, TaskState.COMPLETE, job_iteration=1)]
    view = Convergence(job, done, [])
    assert (view.progress().done, view.progress().stage) == (1, Stage.WORKING)
    view.absorb("create", task("b", 2, TaskState.COMPLETE, job_iteration=1))
    assert view.progress().stage is Stage.CONVERGED
