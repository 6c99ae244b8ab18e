"""``/networks``."""

from __future__ import annotations

from aiohttp import web

from services.kit.errors import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from services.kit.model.network_rules import ENGINES_OWN
from services.kit.model.objects import Network
from services.web.core import failures
from services.web.core.filters import Wanted, among, begins, labelled, read_filters, switch
from services.web.core.json import Json
from services.web.core.networks import ENGINES, network, read_network
from services.web.shell.desk import Desk, answered, body_of, done

FILTERS = ("driver", "id", "label", "name", "scope", "type", "dangling")


class Networks:
    """See the module."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List the swarm's networks, and those that every engine has."""
        wanted = read_filters(request.query.get("filters", ""), FILTERS)
        found = [*ENGINES, *(network(each) for each in await self._desk.client.networks.list())]
        used: set[str] = set()
        if wanted.get("dangling"):
            services = await self._desk.client.services.list()
            used = {each.target for service in services for each in service.spec.task.networks}
        return answered([each for each in found if _chosen(wanted, each, used)])

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Create a network of the swarm."""
        spec = read_network(await body_of(request))
        try:
            made = await self._desk.client.networks.create(spec)
        except AlreadyExists:
            raise failures.name_taken("network", spec.annotations.name) from None
        return answered({"Id": made.id, "Warning": ""}, status=201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        """Show a network."""
        ref = request.match_info["ref"]
        own = next((each for each in ENGINES if each["Name"] == ref), None)
        return answered(own if own is not None else network(await self._find(ref)))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Remove a network that no service is on."""
        ref = request.match_info["ref"]
        if ref in ENGINES_OWN:
            raise PermissionDenied(f"{ref} is a pre-defined network and cannot be removed")
        found = await self._find(ref)
        try:
            await self._desk.client.networks.remove(found.id)
        except FailedPrecondition as error:
            raise FailedPrecondition(f"network {found.id} is in use: {error}") from None
        return done(204)

    async def _find(self, ref: str) -> Network:
        try:
            return await self._desk.client.networks.get(ref)
        except NotFound:
            raise failures.not_found("network", ref) from None


def _chosen(wanted: Wanted, shown: Json, used: set[str]) -> bool:
    dangling = switch(wanted, "dangling")
    custom = shown["Scope"] == "swarm" and not shown["Ingress"]
    return (
        labelled(wanted, "label", shown["Labels"])
        and begins(wanted, "name", shown["Name"])
        and begins(wanted, "id", shown["Id"])
        and among(wanted, "driver", shown["Driver"])
        and among(wanted, "scope", shown["Scope"])
        and among(wanted, "type", "custom" if custom else "builtin")
        and (dangling is None or dangling is (custom and shown["Id"] not in used))
    )
