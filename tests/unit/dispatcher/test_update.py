"""Updates: how a change of the spec rolls over the slots, and what happens when it fails."""

from __future__ import annotations

import msgspec
import pytest

from services.dispatcher.core.control.services import update_service
from services.dispatcher.core.loops.update import CRAMPED
from services.kit.errors import FailedPrecondition
from services.kit.messages.control import UpdateServiceRequest
from services.kit.model.objects import Task
from services.kit.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Global,
    NodeSpec,
    Placement,
    PortConfig,
    Replicated,
    RestartPolicy,
    ServiceMode,
    TaskSpec,
    UpdateConfig,
)
from services.kit.model.states import Availability, FailureAction, PublishMode, TaskState, UpdateOrder, UpdateState
from services.kit.state.transaction import update
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace


def swarm_with(replicas: int = 4, nodes: int = 2) -> Swarm:
    swarm = Swarm(nodes)
    swarm.create_service(replicas=replicas)
    swarm.settle()
    return swarm


def state_of(swarm: Swarm) -> UpdateState | None:
    status = swarm.service().update_status
    return None if status is None else status.state


def failing(image: str, swarm: Swarm):  # type: ignore[no-untyped-def]
    """Tasks of this image fail when they start."""

    def behave(task: Task) -> TaskState | None:
        return TaskState.FAILED if swarm.images([task]) == [image] else None

    return behave


@pytest.mark.parametrize("parallelism", [1, 2, 0])
def test_slots_roll_over_so_many_at_a_time(parallelism: int) -> None:
    swarm = swarm_with()
    fewest = [4]
    swarm.on_events.append(lambda events: fewest.append(len(swarm.running())))
    swarm.set_image("web", "v2", UpdateConfig(parallelism=parallelism))
    swarm.settle()
    assert swarm.images(swarm.running()) == ["v2"] * 4
    assert state_of(swarm) is UpdateState.UPDATING, "it is watched for a while"
    swarm.pass_time(5.1)
    assert state_of(swarm) is UpdateState.COMPLETED
    assert min(fewest) >= 4 - (parallelism or 4)
    assert [task.slot for task in swarm.running()] == [1, 2, 3, 4]


def test_the_delay_lies_between_one_slot_and_the_next() -> None:
    swarm = swarm_with(3)
    swarm.set_image("web", "v2", UpdateConfig(delay_s=10))
    swarm.settle()
    assert swarm.images(swarm.running()).count("v2") == 1
    swarm.pass_time(9)
    assert swarm.images(swarm.running()).count("v2") == 1
    swarm.pass_time(2)
    assert swarm.images(swarm.running()).count("v2") == 2


def test_stop_first_starts_the_new_task_only_when_the_old_one_stopped() -> None:
    swarm = swarm_with(1, nodes=1)
    swarm.set_image("web", "v2")
    swarm.settle(agents=False)
    old, new = swarm.tasks()
    assert (old.desired_state, new.desired_state) == (TaskState.SHUTDOWN, TaskState.READY)
    swarm.end_task(old, TaskState.SHUTDOWN)
    swarm.settle(agents=False)
    assert swarm.tasks()[-1].desired_state is TaskState.RUNNING


def test_start_first_stops_the_old_task_only_when_the_new_one_runs() -> None:
    swarm = swarm_with(3)
    fewest: list[int] = []
    swarm.on_events.append(lambda events: fewest.append(len({task.slot for task in swarm.running()})))
    swarm.set_image("web", "v2", UpdateConfig(order=UpdateOrder.START_FIRST, parallelism=2))
    swarm.pass_time(20)
    assert min(fewest) == 3, "a slot was empty for a while"
    assert swarm.images(swarm.running()) == ["v2"] * 3
    assert state_of(swarm) is UpdateState.COMPLETED


def test_a_change_of_scale_or_labels_restarts_nothing() -> None:
    swarm = swarm_with(2)
    before = {task.id for task in swarm.running()}
    spec = swarm.service().spec
    swarm.update_service("web", _replace(spec, annotations=_replace(spec.annotations, labels={"a": "b"})))
    swarm.scale("web", 3)
    swarm.pass_time(60)
    assert before < {task.id for task in swarm.running()}


def test_a_change_of_placement_restarts_only_tasks_whose_node_does_not_fit() -> None:
    swarm = swarm_with(2)
    stays = next(task for task in swarm.running() if task.node_id == "n1")
    spec = swarm.service().spec
    placement = Placement(constraints=("node.hostname==n1",))
    swarm.update_service("web", _replace(spec, task=_replace(spec.task, placement=placement)))
    swarm.pass_time(60)
    assert {task.node_id for task in swarm.running()} == {"n1"}
    assert stays.id in {task.id for task in swarm.running()}
    assert len(swarm.running()) == 2


