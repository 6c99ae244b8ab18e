"""Assignments: what a node is told, when, and with what."""

from __future__ import annotations

import msgspec
import pytest

from services.agent.core.bundle import NodeFacts
from services.agent.core.worker import Change, MissingDependency, Remove, Worker
from services.dispatcher.core.assignments import TASKS_MAX, AssignmentBook
from services.kit.messages.session import Assignments
from services.kit.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId, spec_version_id
from services.kit.model.objects import Config, Secret, SpecVersion, Task, TaskStatus
from services.kit.model.specs import (
    Annotations,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    NetworkAttachmentConfig,
    Platform,
    SecretReference,
    SecretSpec,
    TaskSpec,
)
from services.kit.model.states import TaskState
from services.kit.state.state import Event, State
from services.kit.state.transaction import Op, Transaction, create, remove, update
from tests.support.convergence import Swarm, a_service_spec

_replace = msgspec.structs.replace
N = NodeId("n")
S = ServiceId("s")


class Desk:
    """A store, and a book that hears of what it applies."""

    def __init__(self) -> None:
        self.state = State()
        self._sequence = 0
        self.book: AssignmentBook | None = None
        secrets = [
            Secret(id=SecretId(each), spec=SecretSpec(annotations=Annotations(name=each))) for each in ("s1", "s2")
        ]
        config = Config(id=ConfigId("c1"), spec=ConfigSpec(annotations=Annotations(name="c1")))
        self.write(*(create(each) for each in secrets), create(config))
        self.write(create(self.template(1, "s1")), create(self.template(2, "s1", "s2")))

    def template(self, version: int, *secrets: str) -> SpecVersion:
        target = FileTarget(name="f")
        used = tuple(SecretReference(secret_id=SecretId(s), secret_name=s, target=target) for s in secrets)
        configs = (ConfigReference(config_id=ConfigId("c1"), config_name="c1", target=target),)
        task = TaskSpec(driver="fake", container=ContainerSpec(secrets=used, configs=configs))
        annotations = Annotations(name="web")
        return SpecVersion(
            id=spec_version_id(S, version), service_id=S, version=version, annotations=annotations, task=task
        )

    def write(self, *ops: Op) -> bool:
        """Apply, tell the book, and return whether the node must hear of it."""
        self._sequence += 1
        before = {(op.table, op.id): self.state.get(op.table, op.id) for op in ops}
        result, changes = self.state.apply(Transaction(client="t", sequence=self._sequence, at=1.0, ops=ops))
        assert result.conflict is None, result
        news = False
        for change in changes:
            new = self.state.get(change.table, change.id)
            event = Event(action=change.action, table=change.table, old=before[change.table, change.id], new=new)
            news = (self.book is not None and self.book.notice(event)) or news
        return news

    def add(self, name: str, state: TaskState = TaskState.ASSIGNED, *, version: int = 1, node: NodeId = N) -> Task:
        task = Task(id=TaskId(name), service_id=S, spec_version=version, node_id=node, status=TaskStatus(state=state))
        self.write(create(task))
        return self.state.tasks[task.id]

    def change(self, name: str, **fields: object) -> bool:
        return self.write(update(_replace(self.state.tasks[TaskId(name)], **fields)))

    def take(self) -> Assignments:
        assert self.book is not None
        message = self.book.take(self.state)
        assert message is not None
        return message

    def open(self) -> Assignments:
        self.book = AssignmentBook(N, self.state)
        return self.take()


def names(message: Assignments) -> list[str]:
    return [each.task.id for each in message.tasks]


def test_the_first_message_is_the_full_set_of_what_was_assigned_to_the_node() -> None:
    desk = Desk()
    desk.add("a")
    desk.add("running", TaskState.RUNNING)
    desk.add("pending", TaskState.PENDING)
    desk.add("elsewhere", node=NodeId("other"))
    message = desk.open()
    assert message.full
    assert names(message) == ["a", "running"]
    assert [spec.version for spec in message.specs] == [1]
    assert [secret.id for secret in message.secrets] == ["s1"]
    assert [config.id for config in message.configs] == ["c1"]


def test_a_node_without_tasks_hears_so_at_once() -> None:
    message = Desk().open()
    assert (message.full, message.tasks, message.applies_to, message.results_in) == (True, (), 0, 1)


def test_secrets_go_only_to_tasks_that_are_meant_to_live() -> None:
    desk = Desk()
    desk.add("ended", TaskState.FAILED, version=2)
    desk.add("stopping", TaskState.RUNNING, version=2)
    desk.change("stopping", desired_state=TaskState.SHUTDOWN)
    message = desk.open()
    assert names(message) == ["ended", "stopping"]
    assert (message.secrets, message.configs) == ((), ())


def test_what_comes_later_is_told_with_what_it_needs_that_is_not_there_yet() -> None:
    desk = Desk()
    desk.add("a")
    desk.open()
    desk.add("b", version=2)
    message = desk.take()
    assert (message.full, names(message), [s.id for s in message.secrets]) == (False, ["b"], ["s2"])
    assert [spec.version for spec in message.specs] == [2]
    assert message.configs == ()


