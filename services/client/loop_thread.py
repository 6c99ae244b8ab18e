"""An event loop on a thread of its own: what the blocking client runs on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class LoopThread:
    """An event loop on a thread. Calls from any other thread; one thread at a time reads an iterator."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="swarmbus-client", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once the thread was closed."""
        return not self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run work on the loop and return its result; an interrupt of the caller cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[ResultT]) -> Iterator[ResultT]:
        """Yield what an async iterator yields, and close it when the caller is done."""
        try:
            while True:
                try:
                    item = self.run(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if isinstance(items, AsyncGenerator) and self.alive:
                self.run(_close(items))

    def close(self) -> None:
        """Stop the loop and wait for the thread; idempotent."""
        if not self.alive:
            return
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(items: AsyncIterator[ResultT]) -> ResultT:
    return await items.__anext__()


async def _close(items: AsyncGenerator[ResultT, None]) -> None:
    await items.aclose()
