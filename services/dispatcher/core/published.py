"""Numbers for published ports that name none. Used by the allocator.

Rules of SwarmKit: numbers come from 30000–32767, next fit; one that was dealt stays with its port config (name, protocol, target) as long as
the number of ports does not change; host-mode ports are the node's affair.
"""

from __future__ import annotations

import msgspec

from services.dispatcher.core.picture import Picture
from services.kit.model.objects import Service
from services.kit.model.specs import PortConfig
from services.kit.model.states import Protocol, PublishMode

PORT_FIRST = 30000
PORT_LAST = 32767

Dealt = set[tuple[int, Protocol]]
"""What was dealt in the same pass."""
PortKey = tuple[str, Protocol, int]


class PortNumbers:
    """Deals numbers; remembers only where it goes on."""

    def __init__(self) -> None:
        self._next = PORT_FIRST

    def fill_in(self, view: Picture, service: Service, dealt: Dealt) -> tuple[PortConfig, ...] | None:
        """Return the service's ports with every number filled in, or None when they run out."""
        kept = _sticky(service)
        ports: list[PortConfig] = []
        for port in service.spec.endpoint.ports:
            if port.published_port or port.publish_mode is PublishMode.HOST:
                ports.append(port)
                continue
            number = kept.get(_key(port)) or self._free(view, port.protocol, dealt)
            if number is None:
                return None
            dealt.add((number, port.protocol))
            ports.append(msgspec.structs.replace(port, published_port=number))
        return tuple(ports)

    def _free(self, view: Picture, protocol: Protocol, dealt: Dealt) -> int | None:
        for _ in range(PORT_LAST - PORT_FIRST + 1):
            number = self._next
            self._next = PORT_FIRST if number == PORT_LAST else number + 1
            if (number, protocol) not in dealt and not view.port_is_taken(number, protocol):
                return number
        return None


def _sticky(service: Service) -> dict[PortKey, int]:
    """Return the numbers that the service was dealt and may keep."""
    old = service.endpoint
    if old is None or len(old.spec.ports) != len(service.spec.endpoint.ports):
        return {}
    named = {(p.published_port, p.protocol) for p in service.spec.endpoint.ports if p.published_port}
    was_dealt = {_key(port) for port in old.spec.ports if not port.published_port}
    return {
        _key(port): port.published_port
        for port in old.ports
        if _key(port) in was_dealt and port.published_port and (port.published_port, port.protocol) not in named
    }


def _key(port: PortConfig) -> PortKey:
    return port.name, port.protocol, port.target_port
