"""The doors of a node: what is answered at the remote API, the join door and the control socket, and how each request is let in.

Made by the app for the node's role. What must stay true: every method of the registry that a role may call over the network is
answered at the doors of a manager; each request passes ``core.rights``; what goes on carries this gateway's stamp and nobody else's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from services.gateway.core.forwarding import Origin
from services.gateway.core.rights import Door, Policy, Refused, Who, decide
from services.gateway.shell.proxy import Proxy, Request
from services.kit.bus.api import Caller, Context, Meta, RawCallHandler, RawFeedHandler
from services.kit.bus.rpc import Table
from services.kit.errors import FailedPrecondition
from services.kit.messages import consensus
from services.kit.messages.control import VERSION
from services.kit.messages.method import Call, Cast, Feed, Owner
from services.kit.messages.registry import METHODS
from services.kit.runtime.clock import Clock

FORWARDED_OWNERS = frozenset({Owner.CA, Owner.RAFT, Owner.DISPATCHER})
_NOT_GOVERNED_HERE = "this node is a worker; ask a manager"

AnyForwarded = Call[Any, Any] | Feed[Any, Any]
ReadPolicy = Callable[[], Policy]


def forwarded_methods() -> tuple[AnyForwarded, ...]:
    """Return the methods that a gateway takes to another process; what raft members say to one another has a port of its own."""
    return tuple(
        method
        for method in METHODS
        if not isinstance(method, Cast)
        and method.roles
        and method.owner in FORWARDED_OWNERS
        and method not in consensus.METHODS
    )


class Admission:
    """Lets requests of one door in."""

    def __init__(self, door: Door, policy: ReadPolicy, proxy: Proxy, clock: Clock, request_timeout_s: float) -> None:
        self._door = door
        self._policy = policy
        self._proxy = proxy
        self._clock = clock
        self._request_timeout_s = request_timeout_s

    def fill(self, table: Table) -> None:
        """Answer every forwarded method in this table."""
        for method in forwarded_methods():
            if isinstance(method, Call):
                table.forward_call(method, self._call_handler(method))
            else:
                table.forward_feed(method, self._feed_handler(method))

    def admit(self, method: AnyForwarded, context: Context, body: bytes) -> Request:
        """Return the stamped request, or raise why it may not go on."""
        decision = decide(
            method.name,
            method.roles,
            door=self._door,
            peer=_who(context.peer),
            stamp=_who(context.meta.caller) if context.meta.caller is not None else None,
            forwarded=context.meta.forwarded,
            policy=self._policy(),
        )
        if isinstance(decision, Refused):
            raise decision.error
        if decision.forwarded:
            origin = Origin.MANAGER_GATEWAY
        elif self._door is Door.LOCAL:
            origin = Origin.USER
        else:
            origin = Origin.NODE if decision.who.role else Origin.JOINER
        spoken_for = context.meta.caller if decision.forwarded and context.meta.caller is not None else context.peer
        timeout_s = context.remaining_s if context.remaining_s is not None else self._request_timeout_s
        return Request(
            name=method.name,
            owner=method.owner,
            origin=origin,
            may_repeat=isinstance(method, Feed) or method.idempotent or bool(context.meta.request_id),
            body=body,
            meta=Meta(
                caller=_stamp(decision.who, spoken_for),
                forwarded=decision.forwarded,
                cause=context.meta.cause,
                request_id=context.meta.request_id,
            ),
            deadline=self._clock.monotonic() + timeout_s,
        )

    def _call_handler(self, method: AnyForwarded) -> RawCallHandler:
        async def handle(context: Context, body: bytes) -> bytes:
            return await self._proxy.call(self.admit(method, context, body))

        return handle

    def _feed_handler(self, method: AnyForwarded) -> RawFeedHandler:
        async def handle(context: Context, body: bytes) -> AsyncIterator[bytes]:
            async with aclosing(self._proxy.feed(self.admit(method, context, body))) as items:
                async for item in items:
                    yield item

        return handle


def refuse_all(table: Table, manager_addresses: Callable[[], tuple[str, ...]]) -> None:
    """Answer every method a manager would take with the advice to ask one."""

    def refusal() -> FailedPrecondition:
        addresses = ", ".join(manager_addresses())
        return FailedPrecondition(f"{_NOT_GOVERNED_HERE} ({addresses})" if addresses else _NOT_GOVERNED_HERE)

    async def refuse_call(context: Context, body: bytes) -> bytes:
        del context, body
        raise refusal()

    def refuse_feed(context: Context, body: bytes) -> AsyncIterator[bytes]:
        del context, body
        raise refusal()

    for method in forwarded_methods():
        if isinstance(method, Call):
            table.forward_call(method, refuse_call)
        else:
            table.forward_feed(method, refuse_feed)
    table.forward_call(VERSION, refuse_call)


def _who(caller: Caller) -> Who:
    return Who(node_id=caller.node_id, role=caller.role, cluster_id=caller.cluster_id, public_key=caller.public_key)


def _stamp(who: Who, spoken_for: Caller) -> Caller:
    return Caller(
        node_id=who.node_id,
        role=who.role,
        cluster_id=who.cluster_id,
        public_key=who.public_key,
        addr=spoken_for.addr,
        process=spoken_for.process,
    )
