"""Users inside tasks: their streams, their input, and what agents say. Part of a term; the rules are in core/conversations.

Back-pressure: input waits here until the agent has taken what came before, output until the user has; whoever sends more is answered late, and
after ``PATIENCE_S`` told to send it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Generic, TypeVar

from services.dispatcher.core.conversations import Conversations, User, cause_of, is_recorded
from services.dispatcher.shell.bells import Bell, Bells
from services.kit.bus.api import Caller, Context
from services.kit.errors import Conflict, Details, ResourceExhausted
from services.kit.messages.exec import ExecInput, ExecOutput, OpenExec, ServeExec
from services.kit.model.ids import ConversationId, NodeId
from services.kit.model.objects import Task
from services.kit.state.transaction import update

if TYPE_CHECKING:
    from services.dispatcher.shell.term import Term

WAITING_MAX = 4
"""Pieces of input, and pieces of output, that wait for their reader; each is at most about 256 KiB."""
PATIENCE_S = 5.0
ATTEMPTS_MAX = 20
"""How often the record of a conversation is written again because the task changed meanwhile."""
NODE_GONE = "the task's node lost its session"

ItemT = TypeVar("ItemT", ExecInput, ExecOutput)


class _Pipe(Generic[ItemT]):
    """Items on their way to one reader."""

    def __init__(self) -> None:
        self.bell: Bell | None = None
        self._items: deque[ItemT] = deque()
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def room(self, context: Context) -> None:
        """Wait until there is room; raises ResourceExhausted when the reader is slow."""
        patience_s = min(PATIENCE_S, (context.remaining_s or PATIENCE_S * 2) / 2)
        try:
            async with asyncio.timeout(patience_s):
                await self._has_room.wait()
        except TimeoutError:
            raise ResourceExhausted("the reader is slow: send it again", Details(retry_ms=50)) from None

    def put(self, item: ItemT) -> None:
        self._items.append(item)
        if len(self._items) >= WAITING_MAX:
            self._has_room.clear()
        if self.bell is not None:
            self.bell.ring()

    def take(self) -> ItemT | None:
        if not self._items:
            return None
        item = self._items.popleft()
        self._has_room.set()
        return item

    def open(self) -> None:
        """Nobody reads any more: let everybody through."""
        self._has_room.set()


class _Talk:
    """Both ways of one conversation."""

    def __init__(self) -> None:
        self.inputs: _Pipe[ExecInput] = _Pipe()
        self.outputs: _Pipe[ExecOutput] = _Pipe()


class ConversationLines:
    """All conversations of a term."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self.bells = Bells()
        self._rules = Conversations()
        self._talks: dict[ConversationId, _Talk] = {}

    # -- users

    async def open(self, caller: Caller, request: OpenExec, actor: str) -> AsyncGenerator[ExecOutput]:
        """Let a user in, and yield what the task says until the conversation is over."""
        term, rules = self._term, self._rules
        await term.reads.fresh()
        task = rules.check(term.state, term.agents.connected(), request)
        if is_recorded(request.act):
            await self._record(task, actor, cause_of(request.act))
            task = rules.check(term.state, term.agents.connected(), request)
        conversation = ConversationId(term.runtime.ids.new("conversation"))
        talk = self._talks[conversation] = _Talk()
        talk.outputs.bell = bell = self.bells.add()
        try:
            asked = rules.begin(conversation, task, request.act, _user_of(caller))
            assert task.node_id is not None, "it runs"
            term.agents.ask_exec(task.node_id, asked)
            yield ExecOutput(conversation_id=conversation)
            while True:
                output = talk.outputs.take()
                if output is None:
                    await bell.wait()
                    continue
                yield output
                if output.done:
                    return
        finally:
            self.bells.remove(bell)
            del self._talks[conversation]
            talk.inputs.open()
            talk.outputs.open()
            if talk.inputs.bell is not None:
                talk.inputs.bell.ring()
            closing = rules.end(conversation)
            if closing is not None:
                term.agents.ask_exec(*closing)

    async def input(self, context: Context, item: ExecInput) -> None:
        """Take a user's input in; a repeated one changes nothing."""
        user = _user_of(context.caller)
        if not self._rules.is_new(user, item):
            return
        talk = self._talks[item.conversation_id]
        await talk.inputs.room(context)
        if self._rules.is_new(user, item):
            self._rules.took(item)
            talk.inputs.put(item)

    # -- agents

    async def serve(self, caller: Caller, request: ServeExec) -> AsyncGenerator[ExecInput]:
        """Yield a user's input to the agent until the conversation is over."""
        self._rules.serve(NodeId(caller.node_id), request.conversation_id)
        talk = self._talks[request.conversation_id]
        talk.inputs.bell = bell = self.bells.add()
        try:
            while self._talks.get(request.conversation_id) is talk:
                item = talk.inputs.take()
                if item is None:
                    await bell.wait()
                else:
                    yield item
        finally:
            self.bells.remove(bell)

    async def publish(self, context: Context, output: ExecOutput) -> None:
        """Take what an agent says; waiting here is what slows it down to its reader."""
        node = NodeId(context.caller.node_id)
        self._rules.serve(node, output.conversation_id)
        talk = self._talks[output.conversation_id]
        if not output.done:
            await talk.outputs.room(context)
        self._rules.hear(node, output)
        talk.outputs.put(output)

    def left(self, node: NodeId) -> None:
        """A node has no session any more."""
        for conversation in self._rules.left(node):
            self._talks[conversation].outputs.put(ExecOutput(conversation_id=conversation, done=True, error=NODE_GONE))

    # -- inside

    async def _record(self, task: Task, actor: str, cause: str) -> None:
        """Write to the events who goes into a task, before anything of it happens."""
        for _ in range(ATTEMPTS_MAX):
            known = self._term.state.tasks.get(task.id)
            if known is None:
                return
            result = await self._term.store.propose(
                (update(known, base=known.meta.version),), raise_conflict=False, actor=actor, cause=cause
            )
            await self._term.reads.reached(result.version)
            if result.conflict is None:
                return
        raise Conflict(f"task {task.id} keeps changing: try again")


def _user_of(caller: Caller) -> User:
    """Return who asks."""
    return (caller.node_id, caller.role, caller.addr, caller.public_key)