def test_new_credentials_restart_nothing_that_runs() -> None:
    swarm = swarm_with(2)
    before = {task.id for task in swarm.running()}
    spec = swarm.service().spec
    container = _replace(spec.task.container, registry_auth="secret")
    swarm.update_service("web", _replace(spec, task=_replace(spec.task, container=container)))
    swarm.pass_time(60)
    assert {task.id for task in swarm.running()} == before


def test_a_failing_update_pauses_after_the_first_failure_and_stays_paused() -> None:
    swarm = swarm_with(4)
    swarm.behaviour = failing("v2", swarm)
    swarm.set_image("web", "v2")
    swarm.pass_time(200)
    assert state_of(swarm) is UpdateState.PAUSED
    assert swarm.images(swarm.running()) == ["v1"] * 3
    status = swarm.service().update_status
    assert status is not None
    assert status.message.startswith("update paused due to failure or early termination of task ")
    swarm.become_leader()
    swarm.pass_time(200)
    assert state_of(swarm) is UpdateState.PAUSED
    assert swarm.images(swarm.running()) == ["v1"] * 3


def test_continue_goes_through_all_slots_whatever_fails() -> None:
    swarm = swarm_with(3)
    broken = {"first"}

    def behave(task: Task) -> TaskState | None:
        if swarm.images([task]) == ["v2"] and broken:
            broken.clear()
            return TaskState.FAILED
        return None

    swarm.behaviour = behave
    swarm.set_image("web", "v2", UpdateConfig(failure_action=FailureAction.CONTINUE))
    swarm.pass_time(60)
    assert swarm.images(swarm.running()) == ["v2"] * 3
    assert state_of(swarm) is UpdateState.COMPLETED


def test_a_failing_update_rolls_back_exactly_what_it_changed() -> None:
    swarm = swarm_with(4)
    before = {task.slot: task.id for task in swarm.running()}
    swarm.behaviour = failing("v2", swarm)
    swarm.set_image("web", "v2", UpdateConfig(failure_action=FailureAction.ROLLBACK))
    swarm.pass_time(60)
    assert state_of(swarm) is UpdateState.ROLLBACK_COMPLETED
    assert swarm.images(swarm.running()) == ["v1"] * 4
    kept = [slot for slot, task_id in before.items() if task_id in {task.id for task in swarm.running()}]
    assert kept == [2, 3, 4]
    assert swarm.service().spec_version == 1
    assert swarm.service().previous_spec is None


def test_a_rollback_that_fails_is_paused_and_stays_so() -> None:
    swarm = swarm_with(2)
    swarm.behaviour = lambda task: TaskState.FAILED
    swarm.set_image("web", "v2", UpdateConfig(failure_action=FailureAction.ROLLBACK))
    swarm.pass_time(600)
    assert state_of(swarm) is UpdateState.ROLLBACK_PAUSED


def test_the_failure_ratio_is_tolerated_up_to_its_value() -> None:
    swarm = swarm_with(4)
    broken = {1}

    def behave(task: Task) -> TaskState | None:
        if task.slot in broken and swarm.images([task]) == ["v2"]:
            broken.discard(task.slot)
            return TaskState.FAILED
        return None

    swarm.behaviour = behave
    swarm.set_image("web", "v2", UpdateConfig(max_failure_ratio=0.25))
    swarm.pass_time(60)
    assert state_of(swarm) is UpdateState.COMPLETED


def test_a_manual_rollback_swaps_the_specs_and_rolls_back() -> None:
    swarm = swarm_with(2)
    swarm.set_image("web", "v2")
    swarm.pass_time(60)
    service = swarm.service()
    request = UpdateServiceRequest(service_id=service.id, version=service.meta.version, rollback=True)
    swarm.write(*update_service(swarm.state, request, swarm.now).ops)
    swarm.pass_time(60)
    assert state_of(swarm) is UpdateState.ROLLBACK_COMPLETED
    assert swarm.images(swarm.running()) == ["v1"] * 2
    previous = swarm.service().previous_spec
    assert previous is not None
    assert previous.task.container.image == "v2"


def test_a_second_update_overtakes_the_first() -> None:
    swarm = swarm_with(4)
    swarm.set_image("web", "v2", UpdateConfig(delay_s=100))
    swarm.pass_time(50)
    swarm.set_image("web", "v3", UpdateConfig())
    swarm.pass_time(60)
    assert swarm.images(swarm.running()) == ["v3"] * 4


