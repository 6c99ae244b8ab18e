"""What the scheduler does beyond SwarmKit's: who goes first, who keeps away from whom, who is woken, and how much one pass does."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from services.dispatcher.core.scheduling.passes import ALL, TURN, WORK_MAX
from services.dispatcher.core.scheduling.scheduler import Scheduler
from services.dispatcher.core.specs import template_of
from services.dispatcher.core.tasks import is_wanted
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Service, Task, TaskStatus
from services.kit.model.specs import (
    Annotations,
    NodeSpec,
    Placement,
    ResourceRequirements,
    Resources,
    SchedulingConfig,
    TaskSpec,
)
from services.kit.model.states import NodeState, PlacementStrategy, TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table
from services.kit.state.transaction import Action, create, update
from tests.support import fleets
from tests.support.convergence import Swarm, a_node, a_service_spec

_replace = msgspec.structs.replace
GIB = 1 << 30


def template(*, memory_bytes: int = 0, **fields: object) -> TaskSpec:
    resources = ResourceRequirements(reservations=Resources(memory_bytes=memory_bytes))
    return TaskSpec(driver="fake", resources=resources, placement=Placement(**fields))  # type: ignore[arg-type]


def homes(swarm: Swarm, name: str) -> Counter[str]:
    return Counter(str(task.node_id) for task in swarm.running(name))


def errors(swarm: Swarm, name: str) -> set[str]:
    return {task.status.error for task in swarm.tasks(name) if task.status.state is TaskState.PENDING}


def test_the_more_important_service_gets_what_there_is() -> None:
    swarm = Swarm(0)
    swarm.create_service(a_service_spec("low", replicas=4, task=template(memory_bytes=4 * GIB)))
    swarm.create_service(a_service_spec("high", replicas=3, task=template(memory_bytes=4 * GIB, priority=1)))
    swarm.settle()
    swarm.add_node("n1")
    swarm.settle()
    assert len(swarm.running("high")) == 3
    assert len(swarm.running("low")) == 1


def test_when_there_is_not_enough_services_take_turns() -> None:
    swarm = Swarm(0)
    for name in ("one", "two"):
        swarm.create_service(a_service_spec(name, replicas=100, task=template(memory_bytes=GIB)))
    swarm.settle()
    swarm.add_node("n1", memory_bytes=100 * GIB)
    swarm.settle()
    assert abs(len(swarm.running("one")) - len(swarm.running("two"))) <= TURN
    assert len(swarm.running("one")) + len(swarm.running("two")) == 100


def test_who_can_go_to_few_nodes_is_placed_before_who_can_go_anywhere() -> None:
    swarm = Swarm(0)
    swarm.create_service(a_service_spec("anywhere", replicas=4, task=template(memory_bytes=4 * GIB)))
    narrow = template(memory_bytes=4 * GIB, constraints=("node.labels.disk==ssd",))
    swarm.create_service(a_service_spec("narrow", replicas=4, task=narrow))
    swarm.settle()
    ssd = NodeSpec(annotations=Annotations(labels={"disk": "ssd"}))
    for name, spec in (("n1", ssd), ("n2", NodeSpec())):
        swarm.write(create(a_node(name, spec=spec)))
        swarm.obedient.add(NodeId(name))
    swarm.settle()
    assert homes(swarm, "narrow") == {"n1": 4}
    assert homes(swarm, "anywhere") == {"n2": 4}


def test_services_keep_away_from_one_another_in_both_directions_and_from_themselves() -> None:
    swarm = Swarm(3)
    swarm.create_service(a_service_spec("shy", replicas=2, task=template(anti_affinity=("loud", "shy"))))
    swarm.settle()
    swarm.create_service(a_service_spec("loud", replicas=3))
    swarm.settle()
    assert set(homes(swarm, "shy").values()) == {1}
    assert not set(homes(swarm, "shy")) & set(homes(swarm, "loud"))
    swarm.scale("shy", 3)
    swarm.settle()
    assert len(swarm.running("shy")) == 2
    swarm.remove_service("loud")
    swarm.settle()
    assert len(swarm.running("shy")) == 3


def test_a_service_waits_for_its_company_and_follows_it() -> None:
    swarm = Swarm(3)
    swarm.create_service(a_service_spec("sidecar", replicas=2, task=template(affinity=("web",))))
    swarm.settle()
    assert errors(swarm, "sidecar") == {"no suitable node (affinity not satisfied on 3 nodes)"}
    swarm.create_service(a_service_spec("web", task=template(constraints=("node.id==n2",))))
    swarm.settle()
    assert homes(swarm, "sidecar") == {"n2": 2}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [(PlacementStrategy.PACK, {"small": 2}), (PlacementStrategy.LOAD, {"large": 1, "small": 1})],
)
def test_strategies_pack_and_load_choose_by_what_is_left(strategy: PlacementStrategy, expected: dict[str, int]) -> None:
    swarm = Swarm(0)
    swarm.add_node("large", memory_bytes=64 * GIB)
    swarm.add_node("small", memory_bytes=8 * GIB)
    swarm.create_service(a_service_spec(replicas=2, task=template(memory_bytes=GIB, strategy=strategy)))
    swarm.settle()
    assert homes(swarm, "web") == expected


def test_by_load_a_half_full_node_is_left_to_others() -> None:
    swarm = Swarm(0)
    swarm.add_node("n1", memory_bytes=16 * GIB)
    swarm.create_service(a_service_spec("ballast", task=template(memory_bytes=8 * GIB)))
    swarm.settle()
    swarm.add_node("n2", memory_bytes=16 * GIB)
    for number in range(3):
        light = template(memory_bytes=GIB, strategy=PlacementStrategy.LOAD)
        swarm.create_service(a_service_spec(f"light{number}", task=light))
        swarm.settle()
        assert homes(swarm, f"light{number}") == {"n2": 1}


def test_what_waits_is_explained_at_once_and_then_less_and_less_often() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(replicas=1, task=template(memory_bytes=64 * GIB)))
    swarm.settle()
    first = errors(swarm, "web")
    swarm.add_node("n2")
    swarm.settle()
    assert errors(swarm, "web") == first
    swarm.pass_time(2)
    assert errors(swarm, "web") == {"no suitable node (insufficient resources on 2 nodes)"}


def test_a_lost_node_that_returns_still_holds_what_its_tasks_hold() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(replicas=2, task=template(memory_bytes=8 * GIB)))
    swarm.settle()
    swarm.set_node_state("n1", NodeState.DISCONNECTED)
    swarm.settle()
    swarm.create_service(a_service_spec("next", task=template(memory_bytes=GIB)))
    swarm.set_node_state("n1", NodeState.READY)
    swarm.settle()
    assert errors(swarm, "next") == {"no suitable node (insufficient resources on 1 node)"}


def allow_evictions(swarm: Swarm, most: int) -> None:
    cluster = swarm.state.cluster
    assert cluster is not None
    spec = _replace(cluster.spec, scheduling=SchedulingConfig(evictions_max=most))
    swarm.write(update(_replace(cluster, spec=spec)))


def test_less_important_tasks_make_room_when_the_cluster_allows_it_and_wait_their_turn() -> None:
    swarm = Swarm(2)
    allow_evictions(swarm, 10)
    swarm.create_service(a_service_spec("low", replicas=4, task=template(memory_bytes=8 * GIB)))
    swarm.settle()
    swarm.create_service(a_service_spec("high", replicas=1, task=template(memory_bytes=12 * GIB, priority=1)))
    swarm.pass_time(10)
    assert len(swarm.running("high")) == 1
    assert len(swarm.running("low")) == 2
    waiting = swarm.tasks("low", where=lambda task: task.status.state is TaskState.PENDING)
    assert len(waiting) == 2
    told = swarm.tasks("low", where=lambda task: task.desired_state is TaskState.SHUTDOWN)
    assert {task.reason for task in told} == {"made room for service high"}
    swarm.remove_service("high")
    swarm.pass_time(10)
    assert len(swarm.running("low")) == 4


def test_nobody_is_ended_without_leave_or_beyond_the_budget() -> None:
    swarm = Swarm(4)
    swarm.create_service(a_service_spec("low", replicas=8, task=template(memory_bytes=8 * GIB)))
    swarm.settle()
    swarm.create_service(a_service_spec("high", replicas=8, task=template(memory_bytes=8 * GIB, priority=1)))
    swarm.settle()
    assert len(swarm.running("low")) == 8
    swarm.obedient.clear()
    allow_evictions(swarm, 3)
    swarm.settle()
    told = swarm.tasks("low", where=lambda task: task.desired_state is TaskState.SHUTDOWN)
    assert len(told) == 3


def test_a_room_in_the_making_is_not_taken_by_those_that_had_to_leave_it() -> None:
    swarm = Swarm(1)
    allow_evictions(swarm, 10)
    swarm.create_service(a_service_spec("low", replicas=4, task=template(memory_bytes=4 * GIB)))
    swarm.settle()
    swarm.obedient.clear()
    swarm.create_service(a_service_spec("high", task=template(memory_bytes=16 * GIB, priority=1)))
    swarm.pass_time(10)
    for task in swarm.tasks("low", where=lambda task: task.node_id is not None)[:3]:
        swarm.end_task(task, TaskState.SHUTDOWN)
        swarm.pass_time(10)
        assert not swarm.tasks("low", where=lambda task: task.node_id is not None and is_wanted(task))
    swarm.obedient.update(swarm.state.nodes)
    swarm.pass_time(10)
    assert len(swarm.running("high")) == 1


def test_a_cluster_may_promise_more_than_its_nodes_have() -> None:
    swarm = Swarm(1)
    swarm.create_service(a_service_spec(replicas=4, task=template(memory_bytes=8 * GIB)))
    swarm.settle()
    assert len(swarm.running()) == 2
    cluster = swarm.state.cluster
    assert cluster is not None
    spec = _replace(cluster.spec, scheduling=SchedulingConfig(memory_overcommit=1.5))
    swarm.write(update(_replace(cluster, spec=spec)))
    swarm.settle()
    assert len(swarm.running()) == 3
    swarm.become_leader()
    swarm.settle()
    assert len(swarm.running()) == 3
    swarm.add_node("n2")
    swarm.settle()
    assert len(swarm.running()) == 4


def scheduler_of(swarm: Swarm) -> Scheduler:
    found = [loop for loop in swarm.planning._loops if isinstance(loop, Scheduler)]
    return found[0]


def test_after_all_that_happens_the_index_says_what_a_new_leader_would_count() -> None:
    swarm = Swarm(5)
    for number in range(4):
        spec = a_service_spec(f"s{number}", replicas=6, task=template(memory_bytes=GIB, max_replicas=3))
        swarm.create_service(spec)
    swarm.settle()
    swarm.lose_node("n2")
    swarm.scale("s1", 2)
    swarm.pass_time(30)
    swarm.add_node("n6")
    swarm.set_image("s2", "v2")
    swarm.pass_time(30)
    mine = scheduler_of(swarm).kept.ledger
    fleets.check(mine.fleet)
    anew = Scheduler()
    anew.begin(swarm.planning.desk)
    assert fleets.picture_of(mine.fleet) == fleets.picture_of(anew.kept.ledger.fleet)
    assert set(mine.entries) == set(anew.kept.ledger.entries)


def test_a_pass_over_stored_tasks_ends_in_time_and_the_next_goes_on() -> None:
    swarm = Swarm(1)
    service = Service(id=ServiceId("id-web"), spec=a_service_spec())
    swarm.write(create(service), create(template_of(service)))
    scheduler, desk = Scheduler(), swarm.planning.desk
    scheduler.begin(desk)
    total = 2 * WORK_MAX
    status = TaskStatus(state=TaskState.PENDING)
    tasks = [
        Task(id=TaskId(f"t{n}"), service_id=service.id, spec_version=1, slot=n, status=status) for n in range(total)
    ]
    for start in range(0, total, 1000):
        swarm.write(*(create(task) for task in tasks[start : start + 1000]))
    for task in tasks:
        stored = swarm.state.tasks[task.id]
        assert ALL in scheduler.notice(desk, Event(action=Action.CREATE, table=Table.TASK, new=stored))
    placed = 0
    for _ in range(4):
        plan = scheduler.plan(desk, (ALL,), swarm.now)
        puts = sum(len(step.puts) for step in plan.steps)
        assert puts <= WORK_MAX
        placed += puts
        if ALL not in plan.wakes:
            break
    assert placed == total
