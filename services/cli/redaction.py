"""Takes out of values what is nobody else's business, before they leave the swarm in a support bundle. Pure.

What must stay true: join tokens, credentials, keys, the contents of configs and the values of environment variables and log options never get through;
names, numbers and states do.
"""

from __future__ import annotations

from typing import Any

REDACTED = "(redacted)"
SECRET_KEYS = frozenset(
    {"registry_auth", "data", "ca_key", "signing_ca_key", "unlock_key", "join_tokens", "certificate", "public_key"}
)
"""Fields that are replaced whole, whatever they hold."""
VALUE_KEYS = frozenset({"log_driver", "driver_options", "volume_driver_options"})
"""Mappings whose keys may be seen and whose values may not."""
LINE_KEYS = frozenset({"env"})
"""Lists of ``NAME=value``."""
COMMAND_KEYS = frozenset({"command", "args"})
"""Words of which only the first, the program, may be seen."""


def redacted(value: Any, key: str = "") -> Any:
    """Return a plain value (see plain.py) without its secrets."""
    if key in SECRET_KEYS and value:
        return REDACTED
    if key in LINE_KEYS and isinstance(value, list):
        return [f"{str(line).partition('=')[0]}={REDACTED}" for line in value]
    if key in COMMAND_KEYS and isinstance(value, list):
        return [*value[:1], *([REDACTED] if len(value) > 1 else [])] if key == "command" else [REDACTED] * bool(value)
    if key in VALUE_KEYS and isinstance(value, dict):
        return {name: _hidden(each) for name, each in value.items()}
    if isinstance(value, dict):
        return {name: redacted(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [redacted(each) for each in value]
    return value


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return dict.fromkeys(value, REDACTED)
    return value
