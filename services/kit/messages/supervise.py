"""Supervisor and its children: what a child must know of its node, and what it reports back.

A child dials supervisor.sock, opens ``ORDERS`` and acts on the first ``Facts`` before anything else. Later items are a changed
Facts (identity renewed, managers changed, role changed) or ``drain``: stop politely. ``READY`` is called once, when the child serves.
"""

from __future__ import annotations

from services.kit.messages.method import Call, Empty, Feed, Owner
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.model.value import Value


class Attach(Value, frozen=True, kw_only=True):
    """Who attaches."""

    process: str
    pid: int


class Facts(Value, frozen=True, kw_only=True):
    """What the supervisor knows of the node. Identity fields are empty only for a ca that has yet to bootstrap."""

    node_id: NodeId
    cluster_id: ClusterId
    role: Role
    certificates_dir: str
    identity_serial: int = 0
    """Grows with each new certificate; reload the files when it does."""
    not_after: float = 0.0
    """When the certificate runs out, wall-clock seconds."""
    remote_addr: str = ""
    """This node's own advertised remote API, ``host:port``."""
    managers: tuple[ManagerPeer, ...] = ()
    """Known managers, this node included when it is one."""
    unlock_keys: tuple[bytes, ...] = ()
    """What this manager is locked under, newest first; only raft and the ca are told."""


class Order(Value, frozen=True, kw_only=True):
    """One item of the orders stream: facts, or the wish to stop."""

    facts: Facts | None = None
    drain: bool = False


class ReadyReport(Value, frozen=True, kw_only=True):
    """The child serves. For the agent: its first session is registered."""

    process: str


class ManagersReport(Value, frozen=True, kw_only=True):
    """The agent learned a new list of managers from its session; the supervisor keeps it in state.json."""

    managers: tuple[ManagerPeer, ...]


class NodeReport(Value, frozen=True, kw_only=True):
    """The agent learned what the swarm says of this node."""

    role: Role | None = None
    """The observed role, which a fresh certificate would carry; None while it is not known."""
    rotate_certificate: bool = False
    """The node shall get a fresh certificate whatever its age."""
    root_bundle: bytes = b""
    """Roots to trust from now on; empty leaves them."""
    distrusts: bool = False
    """A manager shows a certificate that does not hang on this node's roots: they may have been changed while it was away."""


class UnlockRequest(Value, frozen=True, kw_only=True):
    """The user of a locked manager gives the key."""

    unlock_key: str


class LockReport(Value, frozen=True, kw_only=True):
    """The store is about to be sealed under this key; empty for not at all."""

    unlock_key: bytes


class ProcessStatus(Value, frozen=True, kw_only=True):
    """One child as the supervisor sees it."""

    process: str
    pid: int
    state: str
    """starting, ready, backing-off, stopping, stopped or failed."""
    restarts: int
    since: float


class MetricSample(Value, frozen=True, kw_only=True):
    """One number."""

    value: float
    labels: tuple[str, ...] = ()
    """Values, in the order of the family's names."""
    suffix: str = ""
    """What a histogram adds to the name: ``_bucket``, ``_sum`` or ``_count``."""
    bound: str = ""
    """Upper bound of a bucket."""


class MetricFamily(Value, frozen=True, kw_only=True):
    """All samples of one metric."""

    name: str
    text: str
    kind: str
    """counter, gauge or histogram."""
    labels: tuple[str, ...] = ()
    samples: tuple[MetricSample, ...] = ()


class MetricsReport(Value, frozen=True, kw_only=True):
    """What a child measures of itself, as of now."""

    process: str
    families: tuple[MetricFamily, ...]


class StatusReply(Value, frozen=True, kw_only=True):
    """The node as its supervisor sees it."""

    node_id: NodeId
    cluster_id: ClusterId
    role: Role
    state: str
    pid: int
    remote_addr: str
    control_socket: str
    processes: tuple[ProcessStatus, ...]
    certificate_not_after: float = 0.0


ORDERS = Feed(name="supervise.orders", request=Attach, item=Order, owner=Owner.SUPERVISOR)
READY = Call(name="supervise.ready", request=ReadyReport, reply=Empty, owner=Owner.SUPERVISOR, idempotent=True)
MANAGERS_SEEN = Call(
    name="supervise.managers", request=ManagersReport, reply=Empty, owner=Owner.SUPERVISOR, idempotent=True
)
NODE_SEEN = Call(name="supervise.node", request=NodeReport, reply=Empty, owner=Owner.SUPERVISOR, idempotent=True)
STATUS = Call(name="supervise.status", request=Empty, reply=StatusReply, owner=Owner.SUPERVISOR, idempotent=True)
STOP = Call(name="supervise.stop", request=Empty, reply=Empty, owner=Owner.SUPERVISOR, idempotent=True)

METRICS = Call(name="supervise.metrics", request=MetricsReport, reply=Empty, owner=Owner.SUPERVISOR, idempotent=True)

UNLOCK = Call(name="supervise.unlock", request=UnlockRequest, reply=Empty, owner=Owner.SUPERVISOR, idempotent=True)

LOCKED_UNDER = Call(
    name="supervise.locked_under", request=LockReport, reply=Empty, owner=Owner.SUPERVISOR, idempotent=True
)

METHODS = (UNLOCK, LOCKED_UNDER, ORDERS, READY, MANAGERS_SEEN, NODE_SEEN, STATUS, STOP, METRICS)
