"""Watches over the health of running tasks, the same way for every driver. Used by ``shell.tasks`` for READY and WAIT.

A task with a check is asked from its start to its end; the end always wins over an answer. What makes a task unhealthy stops it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from services.agent.core import health
from services.agent.core.health import HealthMachine, question_of
from services.agent.drivers.api import (
    Controller,
    Exit,
    Failed,
    Observed,
    SupportsExec,
    SupportsHealth,
    Temporary,
    Unsupported,
)
from services.agent.shell.probes import Prober
from services.kit.model.specs import ContainerSpec
from services.kit.runtime.clock import Clock
from services.kit.runtime.tasks import TaskOwner


class Health:
    """The checks of one node's tasks."""

    def __init__(self, clock: Clock, node_addr: str) -> None:
        self._clock = clock
        self._prober = Prober(node_addr)

    def admit(self, controller: Controller, driver: str, container: ContainerSpec) -> None:
        """Refuse a check that cannot be asked; raises BadCheck and Unsupported."""
        question = question_of(container)
        if isinstance(question, health.AskCommand) and not isinstance(controller, SupportsExec):
            raise Unsupported(driver, ("container.health_check.test",))

    def gates(self, controller: Controller, container: ContainerSpec) -> bool:
        """Tell whether a start is followed by a wait for the first healthy answer."""
        return isinstance(controller, SupportsHealth) or question_of(container) is not None

    async def served(self, controller: Controller, container: ContainerSpec) -> None:
        """Return with the first healthy answer; raises Failed when the task ended or never will answer."""
        if isinstance(controller, SupportsHealth):
            await controller.ready()
        if question_of(container) is None:
            return
        end, reason = await self._watch(controller, container, healthy=False)
        if end is not None:
            raise Failed(f"ended before it was healthy: {end.reason}", end)
        if reason:
            end = await _stop(controller, container)
            raise Failed(f"never healthy: {reason}", end)

    async def ended(self, controller: Controller, container: ContainerSpec) -> Exit:
        """Wait for the end of a task that was healthy; one that no longer is gets stopped, and its end says so."""
        if question_of(container) is None:
            return await controller.wait()
        end, reason = await self._watch(controller, container, healthy=True)
        if end is None:
            end = replace(await _stop(controller, container), message=f"unhealthy: {reason}")
            # An unhealthy task has failed, however politely it went.
            return replace(end, code=1) if end.ok else end
        return end

    async def _watch(
        self, controller: Controller, container: ContainerSpec, *, healthy: bool
    ) -> tuple[Exit | None, str]:
        """Return the task's end, or why it is unhealthy, or neither with its first healthy answer."""
        async with TaskOwner("health") as owner:
            ending = owner.spawn("end", controller.wait())
            asking = owner.spawn("ask", self._ask(controller, container, healthy=healthy))
            await asyncio.wait({ending, asking}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return ending.result(), ""
            return None, asking.result()

    async def _ask(self, controller: Controller, container: ContainerSpec, *, healthy: bool) -> str:
        question = question_of(container)
        assert question is not None, "asked only where there is a check"
        assert container.health_check is not None, "there is a question"
        observed = await controller.inspect()
        machine = HealthMachine(container.health_check, self._clock.monotonic(), healthy=healthy)
        event: health.Event = health.Due()
        while True:
            for action in machine.step(self._clock.monotonic(), event):
                match action:
                    case health.Healthy():
                        return ""
                    case health.Unhealthy(reason):
                        return reason
                    case health.Ask(timeout_s):
                        event = await self._answer(question, controller, observed, timeout_s)
            if (deadline := machine.deadline()) is not None:
                await asyncio.sleep(max(0.0, deadline - self._clock.monotonic()))
                event = health.Due()

    async def _answer(
        self, question: health.Question, controller: Controller, observed: Observed, timeout_s: float
    ) -> health.Event:
        try:
            return health.Answered(await self._prober.ask(question, controller, observed, timeout_s))
        except Temporary:
            return health.Missed()


async def _stop(controller: Controller, container: ContainerSpec) -> Exit:
    await controller.shutdown(container.stop_grace_period_s)
    return await controller.wait()