def test_a_change_of_status_alone_is_not_told_and_one_of_the_wish_is() -> None:
    desk = Desk()
    desk.add("a")
    desk.open()
    assert not desk.change("a", status=TaskStatus(state=TaskState.RUNNING))
    assert desk.change("a", desired_state=TaskState.SHUTDOWN)
    (assigned,) = desk.take().tasks
    assert assigned.task.desired_state is TaskState.SHUTDOWN


def test_secrets_are_taken_back_with_the_last_task_that_used_them() -> None:
    desk = Desk()
    desk.add("a", TaskState.RUNNING)
    desk.add("b", TaskState.RUNNING, version=2)
    desk.open()
    assert desk.change("b", status=TaskStatus(state=TaskState.FAILED))
    message = desk.take()
    assert (message.removed_secrets, message.removed_configs) == (("s2",), ())
    desk.write(remove(desk.state.tasks[TaskId("a")]))
    message = desk.take()
    assert (message.removed_tasks, message.removed_secrets, message.removed_configs) == (("a",), ("s1",), ("c1",))


def test_changes_between_two_messages_are_told_as_one_and_what_came_and_went_not_at_all() -> None:
    desk = Desk()
    desk.open()
    desk.add("a")
    desk.change("a", desired_state=TaskState.SHUTDOWN)
    task = desk.add("b")
    desk.write(remove(task))
    (assigned,) = desk.take().tasks
    assert (assigned.task.id, assigned.task.desired_state) == ("a", TaskState.SHUTDOWN)
    assert desk.book is not None
    assert desk.book.take(desk.state) is None


def test_a_changed_or_removed_secret_is_not_pushed() -> None:
    desk = Desk()
    desk.add("a")
    desk.open()
    secret = desk.state.secrets[SecretId("s1")]
    assert not desk.write(update(_replace(secret, spec=_replace(secret.spec, annotations=Annotations(name="x")))))
    assert not desk.write(remove(desk.state.secrets[SecretId("s1")]))


def test_a_missing_secret_is_left_out() -> None:
    desk = Desk()
    desk.write(remove(desk.state.secrets[SecretId("s1")]))
    desk.add("a")
    message = desk.open()
    assert (names(message), message.secrets) == (["a"], ())


def test_messages_are_numbered_without_gaps_and_bounded() -> None:
    desk = Desk()
    count = TASKS_MAX + 10
    for number in range(count):
        desk.add(f"t{number:05}")
    first = desk.open()
    second = desk.take()
    assert (len(first.tasks), len(second.tasks)) == (TASKS_MAX, count - TASKS_MAX)
    assert (first.applies_to, first.results_in, second.applies_to, second.results_in) == (0, 1, 1, 2)
    assert (first.full, second.full) == (True, False)


def test_an_agent_that_comes_back_with_more_tasks_than_a_message_holds_keeps_them_all() -> None:
    desk = Desk()
    count = 2 * TASKS_MAX + 10
    for number in range(count):
        desk.add(f"t{number}", TaskState.RUNNING)
    spec = desk.state.spec(S, 1)
    assert spec is not None
    held = list(desk.state.tasks.values())
    desk.change("t5", desired_state=TaskState.SHUTDOWN)
    gone = msgspec.structs.replace(held[0], id=TaskId("gone"))
    agent = Worker((task, spec) for task in (gone, *held))
    parts = [desk.open(), desk.take(), desk.take()]
    assert [part.more_follows for part in parts] == [True, True, False]
    complete = []
    actions = []
    for part in parts:
        actions += agent.apply(part)
        complete.append(agent.complete)
    assert actions == [Change(desk.state.tasks[TaskId("t5")]), Remove(TaskId("gone"))]
    assert complete == [False, False, True], "only then is a task that was not named not ours"


def test_a_network_comes_with_its_first_task_and_goes_with_its_last() -> None:
    swarm = Swarm(1)
    swarm.create_network("back")
    book = AssignmentBook(NodeId("n1"), swarm.state)
    worker = Worker()
    worker.apply(book.take(swarm.state))  # type: ignore[arg-type]

    def told(events: list[Event]) -> None:
        for event in events:
            book.notice(event)

    swarm.on_events.append(told)
    attachment = NetworkAttachmentConfig(target=NetworkId("back"), aliases=("db",))
    swarm.create_service(a_service_spec(task=TaskSpec(driver="fake", networks=(attachment,)), replicas=2))
    swarm.settle(agents=False)
    message = book.take(swarm.state)
    assert message is not None
    assert [network.id for network in message.networks] == ["id-back"]
    worker.apply(message)
    task = swarm.tasks()[0]
    spec = swarm.state.spec(task.service_id, task.spec_version)
    assert spec is not None
    bundle = worker.bundle(task, spec, NodeFacts(id=NodeId("n1"), hostname="n1", platform=Platform()))
    (attached,) = bundle.attachments
    assert attached.addresses == task.networks[0].addresses
    assert attached.aliases == ("web", "tasks.web", "db")
    swarm.remove_service("web")
    swarm.settle(agents=False)
    message = book.take(swarm.state)
    assert message is not None
    assert message.removed_networks == ("id-back",)
    worker.apply(message)
    with pytest.raises(MissingDependency, match="network id-back"):
        worker.bundle(task, spec, NodeFacts(id=NodeId("n1"), hostname="n1", platform=Platform()))
