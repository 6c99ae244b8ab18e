"""Equal state at equal version: every member's state, and every copy that a watch has made, is that of the committed history."""

from __future__ import annotations

from hashlib import blake2b
from typing import cast

from services.dispatcher.shell.app import DispatcherApp
from services.kit.state.state import State
from services.kit.state.tables import Table, encode_object
from services.raft.shell.member import Member
from tests.sim.node import SimNode
from tests.sim.promise import Checker
from tests.sim.reference import Commit
from tests.sim.world import World

EVERY = 40
"""A member is compared at every so many of its turns in which its state has moved."""


class States(Checker):
    """Knows the digest of the state at each version."""

    promise = "equal state at equal version"

    def __init__(self) -> None:
        self._objects: dict[tuple[Table, str], int] = {}
        self._sum = 0
        self._at: dict[int, int] = {0: 0}
        self._turns: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._ticks = 0

    def committed(self, commit: Commit) -> None:
        """Move the digest on."""
        for event in commit.events:
            key = (event.table, event.object.id)
            self._sum -= self._objects.pop(key, 0)
            if event.new is not None:
                self._objects[key] = _digest(event.table, event.new.id, encode_object(event.new))
                self._sum += self._objects[key]
        self._at[commit.version] = self._sum

    def turned(self, node: SimNode, member: Member) -> None:
        """Compare now and then."""
        version = member.machine.state.version
        if self._seen.get(node.name) == version:
            return
        self._seen[node.name] = version
        turns = self._turns[node.name] = self._turns.get(node.name, 0) + 1
        if turns % EVERY == 0:
            self._compare(f"the store of {node.name}", member.machine.state)

    def ticked(self, world: World) -> None:
        """Compare the copy of one dispatcher."""
        self._ticks += 1
        managers = world.managers
        self._compare_copy(managers[self._ticks % len(managers)])

    def healed(self, world: World) -> None:
        """Compare everything."""
        for node in world.managers:
            member = world.member(node)
            if member is not None:
                self._compare(f"the store of {node.name}", member.machine.state)
            self._compare_copy(node)

    def _compare_copy(self, node: SimNode) -> None:
        app = cast("DispatcherApp | None", node.app("dispatcher"))
        if app is not None and app._replica.synced:
            self._compare(f"the dispatcher's copy on {node.name}", app._replica.state)

    def _compare(self, whose: str, state: State) -> None:
        found = sum(_digest(change.table, change.id, change.object) for change in state.full())
        if state.version in self._at and self._at[state.version] != found:
            raise self.broken(f"{whose} differs at version {state.version}")
        if state.version > max(self._at):
            raise self.broken(f"{whose} is at version {state.version}, which nobody has committed")


def _digest(table: Table, object_id: str, data: bytes) -> int:
    text = f"{table.value}/{object_id}/".encode()
    return int.from_bytes(blake2b(text + data, digest_size=8).digest(), "big")
