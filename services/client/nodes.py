"""Nodes, as the client sees them. A ``ref`` is an id, an exact name or an unambiguous prefix of an id."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from services.client.changes import write_changed
from services.client.line import ControlLine
from services.kit.messages import control
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.model.specs import NodeSpec
from services.kit.model.states import Availability


class Nodes:
    """``client.nodes``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def get(self, ref: str, *, stale: bool = False) -> Node:
        """Return one node; raises NotFound."""
        return (await self._line.call(control.GET_NODE, control.GetRequest(ref=ref, stale=stale))).node

    async def list(self, filters: control.Filters = control.Filters(), *, stale: bool = False) -> tuple[Node, ...]:
        """Return nodes by hostname.

        >>> [node.description.hostname for node in await client.nodes.list()]  # doctest: +SKIP
        ['rack1-a', 'rack1-b']
        """
        request = control.ListRequest(filters=filters, stale=stale)
        return (await self._line.call(control.LIST_NODES, request)).nodes

    async def update(self, ref: str, change: Callable[[NodeSpec], NodeSpec]) -> Node:
        """Change a node's spec: availability, labels, desired role."""

        async def read() -> Node:
            return await self.get(ref)

        async def send(node: Node, spec: NodeSpec) -> Node:
            request = control.UpdateNodeRequest(node_id=node.id, version=node.meta.version, spec=spec)
            return (await self._line.call(control.UPDATE_NODE, request)).node

        return await write_changed(read, lambda node: node.spec, change, send)

    async def put(self, node_id: NodeId, version: int, spec: NodeSpec) -> Node:
        """Replace a spec that was read at this version; raises Conflict when somebody wrote in between. Not repeated."""
        request = control.UpdateNodeRequest(node_id=node_id, version=version, spec=spec)
        return (await self._line.call(control.UPDATE_NODE, request)).node

    async def set_availability(self, ref: str, availability: Availability) -> Node:
        """Let the scheduler use a node (active), give it nothing new (pause), or take its tasks elsewhere (drain)."""
        return await self.update(ref, lambda spec: replace(spec, availability=availability))

    async def remove(self, ref: str, *, force: bool = False) -> Node:
        """Remove a node and return it as it was; one that is READY needs ``force``. Raises NotFound, FailedPrecondition."""
        node = await self.get(ref)
        request = control.RemoveNodeRequest(node_id=node.id, force=force)
        await self._line.remove(control.REMOVE_NODE, request)
        return node
