"""Networks, part of what users ask of the control API. Answered by the leader's dispatcher."""

from __future__ import annotations

from services.kit.messages.control import GetRequest, ListRequest
from services.kit.messages.method import MANAGERS, Call, Empty, Owner
from services.kit.model.ids import NetworkId
from services.kit.model.objects import Network
from services.kit.model.specs import NetworkSpec
from services.kit.model.value import Value


class NetworkReply(Value, frozen=True, kw_only=True):
    """One network."""

    network: Network


class NetworkList(Value, frozen=True, kw_only=True):
    """Networks, by name."""

    networks: tuple[Network, ...] = ()


class CreateNetworkRequest(Value, frozen=True, kw_only=True):
    """Create a network. The same request id twice creates one."""

    spec: NetworkSpec
    request_id: str = ""


class RemoveNetworkRequest(Value, frozen=True, kw_only=True):
    """Remove a network; refused while a service or a task uses it, and for the predefined one."""

    network_id: NetworkId


LIST_NETWORKS = Call(
    name="control.list_networks",
    request=ListRequest,
    reply=NetworkList,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
GET_NETWORK = Call(
    name="control.get_network",
    request=GetRequest,
    reply=NetworkReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    idempotent=True,
)
CREATE_NETWORK = Call(
    name="control.create_network",
    request=CreateNetworkRequest,
    reply=NetworkReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)
REMOVE_NETWORK = Call(
    name="control.remove_network",
    request=RemoveNetworkRequest,
    reply=Empty,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
)

METHODS = (LIST_NETWORKS, GET_NETWORK, CREATE_NETWORK, REMOVE_NETWORK)
