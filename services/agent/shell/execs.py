"""Takes users into tasks: carries the conversations that the dispatcher asks for, both ways. See ``kit/messages/exec.py``.

One ``_Exec`` per conversation, owned by the session and ended with it. Back-pressure: at most ``WAITING_BYTES_MAX`` of output waits while a
publication is unanswered, and the next input is taken from the stream when the task has taken the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from services.agent.drivers.api import Controller, Conversation, Failed, SupportsStats
from services.agent.shell.conversations import open_conversation
from services.agent.shell.tasks import Tasks
from services.kit.bus.api import Connection
from services.kit.errors import ResourceExhausted, SwarmError
from services.kit.messages import exec as messages
from services.kit.messages.exec import ExecInput, ExecOutput, ExecRequest, Measured, Piece
from services.kit.model.ids import ConversationId
from services.kit.model.states import TaskState
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner

CONVERSATIONS_MAX = 64
"""More are answered with an error."""
WAITING_BYTES_MAX = 256 << 10
PUBLISH_TIMEOUT_S = 30.0
PUBLISH_AGAIN_S = 0.2
MEASURE_LEAST_S = 0.5


class Execs:
    """The conversations of one session."""

    def __init__(self, *, connection: Connection, tasks: Tasks, clock: Clock, node_addr: str, owner: TaskOwner) -> None:
        self._connection = connection
        self._tasks = tasks
        self._clock = clock
        self._node_addr = node_addr or "127.0.0.1"
        self._owner = owner
        self._log = Log("exec")
        self._running: dict[ConversationId, asyncio.Task[None]] = {}

    def request(self, request: ExecRequest) -> None:
        """Take a conversation on, or end one."""
        conversation_id = request.conversation_id
        if request.closed:
            if (running := self._running.pop(conversation_id, None)) is not None:
                running.cancel()
        elif conversation_id not in self._running:
            refusal = (
                f"{CONVERSATIONS_MAX} conversations on this node" if len(self._running) >= CONVERSATIONS_MAX else ""
            )
            task = self._owner.spawn(f"exec {conversation_id}", self._run(request, refusal))
            self._running[conversation_id] = task
            task.add_done_callback(lambda _: self._running.pop(conversation_id, None))

    async def _run(self, request: ExecRequest, refusal: str) -> None:
        self._log.info("conversation begins", conversation=request.conversation_id, task=request.task_id)
        try:
            if refusal:
                raise Failed(refusal)
            exit_code = await self._serve(request)
            last = ExecOutput(conversation_id=request.conversation_id, done=True, exit_code=exit_code)
        except (SwarmError, OSError) as error:
            last = ExecOutput(conversation_id=request.conversation_id, done=True, error=str(error))
        except Exception as error:  # noqa: BLE001 - the wall between us and a driver: its bug ends this conversation, not the node
            self._log.crash("driver broke", error, task=request.task_id)
            last = ExecOutput(conversation_id=request.conversation_id, done=True, error="the task's driver broke")
        try:
            await self._publish(last)
        except SwarmError as error:
            self._log.debug("end not delivered", conversation=request.conversation_id, reason=str(error))

    async def _serve(self, request: ExecRequest) -> int | None:
        controller = await self._controller(request)
        if isinstance(request.act, messages.Measure):
            await self._measure(request, controller, request.act.interval_s)
            return None
        conversation = await open_conversation(controller, request.act, self._node_addr)
        try:
            async with TaskOwner("conversation") as owner:
                feeding = owner.spawn("input", self._feed(request.conversation_id, conversation))
                talking = owner.spawn("output", self._talk(request.conversation_id, conversation))
                await asyncio.wait({feeding, talking}, return_when=asyncio.FIRST_COMPLETED)
                if not talking.done():
                    # The input has ended, or broke: then nobody is there any more.
                    feeding.result()
                await talking
            return await conversation.wait()
        finally:
            await conversation.close()

    async def _controller(self, request: ExecRequest) -> Controller:
        found = self._tasks.find(request.task_id)
        if found is None or not TaskState.STARTING <= found[1] <= TaskState.RUNNING:
            raise Failed(f"task {request.task_id} does not run on this node")
        return await self._tasks.controller(request.task_id)

    async def _feed(self, conversation_id: ConversationId, conversation: Conversation) -> None:
        """Carry input in, until it ends."""
        taken = 0
        async with self._connection.open(messages.SERVE, messages.ServeExec(conversation_id=conversation_id)) as inputs:
            async for item in inputs:
                if item.sequence > taken:
                    taken = item.sequence
                    await _give(conversation, item)

    async def _talk(self, conversation_id: ConversationId, conversation: Conversation) -> None:
        """Carry output out, until it ends: what comes while a publication is under way goes with the next."""
        waiting = _Waiting()
        async with TaskOwner("output") as owner:
            reading = owner.spawn("read", waiting.fill(conversation))
            async for pieces in waiting.batches():
                await self._publish(ExecOutput(conversation_id=conversation_id, pieces=pieces))
            await reading

    async def _measure(self, request: ExecRequest, controller: Controller, interval_s: float) -> None:
        if not isinstance(controller, SupportsStats):
            raise Failed("the driver of this task measures nothing")
        while True:
            stats = await controller.stats()
            measured = Measured(
                at=self._clock.wall(), cpu_s=stats.cpu_s, memory_bytes=stats.memory_bytes, pids=stats.pids
            )
            await self._publish(ExecOutput(conversation_id=request.conversation_id, measured=measured))
            if interval_s <= 0:
                return
            await asyncio.sleep(max(interval_s, MEASURE_LEAST_S))

    async def _publish(self, output: ExecOutput) -> None:
        """Send it, again and again while its reader is slow: that holds the task's output up, it does not end the conversation."""
        while True:
            try:
                await self._connection.call(messages.PUBLISH, output, timeout_s=PUBLISH_TIMEOUT_S)
            except ResourceExhausted as error:
                await asyncio.sleep(error.details.retry_ms / 1000 or PUBLISH_AGAIN_S)
            else:
                return


async def _give(conversation: Conversation, item: ExecInput) -> None:
    if item.size is not None:
        await conversation.resize(item.size.rows, item.size.columns)
    if item.data:
        await conversation.write(item.data)
    if item.ended:
        await conversation.close_input()


class _Waiting:
    """Output between a task and the next publication, bounded."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._size = 0
        self._ended = False
        self._changed = asyncio.Condition()

    async def fill(self, conversation: Conversation) -> None:
        """Read until the output ends."""
        try:
            async with aclosing(conversation.output()) as output:
                async for stream, data in output:
                    async with self._changed:
                        await self._changed.wait_for(lambda: self._size < WAITING_BYTES_MAX)
                        self._pieces.append(Piece(stream=stream, data=data))
                        self._size += len(data)
                        self._changed.notify_all()
        finally:
            async with self._changed:
                self._ended = True
                self._changed.notify_all()

    async def batches(self) -> AsyncIterator[tuple[Piece, ...]]:
        """Yield what is there, again and again, until all was yielded."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._pieces or self._ended)
                pieces, self._pieces, self._size = tuple(self._pieces), [], 0
                self._changed.notify_all()
            if not pieces:
                return
            yield pieces
