"""The log broker: a user subscribes, the nodes that have the tasks are asked through their sessions, their lines go to the user.

One machine a term. A node that is not connected, or leaves before it is done, is named as missing and never holds the rest up. With
``follow`` a subscription goes on with new tasks and ends only when the user leaves; without, when every node that was asked is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from services.kit.errors import NotFound, PermissionDenied
from services.kit.messages.logs import LogLine, LogRequest, PublishLogs, SubscribeLogs
from services.kit.model.ids import NodeId, SubscriptionId, TaskId
from services.kit.model.objects import Task
from services.kit.model.states import TaskState
from services.kit.state.state import Event
from services.kit.state.view import View

Asked = tuple[NodeId, LogRequest]
"""A request, and the node that it goes to."""


@dataclass(slots=True)
class _Subscription:
    request: SubscribeLogs
    asked: dict[NodeId, dict[TaskId, None]] = field(default_factory=dict)
    waiting: dict[NodeId, None] = field(default_factory=dict)
    """Nodes that were asked and are not done."""
    missing: dict[NodeId, None] = field(default_factory=dict)
    """Nodes that could not answer, not yet told."""
    told: set[NodeId] = field(default_factory=set)


class LogBroker:
    """All subscriptions of a term."""

    def __init__(self) -> None:
        self._subscriptions: dict[SubscriptionId, _Subscription] = {}

    def subscribe(
        self, view: View, connected: Collection[NodeId], subscription_id: SubscriptionId, request: SubscribeLogs
    ) -> list[Asked]:
        """Start a subscription and return whom to ask for what. Raises NotFound for what does not exist."""
        _check(view, request)
        subscription = _Subscription(request=request)
        self._subscriptions[subscription_id] = subscription
        for task in _selected(view, request):
            self._want(subscription, task, connected)
        return [
            (node, self._request(subscription_id, subscription, tasks)) for node, tasks in subscription.asked.items()
        ]

    def unsubscribe(self, subscription_id: SubscriptionId) -> list[Asked]:
        """The user left, or has everything: tell the nodes that still work on it."""
        subscription = self._subscriptions.pop(subscription_id, None)
        if subscription is None:
            return []
        closing = LogRequest(subscription_id=subscription_id, closed=True)
        return [(node, closing) for node in subscription.waiting]

    def publish(self, node: NodeId, batch: PublishLogs) -> tuple[LogLine, ...]:
        """Take a batch from a node and return the lines for the user.

        Raises NotFound for a subscription that is over, PermissionDenied for a node that was not asked or speaks for another one.
        """
        subscription = self._subscriptions.get(batch.subscription_id)
        if subscription is None:
            raise NotFound(f"subscription {batch.subscription_id} is over")
        if node not in subscription.asked or any(line.node_id != node for line in batch.lines):
            raise PermissionDenied(f"node {node} was not asked for these lines")
        if batch.error:
            self._miss(subscription, node)
        elif batch.done:
            subscription.waiting.pop(node, None)
        return batch.lines

    def left(self, node: NodeId) -> None:
        """A node's session ended."""
        for subscription in self._subscriptions.values():
            if node in subscription.waiting:
                self._miss(subscription, node)

    def joined(self, node: NodeId) -> list[LogRequest]:
        """A node has a session: return what it is to be asked."""
        requests: list[LogRequest] = []
        for subscription_id, subscription in self._subscriptions.items():
            tasks = subscription.asked.get(node)
            if tasks and (subscription.request.options.follow or node in subscription.waiting):
                subscription.waiting[node] = None
                requests.append(self._request(subscription_id, subscription, tasks))
        return requests

    def notice(self, event: Event, connected: Collection[NodeId]) -> list[Asked]:
        """Return requests for a task that followers want and that has come to a node."""
        new = event.new
        if not self._subscriptions or not isinstance(new, Task) or new.node_id is None:
            return []
        asked: list[Asked] = []
        for subscription_id, subscription in self._subscriptions.items():
            known = subscription.asked.get(new.node_id, {})
            if subscription.request.options.follow and new.id not in known and _wants(subscription.request, new):
                self._want(subscription, new, connected)
                fresh = subscription.asked.get(new.node_id, {})
                if new.id in fresh and new.node_id in subscription.waiting:
                    asked.append((new.node_id, self._request(subscription_id, subscription, (new.id,))))
        return asked

    def take_missing(self, view: View, subscription_id: SubscriptionId) -> tuple[str, ...]:
        """Return the names of nodes that could not answer and were not named before."""
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            return ()
        missing, subscription.missing = subscription.missing, {}
        return tuple(sorted(_name(view, node) for node in missing))

    def is_over(self, subscription_id: SubscriptionId) -> bool:
        """Tell whether nobody will send anything more."""
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            return True
        return not subscription.request.options.follow and not subscription.waiting

    def _want(self, subscription: _Subscription, task: Task, connected: Collection[NodeId]) -> None:
        if task.node_id is None or task.status.state < TaskState.ASSIGNED:
            return
        subscription.asked.setdefault(task.node_id, {})[task.id] = None
        if task.node_id in connected:
            subscription.waiting[task.node_id] = None
        elif task.node_id not in subscription.told:
            self._miss(subscription, task.node_id)

    def _miss(self, subscription: _Subscription, node: NodeId) -> None:
        subscription.waiting.pop(node, None)
        if node not in subscription.told:
            subscription.missing[node] = None
            subscription.told.add(node)

    def _request(
        self, subscription_id: SubscriptionId, subscription: _Subscription, tasks: Iterable[TaskId]
    ) -> LogRequest:
        return LogRequest(subscription_id=subscription_id, task_ids=tuple(tasks), options=subscription.request.options)


def _check(view: View, request: SubscribeLogs) -> None:
    selector = request.selector
    for noun, ids, known in (
        ("service", selector.service_ids, view.services),
        ("task", selector.task_ids, view.tasks),
        ("node", selector.node_ids, view.nodes),
    ):
        for each in ids:
            if each not in known:
                raise NotFound(f"there is no {noun} {each!r}")


def _selected(view: View, request: SubscribeLogs) -> list[Task]:
    selector = request.selector
    chosen: dict[TaskId, Task] = {}
    for service in selector.service_ids:
        chosen |= view.tasks_of_service(service)
    for node in selector.node_ids:
        chosen |= view.tasks_of_node(node)
    for task in selector.task_ids:
        chosen[task] = view.tasks[task]
    return list(chosen.values())


def _wants(request: SubscribeLogs, task: Task) -> bool:
    selector = request.selector
    return task.service_id in selector.service_ids or task.id in selector.task_ids or task.node_id in selector.node_ids


def _name(view: View, node: NodeId) -> str:
    known = view.nodes.get(node)
    return node if known is None else known.spec.annotations.name or known.description.hostname or node
