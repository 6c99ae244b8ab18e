"""Services, as the client sees them. A ``ref`` is an id, an exact name or an unambiguous prefix of an id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from msgspec.structs import replace

from services.client.changes import write_changed
from services.client.convergence import Progress, Stage
from services.client.line import ControlLine
from services.client.waiting import follow_progress
from services.kit.errors import DeadlineExceeded, FailedPrecondition
from services.kit.messages import control
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Service, Task
from services.kit.model.specs import Replicated, ReplicatedJob, ServiceSpec


class Services:
    """``client.services``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def create(self, spec: ServiceSpec) -> Service:
        """Create a service. Safe to have repeated: the call carries a request id, and the same id creates once.

        Raises InvalidArgument with every mistake in the spec, AlreadyExists.

        >>> spec = service_spec("web", command=("python3", "-m", "http.server", "{{.Task.Port}}"), ports=["8080:80"])
        >>> web = await client.services.create(spec)  # doctest: +SKIP
        """
        key = self._line.request_id()
        request = control.CreateServiceRequest(spec=spec, request_id=key)
        return (await self._line.call(control.CREATE_SERVICE, request, repeatable=True, request_id=key)).service

    async def get(self, ref: str, *, stale: bool = False) -> Service:
        """Return one service; raises NotFound."""
        return (await self._line.call(control.GET_SERVICE, control.GetRequest(ref=ref, stale=stale))).service

    async def list(self, filters: control.Filters = control.Filters(), *, stale: bool = False) -> tuple[Service, ...]:
        """Return services by name."""
        request = control.ListRequest(filters=filters, stale=stale)
        return (await self._line.call(control.LIST_SERVICES, request)).services

    async def statuses(
        self, service_ids: tuple[ServiceId, ...] = (), *, stale: bool = False
    ) -> tuple[control.ServiceStatus, ...]:
        """Return how many tasks of each service are wanted, running and complete; no ids means all services."""
        request = control.StatusesRequest(service_ids=service_ids, stale=stale)
        return (await self._line.call(control.SERVICE_STATUSES, request)).statuses

    async def tasks(self, ref: str, *, stale: bool = False) -> tuple[Task, ...]:
        """Return a service's tasks, live and ended."""
        service = await self.get(ref, stale=stale)
        filters = control.Filters(service_ids=(service.id,))
        reply = await self._line.call(control.LIST_TASKS, control.ListRequest(filters=filters, stale=stale))
        return reply.tasks

    async def update(self, ref: str, change: Callable[[ServiceSpec], ServiceSpec]) -> Service:
        """Replace a service's spec by a changed one; ``change`` is called again when somebody else wrote in between.

        >>> from msgspec.structs import replace
        >>> labels = Annotations(name="web", labels={"tier": "front"})
        >>> await client.services.update("web", lambda spec: replace(spec, annotations=labels))  # doctest: +SKIP
        """

        async def read() -> Service:
            return await self.get(ref)

        async def send(service: Service, spec: ServiceSpec) -> Service:
            request = control.UpdateServiceRequest(service_id=service.id, version=service.meta.version, spec=spec)
            return (await self._line.call(control.UPDATE_SERVICE, request)).service

        return await write_changed(read, lambda service: service.spec, change, send)

    async def put(self, service_id: ServiceId, version: int, spec: ServiceSpec) -> Service:
        """Replace a spec that was read at this version; raises Conflict when somebody wrote in between. Not repeated."""
        request = control.UpdateServiceRequest(service_id=service_id, version=version, spec=spec)
        return (await self._line.call(control.UPDATE_SERVICE, request)).service

    async def put_back(self, service_id: ServiceId, version: int) -> Service:
        """Go back to the previous spec of a service that was read at this version; raises as ``put`` and ``rollback`` do."""
        request = control.UpdateServiceRequest(service_id=service_id, version=version, rollback=True)
        return (await self._line.call(control.UPDATE_SERVICE, request)).service

    async def pause(self, ref: str) -> Service:
        """Stop a service's update (or rollback) where it is; raises FailedPrecondition when none is under way."""
        service = await self.get(ref)
        request = control.UpdateServiceRequest(service_id=service.id, version=service.meta.version, pause=True)
        return (await self._line.call(control.UPDATE_SERVICE, request)).service

    async def resume(self, ref: str) -> Service:
        """Let a paused update (or rollback) go on; what failed before does not count any more."""
        service = await self.get(ref)
        request = control.UpdateServiceRequest(service_id=service.id, version=service.meta.version, resume=True)
        return (await self._line.call(control.UPDATE_SERVICE, request)).service

    async def scale(self, ref: str, replicas: int) -> Service:
        """Set the number of tasks; raises FailedPrecondition for a service that has no such number."""

        def scaled(spec: ServiceSpec) -> ServiceSpec:
            match spec.mode:
                case Replicated():
                    return replace(spec, mode=Replicated(replicas=replicas))
                case ReplicatedJob():
                    mode = replace(spec.mode, max_concurrent=replicas, total_completions=replicas)
                    return replace(spec, mode=mode)
                case _:
                    name = spec.annotations.name
                    raise FailedPrecondition(f"service {name!r} is global: it has one task on every node that fits")

        return await self.update(ref, scaled)

    async def rollback(self, ref: str) -> Service:
        """Go back to the previous spec; raises FailedPrecondition when there is none."""
        service = await self.get(ref)
        request = control.UpdateServiceRequest(service_id=service.id, version=service.meta.version, rollback=True)
        return (await self._line.call(control.UPDATE_SERVICE, request)).service

    async def remove(self, ref: str) -> Service:
        """Remove a service with its tasks and return it as it was; raises NotFound."""
        service = await self.get(ref)
        await self._line.remove(control.REMOVE_SERVICE, control.RemoveServiceRequest(service_id=service.id))
        return service

    async def progress(
        self, ref: str, *, stable_s: float = 0.0, rollback: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """Yield how far the service has come, at once and after each change, until it converged or failed.

        ``stable_s`` is how long its tasks must stay as they should be; ``rollback`` says that going back is what is wanted.

        >>> async for progress in client.services.progress("web"):  # doctest: +SKIP
        ...     print(f"{progress.done} of {progress.desired}")
        """
        service_id = (await self.get(ref)).id
        steps = follow_progress(self._line, service_id, stable_s=stable_s, rollback=rollback)
        async with aclosing(steps):
            async for step in steps:
                yield step

    async def wait(
        self,
        ref: str,
        *,
        timeout_s: float | None = None,
        stable_s: float = 0.0,
        rollback: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Wait until the service converged.

        Raises FailedPrecondition when it cannot get there (a paused or rolled back update, a task that failed for good), and
        DeadlineExceeded after ``timeout_s``; the service itself is not touched.
        """
        last: Progress | None = None
        try:
            async with (
                asyncio.timeout(timeout_s),
                aclosing(self.progress(ref, stable_s=stable_s, rollback=rollback)) as steps,
            ):
                async for step in steps:
                    last = step
                    if on_progress is not None:
                        on_progress(step)
        except TimeoutError:
            name = ref if last is None else last.name
            came = "" if last is None else f": {last.done} of {last.desired} tasks are as wanted"
            raise DeadlineExceeded(f"service {name!r} did not converge within {timeout_s:g} s{came}") from None
        assert last is not None, "progress yields at least once"
        if last.stage is Stage.FAILED:
            raise FailedPrecondition(f"service {last.name!r} did not converge: {last.message}")
        return last
