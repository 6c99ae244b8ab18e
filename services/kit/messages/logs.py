"""Logs: a user subscribes at the dispatcher, the dispatcher asks the agents through their sessions, they publish back."""

from __future__ import annotations

from services.kit.messages.method import MANAGERS, NODES, Call, Empty, Feed, Owner
from services.kit.model.ids import NodeId, ServiceId, SubscriptionId, TaskId
from services.kit.model.states import LogStream
from services.kit.model.value import Value


class LogSelector(Value, frozen=True, kw_only=True):
    """Whose logs: the union of what is named."""

    service_ids: tuple[ServiceId, ...] = ()
    task_ids: tuple[TaskId, ...] = ()
    node_ids: tuple[NodeId, ...] = ()


class LogOptions(Value, frozen=True, kw_only=True):
    """Which part of the logs."""

    streams: tuple[LogStream, ...] = ()
    """Empty means both."""
    follow: bool = False
    tail: int = -1
    """Last lines per task; -1 means all."""
    since: float = 0.0
    """Wall-clock seconds since the epoch; 0 means from the start."""


class LogLine(Value, frozen=True, kw_only=True):
    """One line, without its newline."""

    task_id: TaskId
    node_id: NodeId
    service_id: ServiceId
    slot: int = 0
    timestamp: float
    stream: LogStream
    data: bytes


class LogRequest(Value, frozen=True, kw_only=True):
    """What the dispatcher asks of an agent."""

    subscription_id: SubscriptionId
    task_ids: tuple[TaskId, ...] = ()
    options: LogOptions = LogOptions()
    closed: bool = False


class PublishLogs(Value, frozen=True, kw_only=True):
    """A batch of lines of one subscription; unanswered batches are the agent's back-pressure."""

    subscription_id: SubscriptionId
    lines: tuple[LogLine, ...] = ()
    done: bool = False
    """This node has sent all it has (never with follow)."""
    error: str = ""


class SubscribeLogs(Value, frozen=True, kw_only=True):
    """A user wants logs."""

    selector: LogSelector
    options: LogOptions = LogOptions()


class LogBatch(Value, frozen=True, kw_only=True):
    """Lines for the user. ``missing`` names nodes that could not answer, once, at the end or when noticed."""

    lines: tuple[LogLine, ...] = ()
    missing: tuple[str, ...] = ()


PUBLISH = Call(name="logs.publish", request=PublishLogs, reply=Empty, owner=Owner.DISPATCHER, roles=NODES, leader=True)
SUBSCRIBE = Feed(
    name="logs.subscribe", request=SubscribeLogs, item=LogBatch, owner=Owner.DISPATCHER, roles=MANAGERS, leader=True
)

METHODS = (PUBLISH, SUBSCRIBE)
