"""The broker of conversations: who may open one, who may speak in it, and when it is over."""

from __future__ import annotations

import pytest

from services.dispatcher.core.conversations import (
    CAUSE_LENGTH_MAX,
    CONVERSATIONS_MAX,
    Conversations,
    User,
    cause_of,
    is_recorded,
)
from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.kit.messages.exec import (
    PIECE_BYTES_MAX,
    Act,
    Attach,
    ExecInput,
    ExecOutput,
    ForwardPort,
    Measure,
    OpenExec,
    ReadFiles,
    RunCommand,
    WriteFiles,
)
from services.kit.model.ids import ConversationId, NodeId, TaskId
from services.kit.model.objects import Task
from services.kit.model.states import TaskState
from tests.support.convergence import Swarm

X = ConversationId("x")
ALICE: User = ("n1", "", "uid:1", b"")
BOB: User = ("n1", "", "uid:2", b"")
RUN = RunCommand(argv=("sh",), input=True)


def running_task() -> tuple[Swarm, Task]:
    swarm = Swarm(2)
    swarm.create_service(replicas=1)
    swarm.settle()
    (task,) = swarm.state.tasks.values()
    return swarm, task


def begun(act: Act = RUN) -> tuple[Conversations, Task]:
    swarm, task = running_task()
    rules = Conversations()
    assert task.node_id is not None
    found = rules.check(swarm.state, {task.node_id}, OpenExec(task_id=task.id, act=act))
    request = rules.begin(X, found, act, ALICE)
    assert (request.conversation_id, request.task_id, request.act, request.closed) == (X, task.id, act, False)
    return rules, task


def said(sequence: int, data: bytes = b"a") -> ExecInput:
    return ExecInput(conversation_id=X, sequence=sequence, data=data)


def test_only_a_running_task_of_a_connected_node_lets_anybody_in() -> None:
    swarm, task = running_task()
    assert task.status.state is TaskState.RUNNING
    with pytest.raises(NotFound):
        Conversations().check(swarm.state, {NodeId("n1")}, OpenExec(task_id=TaskId("none"), act=RUN))
    with pytest.raises(FailedPrecondition, match="not connected"):
        Conversations().check(swarm.state, set(), OpenExec(task_id=task.id, act=RUN))


@pytest.mark.parametrize("act", [RunCommand(argv=()), ReadFiles(path=""), WriteFiles(path="")])
def test_an_act_that_says_nothing_is_refused(act: Act) -> None:
    swarm, task = running_task()
    with pytest.raises(InvalidArgument):
        Conversations().check(swarm.state, set(swarm.state.nodes), OpenExec(task_id=task.id, act=act))


def test_there_is_a_bound_of_conversations() -> None:
    swarm, task = running_task()
    rules = Conversations()
    for number in range(CONVERSATIONS_MAX):
        rules.begin(ConversationId(str(number)), task, RUN, ALICE)
    with pytest.raises(ResourceExhausted):
        rules.check(swarm.state, set(swarm.state.nodes), OpenExec(task_id=task.id, act=RUN))


def test_input_is_taken_once_in_order_and_from_its_user_only() -> None:
    rules, _ = begun()
    assert rules.is_new(ALICE, said(1))
    rules.took(said(1))
    assert not rules.is_new(ALICE, said(1)), "a repeated one changes nothing"
    assert rules.is_new(ALICE, said(2))
    with pytest.raises(InvalidArgument, match="before"):
        rules.is_new(ALICE, said(3))
    with pytest.raises(InvalidArgument, match="longer"):
        rules.is_new(ALICE, said(2, b"a" * (PIECE_BYTES_MAX + 1)))
    with pytest.raises(NotFound):
        rules.is_new(BOB, said(2))


def test_another_node_hears_and_says_nothing() -> None:
    rules, task = begun()
    assert task.node_id is not None
    rules.serve(task.node_id, X)
    stranger = NodeId("stranger")
    with pytest.raises(NotFound):
        rules.serve(stranger, X)
    with pytest.raises(NotFound):
        rules.hear(stranger, ExecOutput(conversation_id=X))


def test_after_the_last_word_nothing_is_said_and_the_node_is_not_told() -> None:
    rules, task = begun()
    assert task.node_id is not None
    rules.hear(task.node_id, ExecOutput(conversation_id=X, done=True, exit_code=0))
    with pytest.raises(NotFound):
        rules.hear(task.node_id, ExecOutput(conversation_id=X))
    with pytest.raises(NotFound):
        rules.is_new(ALICE, said(1))
    assert rules.end(X) is None
    assert len(rules) == 0


def test_a_user_who_leaves_has_the_node_end_it() -> None:
    rules, task = begun()
    closing = rules.end(X)
    assert closing is not None
    node, request = closing
    assert (node, request.conversation_id, request.closed) == (task.node_id, X, True)
    assert rules.end(X) is None


def test_a_node_that_leaves_ends_its_conversations_once() -> None:
    rules, task = begun()
    assert task.node_id is not None
    assert rules.left(NodeId("stranger")) == []
    assert rules.left(task.node_id) == [X]
    assert rules.left(task.node_id) == []
    assert rules.end(X) is None


def test_the_record_says_what_but_no_secrets_and_is_bounded() -> None:
    act = RunCommand(argv=("sh", "-c", "echo hi"), env=("TOKEN=secret",), user="root", terminal=True)
    assert cause_of(act) == "exec: runs sh -c 'echo hi' as root in a terminal"
    assert len(cause_of(RunCommand(argv=("x" * 1000,)))) == CAUSE_LENGTH_MAX
    acts: tuple[Act, ...] = (Attach(input=True), ReadFiles(path="/a"), WriteFiles(path="/a"), ForwardPort(port="web"))
    assert [cause_of(act) for act in acts] == [
        "exec: attaches with input",
        "exec: copies /a out",
        "exec: copies files to /a",
        "exec: connects to port web",
    ]
    assert all(map(is_recorded, acts))
    assert not is_recorded(Measure())
