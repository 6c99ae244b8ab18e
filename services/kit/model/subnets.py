"""Arithmetic of address ranges: which addresses a range may deal, and which ranges get in each other's way.

Read by validation, by the store (which refuses what overlaps) and by the dispatcher's allocator. Texts are what people write
(``10.1.0.0/24``); functions raise ValueError on anything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from services.kit.model.specs import IpamConfig
from services.kit.model.value import Value

Subnet = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class DealtRange(Value, frozen=True, kw_only=True):
    """Addresses that may be dealt, as numbers: from ``first`` to ``last``, but for the reserved ones."""

    version: int
    """4 or 6."""
    first: int
    last: int
    reserved: frozenset[int] = frozenset()

    @property
    def size(self) -> int:
        """How many addresses it has to deal."""
        return max(0, self.last - self.first + 1 - len(self.reserved))


def dealt_range(config: IpamConfig) -> DealtRange:
    """Return the addresses that a range with a subnet may deal: not the subnet's own, not its broadcast, not its gateway."""
    subnet = ip_network(config.subnet)
    part = ip_network(config.range) if config.range else subnet
    first, last = int(part.network_address), int(part.broadcast_address)
    kept = {int(subnet.network_address)}
    if isinstance(subnet, IPv4Network):
        kept.add(int(subnet.broadcast_address))
    if config.gateway:
        kept.add(int(ip_address(config.gateway)))
    reserved = frozenset(number for number in kept if first <= number <= last)
    return DealtRange(version=subnet.version, first=first, last=last, reserved=reserved)


def address_text(version: int, number: int) -> str:
    """Return an address as people write it."""
    return str(IPv4Address(number) if version == 4 else IPv6Address(number))


def filled_in(config: IpamConfig) -> IpamConfig:
    """Return a range with a subnet whose gateway is named: the first address unless the config says otherwise."""
    subnet = ip_network(config.subnet)
    gateway = config.gateway or str(subnet.network_address + 1)
    return IpamConfig(subnet=str(subnet), range=config.range, gateway=gateway)


def overlap(ours: Iterable[IpamConfig], theirs: Iterable[IpamConfig]) -> tuple[str, str] | None:
    """Return two subnets, one of each side, that share addresses, or None."""
    others = [ip_network(config.subnet) for config in theirs if config.subnet]
    for config in ours:
        if config.subnet:
            subnet = ip_network(config.subnet)
            for other in others:
                if is_shared(subnet, other):
                    return str(subnet), str(other)
    return None


def is_shared(one: Subnet, other: Subnet) -> bool:
    """Tell whether two subnets share addresses."""
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def holds_address(subnet: Subnet, address: Address) -> bool:
    """Tell whether an address is one of a subnet's."""
    return subnet.version == address.version and address in subnet
