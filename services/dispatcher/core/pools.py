"""Subnets for networks: which part of the cluster's pools a new network gets. Pure; called when a network is created.

What must stay true: no two networks share an address (the store checks it again when the transaction is applied), and no subnet from a
pool holds the address of a node, which would hide that node from the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from services.kit.model.specs import IpamConfig, NetworkingConfig, NetworkSpec
from services.kit.model.subnets import filled_in
from services.kit.state.view import View


class PoolsExhausted(Exception):
    """No pool has a free subnet."""


def ranges_for(view: View, spec: NetworkSpec) -> tuple[IpamConfig, ...]:
    """Return the ranges of a new network, every field filled in; raises PoolsExhausted."""
    if spec.ingress:
        return ()
    cluster = view.cluster
    config = NetworkingConfig() if cluster is None else cluster.spec.networking
    taken = [*_subnets(view), *_own(spec)]
    needs_one = not any(":" not in each.subnet for each in spec.ipam)
    wanted = (IpamConfig(), *spec.ipam) if needs_one else spec.ipam
    found: list[IpamConfig] = []
    for each in wanted:
        if each.subnet:
            found.append(filled_in(each))
            continue
        subnet = next(free_subnets(config, taken, _nodes(view)), None)
        if subnet is None:
            raise PoolsExhausted
        taken.append(subnet)
        found.append(filled_in(IpamConfig(subnet=str(subnet))))
    return tuple(found)


def free_subnets(
    config: NetworkingConfig, taken: Iterable[IPv4Network], avoided: Iterable[IPv4Address]
) -> Iterator[IPv4Network]:
    """Yield the subnets of the pools that share nothing with what is taken and hold no avoided address, lowest first."""
    spans = [(int(net.network_address), int(net.broadcast_address)) for net in taken]
    spans += [(int(address), int(address)) for address in avoided]
    spans.sort()
    size = 1 << (32 - config.subnet_size)
    for text in config.default_address_pools:
        pool = IPv4Network(text)
        first, last = int(pool.network_address), int(pool.broadcast_address)
        for start, end in spans:
            while first + size - 1 < start and first + size - 1 <= last:
                yield IPv4Network((first, config.subnet_size))
                first += size
            if end >= first:
                first = (end // size + 1) * size
        while first + size - 1 <= last:
            yield IPv4Network((first, config.subnet_size))
            first += size


def _subnets(view: View) -> Iterable[IPv4Network]:
    for network in view.networks.values():
        yield from _v4(network.ipam)


def _own(spec: NetworkSpec) -> Iterable[IPv4Network]:
    yield from _v4(spec.ipam)


def _v4(ranges: Iterable[IpamConfig]) -> Iterable[IPv4Network]:
    for config in ranges:
        subnet = ip_network(config.subnet) if config.subnet else None
        if isinstance(subnet, IPv4Network):
            yield subnet


def _nodes(view: View) -> Iterable[IPv4Address]:
    """Yield the addresses of the nodes, as far as they are addresses and not names."""
    for node in view.nodes.values():
        try:
            address = ip_address(node.status.addr)
        except ValueError:
            continue
        if isinstance(address, IPv4Address):
            yield address
