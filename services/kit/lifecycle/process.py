"""A child process from its first line to its exit code: settings → log → bus → orders → start → ready → serve → stop.

Called by every ``__main__.py`` except the supervisor's own. What must stay true: whatever ends the process, ``App.stop`` runs once
(within its budget) if ``App.start`` was begun, the bus is closed, and the exit code says why, so that the supervisor can act on it.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from services.kit.bus.api import LocalAddress
from services.kit.bus.identity import load_identity
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import Cancelled, DeadlineExceeded, InvalidArgument, Unavailable
from services.kit.lifecycle.app import App, ReadyLater, Runtime
from services.kit.lifecycle.exit_codes import ExitCode, exit_code_of
from services.kit.lifecycle.node import SupervisorLine
from services.kit.lifecycle.settings import ProcessSettings, load_settings
from services.kit.messages.supervise import Facts
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SystemIds, system_rng
from services.kit.runtime.log import Log, set_node, set_up
from services.kit.runtime.tasks import TaskOwner

STOP_BUDGET_S = 8.0
"""Longest time for ``App.stop``; SwarmKit cuts its managers off after the same time."""
_PR_SET_PDEATHSIG = 1

SettingsT = TypeVar("SettingsT", bound=ProcessSettings)
Build = Callable[[SettingsT, Runtime], App]


def run_process(name: str, settings_class: type[SettingsT], build: Build[SettingsT]) -> NoReturn:
    """Be the process ``name`` and exit with its code."""
    try:
        settings = load_settings(settings_class)
    except InvalidArgument as error:
        sys.stderr.write(f"{name}: the settings are wrong: {error}\n")
        sys.exit(ExitCode.USAGE)
    set_up(name, settings.log_level)
    faulthandler.enable()
    _end_with_parent()
    sys.exit(asyncio.run(_Life(name, settings, build).live()))


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when the supervisor dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class _Life:
    """One run of a process."""

    def __init__(self, name: str, settings: SettingsT, build: Build[SettingsT]) -> None:
        self._name = name
        self._socket = settings.socket("supervisor")
        self._metrics_interval_s = settings.metrics_interval_s
        self._build: Callable[[Runtime], App] = lambda runtime: build(settings, runtime)
        self._log = Log("lifecycle")
        self._told_to_stop = asyncio.Event()
        self._app: App | None = None
        self._bus: ZmqBus | None = None

    async def live(self) -> ExitCode:
        """Run to the end and return why it ended."""
        self._watch_signals()
        code = ExitCode.OK
        self._bus = ZmqBus(process=self._name, clock=SystemClock())
        try:
            await self._serve(self._bus)
        except Exception as error:  # noqa: BLE001 - the last door of the process: everything becomes an exit code here
            code = exit_code_of(error)
            self._report(error, code)
        finally:
            code = await self._stop(code)
            await self._bus.close()
        self._log.info("process ended", code=code.name)
        return code

    async def _serve(self, bus: ZmqBus) -> None:
        """Return when told to stop or when the supervisor is gone; raise what ends the process otherwise."""
        async with TaskOwner(self._name) as owner:
            signals = owner.spawn("signals", self._told_to_stop.wait())
            broken = owner.spawn("broken", bus.failed())
            try:
                connection = await bus.dial(LocalAddress(path=self._socket))
            except Unavailable:
                self._log.warning("no supervisor")
                return
            line = SupervisorLine(connection, self._name, os.getpid(), self._take_identity)
            orders = owner.spawn("orders", line.follow_orders())
            work = owner.spawn("work", self._work(bus, line))
            if self._metrics_interval_s:
                owner.spawn("metrics", self._tell_metrics(line))
            await asyncio.wait((signals, broken, orders, work), return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                raise broken.result()
            if work.done():
                work.result()
            elif orders.done() and orders.exception() is not None:
                self._end_of_orders(orders.exception())

    async def _work(self, bus: ZmqBus, line: SupervisorLine) -> None:
        await line.started()
        runtime = Runtime(
            process=self._name, clock=SystemClock(), ids=SystemIds(), rng=system_rng(), bus=bus, node=line
        )
        self._app = self._build(runtime)
        await self._app.start()
        if not isinstance(self._app, ReadyLater):
            await line.report_ready()
        await self._app.serve()

    async def _tell_metrics(self, line: SupervisorLine) -> None:
        """Tell what is measured for as long as there is somebody to tell; a supervisor that is busy hears the next report."""
        with suppress(Unavailable):
            while True:
                with suppress(DeadlineExceeded):
                    await line.report_metrics()
                await asyncio.sleep(self._metrics_interval_s)

    def _end_of_orders(self, error: BaseException | None) -> None:
        """A lost supervisor means a clean stop; anything else that breaks the orders is an error."""
        if not isinstance(error, Unavailable | Cancelled):
            assert error is not None
            raise error
        self._log.warning("supervisor lost")

    def _take_identity(self, facts: Facts) -> None:
        assert self._bus is not None
        if facts.node_id:
            set_node(facts.node_id)
        if facts.identity_serial:
            self._bus.set_identity(load_identity(facts.certificates_dir))

    async def _stop(self, code: ExitCode) -> ExitCode:
        if self._app is None:
            return code
        try:
            async with asyncio.timeout(STOP_BUDGET_S):
                await self._app.stop()
        except TimeoutError:
            self._log.warning("stop took too long", budget_s=STOP_BUDGET_S)
        except Exception as error:  # noqa: BLE001 - a failing stop must not hide why the process ended
            self._log.crash("stop failed", error)
            return code if code is not ExitCode.OK else exit_code_of(error)
        return code

    def _report(self, error: Exception, code: ExitCode) -> None:
        if isinstance(error, AssertionError):
            self._log.crash("broken invariant", error)
        elif code is ExitCode.CRASH:
            self._log.crash("unexpected error", error)
        else:
            self._log.error("process cannot go on", code=code.name, reason=str(error))

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: signal.Signals) -> None:
        """The first signal is a polite wish, the second ends the process on the spot."""
        if self._told_to_stop.is_set():
            os._exit(128 + number)
        self._told_to_stop.set()
