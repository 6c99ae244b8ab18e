"""The loop around the member: wakes it on messages and on a timer, and tells everybody who waits what a turn has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def wake(self) -> None:
        """Have a turn soon."""
        self._woken.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds after a turn. It must be cheap: it is looked at after each one."""
        if condition():
            return
        holds: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((condition, holds))
        await holds

    async def run(self) -> None:
        """Turn until cancelled; what a turn raises ends the process."""
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)
        try:
            while True:
                if not self.member.busy:
                    await self._woken.wait()
                else:
                    await asyncio.sleep(0)
                self._woken.clear()
                self.member.turn()
                self._announce()
        finally:
            self._timer.cancel()

    def _tick(self) -> None:
        """Have a turn now and then, whatever happens."""
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)
        self._woken.set()

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
        if self._waiting:
            self._settle()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        for condition, holds in waiting:
            if holds.done():
                continue
            if condition():
                holds.set_result(None)
            else:
                self._waiting.append((condition, holds))
