"""Who holds which address of which network, so that a conflict is found inside the transaction that would make it.

A service holds its virtual addresses; a task holds its own until it is over: it ended, or it is not wanted and no node has it.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.kit.model.ids import NetworkId
from services.kit.model.objects import NetworkAddresses, Service, Task
from services.kit.model.states import TaskState

Holder = Service | Task
_NONE: tuple[NetworkAddresses, ...] = ()


def held_by(holder: Holder) -> tuple[NetworkAddresses, ...]:
    """Return the addresses that a service or a task has now."""
    if isinstance(holder, Service):
        return _NONE if holder.endpoint is None else holder.endpoint.virtual_ips
    if not holder.networks or holder.status.state.terminal:
        return _NONE
    if holder.status.state < TaskState.ASSIGNED and holder.desired_state > TaskState.COMPLETE:
        return _NONE
    return holder.networks


def pairs(held: tuple[NetworkAddresses, ...]) -> Iterator[tuple[NetworkId, str]]:
    """Yield each address with its network."""
    for each in held:
        for address in each.addresses:
            yield each.network_id, address


class AddressIndex:
    """Holders of every address in use."""

    def __init__(self) -> None:
        self._holders: dict[NetworkId, dict[str, str]] = {}

    def add(self, holder: Holder) -> None:
        """Take in what a service or task holds."""
        for network, address in pairs(held_by(holder)):
            self._holders.setdefault(network, {})[address] = holder.id

    def discard(self, holder: Holder) -> None:
        """Take it out."""
        for network, address in pairs(held_by(holder)):
            held = self._holders.get(network)
            if held is not None and held.get(address) == holder.id:
                del held[address]
                if not held:
                    del self._holders[network]

    def holders(self, network: NetworkId) -> frozenset[str]:
        """Return who holds addresses of a network."""
        return frozenset(self._holders.get(network, {}).values())

    def rival(self, holder: Holder) -> tuple[str, str] | None:
        """Return the first address of a service or task that another one holds, with that one's id."""
        for network, address in pairs(held_by(holder)):
            other = self._holders.get(network, {}).get(address)
            if other is not None and other != holder.id:
                return address, other
        return None
