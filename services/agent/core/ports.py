"""Which ports a task needs, and how the numbers that a driver chose get into its spec.

A spec names a port by template (``{{.Task.Port}}``, ``{{.Task.Port "web"}}``). The numbers are known only to the driver, so the
template leaves a mark in the text and the driver fills it in. A mark holds NUL bytes, which no argument or variable can carry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from services.kit.model.objects import SpecVersion
from services.kit.model.specs import ContainerSpec, Mount
from services.kit.model.states import Protocol, PublishMode
from services.kit.model.value import Value

_MARK = re.compile("\0port:([^\0]*)\0")
_MARK_BYTES = re.compile(_MARK.pattern.encode())
_Change = Callable[[str], str]


class PortNeed(Value, frozen=True, kw_only=True):
    """A port that a task wants to listen on."""

    name: str = ""
    target_port: int
    """The number the user gave; inside a container it is the number listened on."""
    protocol: Protocol = Protocol.TCP
    publish_mode: PublishMode = PublishMode.INGRESS
    fixed_port: int = 0
    """The number on the node that must be used (host mode); 0 means the driver chooses."""


def port_needs(spec: SpecVersion) -> tuple[PortNeed, ...]:
    """Return what a task of this spec must listen on, in the order of its endpoint."""
    return tuple(
        PortNeed(
            name=port.name,
            target_port=port.target_port,
            protocol=port.protocol,
            publish_mode=port.publish_mode,
            fixed_port=port.published_port if port.publish_mode is PublishMode.HOST else 0,
        )
        for port in spec.endpoint.ports
    )


def port_mark(name: str) -> str:
    """Return the text that stands for a port until its number is known; the empty name is the task's first port."""
    return f"\0port:{name}\0"


def marked_ports(container: ContainerSpec) -> frozenset[str]:
    """Return the names of all ports that a spec still waits for."""
    names: set[str] = set()

    def note(match: re.Match[str]) -> str:
        names.add(match[1])
        return match[0]

    _map_text(container, lambda text: _MARK.sub(note, text))
    return frozenset(names)


def fill_ports(container: ContainerSpec, numbers: Mapping[str, int]) -> ContainerSpec:
    """Put the numbers in place of the marks. ``numbers`` maps names to ports; the key "" is the first port."""
    return _map_text(container, lambda text: _MARK.sub(lambda match: str(numbers[match[1]]), text))


def fill_marks(data: bytes, numbers: Mapping[str, int]) -> bytes:
    """Put the numbers in place of the marks of a payload; a mark without a number is left as it is."""

    def number(match: re.Match[bytes]) -> bytes:
        found = numbers.get(match[1].decode(errors="replace"))
        return match[0] if found is None else str(found).encode()

    return _MARK_BYTES.sub(number, data)


def has_marks(data: bytes) -> bool:
    """Tell whether a payload waits for the number of a port."""
    return _MARK_BYTES.search(data) is not None


def _map_text(container: ContainerSpec, change: _Change) -> ContainerSpec:
    def values(texts: dict[str, str]) -> dict[str, str]:
        return {key: change(text) for key, text in texts.items()}

    def mount(value: Mount) -> Mount:
        return msgspec.structs.replace(
            value,
            source=change(value.source),
            target=change(value.target),
            labels=values(value.labels),
            volume_driver_options=values(value.volume_driver_options),
        )

    return msgspec.structs.replace(
        container,
        command=tuple(map(change, container.command)),
        args=tuple(map(change, container.args)),
        env=tuple(map(change, container.env)),
        hostname=change(container.hostname),
        mounts=tuple(map(mount, container.mounts)),
    )
