"""Has those leave raft who shall be managers no more. Part of a term; who has to go is decided in core/loops/roles.

The leader cannot remove itself: asked to, raft hands leadership over, which ends this term, and the next leader goes on.
"""

from __future__ import annotations

import asyncio

from services.dispatcher.core.loops.roles import Roles
from services.kit.errors import SwarmError
from services.kit.messages import store
from services.kit.model.ids import NodeId
from services.kit.runtime.changes import Changes
from services.kit.runtime.log import Log
from services.kit.state.view import View
from services.kit.store.line import Dial, Line

RETRY_S = 1.0
LEAVE_TIMEOUT_S = 5.0


class Members:
    """The removals of one term."""

    def __init__(self, dial: Dial, roles: Roles, view: View, me: NodeId) -> None:
        self._line = Line(dial)
        self._roles = roles
        self._view = view
        self._me = me
        self._changes = Changes()
        self._log = Log("members")

    def look(self) -> None:
        """Nodes or members have changed."""
        self._changes.announce()

    async def run(self) -> None:
        """Remove whoever has to go, one after the other, again until it has gone; until cancelled."""
        try:
            while True:
                leaving = self._roles.leaving(self._view, self._me)
                for node in leaving:
                    await self._remove(node)
                try:
                    async with asyncio.timeout(RETRY_S if leaving else None):
                        await self._changes.wait()
                except TimeoutError:
                    continue
        finally:
            await self._line.close()

    async def _remove(self, node: NodeId) -> None:
        try:
            connection = await self._line.connection()
            await connection.call(store.LEAVE, store.LeaveRequest(node_id=node), timeout_s=LEAVE_TIMEOUT_S)
        except SwarmError as error:
            self._log.info("member not removed yet", member=node, cause=str(error))
        else:
            self._log.info("member removed", member=node)
