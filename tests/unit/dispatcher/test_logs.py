"""The log broker: who is asked for what, and when a subscription is over."""

from __future__ import annotations

import pytest

from services.dispatcher.core.logs import LogBroker
from services.kit.errors import NotFound, PermissionDenied
from services.kit.messages.logs import LogLine, LogOptions, LogRequest, LogSelector, PublishLogs, SubscribeLogs
from services.kit.model.ids import NodeId, ServiceId, SubscriptionId, TaskId
from services.kit.model.objects import Task
from services.kit.model.states import LogStream, TaskState
from services.kit.state.state import Event
from services.kit.state.tables import Table
from services.kit.state.transaction import Action
from tests.support.convergence import Swarm

X = SubscriptionId("x")
ALL = {NodeId("n1"), NodeId("n2"), NodeId("n3")}


def swarm_with(replicas: int = 3) -> Swarm:
    swarm = Swarm(3)
    swarm.create_service(replicas=replicas)
    swarm.settle()
    return swarm


def by_service(*, follow: bool = False, tail: int = -1, since: float = 0.0) -> SubscribeLogs:
    options = LogOptions(follow=follow, tail=tail, since=since)
    return SubscribeLogs(selector=LogSelector(service_ids=(ServiceId("id-web"),)), options=options)


def line(task: Task, node: NodeId | None = None) -> LogLine:
    assert task.node_id is not None
    return LogLine(
        task_id=task.id,
        node_id=node or task.node_id,
        service_id=task.service_id,
        timestamp=1.0,
        stream=LogStream.STDOUT,
        data=b"hello",
    )


def done(broker: LogBroker, *nodes: str) -> None:
    for node in nodes:
        broker.publish(NodeId(node), PublishLogs(subscription_id=X, done=True))


def test_each_node_with_a_task_of_the_service_is_asked_once_for_its_tasks() -> None:
    swarm = swarm_with(6)
    asked = LogBroker().subscribe(swarm.state, ALL, X, by_service(tail=5, since=9.0))
    assert sorted(node for node, _ in asked) == ["n1", "n2", "n3"]
    for node, request in asked:
        assert {swarm.state.tasks[task].node_id for task in request.task_ids} == {node}
        assert len(request.task_ids) == 2
        assert (request.options.tail, request.options.since, request.closed) == (5, 9.0, False)


def test_tasks_and_nodes_select_too_and_all_of_it_together() -> None:
    swarm = swarm_with(3)
    first, second, third = swarm.running()
    assert first.node_id is not None
    assert second.node_id is not None
    selector = LogSelector(task_ids=(first.id,), node_ids=(second.node_id,))
    asked = LogBroker().subscribe(swarm.state, ALL, X, SubscribeLogs(selector=selector))
    assert {task for _, request in asked for task in request.task_ids} == {first.id, second.id}
    assert third.id not in {task for _, request in asked for task in request.task_ids}


@pytest.mark.parametrize(
    "selector",
    [
        LogSelector(service_ids=(ServiceId("no"),)),
        LogSelector(task_ids=(TaskId("no"),)),
        LogSelector(node_ids=(NodeId("no"),)),
    ],
)
def test_what_does_not_exist_is_not_found(selector: LogSelector) -> None:
    with pytest.raises(NotFound):
        LogBroker().subscribe(swarm_with().state, ALL, X, SubscribeLogs(selector=selector))


def test_without_follow_it_is_over_when_every_node_is_done() -> None:
    swarm, broker = swarm_with(), LogBroker()
    broker.subscribe(swarm.state, ALL, X, by_service())
    done(broker, "n1", "n2")
    assert not broker.is_over(X)
    done(broker, "n3")
    assert broker.is_over(X)
    assert broker.take_missing(swarm.state, X) == ()


def test_a_node_that_is_not_connected_is_named_and_holds_nobody_up() -> None:
    swarm, broker = swarm_with(), LogBroker()
    asked = broker.subscribe(swarm.state, ALL - {NodeId("n2")}, X, by_service())
    assert broker.take_missing(swarm.state, X) == ("n2",)
    assert broker.take_missing(swarm.state, X) == (), "once"
    done(broker, "n1", "n3")
    assert broker.is_over(X)
    assert len(asked) == 3, "it may come while the others still answer"