def test_an_update_goes_on_under_a_new_leader() -> None:
    swarm = swarm_with(4)
    swarm.set_image("web", "v2", UpdateConfig(delay_s=10))
    for _ in range(6):
        swarm.pass_time(9)
        swarm.become_leader()
    swarm.pass_time(60)
    assert swarm.images(swarm.running()) == ["v2"] * 4
    assert state_of(swarm) is UpdateState.COMPLETED


def test_templates_that_nobody_uses_are_deleted_once_the_history_forgets_them() -> None:
    swarm = Swarm(1, history=1)
    swarm.create_service(replicas=2)
    swarm.settle()
    for image in ("v2", "v3"):
        swarm.set_image("web", image)
        swarm.pass_time(30)
    assert set(swarm.state.specs_of(swarm.service().id)) == {3}


# -- by hand


def test_an_update_is_paused_by_hand_and_goes_on_where_it_stopped() -> None:
    swarm = swarm_with()
    swarm.set_image("web", "v2", UpdateConfig(delay_s=10))
    swarm.pass_time(1)
    assert swarm.images(swarm.running()).count("v2") == 1
    swarm.update_service("web", pause=True)
    swarm.pass_time(100)
    assert (state_of(swarm), swarm.images(swarm.running()).count("v2")) == (UpdateState.PAUSED, 1)
    swarm.become_leader()
    swarm.update_service("web", resume=True)
    swarm.pass_time(200)
    assert state_of(swarm) is UpdateState.COMPLETED
    assert swarm.images(swarm.running()) == ["v2"] * 4


def test_resuming_a_failed_update_forgets_its_failures() -> None:
    swarm = swarm_with()
    swarm.behaviour = failing("v2", swarm)
    swarm.set_image("web", "v2")
    swarm.pass_time(60)
    assert state_of(swarm) is UpdateState.PAUSED
    swarm.behaviour = lambda task: None
    swarm.update_service("web", resume=True)
    swarm.pass_time(200)
    assert state_of(swarm) is UpdateState.COMPLETED
    assert swarm.images(swarm.running()) == ["v2"] * 4


def test_a_paused_rollback_is_resumed_as_a_rollback() -> None:
    swarm = swarm_with()
    swarm.set_image("web", "v2", UpdateConfig(delay_s=10))
    swarm.pass_time(100)
    swarm.update_service("web", rollback=True)
    swarm.settle()
    swarm.update_service("web", pause=True)
    assert state_of(swarm) is UpdateState.ROLLBACK_PAUSED
    swarm.update_service("web", resume=True)
    swarm.pass_time(100)
    assert state_of(swarm) is UpdateState.ROLLBACK_COMPLETED
    assert swarm.images(swarm.running()) == ["v1"] * 4


def test_only_what_is_under_way_is_paused_and_only_what_is_paused_resumed() -> None:
    swarm = swarm_with()
    with pytest.raises(FailedPrecondition, match="under way"):
        swarm.update_service("web", pause=True)
    with pytest.raises(FailedPrecondition, match="not paused"):
        swarm.update_service("web", resume=True)


# -- corners


@pytest.mark.parametrize("parallelism", [1, 2, 0])
def test_start_first_under_a_limit_per_node_says_that_it_stops_first_and_completes(parallelism: int) -> None:
    swarm = Swarm(2)
    task = TaskSpec(driver="fake", placement=Placement(max_replicas=2), container=ContainerSpec(image="v1"))
    swarm.create_service(a_service_spec(replicas=4, task=task))
    swarm.settle()
    swarm.set_image("web", "v2", UpdateConfig(order=UpdateOrder.START_FIRST, parallelism=parallelism))
    swarm.settle()
    swarm.pass_time(100)
    assert state_of(swarm) is UpdateState.COMPLETED
    assert swarm.images(swarm.running()) == ["v2"] * 4


def test_start_first_says_what_it_does_instead() -> None:
    swarm = Swarm(1)
    task = TaskSpec(driver="fake", placement=Placement(max_replicas=1), container=ContainerSpec(image="v1"))
    swarm.create_service(a_service_spec(task=task))
    swarm.settle()
    swarm.obedient.clear()
    swarm.set_image("web", "v2", UpdateConfig(order=UpdateOrder.START_FIRST))
    swarm.settle()
    status = swarm.service().update_status
    assert status is not None
    assert status.message == CRAMPED


