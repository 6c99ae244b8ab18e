"""``/services`` and ``/tasks``."""

from __future__ import annotations

from aiohttp import web

from services.client.convergence import same_work
from services.kit.errors import AlreadyExists, InvalidArgument, NotFound
from services.kit.messages.control import Filters
from services.kit.model.ids import NodeId, ServiceId, spec_version_id
from services.kit.model.objects import Service, SpecVersion, Task
from services.web.core import failures, objects_out
from services.web.core.filters import Wanted, among, begins, labelled, read_filters, switch
from services.web.core.spec_in import read_service
from services.web.shell.desk import Desk, answered, asked, body_of, done, version_of

SERVICE_FILTERS = ("id", "label", "mode", "name", "runtime")
TASK_FILTERS = ("desired-state", "id", "label", "name", "node", "runtime", "service", "_up-to-date")
AUTH_HEADER = "X-Registry-Auth"


class Services:
    """``/services``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List services."""
        wanted = read_filters(request.query.get("filters", ""), SERVICE_FILTERS)
        found = [
            service
            for service in await self._desk.client.services.list()
            if begins(wanted, "id", service.id)
            and begins(wanted, "name", service.spec.annotations.name)
            and among(wanted, "mode", objects_out.mode_word(service.spec))
            and labelled(wanted, "label", service.spec.annotations.labels)
        ]
        if not asked(request, "status") or not found:
            return answered([objects_out.service(service) for service in found])
        statuses = await self._desk.client.services.statuses(tuple(service.id for service in found))
        counts = {status.service_id: status for status in statuses}
        return answered([objects_out.service(service, counts.get(service.id)) for service in found])

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Create a service."""
        body = await body_of(request)
        if not body.get("Name"):
            body["Name"] = f"service-{self._desk.ids.new('service')[:12]}"
        spec = read_service(body, None, registry_auth=_auth(request))
        try:
            service = await self._desk.client.services.create(spec)
        except AlreadyExists:
            raise failures.name_taken("service", spec.annotations.name) from None
        return answered({"ID": service.id, "Warnings": None}, status=201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        """Show a service."""
        return answered(objects_out.service(await self.find(request.match_info["ref"])))

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Replace a service's spec, or go back to the previous one."""
        service = await self.find(request.match_info["ref"])
        version = version_of(request)
        back = request.query.get("rollback", "")
        if back == "previous":
            await self._desk.client.services.put_back(service.id, version)
            return answered({"Warnings": None})
        if back:
            raise InvalidArgument(f"unrecognized rollback option {back}")
        if request.query.get("registryAuthFrom", "spec") not in {"", "spec", "previous-spec"}:
            raise InvalidArgument("unsupported registryAuthFrom value")
        auth = _auth(request) or _previous_auth(request, service)
        spec = read_service(await body_of(request), service.spec, registry_auth=auth)
        await self._desk.client.services.put(service.id, version, spec)
        return answered({"Warnings": None})

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Remove a service with its tasks."""
        service = await self.find(request.match_info["ref"])
        await self._desk.client.services.remove(service.id)
        return done()

    async def find(self, ref: str) -> Service:
        """Return the service that is meant; raises NotFound in Docker's words."""
        try:
            return await self._desk.client.services.get(ref)
        except NotFound:
            raise failures.not_found("service", ref) from None


def _auth(request: web.Request) -> str:
    """Return the credentials for the image; an empty JSON object says nothing."""
    header = request.headers.get(AUTH_HEADER, "")
    return "" if header in {"", "e30=", "e30"} else header


def _previous_auth(request: web.Request, service: Service) -> str:
    if request.query.get("registryAuthFrom") != "previous-spec" or service.previous_spec is None:
        return ""
    return service.previous_spec.task.container.registry_auth


class Tasks:
    """``/tasks``."""

    def __init__(self, desk: Desk, services: Services) -> None:
        self._desk = desk
        self._services = services

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List tasks."""
        wanted = read_filters(request.query.get("filters", ""), TASK_FILTERS)
        for state in wanted.get("desired-state", ()):
            if state not in {"running", "shutdown", "accepted"}:
                raise InvalidArgument(f"invalid desired state: {state}")
        client = self._desk.client
        named = await self._named(wanted)
        if named is None:
            return answered([])
        found = await client.tasks.list_with_specs(named)
        specs = {spec.id: spec for spec in found.specs}
        owners = {service.id: service for service in await client.services.list()}
        shown = []
        for task in found.tasks:
            owner = owners.get(task.service_id)
            spec = specs.get(spec_version_id(task.service_id, task.spec_version))
            if _chosen(wanted, task, owner, spec):
                shown.append(objects_out.task(task, spec, {}))
        return answered(shown)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        """Show a task."""
        ref = request.match_info["ref"]
        try:
            reply = await self._desk.client.tasks.get(ref)
        except NotFound:
            raise failures.not_found("task", ref) from None
        return answered(objects_out.task(reply.task, reply.spec, {}))

    async def _named(self, wanted: Wanted) -> Filters | None:
        """Return the services and nodes that the filters name; None when one of them is not there, so that nothing fits."""
        services: list[ServiceId] = []
        nodes: list[NodeId] = []
        try:
            for ref in wanted.get("service", ()):
                services.append((await self._desk.client.services.get(ref)).id)  # noqa: PERF401
            for ref in wanted.get("node", ()):
                nodes.append((await self._desk.client.nodes.get(ref)).id)  # noqa: PERF401
        except NotFound:
            return None
        return Filters(service_ids=tuple(services), node_ids=tuple(nodes))


def _chosen(wanted: Wanted, task: Task, owner: Service | None, spec: SpecVersion | None) -> bool:
    current = switch(wanted, "_up-to-date")
    name = "" if owner is None else f"{owner.spec.annotations.name}.{task.slot or task.node_id}.{task.id}"
    return (
        begins(wanted, "id", task.id)
        and begins(wanted, "name", name)
        and among(wanted, "desired-state", objects_out.state_word(task.desired_state))
        and labelled(wanted, "label", {} if owner is None else owner.spec.annotations.labels)
        and (current is None or current is _is_current(task, owner, spec))
    )


def _is_current(task: Task, owner: Service | None, spec: SpecVersion | None) -> bool:
    """Tell whether a task runs what its service says now."""
    if owner is None or spec is None:
        return False
    if task.spec_version == owner.spec_version:
        return True
    return same_work(spec.task, owner.spec.task) and spec.endpoint == owner.spec.endpoint
