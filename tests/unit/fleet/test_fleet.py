"""The index when nodes come and go, and what a plan leaves behind."""

from __future__ import annotations

from services.dispatcher.core.fleet.failures import FAILURES_MAX
from services.dispatcher.core.fleet.fleet import Fleet
from services.dispatcher.core.fleet.group import CPU, Group, needs_of
from services.dispatcher.core.fleet.ledger import Ledger, Placement
from services.dispatcher.core.fleet.planner import plan, undo
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.specs import Annotations, GenericResource, NodeSpec
from services.kit.model.states import Protocol
from tests.support import fleets
from tests.support.convergence import a_node

WEB = Group(service=ServiceId("web"), name="web", needs=needs_of({CPU: 2 * 10**9}))


def test_tasks_of_a_node_that_left_count_again_when_it_returns() -> None:
    ledger = Ledger(Fleet())
    ledger.fleet.put(a_node("n1", cpus=4))
    ledger.place(WEB, [TaskId("t1")], 0.0)
    ledger.fleet.drop(NodeId("n1"))
    assert ledger.place(WEB, [TaskId("t2")], 0.0) == []
    ledger.fleet.put(a_node("n1", cpus=4))
    assert len(ledger.place(WEB, [TaskId("t2"), TaskId("t3")], 0.0)) == 1
    fleets.check(ledger.fleet)


def test_a_row_is_used_again_only_when_the_last_task_is_gone_and_then_remembers_nothing() -> None:
    ledger = Ledger(Fleet())
    fleet = ledger.fleet
    fleet.put(a_node("old", cpus=4))
    ledger.place(WEB, [TaskId("t1")], 0.0)
    row = fleet.row_of[NodeId("old")]
    for _ in range(FAILURES_MAX):
        fleet.failures.add(WEB.key, row, 0.0)
    fleet.drop(NodeId("old"))
    fleet.put(a_node("other", cpus=4))
    assert fleet.row_of[NodeId("other")] != row
    ledger.release(TaskId("t1"))
    assert NodeId("old") not in fleet.row_of
    fleet.put(a_node("new", cpus=4))
    assert fleet.row_of[NodeId("new")] == row
    assert fleet.failures.penalties(WEB.key, 0.0) == {}
    fleets.check(fleet)


def test_a_task_of_a_node_that_is_not_known_yet_is_counted_once_it_is() -> None:
    ledger = Ledger(Fleet())
    ledger.hold(TaskId("t1"), WEB, Placement(NodeId("late")))
    ledger.hold(TaskId("t1"), WEB, Placement(NodeId("late")))
    ledger.fleet.put(a_node("late", cpus=4))
    assert len(ledger.place(WEB, [TaskId("t2"), TaskId("t3")], 0.0)) == 1


def test_an_undone_plan_leaves_no_trace() -> None:
    fleet = Fleet()
    for name in ("n1", "n2", "n3"):
        fleet.put(a_node(name))
    before = fleets.picture_of(fleet)
    undo(fleet, plan(fleet, WEB, 7, 0.0))
    assert fleets.picture_of(fleet) == before
    fleets.check(fleet)


def test_a_failing_node_in_a_branch_that_is_asked_twice_gets_one_task_with_a_host_port() -> None:
    ports = ((80, Protocol.TCP),)
    group = Group(service=ServiceId("web"), name="web", host_ports=ports, preferences=("node.labels.dc",))
    fleet = Fleet()
    for number, dc in enumerate("abbb"):
        fleet.put(a_node(f"n{number}", spec=NodeSpec(annotations=Annotations(labels={"dc": dc}))))
    for name in ("n1", "n2", "n3"):
        for _ in range(FAILURES_MAX):
            fleet.failures.add(group.key, fleet.row_of[NodeId(name)], 0.0)
    planned = plan(fleet, group, 5, 0.0)
    assert planned.short == 1
    assert set(planned.rows.values()) == {1}


def test_ties_do_not_follow_the_order_in_which_nodes_joined_and_the_seed_decides_them() -> None:
    def chosen(seed: int) -> list[NodeId]:
        fleet = Fleet(seed)
        for number in range(40):
            fleet.put(a_node(f"n{number:02}"))
        return [fleet.node_ids[row] for number in range(10) for row in plan(fleet, _service(number), 1, 0.0).rows]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert chosen(1) not in (sorted(chosen(1)), sorted(chosen(1), reverse=True))


def _service(number: int) -> Group:
    return Group(service=ServiceId(f"s{number}"), name=f"s{number}")


def test_a_new_leader_gives_every_task_the_devices_it_has() -> None:
    offered = (GenericResource(kind="gpu", names=("a", "b", "c")),)
    node = a_node("n1")
    resources = fleets._replace(node.description.resources, generic=offered)
    node = fleets._replace(node, description=fleets._replace(node.description, resources=resources))
    group = Group(service=ServiceId("ml"), name="ml", needs=needs_of({"generic/gpu": 1}))
    first = Ledger(Fleet())
    first.fleet.put(node)
    dealt = dict(zip("xyz", first.place(group, [TaskId(name) for name in "xyz"], 0.0), strict=True))
    second = Ledger(Fleet())
    second.fleet.put(node)
    for name in "zx":
        second.hold(TaskId(name), group, dealt[name])
    assert second.place(group, [TaskId("w")], 0.0) == [dealt["y"]]
