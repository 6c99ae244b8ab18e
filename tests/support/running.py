"""Running asyncio code in tests: a loop of its own with debug checks, and waiting for a condition with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

DEADLINE_S = 10.0
LOOK_AGAIN_S = 0.002


def run_async(work: Coroutine[Any, Any, ResultT], *, timeout_s: float = 30.0) -> ResultT:
    """Run to the end; an exception that only the loop has seen, or a task that is left, fails the test."""
    unheard: list[dict[str, Any]] = []

    async def guarded() -> ResultT:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        async with asyncio.timeout(timeout_s):
            result = await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        return result

    result = asyncio.run(guarded())
    assert not unheard, f"the loop caught: {unheard}"
    return result


async def eventually(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds; fails after the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not condition():
        assert loop.time() < end, f"did not come true within {deadline_s} s"
        await asyncio.sleep(LOOK_AGAIN_S)


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
