"""The store: the dispatcher and the ca (and the gateway, for membership and status) talk to their node's raft process.

Objects travel as encoded bytes that the raft process does not need to understand twice: it decodes them once, at apply.
"""

from __future__ import annotations

from services.kit.errors import NO_DETAILS, Details
from services.kit.messages.method import MANAGERS, Call, Empty, Feed, Owner
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Reachability
from services.kit.model.value import Value
from services.kit.state.tables import Table
from services.kit.state.transaction import NOBODY, Change, Origin, Transaction, TxResult


class Propose(Value, frozen=True, kw_only=True):
    """Run transactions, each by itself. One sent again with the same (client, sequence) is applied once and answers the same."""

    transactions: tuple[Transaction, ...]


class Outcome(Value, frozen=True, kw_only=True):
    """How one transaction went: its result, or the error that it would have ended with alone."""

    result: TxResult | None = None
    code: int = 0
    message: str = ""
    details: Details = NO_DETAILS


class ProposeReply(Value, frozen=True, kw_only=True):
    """The outcomes, in the order of the transactions."""

    outcomes: tuple[Outcome, ...]


class WatchRequest(Value, frozen=True, kw_only=True):
    """Follow the store from behind ``version``. 0 asks for the whole state first."""

    version: int = 0
    tables: tuple[Table, ...] = ()
    """Only changes of these are sent; none named means all."""


class WatchItem(Value, frozen=True, kw_only=True):
    """One step of a watch, in order and without gaps.

    ``reset`` starts a full state: forget everything, then take ``changes`` of this and the following items until ``synced``.
    Otherwise ``changes`` are those of the transaction that made ``version``. A watch of some tables skips versions that changed nothing there,
    and now and then says with an empty item how far it got.
    """

    version: int
    changes: tuple[Change, ...] = ()
    reset: bool = False
    synced: bool = True
    """False while more items of the same full state follow."""
    origin: Origin = NOBODY
    """Who made the transaction; nobody for a full state."""


class Member(Value, frozen=True, kw_only=True):
    """A manager in raft's configuration."""

    node_id: NodeId
    raft_addr: str
    remote_addr: str = ""
    certificate: bytes = b""
    """PEM, leaf first."""
    leader: bool = False
    reachability: Reachability = Reachability.UNKNOWN


class RaftStatus(Value, frozen=True, kw_only=True):
    """One member's view of raft."""

    node_id: NodeId
    state: str
    """follower, candidate, leader, joining or removed."""
    term: int
    commit_index: int
    applied_index: int
    version: int
    """Version of the applied state."""
    leader: NodeId | None
    leader_peer: ManagerPeer | None = None
    ready: bool = False
    """On the leader: every earlier entry is applied and one of its own term is committed."""
    members: tuple[Member, ...] = ()


class Barrier(Value, frozen=True, kw_only=True):
    """Confirm leadership and wait until everything committed before is applied (a read index)."""


class BarrierReply(Value, frozen=True, kw_only=True):
    """A view at or behind this version is linearizable."""

    version: int


PROPOSE = Call(
    name="store.propose", request=Propose, reply=ProposeReply, owner=Owner.RAFT, idempotent=True, leader=True
)
WATCH = Feed(name="store.watch", request=WatchRequest, item=WatchItem, owner=Owner.RAFT)
BARRIER = Call(name="store.barrier", request=Barrier, reply=BarrierReply, owner=Owner.RAFT, idempotent=True)
STATUS = Call(name="raft.status", request=Empty, reply=RaftStatus, owner=Owner.RAFT, roles=MANAGERS, idempotent=True)
STATUS_FEED = Feed(name="raft.follow", request=Empty, item=RaftStatus, owner=Owner.RAFT)
"""The status at once, then again whenever leadership, term, readiness, membership or a member's reachability changes."""


class JoinRequest(Value, frozen=True, kw_only=True):
    """A new manager asks to become a member; the caller's node id is the authenticated one."""

    raft_addr: str
    remote_addr: str
    certificate: bytes
    incarnation: str = ""
    """Id of the log directory; another one than before says that the member has lost its log and begins anew."""


class JoinReply(Value, frozen=True, kw_only=True):
    """Whom to talk to."""

    members: tuple[Member, ...]


class LeaveRequest(Value, frozen=True, kw_only=True):
    """Remove a member, refused when that would lose the quorum."""

    node_id: NodeId


class TransferRequest(Value, frozen=True, kw_only=True):
    """Hand leadership to another member; empty picks the most advanced one."""

    to: NodeId | None = None


JOIN = Call(
    name="membership.join",
    request=JoinRequest,
    reply=JoinReply,
    owner=Owner.RAFT,
    roles=MANAGERS,
    leader=True,
    idempotent=True,
    timeout_s=25.0,
)
LEAVE = Call(
    name="membership.leave",
    request=LeaveRequest,
    reply=Empty,
    owner=Owner.RAFT,
    roles=MANAGERS,
    leader=True,
    idempotent=True,
    timeout_s=25.0,
)
TRANSFER = Call(
    name="membership.transfer",
    request=TransferRequest,
    reply=Empty,
    owner=Owner.RAFT,
    roles=MANAGERS,
    leader=True,
    idempotent=True,
)

METHODS = (PROPOSE, WATCH, BARRIER, STATUS, STATUS_FEED, JOIN, LEAVE, TRANSFER)
