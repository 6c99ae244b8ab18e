"""Which service holds which published port, so that a conflict is found inside the transaction that would make it.

SwarmKit's rule: an ingress port excludes every other use of the same (port, protocol); two host-mode ports may be equal, since the
scheduler keeps them on different nodes. Beyond SwarmKit: services that are told apart by name may share a port (``kit/model/ingress``).
"""

from __future__ import annotations

from collections.abc import Iterator

from services.kit.model.ingress import wanted, why_not_together
from services.kit.model.objects import Service
from services.kit.model.specs import PortConfig
from services.kit.model.states import Protocol

Key = tuple[int, Protocol]


def published(service: Service) -> Iterator[PortConfig]:
    """Yield the ports with a number: allocated ones, and those that the spec names."""
    seen: set[Key] = set()
    allocated = () if service.endpoint is None else service.endpoint.ports
    for port in (*service.spec.endpoint.ports, *allocated):
        key = (port.published_port, port.protocol)
        if port.published_port and key not in seen:
            seen.add(key)
            yield wanted(port, service.spec.annotations.labels)


class PortIndex:
    """Holders of every published port."""

    def __init__(self) -> None:
        self._holders: dict[Key, dict[str, PortConfig]] = {}

    def add(self, service: Service) -> None:
        """Take a service's ports in."""
        for port in published(service):
            self._holders.setdefault((port.published_port, port.protocol), {})[service.id] = port

    def discard(self, service: Service) -> None:
        """Take a service's ports out."""
        for port in published(service):
            key = (port.published_port, port.protocol)
            holders = self._holders.get(key)
            if holders is not None:
                holders.pop(service.id, None)
                if not holders:
                    del self._holders[key]

    def taken(self, port: int, protocol: Protocol) -> bool:
        """Tell whether anybody holds the port."""
        return (port, protocol) in self._holders

    def rival(self, service: Service) -> tuple[PortConfig, str, str] | None:
        """Return the first port of a service that another one holds against it, with that service's id and its reason."""
        for port in published(service):
            for holder, held in self._holders.get((port.published_port, port.protocol), {}).items():
                reason = "" if holder == service.id else why_not_together(held, port)
                if reason:
                    return port, holder, reason
        return None
