"""Which fields of a spec a driver cannot honour. Nothing a user asked for is dropped in silence: it is named and refused."""

from __future__ import annotations

import msgspec

from services.kit.model.value import Value


def set_fields(value: Value) -> frozenset[str]:
    """Return the names of the fields that differ from their default."""
    return frozenset(
        info.encode_name for info in msgspec.structs.fields(type(value)) if getattr(value, info.name) != _default(info)
    )


def unsupported_fields(value: Value, honoured: frozenset[str], *, path: str) -> tuple[str, ...]:
    """Return the paths of the fields that are set but not honoured, sorted; empty means all is well."""
    return tuple(sorted(f"{path}.{name}" for name in set_fields(value) - honoured))


def _default(info: msgspec.structs.FieldInfo) -> object:
    if info.default is not msgspec.NODEFAULT:
        return info.default
    if info.default_factory is not msgspec.NODEFAULT:
        return info.default_factory()
    return msgspec.UNSET
