"""Which port numbers of the node the process driver gives to its tasks.

A number is checked by binding it and is then the task's until the task is removed, so that a restarted task of the same id finds it again.
"""

from __future__ import annotations

import contextlib
import re
import socket
import zlib
from collections.abc import Mapping
from typing import Final

from services.agent.core.ports import PortNeed
from services.kit.errors import ResourceExhausted
from services.kit.model.ids import NodeId
from services.kit.model.objects import PortStatus
from services.kit.model.states import Protocol
from services.kit.model.value import Value

FIRST_PORT: Final = 20000
LAST_PORT: Final = 29999
_COUNT: Final = LAST_PORT - FIRST_PORT + 1


class ChosenPort(Value, frozen=True, kw_only=True):
    """A need and the number that it got."""

    need: PortNeed
    number: int
    published: bool = True
    """False for a port that the task asked for by template although its service publishes none."""


class PortRange:
    """The numbers of 20000–29999, each given once. Each node begins elsewhere, so that nodes that share a machine rarely meet."""

    def __init__(self, node_id: NodeId, addr: str) -> None:
        self._addr = addr
        self._cursor = zlib.crc32(node_id.encode()) % _COUNT
        self._taken: set[int] = set()

    def reserve(self, ports: tuple[ChosenPort, ...]) -> None:
        """Note what a task has been given before."""
        self._taken.update(port.number for port in ports)

    def release(self, ports: tuple[ChosenPort, ...]) -> None:
        """Take numbers back."""
        self._taken.difference_update(port.number for port in ports)

    def choose(self, need: PortNeed) -> int:
        """Return a free number; raises ResourceExhausted when there is none."""
        if need.fixed_port:
            return need.fixed_port
        for _ in range(_COUNT):
            number = FIRST_PORT + self._cursor
            self._cursor = (self._cursor + 1) % _COUNT
            if number not in self._taken and self._is_free(number, need.protocol):
                self._taken.add(number)
                return number
        raise ResourceExhausted(f"all ports of {FIRST_PORT}–{LAST_PORT} are taken on this node")

    def _is_free(self, number: int, protocol: Protocol) -> bool:
        kind = socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in self._addr else socket.AF_INET
        with socket.socket(family, kind) as probe, contextlib.suppress(OSError):
            if kind == socket.SOCK_STREAM:
                # A connection in TIME_WAIT is no hindrance to servers, nearly all of which set this.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((self._addr, number))
            return True
        return False


def port_environment(ports: tuple[ChosenPort, ...]) -> dict[str, str]:
    """Return PORT (the first) and PORT_<NAME> for the named ones."""
    variables: dict[str, str] = {}
    for port in ports:
        variables.setdefault("PORT", str(port.number))
        if port.need.name:
            variables[f"PORT_{re.sub('[^A-Za-z0-9]', '_', port.need.name).upper()}"] = str(port.number)
    return variables


def port_numbers(ports: tuple[ChosenPort, ...]) -> Mapping[str, int]:
    """Return the numbers by name, with the first under the empty name as well; for ``fill_ports``."""
    numbers = {port.need.name: port.number for port in ports if port.need.name}
    if ports:
        numbers[""] = ports[0].number
    return numbers


def port_statuses(ports: tuple[ChosenPort, ...]) -> tuple[PortStatus, ...]:
    """Return what the route table must know."""
    return tuple(
        PortStatus(
            name=port.need.name,
            target_port=port.need.target_port,
            port=port.number,
            protocol=port.need.protocol.value,
        )
        for port in ports
        if port.published
    )
