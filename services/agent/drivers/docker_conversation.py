"""Conversations with processes in containers: a command that was started there, or the container's own process. Used by the docker driver."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from services.agent.drivers.api import DriverError, Exit, TaskGone
from services.kit.errors import AlreadyExists, NotFound
from services.kit.model.states import LogStream

if TYPE_CHECKING:
    from services.agent.drivers.docker import Engine
    from services.agent.drivers.docker_attach import Attached

LOOK_AGAIN_S = 1.0
"""A command is looked at this often when its end was not announced."""


class _HasEnd(Protocol):
    async def wait(self) -> Exit:
        """Wait for the end."""


class ExecConversation:
    """A command in a container."""

    def __init__(self, engine: Engine, name: str, container_id: str, exec_id: str, attached: Attached) -> None:
        self._engine = engine
        self._name = name
        self._container_id = container_id
        self._exec_id = exec_id
        self._attached = attached

    def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield what it writes."""
        return self._attached.output()

    async def write(self, data: bytes) -> None:
        """Give it input."""
        await self._attached.write(data)

    async def close_input(self) -> None:
        """Let it see the end of its input."""
        self._attached.close_input()

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal its size."""
        with contextlib.suppress(DriverError, NotFound, AlreadyExists):
            await self._engine.resize_exec(self._exec_id, rows, columns)

    async def wait(self) -> int | None:
        """Return its exit code; None when the engine forgot it with its container."""
        with self._engine.watching(self._name) as news:
            while True:
                news.clear()
                try:
                    state = await self._engine.inspect_exec(self._exec_id)
                except NotFound:
                    return None
                if not state.running and state.exit_code is not None:
                    return state.exit_code
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await news.wait()

    async def close(self) -> None:
        """Hang up, and kill it if it still runs: the engine has no call for that, but it runs on this node."""
        self._attached.close()
        try:
            state = await self._engine.inspect_exec(self._exec_id)
        except (DriverError, NotFound, AlreadyExists):
            return
        if state.running and state.pid and self._is_in_container(state.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(state.pid, signal.SIGKILL)

    def _is_in_container(self, pid: int) -> bool:
        """Make sure that the number means what it says: the engine may live in another namespace."""
        try:
            return self._container_id in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii")
        except OSError:
            return False


class AttachConversation:
    """The main process of a container."""

    def __init__(self, engine: Engine, task: _HasEnd, container_id: str, attached: Attached) -> None:
        self._engine = engine
        self._task = task
        self._container_id = container_id
        self._attached = attached

    def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield what it writes from now on."""
        return self._attached.output()

    async def write(self, data: bytes) -> None:
        """Give it input, when its spec keeps its input open."""
        await self._attached.write(data)

    async def close_input(self) -> None:
        """Let it see the end of its input."""
        self._attached.close_input()

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal its size."""
        with contextlib.suppress(DriverError, NotFound, AlreadyExists):
            await self._engine.resize(self._container_id, rows, columns)

    async def wait(self) -> int | None:
        """Return the task's exit code."""
        try:
            return (await self._task.wait()).status
        except TaskGone:
            return None

    async def close(self) -> None:
        """Hang up."""
        self._attached.close()
