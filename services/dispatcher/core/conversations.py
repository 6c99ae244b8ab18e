"""Who talks with which task: users' conversations, the nodes that carry them, and what may be said in them. One machine a term.

A conversation belongs to the user who opened it and to the node of its task; nobody else can say or hear anything in it. What must stay
true: a conversation is over with the first of its user, its node's session, and its own last word.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass

from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound, Problem, ResourceExhausted
from services.kit.messages import exec as messages
from services.kit.messages.exec import Act, ExecInput, ExecOutput, ExecRequest, OpenExec
from services.kit.model.ids import ConversationId, NodeId, TaskId
from services.kit.model.objects import Task
from services.kit.model.states import TaskState
from services.kit.state.view import View

CONVERSATIONS_MAX = 1024
"""More are refused."""
CAUSE_LENGTH_MAX = 200

User = tuple[str, str, str, bytes]
"""Who a user is, for as long as a conversation lasts."""


@dataclass(slots=True)
class _Conversation:
    node: NodeId
    task: TaskId
    act: Act
    user: User
    taken: int = 0
    """Sequence of the last input that was taken in."""
    is_over: bool = False
    """Its last word was said."""


class Conversations:
    """All conversations of a term."""

    def __init__(self) -> None:
        self._all: dict[ConversationId, _Conversation] = {}

    def check(self, view: View, connected: Collection[NodeId], request: OpenExec) -> Task:
        """Return the task if one can go into it now; raises NotFound, FailedPrecondition, ResourceExhausted, InvalidArgument."""
        _check_act(request.act)
        task = view.tasks.get(request.task_id)
        if task is None:
            raise NotFound(f"there is no task {request.task_id!r}")
        state = task.status.state
        if task.node_id is None or not TaskState.STARTING <= state <= TaskState.RUNNING:
            raise FailedPrecondition(f"task {task.id} does not run: it is {state.name.lower()}")
        if task.node_id not in connected:
            raise FailedPrecondition(f"node {task.node_id} of task {task.id} is not connected")
        if len(self._all) >= CONVERSATIONS_MAX:
            raise ResourceExhausted(f"{CONVERSATIONS_MAX} conversations are under way")
        return task

    def begin(self, conversation_id: ConversationId, task: Task, act: Act, user: User) -> ExecRequest:
        """Begin a conversation with a task that ``check`` returned, and return what to ask of its node."""
        assert task.node_id is not None, "check looked at it"
        self._all[conversation_id] = _Conversation(node=task.node_id, task=task.id, act=act, user=user)
        return ExecRequest(conversation_id=conversation_id, task_id=task.id, act=act)

    def end(self, conversation_id: ConversationId) -> tuple[NodeId, ExecRequest] | None:
        """The user has gone, or heard all: return what to tell the node, if it is still at work."""
        ended = self._all.pop(conversation_id, None)
        if ended is None or ended.is_over:
            return None
        request = ExecRequest(conversation_id=conversation_id, task_id=ended.task, act=ended.act, closed=True)
        return ended.node, request

    def left(self, node: NodeId) -> list[ConversationId]:
        """A node's session ended: return the conversations that end with it."""
        lost = [each for each, held in self._all.items() if held.node == node and not held.is_over]
        for each in lost:
            self._all[each].is_over = True
        return lost

    def hear(self, node: NodeId, output: ExecOutput) -> None:
        """Take what a node says; raises NotFound when it is not its conversation, or over."""
        held = self._of_node(node, output.conversation_id)
        held.is_over = output.done

    def serve(self, node: NodeId, conversation_id: ConversationId) -> None:
        """A node wants the input; raises NotFound."""
        self._of_node(node, conversation_id)

    def is_new(self, user: User, item: ExecInput) -> bool:
        """Tell whether an input was not taken in before; raises NotFound, and InvalidArgument when one before it is missing."""
        held = self._all.get(item.conversation_id)
        if held is None or held.user != user or held.is_over:
            raise _unknown(item.conversation_id)
        if len(item.data) > messages.PIECE_BYTES_MAX:
            raise _wrong("data", f"is longer than {messages.PIECE_BYTES_MAX} bytes", len(item.data))
        if item.sequence > held.taken + 1:
            raise _wrong("sequence", f"comes before {held.taken + 1}", item.sequence)
        return item.sequence == held.taken + 1

    def took(self, item: ExecInput) -> None:
        """An input was taken in."""
        held = self._all.get(item.conversation_id)
        if held is not None:
            held.taken = item.sequence

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def _of_node(self, node: NodeId, conversation_id: ConversationId) -> _Conversation:
        held = self._all.get(conversation_id)
        if held is None or held.node != node or held.is_over:
            raise _unknown(conversation_id)
        return held


def cause_of(act: Act) -> str:
    """Return what a user does in a task, for the events; environment and input are nobody's business."""
    match act:
        case messages.RunCommand():
            text = f"runs {shlex.join(act.argv)}"
            text += f" as {act.user}" if act.user else ""
            text += " in a terminal" if act.terminal else ""
        case messages.Attach():
            text = "attaches" + (" with input" if act.input else "")
        case messages.ReadFiles():
            text = f"copies {act.path} out"
        case messages.WriteFiles():
            text = f"copies files to {act.path}"
        case messages.ForwardPort():
            text = f"connects to port {act.port or 'one'}"
        case messages.Measure():
            text = "measures"
    text = f"exec: {text}"
    return text if len(text) <= CAUSE_LENGTH_MAX else text[: CAUSE_LENGTH_MAX - 1] + "…"


def is_recorded(act: Act) -> bool:
    """Tell whether it is written to the events: everything that lets a user in; measuring does not."""
    return not isinstance(act, messages.Measure)


def _check_act(act: Act) -> None:
    match act:
        case messages.RunCommand() if not act.argv:
            raise _wrong("act.argv", "is missing", "")
        case messages.ReadFiles() | messages.WriteFiles() if not act.path:
            raise _wrong("act.path", "is missing", "")
        case _:
            return


def _wrong(path: str, reason: str, value: object) -> InvalidArgument:
    return InvalidArgument.of((Problem(path=path, reason=reason, value=str(value)),))


def _unknown(conversation_id: ConversationId) -> NotFound:
    return NotFound(f"there is no conversation {conversation_id!r}")
