"""Going into tasks, as the client sees it: commands, attaching, files, ports, measurements. A ``ref`` names a task in any way.

A conversation is a stream of what the task says, and calls that carry what the user says, one at a time. It does not outlive the connection or
the leader that it began with: what was said meanwhile would be lost, so it ends with an error and is the user's to begin anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.client.line import ControlLine
from services.kit.errors import FailedPrecondition, ResourceExhausted, SwarmError
from services.kit.messages import exec as messages
from services.kit.messages.exec import Act, ExecOutput, Measured, Piece, TerminalSize
from services.kit.model.ids import TaskId
from services.kit.runtime.tasks import TaskOwner

SEND_AGAIN_S = 0.05


class TaskRefused(FailedPrecondition):
    """The task's node could not do what was asked, or what was begun broke off; the message says why."""


class Conversation:
    """One conversation with a task."""

    def __init__(self, line: ControlLine, outputs: AsyncIterator[ExecOutput], first: ExecOutput) -> None:
        self._line = line
        self._outputs = outputs
        self._id = first.conversation_id
        self._sequence = 0
        self._speaking = asyncio.Lock()
        self.exit_code: int | None = None
        """How the command ended, once its output has; None when it was no command or nobody knows."""

    async def output(self) -> AsyncGenerator[Piece, None]:
        """Yield what the task says until it says no more; raises TaskRefused when it was refused or broke off."""
        async for output in self.outputs():
            for piece in output.pieces:
                yield piece

    async def outputs(self) -> AsyncGenerator[ExecOutput, None]:
        """Yield what comes back as it comes; raises TaskRefused when it was refused or broke off."""
        async for output in self._outputs:
            yield output
            if output.done:
                self.exit_code = output.exit_code
                if output.error:
                    raise TaskRefused(output.error)
                return

    async def write(self, data: bytes) -> None:
        """Say something; returns when it was taken in, which is late when the task does not read. Raises NotFound when it is over."""
        for start in range(0, len(data), messages.PIECE_BYTES_MAX):
            await self._say(data=data[start : start + messages.PIECE_BYTES_MAX])

    async def end_input(self) -> None:
        """Let the task see the end of its input."""
        await self._say(ended=True)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the task's terminal its size."""
        await self._say(size=TerminalSize(rows=rows, columns=columns))

    async def _say(self, *, data: bytes = b"", ended: bool = False, size: TerminalSize | None = None) -> None:
        async with self._speaking:
            self._sequence += 1
            item = messages.ExecInput(
                conversation_id=self._id, sequence=self._sequence, data=data, ended=ended, size=size
            )
            while True:
                try:
                    await self._line.call(messages.INPUT, item)
                except ResourceExhausted as error:
                    await asyncio.sleep(error.details.retry_ms / 1000 or SEND_AGAIN_S)
                else:
                    return


class Inside:
    """``client.inside``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    @asynccontextmanager
    async def open(self, task_id: TaskId, act: Act) -> AsyncIterator[Conversation]:
        """Begin a conversation; leaving the context ends it. Raises NotFound, FailedPrecondition and what the store says."""
        request = messages.OpenExec(task_id=task_id, act=act)
        async with self._line.stream(messages.OPEN, request) as outputs:
            yield Conversation(self._line, outputs, await anext(outputs))

    async def run(self, task_id: TaskId, argv: Sequence[str], data: bytes = b"") -> tuple[int | None, bytes, bytes]:
        """Run a command, give it input, and return its exit code and what it wrote to both streams.

        >>> code, out, err = await swarm.inside.run(task.id, ["cat", "/etc/hostname"])  # doctest: +SKIP
        """
        said: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        act = messages.RunCommand(argv=tuple(argv), input=bool(data))
        async with self.open(task_id, act) as talk, TaskOwner("input") as owner:
            if data:
                owner.spawn("feed", _feed(talk, data))
            async for piece in talk.output():
                said[piece.stream.value] += piece.data
            return talk.exit_code, bytes(said["stdout"]), bytes(said["stderr"])

    async def measure(self, task_id: TaskId, interval_s: float = 0.0) -> AsyncGenerator[Measured, None]:
        """Yield what a task uses, once or at a pace."""
        async with self.open(task_id, messages.Measure(interval_s=interval_s)) as talk:
            async for output in talk.outputs():
                if output.measured is not None:
                    yield output.measured


async def _feed(talk: Conversation, data: bytes) -> None:
    try:
        await talk.write(data)
        await talk.end_input()
    except SwarmError:
        return  # it has ended and wants no more: its output says how
