"""The plan of a deployment, without a swarm."""

from __future__ import annotations

from msgspec.structs import replace

from services.cli.stack.plan import Verb, plan_lines, plan_stack
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Node, NodeDescription, NodeStatus, Service, Task, TaskStatus
from services.kit.model.specs import Annotations, NodeSpec, Placement, Replicated, ServiceSpec
from services.kit.model.states import Availability, NodeState, TaskState
from swarmbus import service_spec


def node(name: str, availability: Availability = Availability.ACTIVE) -> Node:
    return Node(
        id=NodeId(name),
        spec=NodeSpec(annotations=Annotations(name=name), availability=availability),
        description=NodeDescription(hostname=name, drivers=("process",)),
        status=NodeStatus(state=NodeState.READY),
    )


NODES = (node("a"), node("b"), node("c", Availability.DRAIN))


def spec(name: str = "web", replicas: int = 3, command: str = "run") -> ServiceSpec:
    return service_spec(name, command=[command], replicas=replicas)


def there(wanted: ServiceSpec) -> Service:
    return Service(id=ServiceId(wanted.annotations.name * 5), spec=wanted)


def tasks(service: Service, count: int) -> list[Task]:
    return [
        Task(
            id=TaskId(f"t{slot}"),
            service_id=service.id,
            spec_version=1,
            slot=slot,
            node_id=NODES[slot % 2].id,
            status=TaskStatus(state=TaskState.RUNNING),
        )
        for slot in range(1, count + 1)
    ]


def test_a_new_service_is_created_where_it_fits() -> None:
    (step,) = plan_stack("s", [spec()], [], [], NODES, prune=False).steps
    assert (step.verb, step.started, step.fits) == (Verb.CREATE, 3, ("a", "b"))
    assert step.misfits == {"c": "is set to drain"}


def test_one_that_is_as_wanted_is_left_alone_even_when_it_was_forced() -> None:
    forced = replace(spec(), task=replace(spec().task, force_update=4))
    old = there(forced)
    plan = plan_stack("s", [spec()], [old], tasks(old, 3), NODES, prune=True)
    assert [step.verb for step in plan.steps] == [Verb.LEAVE]
    assert plan.empty
    assert plan.steps[0].disturbs == "disturbs nothing"


def test_a_changed_template_replaces_running_tasks() -> None:
    old = there(spec())
    (step,) = plan_stack("s", [spec(command="other")], [old], tasks(old, 3), NODES, prune=False).steps
    assert (step.replaced, step.started, step.stopped) == (3, 0, 0)
    assert step.disturbs == "replaces 3 tasks, 1 at a time, the old one stops first"
    assert [each.field for each in step.differences] == ["task.container.command"]


def test_scaling_disturbs_no_task_that_stays() -> None:
    old = there(spec())
    up = plan_stack("s", [spec(replicas=5)], [old], tasks(old, 3), NODES, prune=False).steps[0]
    down = plan_stack("s", [spec(replicas=1)], [old], tasks(old, 3), NODES, prune=False).steps[0]
    assert (up.started, up.replaced, up.stopped) == (2, 0, 0)
    assert (down.started, down.replaced, down.stopped) == (0, 0, 2)


def test_a_new_constraint_moves_only_tasks_whose_node_does_not_meet_it() -> None:
    old = there(spec())
    wanted = replace(old.spec, task=replace(old.spec.task, placement=Placement(constraints=("node.hostname==a",))))
    (step,) = plan_stack("s", [wanted], [old], tasks(old, 3), NODES, prune=False).steps
    assert step.replaced == 2
    assert step.misfits["b"] == "does not meet node.hostname==a"


def test_what_the_file_no_longer_has_goes_only_when_asked() -> None:
    old = there(spec("old"))
    assert plan_stack("s", [], [old], tasks(old, 2), NODES, prune=False).steps == ()
    (step,) = plan_stack("s", [], [old], tasks(old, 2), NODES, prune=True).steps
    assert (step.verb, step.stopped) == (Verb.REMOVE, 2)


def test_a_plan_says_that_no_node_fits_and_why() -> None:
    wanted = replace(spec(), mode=Replicated(replicas=1), task=replace(spec().task, driver="docker"))
    lines = plan_lines(plan_stack("s", [wanted], [], [], NODES, prune=False))
    assert (
        "    no node fits: a cannot run the driver docker; b cannot run the driver docker; c is set to drain" in lines
    )
    assert lines[-1] == "1 to create, 0 to update, 0 to remove"
