"""One leader a term."""

from __future__ import annotations

from services.raft.shell.member import Member
from tests.sim.node import SimNode
from tests.sim.promise import Checker


class Leaders(Checker):
    """Remembers who has led in each term."""

    promise = "one leader a term"

    def __init__(self) -> None:
        self._leaders: dict[int, str] = {}

    def turned(self, node: SimNode, member: Member) -> None:
        """Look at who leads."""
        if member.leads:
            known = self._leaders.setdefault(member.term, node.name)
            if known != node.name:
                raise self.broken(f"{known} and {node.name} both lead in term {member.term}")
