"""Named tasks: the only way to start something beside the current flow, so that nothing runs unowned or unnamed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

ResultT = TypeVar("ResultT")


class TaskOwner:
    """Owns tasks for as long as it is open. A task that fails makes ``failure`` ready; closing cancels and awaits the rest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: asyncio.Future[BaseException] | None = None
        self._closed = False

    def spawn(self, name: str, work: Coroutine[Any, Any, ResultT]) -> asyncio.Task[ResultT]:
        """Run work as a task named ``owner/name``; its failure is the owner's failure."""
        assert not self._closed, f"{self.name} is closed"
        task: asyncio.Task[ResultT] = asyncio.get_running_loop().create_task(work, name=f"{self.name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def failed(self) -> BaseException:
        """Wait for the first failure of any task and return it."""
        if self._failure is None:
            self._failure = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._failure)

    async def close(self) -> None:
        """Cancel what still runs and wait for its end; idempotent."""
        self._closed = True
        tasks = sorted(self._tasks, key=lambda task: task.get_name())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if self._failure is None:
            self._failure = task.get_loop().create_future()
        if not self._failure.done():
            self._failure.set_result(error)
