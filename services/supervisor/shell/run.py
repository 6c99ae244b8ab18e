"""The supervisor as a process: log, signals, one node, exit code. Called by ``supervisor up`` and by ``python -m services.supervisor``."""

from __future__ import annotations

import asyncio
import faulthandler
import signal

from services.kit.errors import SwarmError
from services.kit.lifecycle.exit_codes import ExitCode, exit_code_of
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SystemIds, system_rng
from services.kit.runtime.log import Log, set_up
from services.supervisor.config import NodeSettings
from services.supervisor.shell.children import Command, python_module
from services.supervisor.shell.node import Node, NodeEnded


def run_node(settings: NodeSettings, command: Command = python_module) -> tuple[ExitCode, str]:
    """Be a node until a signal, a stop or its end; returns the exit code and, for people, what ended it."""
    set_up("supervisor", settings.log_level)
    faulthandler.enable()
    return asyncio.run(_run(settings, command))


async def _run(settings: NodeSettings, command: Command) -> tuple[ExitCode, str]:
    node = Node(settings, clock=SystemClock(), ids=SystemIds(), rng=system_rng(), command=command)
    log = Log("supervisor")
    signals = 0

    def signalled(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        log.info("signal", name=number.name, force=signals > 1)
        if signals > 1:
            node.force()
        else:
            node.begin_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled, number)
    node.start()
    error = await node.err()
    if error is None:
        return ExitCode.OK, ""
    if not isinstance(error, SwarmError):
        log.crash("broken invariant" if isinstance(error, AssertionError) else "unexpected error", error)
    code = error.exit_code if isinstance(error, NodeEnded) else exit_code_of(error)
    return code, str(error) or type(error).__name__
