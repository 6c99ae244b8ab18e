"""The join door: how a machine that knows only an address and a token learns the cluster's roots and managers.

The gateway opens it, the supervisor of a joining machine knocks. What is behind it is public, and nothing is believed before the token's
digest has been compared with the roots: a man in the middle can deny, not deceive.
"""

from __future__ import annotations

from services.kit.bus.api import Bus, Door
from services.kit.bus.ports import HostPort
from services.kit.messages.identity import DoorReply
from services.kit.wire.codec import decode, encode


class JoinDoor:
    """An open door, and what it shows."""

    def __init__(self, door: Door) -> None:
        self._door = door

    @property
    def endpoint(self) -> str:
        """Where it really listens."""
        return self._door.endpoint

    def show(self, reply: DoorReply) -> None:
        """Answer with this from now on."""
        self._door.answer = encode(reply)

    async def close(self) -> None:
        """Close the door; idempotent."""
        await self._door.close()


async def open_door(bus: Bus, address: HostPort, reply: DoorReply) -> JoinDoor:
    """Open a join door; raises FailedPrecondition when the port is taken."""
    return JoinDoor(await bus.open_door(address.host, address.port, encode(reply)))


async def knock(bus: Bus, address: HostPort, *, timeout_s: float = 5.0) -> DoorReply:
    """Return what a door shows; raises Unavailable, DeadlineExceeded or, when it shows junk, InvalidArgument."""
    return decode(DoorReply, await bus.knock(address.host, address.port, timeout_s=timeout_s))
