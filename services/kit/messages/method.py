"""How a method is declared: once, as a value, used by the server, by the client and by the gateway's table of rights.

A name is ``conversation.verb``. ``roles`` says which node roles may call it over the network; a method without roles cannot be
reached through the gateway at all (it is between the processes of one node). ``ANYONE`` is for callers without a certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from services.kit.model.value import Value

Request = TypeVar("Request", bound=Value)
Reply = TypeVar("Reply", bound=Value)
Item = TypeVar("Item", bound=Value)


class Owner(StrEnum):
    """The process that answers a method."""

    SUPERVISOR = "supervisor"
    CA = "ca"
    RAFT = "raft"
    DISPATCHER = "dispatcher"
    AGENT = "agent"
    GATEWAY = "gateway"


MANAGER = "swarm-manager"
WORKER = "swarm-worker"
ANYONE = "*"

INSIDE: frozenset[str] = frozenset()
MANAGERS = frozenset({MANAGER})
NODES = frozenset({MANAGER, WORKER})
OPEN = frozenset({ANYONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Request, Reply]):
    """One request, one reply."""

    name: str
    request: type[Request]
    reply: type[Reply]
    owner: Owner
    roles: frozenset[str] = INSIDE
    leader: bool = False
    """Only the leader's process can answer; the gateway forwards it there."""
    idempotent: bool = False
    """Running it twice does no harm, so a client may retry after an unknown outcome."""
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed(Generic[Request, Item]):
    """One request, a stream of items from the server until either side ends it."""

    name: str
    request: type[Request]
    item: type[Item]
    owner: Owner
    roles: frozenset[str] = INSIDE
    leader: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast(Generic[Request]):
    """A message without an answer: delivered at most once, in order; dropped when the peer's queue is full."""

    name: str
    message: type[Request]
    owner: Owner
    roles: frozenset[str] = INSIDE


AnyMethod = Call[Value, Value] | Feed[Value, Value] | Cast[Value]


class Empty(Value, frozen=True, kw_only=True):
    """A request or reply that says nothing more."""
