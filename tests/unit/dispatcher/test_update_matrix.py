"""Every kind of update, with and without failures, under leaders that change in its midst: it ends as it would under one leader."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from services.kit.model.objects import Task
from services.kit.model.specs import Global, Replicated, RestartPolicy, ServiceMode, UpdateConfig
from services.kit.model.states import FailureAction, TaskState, UpdateOrder, UpdateState
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace
REPLICAS = 4
MATRIX = list(
    product(
        (Replicated(replicas=REPLICAS), Global()),
        list(UpdateOrder),
        (1, 2, 0),
        list(FailureAction),
        ("none", "some", "all"),
    )
)


def run(
    mode: ServiceMode, order: UpdateOrder, parallelism: int, action: FailureAction, failing: str, *, changes: bool
) -> tuple[UpdateState, list[str]]:
    """Return how the update ends, and the images that run then."""
    swarm = Swarm(REPLICAS)
    config = UpdateConfig(parallelism=parallelism, order=order, failure_action=action, monitor_s=5)
    swarm.create_service(a_service_spec(mode=mode, restart=RestartPolicy(delay_s=1, max_attempts=2), update=config))
    swarm.settle()

    def behave(task: Task) -> TaskState | None:
        bad = swarm.images([task]) == ["v2"] and (failing == "all" or (failing == "some" and _is_picked(swarm, task)))
        return TaskState.FAILED if bad else None

    swarm.behaviour = behave
    swarm.set_image("web", "v2", config)
    for _ in range(60):
        if changes:
            swarm.plan()
            swarm.become_leader()
        swarm.pass_time(2)
    status = swarm.service().update_status
    assert status is not None
    return status.state, sorted(swarm.images(swarm.running()))


def _is_picked(swarm: Swarm, task: Task) -> bool:
    """Tell whether this slot's tasks fail: the second one."""
    return task.slot == 2 or (task.slot == 0 and task.node_id == "n2")


@pytest.mark.parametrize(("mode", "order", "parallelism", "action", "failing"), MATRIX)
def test_an_update_ends_alike_under_one_leader_and_under_many(
    mode: ServiceMode, order: UpdateOrder, parallelism: int, action: FailureAction, failing: str
) -> None:
    alone = run(mode, order, parallelism, action, failing, changes=False)
    state, images = alone
    if failing == "none":
        assert alone == (UpdateState.COMPLETED, ["v2"] * REPLICAS)
    elif action is FailureAction.ROLLBACK:
        assert alone == (UpdateState.ROLLBACK_COMPLETED, ["v1"] * REPLICAS)
    elif action is FailureAction.PAUSE:
        assert state is UpdateState.PAUSED
        assert images.count("v1") + images.count("v2") >= REPLICAS - max(parallelism or REPLICAS, 1)
    else:
        assert state is UpdateState.COMPLETED
        kept = order is UpdateOrder.START_FIRST
        expected = {"none": REPLICAS, "some": REPLICAS - 1, "all": 0}[failing]
        assert images.count("v2") == expected
        assert images.count("v1") == (REPLICAS - expected if kept else 0)
    many = run(mode, order, parallelism, action, failing, changes=True)
    assert many[0] is state
    assert many == alone or action is FailureAction.PAUSE, "where it pauses depends on when"
