"""A task is told to stop when every gateway has stopped sending to it."""

from __future__ import annotations

from services.dispatcher.core.draining import ACK_TIMEOUT_S, Draining
from services.kit.messages.routes import AckRoutes
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.objects import Task
from services.kit.model.states import TaskState

ONE, TWO = NodeId("n1"), NodeId("n2")
TASK, OTHER = TaskId("t1"), TaskId("t2")


def two_gateways() -> Draining:
    draining = Draining((), 0.0)
    draining.joined(ONE)
    draining.joined(TWO)
    for node in (ONE, TWO):
        draining.acknowledge(node, AckRoutes(epoch=1))
    return draining


def unwanted(task: TaskId = TASK) -> Task:
    return Task(id=task, service_id=ServiceId("s"), spec_version=1, desired_state=TaskState.SHUTDOWN)


def test_a_held_task_is_released_by_the_last_acknowledgement() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0)
    draining.published(2)
    draining.acknowledge(ONE, AckRoutes(epoch=2))
    assert draining.released(10.1) == ()
    draining.acknowledge(TWO, AckRoutes(epoch=2))
    assert draining.released(10.2) == (TASK,)
    assert draining.released(10.3) == ()
    draining.check()


def test_an_acknowledgement_of_an_earlier_table_releases_nothing() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0)
    assert draining.released(10.0) == (), "no table says yet that it drains"
    draining.published(3)
    for node in (ONE, TWO):
        draining.acknowledge(node, AckRoutes(epoch=2))
    assert draining.released(10.1) == ()


def test_a_task_held_later_waits_for_a_later_table() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0)
    draining.published(2)
    draining.hold(OTHER, 10.1)
    for node in (ONE, TWO):
        draining.acknowledge(node, AckRoutes(epoch=2))
    assert draining.released(10.2) == (TASK,)
    draining.published(3)
    for node in (ONE, TWO):
        draining.acknowledge(node, AckRoutes(epoch=3))
    assert draining.released(10.3) == (OTHER,)


def test_a_silent_gateway_is_waited_for_until_the_time_is_over() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0)
    draining.published(2)
    draining.acknowledge(ONE, AckRoutes(epoch=2))
    assert draining.deadline() == 10.0 + ACK_TIMEOUT_S
    assert draining.released(10.0 + ACK_TIMEOUT_S - 0.01) == ()
    assert draining.released(10.0 + ACK_TIMEOUT_S) == (TASK,)
    assert draining.deadline() is None


def test_without_gateways_nothing_is_held() -> None:
    draining = Draining((), 0.0)
    draining.hold(TASK, 10.0)
    draining.published(1)
    assert draining.released(10.0) == (TASK,)


def test_a_gateway_that_just_left_still_counts_for_a_while() -> None:
    draining = two_gateways()
    draining.left(TWO, 9.0)
    draining.hold(TASK, 10.0)
    draining.published(2)
    draining.acknowledge(ONE, AckRoutes(epoch=2))
    assert draining.released(10.0) == ()
    assert draining.deadline() == 9.0 + ACK_TIMEOUT_S
    assert draining.released(9.0 + ACK_TIMEOUT_S) == (TASK,)
    draining.check()


def test_a_gateway_that_comes_back_has_to_acknowledge_anew() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0)
    draining.published(2)
    for node in (ONE, TWO):
        draining.acknowledge(node, AckRoutes(epoch=2))
    draining.joined(TWO)
    draining.left(TWO, 10.1)
    draining.hold(OTHER, 10.2)
    draining.published(2)
    assert OTHER not in draining.released(10.2)
    draining.acknowledge(TWO, AckRoutes(epoch=2))
    assert OTHER in {*draining.released(10.3)}


def test_a_node_that_is_down_is_not_waited_for() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0)
    draining.published(2)
    draining.acknowledge(ONE, AckRoutes(epoch=2))
    draining.forget(TWO)
    assert draining.released(10.0) == (TASK,)


def test_a_new_leader_waits_for_the_gateways_of_the_nodes_it_knows() -> None:
    draining = Draining((ONE, TWO), 10.0)
    draining.hold(TASK, 10.0)
    draining.published(0)
    draining.joined(ONE)
    draining.acknowledge(ONE, AckRoutes(epoch=0))
    assert draining.released(10.5) == (), "the other node's plane may act on the old leader's table"
    assert draining.released(10.0 + ACK_TIMEOUT_S) == (TASK,)


def test_open_connections_get_the_time_their_port_asks_for() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0, drain_s=5.0)
    draining.published(2)
    for node, count in ((ONE, 0), (TWO, 3)):
        draining.acknowledge(node, AckRoutes(epoch=2, connections={TASK: count}))
    assert draining.released(10.5) == ()
    assert draining.deadline() == 15.5
    draining.acknowledge(TWO, AckRoutes(epoch=2, connections={TASK: 0}))
    assert draining.released(11.0) == (TASK,)


def test_open_connections_do_not_hold_a_task_for_ever() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0, drain_s=5.0)
    draining.published(2)
    for node in (ONE, TWO):
        draining.acknowledge(node, AckRoutes(epoch=2, connections={TASK: 3}))
    assert draining.released(10.0) == ()
    assert draining.released(15.0) == (TASK,)


def test_connections_without_a_time_of_their_own_hold_nothing() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0)
    draining.published(2)
    for node in (ONE, TWO):
        draining.acknowledge(node, AckRoutes(epoch=2, connections={TASK: 3}))
    assert draining.released(10.0) == (TASK,)


def test_a_held_task_is_shown_as_wanted_until_it_is_released() -> None:
    draining = Draining((), 0.0)
    draining.hold(TASK, 10.0)
    assert draining.shown(unwanted()).desired_state is TaskState.RUNNING
    assert draining.shown(unwanted(OTHER)).desired_state is TaskState.SHUTDOWN
    draining.published(1)
    draining.released(10.0)
    assert draining.shown(unwanted()).desired_state is TaskState.SHUTDOWN


def test_a_task_that_ended_by_itself_is_forgotten() -> None:
    draining = two_gateways()
    draining.hold(TASK, 10.0)
    draining.drop(TASK)
    assert not draining.holds(TASK)
    assert draining.deadline() is None
