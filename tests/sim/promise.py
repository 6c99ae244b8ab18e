"""What a checker is: told of everything that happens in a run, it raises ``Broken`` when the promise in its file is not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.raft.shell.member import Member

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.reference import Commit
    from tests.sim.world import World


class Broken(AssertionError):
    """A promise was not kept."""

    def __init__(self, promise: str, how: str) -> None:
        super().__init__(f"{promise}: {how}")
        self.promise = promise
        self.how = how


class Checker:
    """Base of all checkers; every method may be left out."""

    promise = ""
    """The promise, in one line."""

    def broken(self, how: str) -> Broken:
        """Return the error to raise."""
        return Broken(self.promise, how)

    def turned(self, node: SimNode, member: Member) -> None:
        """A raft member has had a turn."""

    def committed(self, commit: Commit) -> None:
        """A transaction took effect."""

    def ticked(self, world: World) -> None:
        """Some time has passed."""

    def healed(self, world: World) -> None:
        """All faults have ended and the swarm has had its time to converge."""
