"""The only place that knows pysyncobj: its elections, appends and commits, with everything else replaced.

Ours are storage (``_Journal`` over the log), network (``_Transport`` hands messages to the member), apply loop, snapshots, queue of commands,
membership and the right to campaign. pysyncobj has no hooks for some of it, so this stands on private names of exactly one version:
``check_library`` refuses every other one, and names that have gone. pickle cannot be reached: no command of a kind that the library
unpickles gets into the log, its own snapshots are off, and so is its own membership.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from zlib import crc32

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.journal import Journal
from pysyncobj.node import Node as LibraryNode
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from services.kit.model.ids import NodeId
from services.raft.core.entries import Entry
from services.raft.shell.log import Log

socket.inet_ntop = _socket.inet_ntop  # the library's import puts one in its place that fails everywhere but on Windows

PINNED = "0.3.17"
MESSAGE_BYTES = 2 << 20
"""Entries of one append are gathered up to this (one entry may overshoot); above the largest command, so that none is ever split."""
TELL_COMMIT_S = 0.005
"""A new commit index waits this long, at most until the tick after it, for entries to travel with."""
METHODS = (
    "_SyncObj__connectedToAnyone",
    "_SyncObj__doApplyCommand",
    "_SyncObj__doChangeCluster",
    "_SyncObj__sendAppendEntries",
    "_checkCommandsToApply",
    "_getLeader",
    "_isLeader",
    "_onTick",
)
ATTRIBUTES = (
    "_SyncObj__raftLog",
    "_SyncObj__serializer",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__connectedNodes",
    "_SyncObj__readonlyNodes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The library's clocks, seconds."""

    election_timeout_min_s: float
    election_timeout_max_s: float
    heartbeat_s: float
    quorum_timeout_s: float


class Owner(Protocol):
    """What the library asks of the member around it."""

    def may_campaign(self) -> bool:
        """Tell whether an election may start; asked whenever the election timer has run out."""

    def send(self, node_id: NodeId, message: dict[str, Any]) -> bool:
        """Take a message for a peer."""

    def linked(self, node_id: NodeId) -> bool:
        """Tell whether the link to a peer works."""

    def now(self) -> float:
        """Return monotonic seconds."""


class Node(LibraryNode):  # type: ignore[misc]
    """A member in the library's words. It keeps members in sets and sends in their order: this order is the same in every run."""

    def __hash__(self) -> int:
        return crc32(self.id.encode())


class LibraryMismatch(AssertionError):
    """Another pysyncobj than the one this layer was made for."""


def check_library(version: str = VERSION) -> None:
    """Refuse any pysyncobj but the pinned one, and a pinned one in which a name that we stand on is gone."""
    if version != PINNED:
        raise LibraryMismatch(f"pysyncobj {version} is installed, the store stands on exactly {PINNED}")
    missing = [name for name in METHODS if not callable(getattr(SyncObj, name, None))]
    if missing:
        raise LibraryMismatch(f"pysyncobj has lost {', '.join(missing)}")


