"""The loop around the member: wakes it on messages and on a timer, and tells everybody who waits what a turn has changed."""

from __future__ import annotations

import asyncio

from services.kit.runtime.changes import Changes
from services.raft.shell.member import Member

TICKS_PER_HEARTBEAT = 4


class Driver:
    """Owns the member's turns. ``wake`` may be called from anything that gave the member something to do."""

    def __init__(self, member: Member, *, heartbeat_s: float) -> None:
        self.member = member
        self.turned = Changes()
        """Announced after each turn."""
        self.stepped = Changes()
        """Announced when the state has a new version or was replaced."""
        self.status_changed = Changes()
        """Announced when leadership, term, readiness or members have changed, or who of them answers."""
        self._tick_s = heartbeat_s / TICKS_PER_HEARTBEAT
        self._woken = asyncio.Event()
        self._seen_state = (0, 0)
        self._seen_status: tuple[object, ...] = ()

    def wake(self) -> None:
        """Have a turn soon."""
        self._woken.set()

    async def run(self) -> None:
        """Turn until cancelled; what a turn raises ends the process."""
        loop = asyncio.get_running_loop()
        while True:
            timer = loop.call_later(0 if self.member.busy else self._tick_s, self._woken.set)
            await self._woken.wait()
            timer.cancel()
            self._woken.clear()
            self.member.turn()
            self._announce()

    def _announce(self) -> None:
        member, machine = self.member, self.member.machine
        state = (machine.state.version, machine.resets)
        if state != self._seen_state:
            self._seen_state = state
            self.stepped.announce()
        latest = member.log.membership.latest
        answering = tuple(filter(member.reachable, latest.members))
        status = (member.state_name, member.term, member.leader, member.ready, latest, answering)
        if status != self._seen_status:
            self._seen_status = status
            self.status_changed.announce()
        self.turned.announce()
