"""The set of assigned tasks, their templates and dependencies."""

from __future__ import annotations

import pytest

from services.agent.core.bundle import NodeFacts
from services.agent.core.worker import Add, Change, MissingDependency, Remove, Resync, Worker
from services.kit.messages.session import AssignedTask, Assignments
from services.kit.model.ids import ConfigId, SecretId
from services.kit.model.objects import Config, Secret, SpecVersion, Task
from services.kit.model.specs import (
    Annotations,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    Platform,
    SecretReference,
    SecretSpec,
)
from services.kit.model.states import TaskState
from tests.support.agents import NODE, make_spec, make_task, task_id

HERE = NodeFacts(id=NODE, hostname="h", platform=Platform())


def message(
    *tasks: Task,
    follows: int | None = None,
    becomes: int,
    specs: tuple[SpecVersion, ...] = (),
    removed: tuple[int, ...] = (),
) -> Assignments:
    return Assignments(
        full=follows is None,
        applies_to=follows or 0,
        results_in=becomes,
        tasks=tuple(AssignedTask(task=task) for task in tasks),
        removed_tasks=tuple(map(task_id, removed)),
        specs=specs,
    )


def test_a_full_set_adds_what_is_new_and_removes_what_is_missing() -> None:
    spec = make_spec()
    worker = Worker([(make_task(1), spec), (make_task(2), spec)])
    complete_before = worker.complete
    assert worker.apply(message(make_task(2), make_task(3), becomes=1, specs=(spec,))) == [
        Remove(task_id(1)),
        Add(make_task(3), spec),
    ]
    assert (complete_before, worker.complete) == (False, True)
    assert task_id(2) in worker
    assert len(worker) == 2


def test_changes_apply_in_order_and_only_new_wishes_are_passed_on() -> None:
    spec = make_spec()
    worker = Worker()
    worker.apply(message(make_task(1), becomes=1, specs=(spec,)))
    stop = make_task(1, desired=TaskState.SHUTDOWN)
    assert worker.apply(message(make_task(1, state=TaskState.RUNNING), follows=1, becomes=2)) == []
    assert worker.apply(message(stop, follows=2, becomes=3)) == [Change(stop)]
    assert worker.apply(message(follows=3, becomes=4, removed=(1, 9))) == [Remove(task_id(1))]


def test_after_a_gap_nothing_is_applied_until_the_next_full_set() -> None:
    spec = make_spec()
    worker = Worker()
    worker.apply(message(make_task(1), becomes=1, specs=(spec,)))
    for follows in (2, 3):
        actions = worker.apply(message(follows=follows, becomes=follows + 1, removed=(1,)))
        assert [type(action) for action in actions] == [Resync]
    assert task_id(1) in worker
    assert worker.apply(message(make_task(1), becomes=3, specs=(spec,))) == []
    assert worker.apply(message(follows=3, becomes=4, removed=(1,))) == [Remove(task_id(1))]


def test_a_template_is_kept_while_a_task_needs_it() -> None:
    old, new = make_spec(version=1), make_spec(version=2)
    worker = Worker()
    worker.apply(message(make_task(1, version=1), becomes=1, specs=(old,)))
    worker.apply(message(make_task(2, version=2), follows=1, becomes=2, specs=(new,), removed=(1,)))
    assert worker.apply(message(make_task(3, version=2), follows=2, becomes=3)) == [Add(make_task(3, version=2), new)]
    assert [type(a) for a in worker.apply(message(make_task(4, version=1), follows=3, becomes=4))] == [Resync]
    assert task_id(4) not in worker


def test_a_bundle_has_just_the_secrets_and_configs_of_its_task() -> None:
    target = FileTarget(name="f")
    container = ContainerSpec(
        secrets=(SecretReference(secret_id=SecretId("s1"), secret_name="one", target=target),),
        configs=(ConfigReference(config_id=ConfigId("c1"), config_name="conf", target=target),),
    )
    spec = make_spec(container=container)
    worker = Worker([(make_task(1), spec)])
    with pytest.raises(MissingDependency, match="secret one, config conf not delivered yet"):
        worker.bundle(make_task(1), spec, HERE)
    assert worker.bundle(make_task(1), spec, HERE, partial=True).payloads == ()
    secrets = tuple(
        Secret(id=SecretId(name), spec=SecretSpec(annotations=Annotations(name=name), data=b"x"))
        for name in ("s1", "s2")
    )
    config = Config(id=ConfigId("c1"), spec=ConfigSpec(annotations=Annotations(name="conf"), data=b"y"))
    worker.apply(Assignments(full=True, applies_to=0, results_in=1, secrets=secrets, configs=(config,)))
    bundle = worker.bundle(make_task(1), spec, HERE)
    assert [(each.kind, each.data, each.sensitive) for each in bundle.payloads] == [
        ("secret", b"x", True),
        ("config", b"y", False),
    ]
    assert "data" not in repr(bundle)
    worker.apply(Assignments(full=False, applies_to=1, results_in=2, removed_secrets=("s1",), removed_configs=("c1",)))
    with pytest.raises(MissingDependency):
        worker.bundle(make_task(1), spec, HERE)
