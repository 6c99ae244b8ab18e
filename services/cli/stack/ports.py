"""``ports`` of a service in a stack file, short and long."""

from __future__ import annotations

from collections.abc import Mapping

from services.cli.stack.places import Place
from services.cli.stack.refused import PORT
from services.cli.stack.words import text_of
from services.client import text
from services.kit.errors import InvalidArgument
from services.kit.model.ingress import OPTIONS, read_ingress
from services.kit.model.specs import IngressConfig, PortConfig
from services.kit.model.states import Protocol, PublishMode

PORT_KEYS = ("target", "published", "protocol", "mode", "name", "app_protocol", "x-ingress")
HTTP_WORDS = frozenset({"http", "http/1.1", "ws"})
"""What ``app_protocol`` may say to make a port an HTTP port; anything else is only a remark, as Compose has it."""
RANGE_MAX = 1000


def read_ports(place: Place | None) -> tuple[PortConfig, ...]:
    """Return the published ports."""
    if place is None:
        return ()
    found: list[PortConfig] = []
    for item in place.items():
        found += (_long(item),) if item.is_mapping else item.parsed(_short, ())
    return tuple(found)


def _short(value: str, path: str) -> tuple[PortConfig, ...]:
    """Read ``[PUBLISHED:]TARGET[/PROTOCOL]``; both may be ranges of the same length."""
    numbers, _, protocol = value.partition("/")
    published, colon, target = numbers.rpartition(":")
    if "-" not in numbers or ":" in published:
        return (text.port(value, path),)
    targets = _range(target, value, path)
    sources = _range(published, value, path) if colon else [0] * len(targets)
    if len(sources) != len(targets):
        text.refuse(path, "has two ranges of different lengths", value)
    kind = text.choice(Protocol, protocol or "tcp", path)
    return tuple(
        PortConfig(target_port=to, published_port=source, protocol=kind)
        for source, to in zip(sources, targets, strict=True)
    )


def _range(numbers: str, value: str, path: str) -> list[int]:
    first, _, last = numbers.partition("-")
    begin = text.port_number(first, path)
    end = text.port_number(last, path) if last else begin
    if not begin <= end < begin + RANGE_MAX:
        text.refuse(path, f"has a range that is upside down or longer than {RANGE_MAX} ports", value)
    return list(range(begin, end + 1))


def _long(place: Place) -> PortConfig:
    fields = place.fields(PORT_KEYS, PORT)
    if "target" not in fields:
        place.refuse("does not say which port the task listens on", hint="add target:")
        return PortConfig(target_port=1)
    return PortConfig(
        name=text_of(fields.get("name")),
        target_port=fields["target"].parsed(text.port_number, 1),
        published_port=fields["published"].parsed(text.port_number, 0) if "published" in fields else 0,
        protocol=fields["protocol"].parsed(_protocol, Protocol.TCP) if "protocol" in fields else Protocol.TCP,
        publish_mode=fields["mode"].parsed(_publish_mode, PublishMode.INGRESS)
        if "mode" in fields
        else PublishMode.INGRESS,
        ingress=_ingress(place, fields),
    )


def _ingress(port: Place, fields: Mapping[str, Place]) -> IngressConfig:
    """Return what ``app_protocol`` and ``x-ingress`` say: the options of ``--publish``, with lists for those that may come several times."""
    options = []
    if text_of(fields.get("app_protocol")).lower() in HTTP_WORDS:
        options.append(("http", ""))
    if "x-ingress" in fields:
        for name, value in fields["x-ingress"].fields(OPTIONS).items():
            options += [(name, each.text()) for each in (value.items() if value.is_list else (value,))]
    try:
        return read_ingress(IngressConfig(), options, port.where)
    except InvalidArgument as error:
        port.stack.reading.problems += error.problems
        return IngressConfig()


def _protocol(value: str, path: str) -> Protocol:
    return text.choice(Protocol, value, path)


def _publish_mode(value: str, path: str) -> PublishMode:
    return text.choice(PublishMode, value, path)
