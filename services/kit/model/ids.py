"""Ids: one NewType per noun, 25 characters of base 36.

The bytes come from ``kit.runtime.ids`` (or a seeded source in tests); this file only gives them their form.
"""

from __future__ import annotations

from typing import NewType

NodeId = NewType("NodeId", str)
ServiceId = NewType("ServiceId", str)
TaskId = NewType("TaskId", str)
ClusterId = NewType("ClusterId", str)
NetworkId = NewType("NetworkId", str)
SecretId = NewType("SecretId", str)
ConfigId = NewType("ConfigId", str)
VolumeId = NewType("VolumeId", str)
ResourceId = NewType("ResourceId", str)
ExtensionId = NewType("ExtensionId", str)
SpecVersionId = NewType("SpecVersionId", str)
SessionId = NewType("SessionId", str)
SubscriptionId = NewType("SubscriptionId", str)
ConversationId = NewType("ConversationId", str)

ENTROPY_BYTES = 17
LENGTH = 25
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def form_id(entropy: bytes) -> str:
    """Return the 25-character id for 17 random bytes (SwarmKit's form: top bit forced, base 36, the biased first digit dropped)."""
    assert len(entropy) == ENTROPY_BYTES, "an id takes 17 bytes"
    number = int.from_bytes(entropy, "big") | 1 << (8 * ENTROPY_BYTES - 1)
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))[1 : LENGTH + 1]


def is_id(text: str) -> bool:
    """Tell whether a text has the form of an id."""
    return len(text) == LENGTH and all(c in _DIGITS for c in text)


def spec_version_id(service: ServiceId, version: int) -> SpecVersionId:
    """Return the id under which one version of a service's spec is stored."""
    return SpecVersionId(f"{service}.{version}")
