"""Watching processes by descriptor: no polling, and no pid that means somebody else by the time it is used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


def watch_end(pid: int, ended: Callable[[], None]) -> Callable[[], None]:
    """Call ``ended`` once, from the running loop, when the process has ended; returns how to stop watching.

    Raises ProcessLookupError when there is no such process.
    """
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)
    open_now = True

    def release() -> None:
        nonlocal open_now
        if open_now:
            open_now = False
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def end() -> None:
        release()
        ended()

    loop.add_reader(descriptor, end)
    return release


async def wait_end(pid: int, *, timeout_s: float) -> bool:
    """Wait until the process has ended; False when it still runs after this time."""
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    try:
        release = watch_end(pid, lambda: ended.set_result(True))
    except ProcessLookupError:
        return True
    try:
        async with asyncio.timeout(timeout_s):
            return await ended
    except TimeoutError:
        return False
    finally:
        release()
