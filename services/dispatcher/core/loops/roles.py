"""Roles: what a node is follows what it shall be, and the members of raft follow that.

Keys are node ids. A node that shall be a manager is called one at once: with a certificate of that role it joins raft itself. A manager that shall
be a worker leaves raft first and is called a worker only when it is no member any more, so that its certificate never says worker
while it has a vote. The shell tells who the members are and removes those in ``leaving``; a node that was deleted is among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.model.states import Role
from services.kit.state.state import Event
from services.kit.state.tables import Table
from services.kit.state.view import View


class Roles:
    """Moves observed roles, and names the members that have to go."""

    name = "roles"
    tables = frozenset({Table.NODE})

    def __init__(self) -> None:
        self._members: frozenset[NodeId] | None = None

    def begin(self, view: Picture) -> Iterable[Key]:
        """Look at every node that is not what it shall be."""
        return [node.id for node in view.nodes.values() if _is_moving(node)]

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """A node whose role is to change."""
        node = event.new
        return (node.id,) if isinstance(node, Node) and _is_moving(node) else ()

    def hear(self, members: Iterable[NodeId]) -> tuple[NodeId, ...]:
        """Take raft's members as of now; return the nodes to look at again."""
        before, self._members = self._members or frozenset(), frozenset(members)
        return tuple(sorted(before ^ self._members))

    def leaving(self, view: View, me: NodeId) -> tuple[NodeId, ...]:
        """Return the members that shall be members no more, this manager last, because it cannot remove others afterwards."""
        members = self._members or frozenset()
        if len(members) < 2:
            return ()  # the last member stays, whatever it shall be
        unwanted = (member for member in members if not _shall_vote(view.nodes.get(member)))
        return tuple(sorted(unwanted, key=lambda member: (member == me, member)))

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Move the roles that can be moved; the others wait for raft's members to change."""
        steps: list[Step] = []
        for key in keys:
            node = view.nodes.get(NodeId(str(key)))
            if node is None or not _is_moving(node):
                continue
            wanted = node.spec.desired_role
            if wanted is Role.MANAGER or (self._members is not None and node.id not in self._members):
                steps.append(Step(key=key, puts=(msgspec.structs.replace(node, role=wanted),)))
        return Plan(steps=steps)


def _is_moving(node: Node) -> bool:
    return node.role is not node.spec.desired_role


def _shall_vote(node: Node | None) -> bool:
    return node is not None and node.spec.desired_role is Role.MANAGER
