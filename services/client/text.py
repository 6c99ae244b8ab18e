"""How people write durations, sizes, processor shares, ports, mounts and pairs; used by the client's builder, swarmctl and stack files.

Each function takes the text and the path to name in a complaint, and raises InvalidArgument with one problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.kit.model.ingress import OPTIONS, read_ingress
from services.kit.model.specs import IngressConfig, Mount, PortConfig, Ulimit
from services.kit.model.states import MountType, Protocol, PublishMode
from services.kit.model.words import boolean as boolean
from services.kit.model.words import choice as choice
from services.kit.model.words import duration_s as duration_s
from services.kit.model.words import refuse as refuse
from services.kit.model.words import size_bytes as size_bytes
from services.kit.model.words import whole as whole

_PORT_MAX = 65535
_PORT_FIELDS = ("published", "target", "protocol", "mode", "name")


def nano_cpus(text: str, path: str) -> int:
    """Return billionths of a core: ``0.5``, ``2``."""
    if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", text.strip()):
        refuse(path, "is not a number of processors", text, "write it like 0.5 or 2")
    return round(float(text) * 1e9)


def ratio(text: str, path: str) -> float:
    """Return a number between 0 and 1."""
    if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", text.strip()) or float(text) > 1:
        refuse(path, "is not a ratio", text, "write a number between 0 and 1, like 0.25")
    return float(text)


def pair(text: str, path: str) -> tuple[str, str]:
    """Return key and value of ``key=value``; a bare key has an empty value."""
    key, _, value = text.partition("=")
    if not key.strip():
        refuse(path, "needs a key", text, "write it like key=value")
    return key.strip(), value


def pairs(texts: Iterable[str], path: str) -> dict[str, str]:
    """Return a mapping from ``key=value`` texts; the last of equal keys wins."""
    return dict(pair(text, path) for text in texts)


def port(text: str, path: str) -> PortConfig:
    """Return a published port.

    ``8080:80``, ``8080:80/udp``, ``80`` (published port chosen by the swarm), or
    ``published=8080,target=80,protocol=tcp,mode=ingress,name=http`` and the options of ``kit/model/ingress``.
    """
    if "=" in text:
        return _long_port(text, path)
    numbers, _, protocol = text.partition("/")
    published, colon, target = numbers.rpartition(":")
    if ":" in published or published.count("."):
        refuse(
            path,
            "names an address to listen on",
            text,
            "write published=PORT,target=PORT,address=ADDRESS, or published:target for all",
        )
    if colon and not published:
        refuse(path, "has an empty published port", text, "write it like 8080:80")
    return PortConfig(
        target_port=_port_number(target, path, text),
        published_port=_port_number(published, path, text) if published else 0,
        protocol=choice(Protocol, protocol or "tcp", path),
    )


def _long_port(text: str, path: str) -> PortConfig:
    given = [pair(part, path) for part in text.split(",")]
    fields = {key: value for key, value in given if key in _PORT_FIELDS}
    options = [(key, value) for key, value in given if key not in _PORT_FIELDS]
    for key, _ in options:
        if key not in OPTIONS:
            refuse(path, f"has an unknown field {key!r}", text, "fields are " + ", ".join((*_PORT_FIELDS, *OPTIONS)))
    if "target" not in fields:
        refuse(path, "does not say which port the task listens on", text, "add target=PORT")
    return PortConfig(
        name=fields.get("name", ""),
        target_port=_port_number(fields["target"], path, text),
        published_port=_port_number(fields["published"], path, text) if fields.get("published") else 0,
        protocol=choice(Protocol, fields.get("protocol", "tcp"), path),
        publish_mode=choice(PublishMode, fields.get("mode", "ingress"), path),
        ingress=read_ingress(IngressConfig(), options, path),
    )


def port_number(text: str, path: str) -> int:
    """Return the number of a port."""
    return _port_number(text, path, text)


def _port_number(text: str, path: str, whole_text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= _PORT_MAX:
        if "-" in text:
            refuse(path, "is a range of ports", whole_text, "publish each port by itself")
        refuse(path, f"has a port that is not between 1 and {_PORT_MAX}", whole_text, "write it like 8080:80")
    return int(text)


_MOUNT_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_MOUNT_KNOWN = ("type", "source", "target", "readonly", "tmpfs-size", "tmpfs-mode", "bind-propagation", "volume-nocopy")


def mount(text: str, path: str) -> Mount:
    """Return a mount: ``type=bind,source=/srv,target=/data,readonly``, also type volume and tmpfs."""
    given = pairs(text.split(","), path)
    fields = {_MOUNT_NAMES.get(key, key): value for key, value in given.items()}
    for key in fields:
        if key not in _MOUNT_KNOWN:
            refuse(path, f"has an unknown field {key!r}", text, "fields are " + ", ".join(_MOUNT_KNOWN))
    if not fields.get("target"):
        refuse(path, "does not say where to mount", text, "add target=PATH")
    kind = choice(MountType, fields.get("type", "volume"), path)
    if kind is MountType.BIND and not fields.get("source"):
        refuse(path, "does not say what to mount", text, "add source=PATH")
    return Mount(
        type=kind,
        source=fields.get("source", ""),
        target=fields["target"],
        read_only=_flag(fields, "readonly", path, text),
        propagation=fields.get("bind-propagation", ""),
        no_copy=_flag(fields, "volume-nocopy", path, text),
        tmpfs_size_bytes=size_bytes(fields["tmpfs-size"], path) if "tmpfs-size" in fields else 0,
        tmpfs_mode=_octal(fields.get("tmpfs-mode", "0"), path, text),
    )


def _flag(fields: dict[str, str], key: str, path: str, text: str) -> bool:
    value = fields.get(key, "false").lower()
    if value not in {"", "true", "1", "false", "0"}:
        refuse(path, f"{key} is neither true nor false", text)
    return value in {"", "true", "1"}


def _octal(value: str, path: str, text: str) -> int:
    if not re.fullmatch(r"[0-7]+", value):
        refuse(path, "tmpfs-mode is not an octal number", text, "write it like 1777")
    return int(value, 8)


def ulimit(text: str, path: str) -> Ulimit:
    """Return a limit of the kernel: ``nofile=1024:2048``, or one number for both; -1 means no limit."""
    name, limits = pair(text, path)
    soft, colon, hard = limits.partition(":")
    soft_limit = whole(soft, path, least=-1)
    return Ulimit(name=name, soft=soft_limit, hard=whole(hard, path, least=-1) if colon else soft_limit)
