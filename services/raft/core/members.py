"""Who is a member, computed from the log: a base (of the snapshot, or nobody) and the membership entries behind it.

A change takes effect when its entry is in the log, committed or not (Raft §4.1), and is undone when the entry is cut. What must stay
true: the configuration at an index depends on the entries up to that index and on nothing else, in particular not on command lines
or on what was applied before a restart.
"""

from __future__ import annotations

from enum import StrEnum

from services.kit.model.ids import NodeId
from services.kit.model.value import Value

REMOVED_MAX = 256
"""Removed members that are remembered, so that they can be told; the oldest are forgotten first."""


class MemberRecord(Value, frozen=True, kw_only=True):
    """What a member must know to talk to another one."""

    node_id: NodeId
    incarnation: str = ""
    """Id of the member's log directory: a member that lost its log comes back as somebody new."""
    raft_addr: str
    remote_addr: str = ""
    certificate: bytes = b""


class ChangeKind(StrEnum):
    """What a membership entry does."""

    ADD = "add"
    UPDATE = "update"
    REMOVE = "remove"
    ONLY = "only"
    """Drop everybody else: the first entry of a forced new cluster."""


class MembershipChange(Value, frozen=True, kw_only=True):
    """The body of a membership entry."""

    kind: ChangeKind
    member: MemberRecord


class Configuration(Value, frozen=True, kw_only=True):
    """Members and those who were."""

    members: dict[NodeId, MemberRecord] = {}
    removed: dict[NodeId, MemberRecord] = {}

    @property
    def ids(self) -> frozenset[NodeId]:
        """Ids of the members."""
        return frozenset(self.members)

    def after(self, change: MembershipChange) -> Configuration:
        """Return the configuration that a change makes; a change that says nothing new makes an equal one."""
        members, removed = dict(self.members), dict(self.removed)
        node_id = change.member.node_id
        match change.kind:
            case ChangeKind.ADD:
                members[node_id] = change.member
                removed.pop(node_id, None)
            case ChangeKind.UPDATE:
                if node_id in members:
                    members[node_id] = change.member
            case ChangeKind.REMOVE:
                gone = members.pop(node_id, None)
                if gone is not None:
                    removed[node_id] = gone
            case ChangeKind.ONLY:
                removed.update({other: record for other, record in members.items() if other != node_id})
                members = {node_id: change.member}
                removed.pop(node_id, None)
        while len(removed) > REMOVED_MAX:
            del removed[next(iter(removed))]
        return Configuration(members=members, removed=removed)


class Membership:
    """The configuration as the log grows, is cut and is compacted."""

    def __init__(self, base: Configuration, base_index: int) -> None:
        self._base = base
        self._base_index = base_index
        self._changes: list[tuple[int, MembershipChange]] = []
        self._become(base)

    @property
    def last_index(self) -> int:
        """Index of the newest membership entry, or that of the base."""
        return self._changes[-1][0] if self._changes else self._base_index

    def append(self, index: int, change: MembershipChange) -> None:
        """Take a membership entry; one at or before the base is known already."""
        if index > self._base_index:
            assert index > self.last_index, f"membership entry {index} after {self.last_index}"
            self._changes.append((index, change))
            self._become(self.latest.after(change))

    def cut_from(self, index: int) -> None:
        """Undo the changes whose entries are gone."""
        while self._changes and self._changes[-1][0] >= index:
            self._changes.pop()
        self._become(self.at(self.last_index))

    def at(self, index: int) -> Configuration:
        """Return the configuration as of an index at or behind the base."""
        configuration = self._base
        for at, change in self._changes:
            if at > index:
                break
            configuration = configuration.after(change)
        return configuration

    def _become(self, configuration: Configuration) -> None:
        self.latest = configuration
        self.ids = configuration.ids
        """Ids of the latest members, asked for several times a turn."""

    def rebase(self, index: int) -> None:
        """Forget how the configuration at ``index`` came to be."""
        if index > self._base_index:
            self._base = self.at(index)
            self._base_index = index
            self._changes = [(at, change) for at, change in self._changes if at > index]


def majority(members: int) -> int:
    """Return how many of so many members are a majority."""
    return members // 2 + 1


def may_remove(members: frozenset[NodeId], reachable: frozenset[NodeId], leaving: NodeId) -> bool:
    """Tell whether the rest still has a reachable majority of itself (SwarmKit's CanRemoveMember); nobody removes the last one."""
    rest = members - {leaving}
    return bool(rest) and len(rest & reachable) >= majority(len(rest))
