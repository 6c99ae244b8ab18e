"""Networks of the scripted control server, by the dispatcher's own rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.dispatcher.core.control.networks import create_network, find_network, list_networks, remove_network
from services.kit.bus.api import Context
from services.kit.bus.rpc import Table as Methods
from services.kit.errors import AlreadyExists
from services.kit.messages import control, networks
from services.kit.messages.method import Empty
from services.kit.model.ids import NetworkId
from services.kit.model.objects import Network

if TYPE_CHECKING:
    from tests.support.control_server import ControlServer


class Networks:
    """Answers the methods of networks over the server's state."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server

    def answer(self, table: Methods) -> None:
        """Add the methods to a table."""
        server = self._server
        server.answer(table, networks.LIST_NETWORKS, self._list)
        server.answer(table, networks.GET_NETWORK, self._get)
        server.answer(table, networks.CREATE_NETWORK, self._create)
        server.answer(table, networks.REMOVE_NETWORK, self._remove)

    def _list(self, context: Context, request: control.ListRequest) -> networks.NetworkList:
        return networks.NetworkList(networks=list_networks(self._server.state, request.filters))

    def _get(self, context: Context, request: control.GetRequest) -> networks.NetworkReply:
        return networks.NetworkReply(network=find_network(self._server.state, request.ref))

    def _create(self, context: Context, request: networks.CreateNetworkRequest) -> networks.NetworkReply:
        name = request.spec.annotations.name
        if any(each.spec.annotations.name == name for each in self._server.state.networks.values()):
            raise AlreadyExists(f"the network name {name!r} is taken")
        answer = create_network(self._server.state, request, NetworkId(f"network-{name}"))
        self._server.commit(*answer.ops)
        assert isinstance(answer.thing, Network)
        return networks.NetworkReply(network=self._server.state.networks[answer.thing.id])

    def _remove(self, context: Context, request: networks.RemoveNetworkRequest) -> Empty:
        self._server.commit(*remove_network(self._server.state, request).ops)
        return Empty()
