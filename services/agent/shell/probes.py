"""Asks a task whether it is healthy: carries a question of ``core.health`` to it and says why the answer is no. Used by ``shell.health``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.agent.core.health import REASON_CHARS_MAX, AskCommand, AskHttp, AskTcp, Question, find_port
from services.agent.core.outcome import Observed
from services.agent.drivers.api import Controller, SupportsExec, Temporary
from services.agent.shell.inside import run_command
from services.kit.errors import SwarmError

COMMANDS_MAX = 8
"""Commands under way on this node; more wait, so that many tasks that are asked at once never starve the heartbeats."""
STATUS_LINE_BYTES_MAX = 1024


class Prober:
    """Asks the tasks of one node."""

    def __init__(self, node_addr: str) -> None:
        self._node_addr = node_addr or "127.0.0.1"
        self._commands = asyncio.Semaphore(COMMANDS_MAX)

    async def ask(self, question: Question, controller: Controller, observed: Observed, timeout_s: float) -> str:
        """Return why the task is not healthy, empty when it is; raises Temporary when it cannot be asked now."""
        try:
            match question:
                case AskCommand(command):
                    return await self._ask_command(command, controller, timeout_s)
                case AskTcp(port):
                    async with asyncio.timeout(timeout_s), self._connected(port, observed):
                        return ""
                case AskHttp(port, path):
                    async with asyncio.timeout(timeout_s):
                        return await self._ask_http(port, path, observed)
        except TimeoutError:
            return f"no answer within {timeout_s:g} s"
        except Temporary:
            raise
        except (OSError, SwarmError) as error:
            return _shortened(str(error)) or type(error).__name__

    async def _ask_command(self, command: tuple[str, ...], controller: Controller, timeout_s: float) -> str:
        assert isinstance(controller, SupportsExec), "refused when the task was prepared"
        async with self._commands:
            result = await run_command(controller, command, timeout_s)
        if result.code == 0:
            return ""
        said = result.output.decode(errors="replace").strip()
        return _shortened(f"exit code {result.code}: {said}" if said else f"exit code {result.code}")

    async def _ask_http(self, port: str, path: str, observed: Observed) -> str:
        async with self._connected(port, observed) as (reader, writer):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            line = (await reader.read(STATUS_LINE_BYTES_MAX)).partition(b"\r\n")[0].decode(errors="replace")
        version, _, status = line.partition(" ")
        code = status[:3]
        if not version.startswith("HTTP/") or not code.isdecimal():
            return _shortened(f"answered {line!r}, which is no HTTP")
        return "" if 200 <= int(code) < 400 else _shortened(f"HTTP {status}")

    @asynccontextmanager
    async def _connected(
        self, port: str, observed: Observed
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        host, number = find_port(port, observed, self._node_addr)
        reader, writer = await asyncio.open_connection(host, number)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def _shortened(text: str) -> str:
    return text if len(text) <= REASON_CHARS_MAX else f"{text[: REASON_CHARS_MAX - 1]}…"
