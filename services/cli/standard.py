"""Standard input and output as a conversation with a task wants them: bytes as they come, a terminal that passes every key on.

Used by ``exec``, ``attach`` and ``cp``. Reading goes through a thread, because nothing else can wait for every sort of input; it is a daemon, so
that a key that is never pressed keeps nobody from leaving.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from services.client.inside import Conversation
from services.kit.errors import SwarmError
from services.kit.messages.exec import PIECE_BYTES_MAX, Piece
from services.kit.model.states import LogStream
from services.kit.runtime.tasks import TaskOwner

DETACH = b"\x10\x11"
"""Ctrl-P, Ctrl-Q: leave a task that one is attached to, and let it run."""


async def talk(conversation: Conversation, *, with_input: bool, terminal: bool, detachable: bool = False) -> bool:
    """Carry both ways until the task says no more; False when the user left before. Raises what ended the conversation."""
    async with TaskOwner("talk") as owner:
        showing = owner.spawn("output", _shown(conversation))
        waiting = {showing}
        with _raw(on=terminal and with_input):
            if terminal:
                owner.spawn("size", _follow_size(conversation))
            if with_input:
                waiting.add(owner.spawn("input", _feed(conversation, detachable=detachable and terminal)))
            while not showing.done():
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                waiting -= done
                if any(task.result() for task in done):
                    return False
    return True


async def _shown(conversation: Conversation) -> bool:
    """Write what a task says to our own output and error streams, until it says no more; the user stays until then."""
    async for piece in conversation.output():
        await asyncio.to_thread(_write, piece)
    return False


async def input_pieces() -> AsyncGenerator[bytes, None]:
    """Yield what comes on standard input, until it ends."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue(1)

    def read() -> None:
        try:
            while True:
                data = os.read(sys.stdin.fileno(), PIECE_BYTES_MAX)
                asyncio.run_coroutine_threadsafe(queue.put(data), loop).result()
                if not data:
                    return
        except (OSError, RuntimeError, asyncio.CancelledError):
            return  # the terminal went, or the loop did: nobody listens any more

    threading.Thread(target=read, name="standard-input", daemon=True).start()
    while data := await queue.get():
        yield data


async def _feed(conversation: Conversation, *, detachable: bool) -> bool:
    """Carry standard input to the task; True when the user wants to leave."""
    keys = _Keys() if detachable else None
    try:
        async for data in input_pieces():
            passed, leave = (data, False) if keys is None else keys.take(data)
            if passed:
                await conversation.write(passed)
            if leave:
                return True
        await conversation.end_input()
    except SwarmError:
        return False  # it has ended and wants no more: its output says how
    return False


class _Keys:
    """Looks for the keys that leave a task."""

    def __init__(self) -> None:
        self._held = b""

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """Return what to pass on, and whether to leave."""
        data, self._held = self._held + data, b""
        place = data.find(DETACH)
        if place >= 0:
            return data[:place], True
        if data.endswith(DETACH[:1]):
            data, self._held = data[:-1], DETACH[:1]
        return data, False


async def _follow_size(conversation: Conversation) -> None:
    """Tell the task how large our terminal is, now and whenever that changes."""
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            changed.clear()
            try:
                columns, rows = os.get_terminal_size(sys.stdout.fileno())
            except OSError:
                return  # there is no terminal on our side
            await conversation.resize(rows, columns)
            await changed.wait()
    except SwarmError:
        return  # it has ended
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


@contextmanager
def _raw(*, on: bool) -> Iterator[None]:
    """Have the terminal pass every key on, and put it back afterwards."""
    if not on or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    # Not TCSAFLUSH, which is the default: what was typed while the task was looked for is for the task.
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _write(piece: Piece) -> None:
    stream = sys.stderr.buffer if piece.stream is LogStream.STDERR else sys.stdout.buffer
    stream.write(piece.data)
    stream.flush()
