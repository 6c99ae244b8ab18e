"""A command that an OCI runtime runs inside a container: the runtime's own process, and the command's, which outlives it. Used by the oci driver."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

from services.agent.drivers.api import Conversation
from services.kit.model.states import LogStream


class ContainerCommand:
    """A conversation with the runtime's ``exec``, which passes everything on."""

    def __init__(self, runtime: Conversation, pid_file: Path) -> None:
        self._runtime = runtime
        self._pid_file = pid_file
        self._ended = False

    def output(self) -> AsyncGenerator[tuple[LogStream, bytes]]:
        """Yield what it writes."""
        return self._runtime.output()

    async def write(self, data: bytes) -> None:
        """Give it input."""
        await self._runtime.write(data)

    async def close_input(self) -> None:
        """Let it see the end of its input."""
        await self._runtime.close_input()

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal its size: the runtime looks at its own and passes it on."""
        await self._runtime.resize(rows, columns)

    async def wait(self) -> int | None:
        """Return its exit code."""
        code = await self._runtime.wait()
        self._ended = True
        return code

    async def close(self) -> None:
        """Kill it, then the runtime that waits for it."""
        if not self._ended:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(self._pid_file.read_text(encoding="ascii")), signal.SIGKILL)
        await self._runtime.close()
        self._pid_file.unlink(missing_ok=True)