def test_start_first_keeps_its_order_where_a_node_has_room() -> None:
    swarm = Swarm(3)
    task = TaskSpec(driver="fake", placement=Placement(max_replicas=1), container=ContainerSpec(image="v1"))
    swarm.create_service(a_service_spec(replicas=2, task=task))
    swarm.settle()
    fewest = [2]
    swarm.on_events.append(lambda events: fewest.append(len(swarm.running())))
    swarm.set_image("web", "v2", UpdateConfig(order=UpdateOrder.START_FIRST))
    swarm.pass_time(100)
    assert min(fewest) == 2
    assert swarm.images(swarm.running()) == ["v2"] * 2


@pytest.mark.parametrize("mode", [Replicated(replicas=1), Global()])
def test_start_first_with_a_port_of_the_node_stops_first(mode: ServiceMode) -> None:
    swarm = Swarm(1)
    endpoint = EndpointSpec(ports=(PortConfig(target_port=80, published_port=80, publish_mode=PublishMode.HOST),))
    swarm.create_service(a_service_spec(mode=mode, endpoint=endpoint))
    swarm.settle()
    swarm.set_image("web", "v2", UpdateConfig(order=UpdateOrder.START_FIRST))
    swarm.pass_time(100)
    assert swarm.images(swarm.running()) == ["v2"]


def test_monitor_counts_what_fails_soon_after_it_ran_and_not_what_fails_later() -> None:
    for after_s, expected in ((3, UpdateState.PAUSED), (20, UpdateState.UPDATING)):
        swarm = swarm_with()
        swarm.set_image("web", "v2", UpdateConfig(monitor_s=10, delay_s=30))
        swarm.pass_time(after_s)
        (new,) = [task for task in swarm.running() if swarm.images([task]) == ["v2"]]
        swarm.end_task(new, TaskState.FAILED)
        swarm.settle()
        assert state_of(swarm) is expected


def test_an_update_is_complete_only_when_its_last_task_was_monitored() -> None:
    swarm = swarm_with(2)
    swarm.set_image("web", "v2", UpdateConfig(monitor_s=20, parallelism=0))
    swarm.pass_time(19)
    assert state_of(swarm) is UpdateState.UPDATING
    swarm.pass_time(2)
    assert state_of(swarm) is UpdateState.COMPLETED


@pytest.mark.parametrize("action", [FailureAction.PAUSE, FailureAction.ROLLBACK])
def test_a_failing_rollback_is_paused_whatever_its_action_and_not_completed_later(action: FailureAction) -> None:
    swarm = swarm_with()
    spec = _replace(swarm.service().spec, rollback=UpdateConfig(failure_action=action))
    swarm.update_service("web", spec)
    swarm.behaviour = lambda task: TaskState.FAILED
    swarm.set_image("web", "v2", UpdateConfig(failure_action=FailureAction.ROLLBACK))
    swarm.pass_time(300)
    assert state_of(swarm) is UpdateState.ROLLBACK_PAUSED


def test_a_failing_rollback_with_continue_completes() -> None:
    swarm = swarm_with()
    spec = _replace(swarm.service().spec, rollback=UpdateConfig(failure_action=FailureAction.CONTINUE))
    swarm.update_service("web", spec)
    swarm.behaviour = failing("v2", swarm)
    swarm.set_image("web", "v2", UpdateConfig(failure_action=FailureAction.ROLLBACK))
    swarm.pass_time(300)
    assert state_of(swarm) is UpdateState.ROLLBACK_COMPLETED
    assert swarm.images(swarm.running()) == ["v1"] * 4


def test_without_a_previous_spec_a_failing_update_pauses_instead_of_rolling_back() -> None:
    swarm = swarm_with()
    swarm.set_image("web", "v2", UpdateConfig(failure_action=FailureAction.ROLLBACK))
    service = swarm.service()
    swarm.write(update(_replace(service, previous_spec=None, previous_spec_version=0)))
    swarm.behaviour = failing("v2", swarm)
    swarm.pass_time(60)
    assert state_of(swarm) is UpdateState.PAUSED


@pytest.mark.parametrize(("parallelism", "delay_s"), [(1, 0), (2, 5), (3, 1), (0, 0), (0, 10)])
@pytest.mark.parametrize("order", list(UpdateOrder))
def test_every_task_is_replaced_whatever_the_settings(parallelism: int, delay_s: float, order: UpdateOrder) -> None:
    swarm = swarm_with(5)
    swarm.set_image("web", "v2", UpdateConfig(parallelism=parallelism, delay_s=delay_s, order=order))
    swarm.pass_time(300)
    assert state_of(swarm) is UpdateState.COMPLETED
    assert swarm.images(swarm.running()) == ["v2"] * 5


