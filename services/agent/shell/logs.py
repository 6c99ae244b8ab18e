"""Answers the dispatcher's log requests: reads tasks' logs through their drivers and publishes them in batches.

One ``_Subscription`` per request. Back-pressure: a subscription has at most one unanswered batch, and its readers stop while
``LINES_WAITING_MAX`` lines wait, so that neither a chatty task nor a slow dispatcher costs memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import aclosing

from services.agent.drivers.api import Line, SupportsLogs
from services.agent.shell.tasks import Tasks
from services.kit.bus.api import Connection
from services.kit.errors import NotFound, SwarmError
from services.kit.messages import logs
from services.kit.messages.logs import LogLine, LogRequest, PublishLogs
from services.kit.model.ids import NodeId, SubscriptionId, TaskId
from services.kit.model.states import TaskState
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner

LINES_WAITING_MAX = 2000
BATCH_LINES_MAX = 500
BATCH_BYTES_MAX = 256 << 10
PUBLISH_TIMEOUT_S = 10.0
SUBSCRIPTIONS_MAX = 64
"""More are answered with an error."""


class Logs:
    """The log subscriptions of one session. Closed with it; the dispatcher asks again in the next one."""

    def __init__(self, *, connection: Connection, tasks: Tasks, node_id: NodeId, owner: TaskOwner) -> None:
        self._connection = connection
        self._tasks = tasks
        self._node_id = node_id
        self._owner = owner
        self._log = Log("logs")
        self._subscriptions: dict[SubscriptionId, _Subscription] = {}

    def request(self, request: LogRequest) -> None:
        """Start a subscription, add tasks to one, or end one."""
        subscription = self._subscriptions.get(request.subscription_id)
        if request.closed:
            if subscription is not None:
                subscription.end()
        elif subscription is not None:
            subscription.add(request.task_ids)
        elif len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            refusal = PublishLogs(
                subscription_id=request.subscription_id,
                done=True,
                error=f"{SUBSCRIPTIONS_MAX} log readers on this node",
            )
            self._owner.spawn(f"refuse {request.subscription_id}", self._refuse(refusal))
        else:
            self._start(request)

    def _start(self, request: LogRequest) -> None:
        subscription = _Subscription(request, self._connection, self._tasks, self._node_id, self._owner)
        self._subscriptions[request.subscription_id] = subscription
        subscription.start(lambda: self._subscriptions.pop(request.subscription_id, None))

    async def _refuse(self, refusal: PublishLogs) -> None:
        try:
            await self._connection.call(logs.PUBLISH, refusal, timeout_s=PUBLISH_TIMEOUT_S)
        except SwarmError as error:
            self._log.debug("refusal not delivered", subscription=refusal.subscription_id, reason=str(error))


class _Subscription:
    """One reader somewhere who wants some tasks' logs."""

    def __init__(
        self, request: LogRequest, connection: Connection, tasks: Tasks, node_id: NodeId, owner: TaskOwner
    ) -> None:
        self._id = request.subscription_id
        self._options = request.options
        self._connection = connection
        self._tasks = tasks
        self._node_id = node_id
        self._owner = owner
        self._log = Log("logs", subscription=self._id)
        self._lines: deque[LogLine] = deque()
        self._errors: list[str] = []
        self._readers: dict[TaskId, asyncio.Task[None]] = {}
        self._unread: set[TaskId] = set()
        self._changed = asyncio.Condition()
        self._publisher: asyncio.Task[None] | None = None
        self.add(request.task_ids)

    def start(self, ended: Callable[[], object]) -> None:
        """Begin to publish; ``ended`` is called when nothing more comes."""
        self._publisher = self._owner.spawn(f"publish {self._id}", self._publish())
        self._publisher.add_done_callback(lambda _: ended())

    def add(self, task_ids: tuple[TaskId, ...]) -> None:
        """Read these tasks as well."""
        for task_id in task_ids:
            if task_id not in self._readers:
                self._unread.add(task_id)
                self._readers[task_id] = self._owner.spawn(f"read {self._id} {task_id}", self._read(task_id))

    def end(self) -> None:
        """Stop reading and publishing."""
        for reader in self._readers.values():
            reader.cancel()
        if self._publisher is not None:
            self._publisher.cancel()

    async def _read(self, task_id: TaskId) -> None:
        try:
            await self._read_lines(task_id)
        except (SwarmError, OSError) as error:
            self._errors.append(f"task {task_id}: {error}")
        except Exception as error:  # noqa: BLE001 - the wall between us and a driver: its bug ends this log, not the node
            self._log.crash("driver broke", error, task=task_id)
            self._errors.append(f"task {task_id}: its driver broke")
        async with self._changed:
            self._unread.discard(task_id)
            self._changed.notify_all()

    async def _read_lines(self, task_id: TaskId) -> None:
        found = self._tasks.find(task_id)
        if found is None or (found[1] < TaskState.STARTING and not self._options.follow):
            return
        task = found[0]
        controller = await self._tasks.controller(task_id)
        if not isinstance(controller, SupportsLogs):
            self._errors.append(f"task {task_id}: its driver keeps no logs")
            return

        def labelled(line: Line) -> LogLine:
            return LogLine(
                task_id=task_id,
                node_id=self._node_id,
                service_id=task.service_id,
                slot=task.slot,
                timestamp=line.timestamp,
                stream=line.stream,
                data=line.data,
            )

        async with aclosing(controller.logs(self._options)) as batches:
            async for batch in batches:
                async with self._changed:
                    await self._changed.wait_for(lambda: len(self._lines) < LINES_WAITING_MAX)
                    self._lines.extend(map(labelled, batch))
                    self._changed.notify_all()

    async def _publish(self) -> None:
        """Send what was read, one batch at a time, until everything is read or nobody listens."""
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._lines or self._all_read())
                    batch = self._next_batch()
                    done = not self._lines and self._all_read()
                    self._changed.notify_all()
                error = "; ".join(self._errors) if done else ""
                message = PublishLogs(subscription_id=self._id, lines=batch, done=done, error=error)
                await self._connection.call(logs.PUBLISH, message, timeout_s=PUBLISH_TIMEOUT_S)
                if done:
                    return
        except NotFound:
            self._log.debug("nobody listens any more")
        except SwarmError as error:
            self._log.warning("logs not delivered", reason=str(error))
        finally:
            for reader in self._readers.values():
                reader.cancel()

    def _all_read(self) -> bool:
        """Tell whether nothing more will come without the dispatcher asking; a follower waits for more tasks instead."""
        return not self._unread and not self._options.follow

    def _next_batch(self) -> tuple[LogLine, ...]:
        batch: list[LogLine] = []
        size = 0
        while self._lines and len(batch) < BATCH_LINES_MAX and size < BATCH_BYTES_MAX:
            line = self._lines.popleft()
            batch.append(line)
            size += len(line.data)
        return tuple(batch)
