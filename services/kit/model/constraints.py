"""The constraint language: ``key == value`` or ``key != value`` over what is known of a node.

Used by validation (is it well formed), by the scheduler and the loops (does this node satisfy it). The rules are SwarmKit's: the whole
value is compared, whatever its case; there are no wildcards; what a node does not have counts as the empty text; all must hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from services.kit.model.objects import Node
from services.kit.model.value import Value

NODE_LABELS = "node.labels."
ENGINE_LABELS = "engine.labels."
KEYS = ("node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch")
"""Keys besides the two families of labels."""

_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)


class Operator(StrEnum):
    """How key and value are compared."""

    EQUAL = "=="
    DIFFERENT = "!="


class Constraint(Value, frozen=True, kw_only=True):
    """One parsed constraint."""

    key: str
    operator: Operator
    value: str


def parse_constraint(text: str) -> Constraint:
    """Return the constraint that a text means; raises ValueError with the reason, for a person to read."""
    for operator in Operator:
        key, found, value = text.partition(operator)
        if not found:
            continue
        key, value = key.strip(), value.strip()
        if not _KEY.fullmatch(key):
            raise ValueError(f"the key {key!r} is not an identifier of at least two characters")
        if not value:
            raise ValueError("there is no value")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value {value!r} has characters that no constraint can have")
        return Constraint(key=key, operator=operator, value=value)
    raise ValueError("there is no == or != in it")


def parse_constraints(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """Return all constraints of a placement; raises ValueError at the first that is malformed."""
    return tuple(parse_constraint(text) for text in texts)


def is_known_key(key: str) -> bool:
    """Tell whether any node can have this key; a constraint on another key never holds."""
    lowered = key.lower()
    return lowered in KEYS or any(
        lowered.startswith(family) and len(key) > len(family) for family in (NODE_LABELS, ENGINE_LABELS)
    )


def satisfies(node: Node, constraints: Iterable[Constraint]) -> bool:
    """Tell whether a node meets all constraints."""
    return all(meets(node, constraint) for constraint in constraints)


def meets(node: Node, constraint: Constraint) -> bool:
    """Tell whether a node meets one constraint."""
    if constraint.key.lower() == "node.ip":
        return _meets_address(node.status.addr, constraint)
    actual = _actual(node, constraint.key)
    if actual is None:
        return False
    same = actual.lower() == constraint.value.lower()
    return same is (constraint.operator is Operator.EQUAL)


def _actual(node: Node, key: str) -> str | None:
    """Return what a node has under a key, None for a key that no node has. Names of labels keep their case."""
    lowered = key.lower()
    if lowered.startswith(NODE_LABELS) and len(key) > len(NODE_LABELS):
        return node.spec.annotations.labels.get(key[len(NODE_LABELS) :], "")
    if lowered.startswith(ENGINE_LABELS) and len(key) > len(ENGINE_LABELS):
        return node.description.engine.labels.get(key[len(ENGINE_LABELS) :], "")
    match lowered:
        case "node.id":
            return node.id
        case "node.hostname":
            return node.description.hostname
        case "node.role":
            return node.role.value
        case "node.platform.os":
            return node.description.platform.os
        case "node.platform.arch":
            return node.description.platform.architecture
        case _:
            return None


def _meets_address(addr: str, constraint: Constraint) -> bool:
    """Compare by value of the address, or by membership of a network; a malformed value rejects every node."""
    try:
        network = ip_network(constraint.value, strict=False)
    except ValueError:
        return False
    known = _address(addr)
    inside = known is not None and known.version == network.version and known in network
    return inside is (constraint.operator is Operator.EQUAL)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