@pytest.mark.parametrize("order", [UpdateOrder.STOP_FIRST, UpdateOrder.START_FIRST])
@pytest.mark.parametrize("history", [0, 5])
def test_a_service_that_is_scaled_while_it_is_updated_rolls_no_more_slots_at_a_time(
    order: UpdateOrder, history: int
) -> None:
    swarm = Swarm(2, history=history)
    swarm.create_service(replicas=4)
    swarm.settle()
    swarm.set_image("web", "v2", UpdateConfig(parallelism=2, order=order))
    swarm.settle(agents=False)
    assert swarm.images(swarm.tasks()).count("v2") == 2
    for old in swarm.tasks(where=lambda task: task.desired_state is TaskState.SHUTDOWN):
        swarm.end_task(old, TaskState.SHUTDOWN)
    swarm.settle(agents=False)
    swarm.scale("web", 5)
    swarm.settle(agents=False)
    rolling = [task for task in swarm.tasks() if swarm.images([task]) == ["v2"] and task.slot <= 4]
    assert len(rolling) == 2
    swarm.settle()
    assert swarm.images(swarm.running()) == ["v2"] * 5


def test_a_service_that_is_scaled_when_every_new_task_is_on_its_way_still_stops_the_old_ones() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=4)
    swarm.settle()
    swarm.set_image("web", "v2", UpdateConfig(parallelism=0, order=UpdateOrder.START_FIRST))
    swarm.settle(agents=False)
    swarm.scale("web", 3)
    swarm.settle()
    assert swarm.images(swarm.running()) == ["v2"] * 3


def test_updates_that_follow_each_other_keep_only_what_runs_beside_the_newest() -> None:
    swarm = Swarm(2)
    swarm.create_service(replicas=2)
    swarm.settle()
    for image in ("v2", "v3", "v4"):
        swarm.set_image("web", image, UpdateConfig(parallelism=0, order=UpdateOrder.START_FIRST))
        swarm.settle(agents=False)
    alive = swarm.tasks(where=lambda task: task.desired_state <= TaskState.RUNNING)
    assert sorted(swarm.images(alive)) == sorted([*swarm.images(swarm.running()), "v4", "v4"])
    assert len(swarm.running()) == 2
    swarm.settle()
    assert swarm.images(swarm.running()) == ["v4"] * 2


def test_a_global_task_on_its_way_counts_although_its_node_was_paused_meanwhile() -> None:
    swarm = Swarm(3)
    swarm.create_service(mode=Global())
    swarm.settle()
    swarm.set_image("web", "v2")
    swarm.settle(agents=False)
    (moving,) = swarm.tasks(where=lambda task: swarm.images([task]) == ["v2"])
    assert moving.node_id is not None
    swarm.change_node(moving.node_id, spec=NodeSpec(availability=Availability.PAUSE))
    (old,) = swarm.tasks(where=lambda task: task.desired_state is TaskState.SHUTDOWN)
    swarm.end_task(old, TaskState.SHUTDOWN)
    swarm.settle(agents=False)
    assert swarm.images(swarm.tasks()).count("v2") == 1


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_a_slot_that_keeps_failing_holds_no_other_up_when_the_update_goes_on(order: UpdateOrder) -> None:
    swarm = Swarm(2)
    config = UpdateConfig(failure_action=FailureAction.CONTINUE, order=order)
    swarm.create_service(a_service_spec(replicas=4, restart=RestartPolicy(delay_s=2), update=config))
    swarm.settle()
    swarm.behaviour = lambda task: TaskState.FAILED if task.slot == 1 and swarm.images([task]) == ["v2"] else None
    swarm.set_image("web", "v2", config)
    swarm.pass_time(60)
    others = [task for task in swarm.running() if task.slot != 1]
    assert swarm.images(others) == ["v2"] * 3
    swarm.behaviour = lambda task: None
    swarm.pass_time(60)
    assert state_of(swarm) is UpdateState.COMPLETED
    assert swarm.images(swarm.running()) == ["v2"] * 4


def test_an_update_that_is_over_does_not_begin_again_by_itself() -> None:
    swarm = Swarm(2)
    config = UpdateConfig(failure_action=FailureAction.CONTINUE, order=UpdateOrder.START_FIRST)
    swarm.create_service(a_service_spec(replicas=2, restart=RestartPolicy(delay_s=1, max_attempts=1), update=config))
    swarm.settle()
    swarm.behaviour = failing("v2", swarm)
    swarm.set_image("web", "v2", config)
    swarm.pass_time(100)
    assert state_of(swarm) is UpdateState.COMPLETED
    assert swarm.images(swarm.running()) == ["v1"] * 2, "what ran is kept"
    before = [task.id for task in swarm.tasks()]
    swarm.become_leader()
    swarm.pass_time(1000)
    assert [task.id for task in swarm.tasks()] == before