class Consensus(SyncObj):  # type: ignore[misc]  # the library has no types
    """One member's Raft core. Only its owner's loop calls it."""

    def __init__(self, *, me: NodeId, members: Iterable[NodeId], log: Log, timing: Timing, owner: Owner) -> None:
        check_library()
        self._log = log
        self._owner = owner
        self._journal = _Journal(log)
        self._no_snapshots = _NoSnapshots()
        self._commands: list[bytes] = []
        self._counted: frozenset[NodeId] | None = None
        """The members that the library counts: those of the log when it was last compared."""
        self._commit_sent = 0
        self._commit_due: float | None = None

        def transport(_library: SyncObj, self_node: Node, others: Iterable[Node]) -> Transport:
            self.transport = _Transport(self, self_node, others, owner)
            return self.transport

        others = [Node(other) for other in sorted(members) if other != me]
        super().__init__(Node(me), others, _configuration(timing), nodeClass=Node, transportClass=transport)
        self._poller = _NoPoller()
        self._check_overrides()

    # -- what the library is made to use instead of its own

    @property
    def _SyncObj__raftLog(self) -> _Journal:  # noqa: N802 - the library's name
        return self._journal

    @_SyncObj__raftLog.setter
    def _SyncObj__raftLog(self, _value: object) -> None:  # noqa: N802
        """Ignore the library's own journal."""

    @property
    def _SyncObj__serializer(self) -> _NoSnapshots:  # noqa: N802
        return self._no_snapshots

    @_SyncObj__serializer.setter
    def _SyncObj__serializer(self, _value: object) -> None:  # noqa: N802
        """Ignore the library's own snapshots."""

    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802
        return self._owner.may_campaign()

    def _SyncObj__doApplyCommand(self, _command: bytes) -> None:  # noqa: N802
        """Do nothing: the member applies what is committed itself."""

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        """Append what the owner put in line and send it once; a commit index that has moved goes along, or alone a little later."""
        if not self._isLeader():
            return
        commands, self._commands = self._commands, []
        for command in commands:
            self._log.append(Entry(command, self._log.entries.last + 1, self.raftCurrentTerm))
        if commands:
            self.follow_members()
        if commands or self._must_tell_commit():
            self._commit_sent = self.raftCommitIndex
            self._commit_due = None
            self._SyncObj__sendAppendEntries()

    def _must_tell_commit(self) -> bool:
        """Tell whether followers have waited long enough for the commit index; under load it travels with the next entries."""
        if self.raftCommitIndex == self._commit_sent:
            return False
        now = self._owner.now()
        if self._commit_due is None:
            self._commit_due = now + TELL_COMMIT_S
        return now >= self._commit_due

    # -- what the member calls

    @property
    def leads(self) -> bool:
        """True while this member believes that it leads."""
        return bool(self._isLeader())

    @property
    def leader(self) -> NodeId | None:
        """The leader as last heard of."""
        node = self._getLeader()
        return None if node is None else NodeId(node.id)

    def put(self, command: bytes) -> None:
        """Have the next tick append a command; forgotten when this member does not lead then."""
        assert len(command) < MESSAGE_BYTES, f"a command of {len(command)} bytes"
        self._commands.append(command)

    def forget_commands(self) -> None:
        """Drop what was put and not yet appended."""
        self._commands.clear()

    def receive(self, node_id: NodeId, message: dict[str, Any]) -> None:
        """Hand the library a message of a peer."""
        self.transport._onMessageReceived(Node(node_id), message)
        self.follow_members()

    def follow_members(self) -> None:
        """Make the library count the members of the log, whatever just happened to it."""
        wanted = self._log.membership.ids
        if wanted is self._counted:
            return
        self._counted = wanted
        counted = {NodeId(node.id) for node in self.otherNodes}
        for node_id in sorted(counted - wanted):
            self._SyncObj__doChangeCluster(["rem", node_id])
        for node_id in sorted(wanted - counted - {NodeId(self.selfNode.id)}):
            self.drop_observer(node_id)
            self._SyncObj__doChangeCluster(["add", node_id])
            if self._owner.linked(node_id):
                self.connected(node_id)

    def connected(self, node_id: NodeId) -> None:
        """Say that a link works."""
        self.transport._onNodeConnected(Node(node_id))

    def disconnected(self, node_id: NodeId) -> None:
        """Say that a link does not work."""
        self.transport._onNodeDisconnected(Node(node_id))

    def observe(self, node_id: NodeId) -> None:
        """Send the log to somebody who has no vote."""
        self.transport._onReadonlyNodeConnected(Node(node_id))
        if not self._owner.linked(node_id):
            self.disconnected(node_id)

    def drop_observer(self, node_id: NodeId) -> None:
        """Stop doing so."""
        if Node(node_id) in self.readonlyNodes:
            self.transport._onReadonlyNodeDisconnected(Node(node_id))

    def follows(self, node_id: NodeId) -> bool:
        """Tell whether the leader keeps count of this peer's log."""
        return Node(node_id) in self._SyncObj__raftMatchIndex

    def match_index(self, node_id: NodeId) -> int:
        """Return how far a peer's log is known to agree; 0 for a stranger."""
        return int(self._SyncObj__raftMatchIndex.get(Node(node_id), 0))

    def begin_at(self, index: int) -> None:
        """Go on behind an installed snapshot."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(index, self.raftCommitIndex)

    def tell_commit_soon(self) -> None:
        """Have the next tick tell the commit index: somebody waits for it at a follower."""
        self._commit_due = 0.0

    def campaign_soon(self) -> None:
        """Let the election timer run out now."""
        self._SyncObj__raftElectionDeadline = 0

    def _check_overrides(self) -> None:
        missing = [name for name in ATTRIBUTES if not hasattr(self, name)]
        if missing:
            raise LibraryMismatch(f"pysyncobj has lost {', '.join(missing)}")
        shadowed = [name for name in ("_SyncObj__raftLog", "_SyncObj__serializer") if name in vars(self)]
        if shadowed or len(self._log.entries) == 0:
            raise LibraryMismatch("pysyncobj does not use the log that it was given")


class _Transport(Transport):  # type: ignore[misc]
    """Hands outgoing messages to the owner; the owner calls ``_on…`` for what comes in."""

    def __init__(self, library: SyncObj, self_node: Node, others: Iterable[Node], owner: Owner) -> None:
        super().__init__(library, self_node, others)
        self._owner = owner

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        """Send one message."""
        return self._owner.send(NodeId(node.id), message)

    def addNode(self, node: Node) -> None:  # noqa: N802
        """Do nothing: links follow the membership of the log."""

    def dropNode(self, node: Node) -> None:  # noqa: N802
        """Forget a member's connection; its link ends with the membership."""
        self._onNodeDisconnected(node)

    def destroy(self) -> None:
        """Do nothing: links are not ours."""


