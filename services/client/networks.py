"""Networks, as the client sees them. A ``ref`` is an id, an exact name or an unambiguous prefix of an id."""

from __future__ import annotations

from services.client.line import ControlLine
from services.kit.messages import control, networks
from services.kit.model.objects import Network
from services.kit.model.specs import NetworkSpec


class Networks:
    """``client.networks``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def create(self, spec: NetworkSpec) -> Network:
        """Create a network; its subnets come from the cluster's pools unless the spec names them. Safe to have repeated.

        Raises InvalidArgument with every mistake in the spec (a subnet that overlaps another network's among them), AlreadyExists,
        and FailedPrecondition when no pool has a subnet left.
        """
        key = self._line.request_id()
        request = networks.CreateNetworkRequest(spec=spec, request_id=key)
        return (await self._line.call(networks.CREATE_NETWORK, request, repeatable=True, request_id=key)).network

    async def get(self, ref: str, *, stale: bool = False) -> Network:
        """Return one network. Raises NotFound."""
        return (await self._line.call(networks.GET_NETWORK, control.GetRequest(ref=ref, stale=stale))).network

    async def list(self, filters: control.Filters = control.Filters(), *, stale: bool = False) -> tuple[Network, ...]:
        """Return networks by name."""
        request = control.ListRequest(filters=filters, stale=stale)
        return (await self._line.call(networks.LIST_NETWORKS, request)).networks

    async def remove(self, ref: str) -> Network:
        """Remove a network and return it as it was; refused while a service uses it."""
        network = await self.get(ref)
        await self._line.remove(networks.REMOVE_NETWORK, networks.RemoveNetworkRequest(network_id=network.id))
        return network