@pytest.mark.parametrize("how", ["left", "error"])
def test_a_node_that_leaves_or_fails_before_it_is_done_is_named(how: str) -> None:
    swarm, broker = swarm_with(), LogBroker()
    broker.subscribe(swarm.state, ALL, X, by_service())
    done(broker, "n1", "n3")
    if how == "left":
        broker.left(NodeId("n2"))
    else:
        broker.publish(NodeId("n2"), PublishLogs(subscription_id=X, error="disk"))
    assert broker.is_over(X)
    assert broker.take_missing(swarm.state, X) == ("n2",)


def test_a_task_that_no_node_has_gives_an_empty_log() -> None:
    swarm = Swarm(0)
    swarm.create_service(replicas=2)
    swarm.settle()
    broker = LogBroker()
    assert broker.subscribe(swarm.state, set(), X, by_service()) == []
    assert broker.is_over(X)


def test_a_follower_gets_new_tasks_and_never_ends_by_itself() -> None:
    swarm, broker = swarm_with(1), LogBroker()
    broker.subscribe(swarm.state, ALL, X, by_service(follow=True))
    asked: list[tuple[NodeId, LogRequest]] = []
    swarm.on_events.append(lambda events: asked.extend(a for e in events for a in broker.notice(e, ALL)))
    swarm.scale("web", 3)
    swarm.settle()
    new = {task.id for task in swarm.running() if task.slot > 1}
    assert {task for _, request in asked for task in request.task_ids} == new
    done(broker, "n1", "n2", "n3")
    assert not broker.is_over(X)
    assert len(asked) == 2, "each task is asked for once"


def test_who_does_not_follow_gets_no_new_tasks() -> None:
    swarm, broker = swarm_with(1), LogBroker()
    broker.subscribe(swarm.state, ALL, X, by_service())
    task = swarm.running()[0]
    event = Event(action=Action.CREATE, table=Table.TASK, old=None, new=task)
    assert broker.notice(event, ALL) == []


def test_a_node_that_comes_later_is_asked_for_what_is_its_own_only() -> None:
    swarm, broker = swarm_with(), LogBroker()
    broker.subscribe(swarm.state, {NodeId("n1")}, X, by_service(follow=True))
    (request,) = broker.joined(NodeId("n2"))
    assert {swarm.state.tasks[task].node_id for task in request.task_ids} == {"n2"}
    assert broker.joined(NodeId("stranger")) == []


def test_lines_are_taken_from_the_node_that_was_asked_and_for_itself_only() -> None:
    swarm, broker = swarm_with(), LogBroker()
    broker.subscribe(swarm.state, ALL, X, by_service())
    task = next(task for task in swarm.running() if task.node_id == "n1")
    assert broker.publish(NodeId("n1"), PublishLogs(subscription_id=X, lines=(line(task),))) == (line(task),)
    with pytest.raises(PermissionDenied):
        broker.publish(NodeId("n1"), PublishLogs(subscription_id=X, lines=(line(task, NodeId("n2")),)))
    with pytest.raises(PermissionDenied):
        broker.publish(NodeId("stranger"), PublishLogs(subscription_id=X))
    with pytest.raises(NotFound):
        broker.publish(NodeId("n1"), PublishLogs(subscription_id=SubscriptionId("y")))


def test_nodes_are_told_when_the_user_has_left() -> None:
    swarm, broker = swarm_with(), LogBroker()
    broker.subscribe(swarm.state, ALL, X, by_service(follow=True))
    broker.publish(NodeId("n1"), PublishLogs(subscription_id=X, done=True))
    closing = broker.unsubscribe(X)
    assert sorted(node for node, request in closing if request.closed) == ["n2", "n3"]
    assert broker.unsubscribe(X) == []
    assert broker.is_over(X)


def test_ended_tasks_have_logs_too() -> None:
    swarm, broker = swarm_with(1), LogBroker()
    swarm.end_task(swarm.running()[0], TaskState.FAILED)
    swarm.pass_time(10)
    asked = broker.subscribe(swarm.state, ALL, X, by_service())
    assert sum(len(request.task_ids) for _, request in asked) == 2
