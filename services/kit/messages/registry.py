"""All methods of the product, in one explicit table; the gateway's rights and docs/protocol.md are read from here."""

from __future__ import annotations

from typing import Any

from services.kit.messages import (
    backup,
    consensus,
    control,
    identity,
    inquiry,
    logs,
    networks,
    payloads,
    routes,
    session,
    store,
    supervise,
    volumes,
)
from services.kit.messages.exec import METHODS as EXEC_METHODS
from services.kit.messages.method import Call, Cast, Feed

PROTOCOL = 1
"""Version of the bus protocol that HELLO negotiates."""

METHODS: tuple[Call[Any, Any] | Feed[Any, Any] | Cast[Any], ...] = (
    *supervise.METHODS,
    *identity.METHODS,
    *store.METHODS,
    *consensus.METHODS,
    *control.METHODS,
    *payloads.METHODS,
    *backup.METHODS,
    *networks.METHODS,
    *inquiry.METHODS,
    *volumes.METHODS,
    *session.METHODS,
    *logs.METHODS,
    *EXEC_METHODS,
    *routes.METHODS,
)

BY_NAME = {method.name: method for method in METHODS}

assert len(BY_NAME) == len(METHODS), "a method's name is used twice"