class _Journal(Journal):  # type: ignore[misc]
    """The log in the library's words."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._items = log.entries

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._log.append(Entry(command, idx, term))

    def clear(self) -> None:
        raise AssertionError("the library may not clear the log")

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        self._log.cut_from(self._items.first + entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        raise AssertionError("the library may not shorten the log")

    def __getitem__(self, item: Any) -> Any:
        return self._items.items[item]

    def __len__(self) -> int:
        return len(self._items.items)

    def _destroy(self) -> None:
        """Do nothing: the log is closed by its owner."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        self._log.set_commit_index(raftCommitIndex)

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return max(1, self._log.commit_index)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        self._log.set_term(term, votedForNodeId)

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._log.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        return self._log.vote


class _NoPoller:
    """The library's poller, switched off: it has no sockets."""

    def poll(self, _timeout: float) -> None:
        """Do nothing."""


class _NoSnapshots:
    """The library's snapshot object, switched off: it is always busy and never has anything to send."""

    def checkSerializing(self) -> tuple[int, None]:  # noqa: N802
        return SERIALIZER_STATE.SERIALIZING, None

    def getTransmissionData(self, _node: Node) -> None:  # noqa: N802
        return None

    def cancelTransmisstion(self, _node: Node) -> None:  # noqa: N802
        return None


def _configuration(timing: Timing) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=timing.heartbeat_s,
        appendEntriesBatchSizeBytes=MESSAGE_BYTES,
        raftMinTimeout=timing.election_timeout_min_s,
        raftMaxTimeout=timing.election_timeout_max_s,
        connectionTimeout=max(3.5, timing.election_timeout_max_s),
        leaderFallbackTimeout=timing.quorum_timeout_s,
        dynamicMembershipChange=False,
        fullDumpFile=None,
        journalFile=None,
        commandsWaitLeader=False,
        pollerType="select",
    )
