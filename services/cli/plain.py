"""Values as JSON that people and scripts read: every field by its name, words for states, base64 for bytes, a ``type`` for variants.

The field names are those of the model; they are the stable contract of ``--json``.
"""

from __future__ import annotations

import base64
import json
from enum import IntEnum, StrEnum
from typing import Any

import msgspec


def plain(value: object) -> Any:
    """Return a value as dicts, lists, texts and numbers."""
    match value:
        case msgspec.Struct():
            fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
            tag = value.__struct_config__.tag
            return fields if tag is None else {"type": tag, **fields}
        case IntEnum():
            return value.name.lower()
        case StrEnum():
            return value.value
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case tuple() | list():
            return [plain(item) for item in value]
        case _:
            return value


def to_json(value: object) -> str:
    """Return a value as an indented JSON document."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)
