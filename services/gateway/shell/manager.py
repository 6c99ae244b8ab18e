"""The manager's half of the gateway: the remote API, the join door, and the way from there to the processes that answer.

Made by the app while the node is a manager. What must stay true: the join door shows the roots and managers of now; a removed node's
connections are cut as soon as its removal is known here.
"""

from __future__ import annotations

from pathlib import Path

from services.gateway.config import GatewaySettings
from services.gateway.core.rights import Door, Policy, Who
from services.gateway.shell.doors import FORWARDED_OWNERS, Admission
from services.gateway.shell.leadership import Leadership
from services.gateway.shell.proxy import Proxy
from services.kit.bus.api import Listener
from services.kit.bus.door import JoinDoor, open_door
from services.kit.bus.identity import ROOTS_FILE
from services.kit.bus.rpc import Table
from services.kit.lifecycle.app import Runtime
from services.kit.messages.identity import DoorReply
from services.kit.messages.method import MANAGER, Owner
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from services.kit.store.line import Line, local

GOODBYE_S = 1.0
"""For calls under way at the remote API when it closes."""


class ManagerHalf:
    """What only a manager's gateway does."""

    def __init__(self, settings: GatewaySettings, runtime: Runtime) -> None:
        self._settings = settings
        self._runtime = runtime
        self._revoked: frozenset[bytes] = frozenset()
        self._lines = {
            owner: Line(local(runtime.bus, settings.socket(owner.value))) for owner in sorted(FORWARDED_OWNERS)
        }
        self._leadership = Leadership(self._lines[Owner.RAFT], lambda: runtime.node.facts.managers)
        self._proxy = Proxy(runtime.bus, runtime.clock, runtime.node.facts.node_id, self._lines, self._leadership)
        self._owner = TaskOwner("manager")
        self._listener: Listener | None = None
        self._door: JoinDoor | None = None
        self._log = Log("doors")

    def admission(self, door: Door) -> Admission:
        """Return what lets requests of a door in."""
        return Admission(door, self._policy, self._proxy, self._runtime.clock, self._settings.request_timeout_s)

    async def open(self, table: Table) -> None:
        """Open the doors of the network; the remote API answers what is in the table."""
        remote, door, _ = self._settings.ports
        self._owner.spawn("leadership", self._leadership.follow())
        self._listener = await self._runtime.bus.listen_remote(remote.host, remote.port, table)
        self._door = await open_door(self._runtime.bus, door, self._door_reply())
        for key in self._revoked:
            self._listener.revoke(key)
        self._log.info("manager serves", remote_api=self._listener.endpoint, join_door=self._door.endpoint)

    def facts_changed(self) -> None:
        """Show joiners the roots and managers of now."""
        if self._door is not None:
            self._door.show(self._door_reply())

    def revoke(self, keys: frozenset[bytes]) -> None:
        """Have nothing to do with the bearers of these keys, from now on."""
        fresh, self._revoked = keys - self._revoked, keys
        if self._listener is not None:
            for key in sorted(fresh):
                self._listener.revoke(key)
                self._log.info("key revoked", key=key.hex())

    async def failed(self) -> BaseException:
        """Wait for a broken invariant here and return it."""
        return await self._owner.failed()

    async def close(self) -> None:
        """Close the doors and the lines; idempotent."""
        if self._door is not None:
            await self._door.close()
        if self._listener is not None:
            await self._listener.close(drain_s=GOODBYE_S)
        await self._owner.close()
        await self._proxy.close()
        for line in self._lines.values():
            await line.close()

    def _policy(self) -> Policy:
        facts = self._runtime.node.facts
        me = Who(node_id=facts.node_id, role=MANAGER, cluster_id=facts.cluster_id)
        return Policy(me=me, revoked=self._revoked)

    def _door_reply(self) -> DoorReply:
        facts = self._runtime.node.facts
        return DoorReply(roots=(Path(facts.certificates_dir) / ROOTS_FILE).read_bytes(), managers=facts.managers)
