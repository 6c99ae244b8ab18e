"""``/swarm`` and ``/nodes``."""

from __future__ import annotations

from aiohttp import web

from services.kit.errors import Conflict, FailedPrecondition, NotFound, Unavailable, Unimplemented
from services.kit.model.objects import Node
from services.web.core import failures, objects_out
from services.web.core.filters import among, begins, labelled, read_filters
from services.web.core.swarm_in import read_node, read_swarm
from services.web.shell.desk import Desk, answered, asked, body_of, done, version_of

NODE_FILTERS = ("id", "label", "node.label", "membership", "name", "role")


class Swarm:
    """See the module."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        """Show the swarm."""
        cluster = await self._desk.client.clusters.get()
        return answered(objects_out.swarm(cluster, tokens=self._desk.may_change(request)))

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Change the swarm's settings and tokens."""
        if asked(request, "rotateManagerUnlockKey"):
            raise Unimplemented("the unlock key is rotated with swarmctl")
        clusters = self._desk.client.clusters
        version = version_of(request)
        cluster = await clusters.get()
        if cluster.meta.version != version:
            raise Conflict(failures.OUT_OF_SEQUENCE)
        await clusters.put(
            version,
            read_swarm(await body_of(request), cluster.spec),
            rotate_worker=asked(request, "rotateWorkerToken"),
            rotate_manager=asked(request, "rotateManagerToken"),
        )
        return done()

    async def already(self, request: web.Request) -> web.StreamResponse:
        """A node that runs is part of a swarm."""
        raise Unavailable(
            'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
        )

    async def leave(self, request: web.Request) -> web.StreamResponse:
        """A node leaves by being stopped."""
        raise Unimplemented("stop the node with `supervisor down`, then remove it with `docker node rm`")

    async def unlock_key(self, request: web.Request) -> web.StreamResponse:
        """Show the unlock key: there is none while managers are not locked."""
        self._desk.check_right(request)
        cluster = await self._desk.client.clusters.get()
        if cluster.spec.auto_lock_managers:
            raise Unimplemented("the unlock key is shown by swarmctl")
        return answered({"UnlockKey": ""})

    async def unlock(self, request: web.Request) -> web.StreamResponse:
        """A node that answers is not locked."""
        raise Unavailable("swarm is not locked")


class Nodes:
    """``/nodes``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List nodes."""
        wanted = read_filters(request.query.get("filters", ""), NODE_FILTERS)
        nodes = await self._desk.client.nodes.list()
        return answered(
            [
                objects_out.node(node)
                for node in nodes
                if begins(wanted, "id", node.id)
                and begins(wanted, "name", node.spec.annotations.name or node.description.hostname)
                and among(wanted, "role", node.role.value)
                and among(wanted, "membership", node.spec.membership.value)
                and labelled(wanted, "label", node.description.engine.labels)
                and labelled(wanted, "node.label", node.spec.annotations.labels)
            ]
        )

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        """Show a node."""
        return answered(objects_out.node(await self._find(request.match_info["ref"])))

    async def update(self, request: web.Request) -> web.StreamResponse:
        """Change a node's labels, availability and role."""
        node = await self._find(request.match_info["ref"])
        spec = read_node(await body_of(request), node.spec)
        await self._desk.client.nodes.put(node.id, version_of(request), spec)
        return done()

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Remove a node."""
        node = await self._find(request.match_info["ref"])
        try:
            await self._desk.client.nodes.remove(node.id, force=asked(request, "force"))
        except FailedPrecondition:
            if node.manager_status is not None:
                raise FailedPrecondition(
                    f"node {node.id} is a cluster manager and is a member of the raft cluster."
                    " It must be demoted to worker before removal"
                ) from None
            raise FailedPrecondition(f"node {node.id} is not down and can't be removed") from None
        return done()

    async def _find(self, ref: str) -> Node:
        try:
            return await self._desk.client.nodes.get(ref)
        except NotFound:
            raise failures.not_found("node", ref) from None
