"""Handlers for networks, part of the control API; the rules are in core/control/networks."""

from __future__ import annotations

from services.dispatcher.core.control import networks
from services.dispatcher.shell.payloads import Change, Readable
from services.kit.bus.api import Context
from services.kit.bus.rpc import Table
from services.kit.lifecycle.app import Runtime
from services.kit.messages import networks as messages
from services.kit.messages.control import GetRequest, ListRequest
from services.kit.messages.method import Empty
from services.kit.model.ids import NetworkId
from services.kit.model.objects import Network
from services.kit.state.state import State


class Networks:
    """Answers users about networks."""

    def __init__(self, runtime: Runtime, state: State, readable: Readable, change: Change) -> None:
        self._runtime = runtime
        self._state = state
        self._readable = readable
        self._change = change

    def serve(self, table: Table) -> None:
        """Put the handlers into a table."""
        table.on_call(messages.LIST_NETWORKS, self._list)
        table.on_call(messages.GET_NETWORK, self._get)
        table.on_call(messages.CREATE_NETWORK, self._create)
        table.on_call(messages.REMOVE_NETWORK, self._remove)

    async def _list(self, context: Context, request: ListRequest) -> messages.NetworkList:
        await self._readable(stale=request.stale)
        return messages.NetworkList(networks=networks.list_networks(self._state, request.filters))

    async def _get(self, context: Context, request: GetRequest) -> messages.NetworkReply:
        await self._readable(stale=request.stale)
        return messages.NetworkReply(network=networks.find_network(self._state, request.ref))

    async def _create(self, context: Context, request: messages.CreateNetworkRequest) -> messages.NetworkReply:
        fresh = NetworkId(self._runtime.ids.new("network"))
        made = await self._change(context, lambda: networks.create_network(self._state, request, fresh))
        assert isinstance(made, Network)
        return messages.NetworkReply(network=made)

    async def _remove(self, context: Context, request: messages.RemoveNetworkRequest) -> Empty:
        await self._change(context, lambda: networks.remove_network(self._state, request))
        return Empty()
