"""``volumes`` and ``tmpfs`` of a service in a stack file, and the stack's own volumes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.cli.stack.places import Place
from services.cli.stack.words import read_labels, switch, text_of
from services.client import text
from services.kit.model.specs import Mount
from services.kit.model.states import MountType

VOLUME_KEYS = ("name", "driver", "driver_opts", "labels", "external")
MOUNT_KEYS = ("type", "source", "target", "read_only", "consistency", "bind", "volume", "tmpfs")
BIND_KEYS = ("propagation", "create_host_path", "recursive")
MOUNT_VOLUME_KEYS = ("nocopy", "subpath", "labels")
TMPFS_KEYS = ("size", "mode")
_PATH = re.compile(r"[./~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume of the stack: its name on the nodes and how it is made there."""

    name: str
    driver: str = ""
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def read_volumes(place: Place | None, stack: str) -> dict[str, Volume]:
    """Return the stack's volumes by the names that its services use."""
    if place is None:
        return {}
    return {key: _volume(key, value, stack) for key, value in place.fields().items()}


def _volume(key: str, place: Place, stack: str) -> Volume:
    fields = place.fields(VOLUME_KEYS)
    external = fields["external"].parsed(switch, False) if "external" in fields else False
    if external and {"driver", "driver_opts", "labels"} & set(fields):
        place.refuse("is external and says how to make it", hint="leave out one of both")
    name = text_of(fields.get("name")) or (key if external else f"{stack}_{key}")
    options = fields["driver_opts"].fields() if "driver_opts" in fields else {}
    return Volume(
        name=name,
        driver=text_of(fields.get("driver")),
        options={option: value.text() for option, value in options.items()},
        labels=read_labels(fields.get("labels")),
    )


def read_mounts(volumes: Place | None, tmpfs: Place | None, known: Mapping[str, Volume]) -> tuple[Mount, ...]:
    """Return the mounts of a service."""
    mounts = [] if volumes is None else [_mount(item, known) for item in volumes.items()]
    if tmpfs is not None:
        mounts += [_short_tmpfs(item) for item in (tmpfs.items() if tmpfs.is_list else [tmpfs])]
    return tuple(mount for mount in mounts if mount is not None)


def _mount(place: Place, known: Mapping[str, Volume]) -> Mount | None:
    mount = _long(place) if place.is_mapping else _short(place)
    if mount is None or mount.type is not MountType.VOLUME or not mount.source:
        return mount
    if mount.source not in known:
        place.refuse("names a volume that the file does not have", mount.source, "add it under volumes: at the top")
        return None
    volume = known[mount.source]
    return Mount(
        type=MountType.VOLUME,
        source=volume.name,
        target=mount.target,
        read_only=mount.read_only,
        no_copy=mount.no_copy,
        subpath=mount.subpath,
        labels={**volume.labels, **mount.labels},
        volume_driver=volume.driver,
        volume_driver_options=volume.options,
    )


def _short(place: Place) -> Mount | None:
    """Read ``[SOURCE:]TARGET[:MODE]``."""
    parts = place.text().split(":")
    if not all(parts) or len(parts) > 3:
        place.refuse("is not a mount", place.text(), "write SOURCE:TARGET, with :ro for read-only")
        return None
    source, target = ("", parts[0]) if len(parts) == 1 else parts[:2]
    flags = parts[2].split(",") if len(parts) > 2 else []
    unknown = [flag for flag in flags if flag not in {"ro", "rw", "nocopy"}]
    if unknown:
        place.refuse(f"has a mode that is not known: {unknown[0]}", place.text(), "ro, rw and nocopy are")
        return None
    bind = bool(source) and bool(_PATH.match(source))
    return Mount(
        type=MountType.BIND if bind else MountType.VOLUME,
        source=_host_path(place, source) if bind else source,
        target=target,
        read_only="ro" in flags,
        no_copy="nocopy" in flags,
        create_mountpoint=bind,
    )


def _host_path(place: Place, source: str) -> str:
    return str((place.folder / Path(source).expanduser()).absolute()) if not source.startswith("/") else source


def _long(place: Place) -> Mount | None:
    fields = place.fields(MOUNT_KEYS)
    kind = fields["type"].parsed(_mount_type, MountType.VOLUME) if "type" in fields else MountType.VOLUME
    if "target" not in fields:
        place.refuse("does not say where to mount", hint="add target: PATH")
        return None
    if kind not in {MountType.BIND, MountType.VOLUME, MountType.TMPFS}:
        fields["type"].refuse("is not supported: no driver has such mounts", kind.value, "bind, volume and tmpfs are")
        return None
    for other in {"bind", "volume", "tmpfs"} & set(fields) - {kind.value}:
        fields[other].refuse(f"does not go with a mount of type {kind.value}")
    bind = fields["bind"].fields(BIND_KEYS) if "bind" in fields else {}
    volume = fields["volume"].fields(MOUNT_VOLUME_KEYS) if "volume" in fields else {}
    tmpfs = fields["tmpfs"].fields(TMPFS_KEYS) if "tmpfs" in fields else {}
    if kind is MountType.BIND and "source" not in fields:
        place.refuse("does not say what to mount", hint="add source: PATH")
    source = text_of(fields.get("source"))
    return Mount(
        type=kind,
        source=_host_path(place, source) if kind is MountType.BIND and source else source,
        target=fields["target"].text(),
        read_only=_switch(fields, "read_only"),
        consistency=text_of(fields.get("consistency")),
        propagation=text_of(bind.get("propagation")),
        create_mountpoint=_switch(bind, "create_host_path"),
        non_recursive=_non_recursive(bind.get("recursive")),
        no_copy=_switch(volume, "nocopy"),
        subpath=text_of(volume.get("subpath")),
        labels=read_labels(volume.get("labels")),
        tmpfs_size_bytes=tmpfs["size"].parsed(text.size_bytes, 0) if "size" in tmpfs else 0,
        tmpfs_mode=tmpfs["mode"].parsed(_mode, 0) if "mode" in tmpfs else 0,
    )


def _non_recursive(place: Place | None) -> bool:
    word = "enabled" if place is None else place.text()
    if place is not None and word not in {"enabled", "disabled"}:
        place.refuse("is not supported", word, "enabled and disabled are")
    return word == "disabled"


def _short_tmpfs(place: Place) -> Mount | None:
    """Read ``PATH[:size=64m,mode=1777]``."""
    target, _, options = place.text().partition(":")
    given = dict(part.partition("=")[::2] for part in options.split(",") if part)
    unknown = sorted(set(given) - {"size", "mode"})
    if unknown or not target:
        place.refuse("is not a tmpfs mount", place.text(), "write PATH, or PATH:size=64m,mode=1777")
        return None
    reading, where = place.stack.reading, place.where
    return Mount(
        type=MountType.TMPFS,
        target=target,
        tmpfs_size_bytes=reading.one(text.size_bytes, given.get("size"), where, 0),
        tmpfs_mode=reading.one(_mode, given.get("mode"), where, 0),
    )


def _switch(fields: Mapping[str, Place], key: str) -> bool:
    return fields[key].parsed(switch, False) if key in fields else False


def _mount_type(value: str, path: str) -> MountType:
    return text.choice(MountType, value, path)


def _mode(value: str, path: str) -> int:
    """Return permission bits: octal with a leading 0 or 0o, as YAML 1.1 and 1.2 have it, or a bare octal number."""
    digits = value.removeprefix("0o")
    if not re.fullmatch(r"[0-7]+", digits):
        text.refuse(path, "is not an octal number", value, "write it like 1777")
    return int(digits, 8)
