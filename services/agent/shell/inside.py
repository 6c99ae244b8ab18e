"""Runs a short command inside a task and returns what it said. Used by health checks."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from services.agent.drivers.api import Command, SupportsExec

OUTPUT_BYTES_MAX = 4 << 10
"""More is read and dropped."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command went."""

    code: int | None
    output: bytes
    """The beginning of both streams, as it came."""


async def run_command(controller: SupportsExec, argv: tuple[str, ...], timeout_s: float) -> CommandResult:
    """Run it; raises TimeoutError after killing it, and what drivers raise."""
    said = bytearray()
    async with asyncio.timeout(timeout_s):
        conversation = await controller.open_exec(Command(argv=argv))
        try:
            async with aclosing(conversation.output()) as pieces:
                async for _, piece in pieces:
                    said += piece[: OUTPUT_BYTES_MAX - len(said)]
            return CommandResult(await conversation.wait(), bytes(said))
        finally:
            await conversation.close()
