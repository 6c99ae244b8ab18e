"""One term of leadership: the loops, the sessions and the books live as long as it does; all is dropped at its end.

Owned by the app. One task runs the passes; everything else comes in by calls from handlers and from the replica, in this same event
loop. What must stay true: whatever is handed to agents and gateways was applied by the store before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from services.dispatcher.config import DispatcherSettings
from services.dispatcher.core.desk import Flight
from services.dispatcher.core.draining import Draining
from services.dispatcher.core.leadership import Leadership
from services.dispatcher.core.logs import LogBroker
from services.dispatcher.core.loops import all_loops
from services.dispatcher.core.loops.roles import Roles
from services.dispatcher.core.planning import Planning
from services.dispatcher.core.presence import LEADER_CHANGED, Presence, Word
from services.dispatcher.core.routes import RouteBook, for_node
from services.dispatcher.core.sessions import HEARTBEAT_FAILURE, Sessions
from services.dispatcher.core.statuses import Statuses
from services.dispatcher.shell.agents import AgentLines
from services.dispatcher.shell.conversations import ConversationLines
from services.dispatcher.shell.gateways import RouteLines
from services.dispatcher.shell.log_lines import LogLines
from services.dispatcher.shell.members import Members
from services.dispatcher.shell.reads import Reads
from services.dispatcher.shell.volumes import VolumeWork
from services.kit.errors import DeadlineExceeded, SwarmError, Unavailable
from services.kit.lifecycle.app import Runtime
from services.kit.messages.routes import AckRoutes, RouteTable, WatchRoutes
from services.kit.messages.session import StatusUpdate
from services.kit.model.ids import NodeId, TaskId
from services.kit.model.objects import Cluster, Object, Task
from services.kit.model.states import NodeState, TaskState
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from services.kit.state.state import State
from services.kit.state.tables import Table
from services.kit.store.client import StoreClient
from services.kit.store.line import local
from services.kit.store.replica import Batch

KeyT = TypeVar("KeyT", NodeId, TaskId)


class Term:
    """What the leader does."""

    def __init__(
        self,
        settings: DispatcherSettings,
        runtime: Runtime,
        store: StoreClient,
        reads: Reads,
        state: State,
        leadership: Leadership,
    ) -> None:
        self._settings = settings
        self.runtime = runtime
        self.store = store
        self.reads = reads
        self.state = state
        self.leadership = leadership
        self._log = Log("term")
        self._tasks = TaskOwner("term")
        self._wake = asyncio.Event()
        self._failure: asyncio.Future[SwarmError] = asyncio.get_running_loop().create_future()
        self._task_waiters: dict[TaskId, list[_Ticket]] = {}
        self._node_waiters: dict[NodeId, list[_Ticket]] = {}
        node_id = runtime.node.facts.node_id
        self.statuses = Statuses(node_id)
        self.presence = Presence()
        self.roles = Roles()
        loops = all_loops(lambda: TaskId(runtime.ids.new("task")), (self.presence, self.statuses, self.roles))
        self.planning = Planning(state, loops)
        self.sessions = Sessions(runtime.rng)
        self.broker = LogBroker()
        self.agents = AgentLines(self)
        self.routes = RouteLines(RouteBook(state), settings.routes_interval_s)
        self.logs = LogLines(self)
        self.conversations = ConversationLines(self)
        self.volumes = VolumeWork(self, settings.volume_drivers)
        self.members = Members(local(runtime.bus, settings.socket("raft")), self.roles, state, node_id)
        nodes = [node.id for node in state.nodes.values() if node.status.state is not NodeState.DOWN]
        self.draining = Draining(nodes, self.runtime.clock.wall())
        for task in state.tasks.values():
            self._hold_back(None, task)
        self._take_period(state.cluster)

    # -- life

    async def run(self) -> SwarmError:
        """Act until the term has to end; return why."""
        self._log.info("term opened", version=self.state.version, tasks=len(self.state.tasks))
        self._await_nodes()
        self.members_seen()
        self._tasks.spawn("passes", self._passes())
        self._tasks.spawn("members", self.members.run())
        self._tasks.spawn("volumes", self._work_on_volumes())
        failed = self._tasks.spawn("failed", self._tasks.failed())
        await asyncio.wait((failed, self._failure), return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            raise failed.result()
        return self._failure.result()

    def fail(self, why: SwarmError) -> None:
        """End the term."""
        if not self._failure.done():
            self._failure.set_result(why)

    async def close(self, why: SwarmError) -> None:
        """End every stream and forget everything; idempotent."""
        self.agents.bells.break_(why)
        self.routes.bells.break_(why)
        self.logs.bells.break_(why)
        self.conversations.bells.break_(why)
        for waiters in (*self._task_waiters.values(), *self._node_waiters.values()):
            for ticket in waiters:
                ticket.fail(why)
        await self.volumes.close()
        await self._tasks.close()

    # -- what comes in

    def absorb(self, batch: Batch) -> None:
        """Take what the store applied."""
        now = self.runtime.clock.wall()
        self.planning.absorb(batch.events, now)
        for event in batch.events:
            if event.table is Table.TASK:
                self._settle(self._task_waiters, self.statuses.stored(event))
                self._hold_back(event.old, event.new)
            elif event.table is Table.NODE:
                self.members.look()
                self._settle(self._node_waiters, self.presence.stored(event))
                if event.new is None:
                    self.sessions.forget(NodeId(event.object.id))
                    self.draining.forget(NodeId(event.object.id))
            elif event.table is Table.CLUSTER and isinstance(event.new, Cluster):
                self._take_period(event.new)
            self.routes.book.notice(self.state, event)
        self.agents.absorb(batch.events)
        self.logs.absorb(batch.events)
        self.volumes.absorb(batch.events)
        self._wake.set()

    def members_seen(self) -> None:
        """Take raft's members as the leadership knows them."""
        status = self.leadership.status
        if status is not None:
            changed = self.roles.hear(member.node_id for member in status.members)
            self.planning.nudge(self.roles, changed)
            self.members.look()
            self._wake.set()

    def nudge(self) -> None:
        """Have the loop look again."""
        self._wake.set()

    async def report(self, node: NodeId, updates: Sequence[StatusUpdate]) -> None:
        """Take statuses of a node's tasks; return when they are stored."""
        tasks = self.statuses.offer(self.planning.desk, node, updates)
        self.planning.nudge(self.statuses, tasks)
        self._wake.set()
        await self._stored(self._task_waiters, tasks)

    async def hear(self, node: NodeId, word: Word) -> None:
        """Take news of a node; return when they are stored."""
        if self._hear(node, word):
            await self._stored(self._node_waiters, [node])

    def _hear(self, node: NodeId, word: Word) -> bool:
        if not self.presence.hear(self.state, node, word):
            return False
        self.planning.nudge(self.presence, (node,))
        self._wake.set()
        return True

    def _await_nodes(self) -> None:
        """A new leader knows of no session: nodes that were not down are unknown until they are heard of."""
        for node in self.sessions.begin(self.state.nodes.values(), self.runtime.clock.wall()):
            if self.state.nodes[node].status.state is not NodeState.UNKNOWN:
                self._hear(node, Word(state=NodeState.UNKNOWN, message=LEADER_CHANGED))

    def _take_period(self, cluster: Cluster | None) -> None:
        if cluster is not None:
            self.sessions.period_s = cluster.spec.dispatcher.heartbeat_period_s

    # -- passes

    async def _passes(self) -> None:
        """Plan whenever something is due; propose what comes of it."""
        loop = asyncio.get_running_loop()
        last_pass = 0.0
        while True:
            self._wake.clear()
            now = self.runtime.clock.wall()
            self._expire(now)
            self.routes.flush(self.state, loop.time())
            self._release(now)
            due = self.planning.due()
            rest_s = last_pass + self._settings.pass_interval_s - loop.time() if self.planning.desk.flights else 0.0
            if due is not None and due <= now and rest_s <= 0:
                last_pass = loop.time()
                for flight in self.planning.run(now):
                    self._tasks.spawn(f"flight-{flight.number}", self._fly(flight))
                await asyncio.sleep(0)
                continue
            await self._rest(self._next_wake(due, now, max(rest_s, 0.0), loop.time()))

    def _next_wake(self, due: float | None, now: float, rest_s: float, loop_now: float) -> float | None:
        """Return how long to rest unless something comes in."""
        waits: list[float] = []
        if due is not None:
            waits.append(max(due - now, rest_s))
        expiry = self.sessions.deadline()
        if expiry is not None:
            waits.append(expiry - now)
        release = self.draining.deadline()
        if release is not None:
            waits.append(release - now)
        flush = self.routes.flush_in(loop_now)
        if flush is not None:
            waits.append(flush)
        return max(0.0, min(waits)) if waits else None

    async def _rest(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _expire(self, now: float) -> None:
        for node in self.sessions.expired(now):
            self._log.warning("node silent", silent=node)
            self._hear(node, Word(state=NodeState.DOWN, message=HEARTBEAT_FAILURE))
            self.agents.expired(node)
            self.draining.forget(node)
            self.left(node)

    async def _work_on_volumes(self) -> None:
        self.volumes.begin()
        raise await self.volumes.failed()

    def left(self, node: NodeId) -> None:
        """A node has no session any more."""
        self.logs.left(node)
        self.conversations.left(node)

    # -- draining

    async def watch_routes(self, node: NodeId, request: WatchRoutes) -> AsyncGenerator[RouteTable, None]:
        """Yield the route table and its changes to a gateway, which is waited for from now on."""
        self.draining.joined(node)
        if request.mesh_port:
            self.routes.book.mesh_opened(self.state, node, request.mesh_port)
            self._wake.set()
        try:
            async with aclosing(self.routes.watch()) as tables:
                async for table in tables:
                    yield for_node(table, node)
        finally:
            self.draining.left(node, self.runtime.clock.wall())
            self._wake.set()

    def acknowledge(self, node: NodeId, ack: AckRoutes) -> None:
        """A gateway acts on a table."""
        self.draining.acknowledge(node, ack)
        self._wake.set()

    def _hold_back(self, old: Object | None, new: Object | None) -> None:
        """Keep from its node that a task is unwanted while gateways may send connections to it."""
        if isinstance(new, Task) and new.desired_state > TaskState.COMPLETE and self.routes.book.carries(new):
            if not isinstance(old, Task) or old.desired_state <= TaskState.COMPLETE:
                self.draining.hold(new.id, self.runtime.clock.wall(), self.routes.book.drain_s(new.service_id))
        elif isinstance(old, Task):
            self.draining.drop(old.id)

    def _release(self, now: float) -> None:
        """Let the nodes hear of the tasks to which no gateway sends connections any more."""
        if not self.routes.book.is_stale:
            self.draining.published(self.routes.book.epoch)
        for task_id in self.draining.released(now):
            task = self.state.tasks.get(task_id)
            if task is not None:
                self.agents.released(task)

    async def _fly(self, flight: Flight) -> None:
        try:
            result = await self.store.propose(
                flight.ops,
                raise_conflict=False,
                timeout_s=self._settings.propose_timeout_s,
                cause=self.planning.cause(flight),
            )
        except (Unavailable, DeadlineExceeded) as error:
            self.fail(error)
            return
        if result.conflict is not None:
            self._log.debug("transaction refused", reason=result.conflict.reason, cause=result.conflict.message)
        self.planning.answer(flight.number, result, self.runtime.clock.wall())
        self._wake.set()

    # -- waiting for the store

    async def _stored(self, waiters: dict[KeyT, list[_Ticket]], keys: Sequence[KeyT]) -> None:
        if not keys:
            return
        ticket = _Ticket(len(keys))
        for key in keys:
            waiters.setdefault(key, []).append(ticket)
        await ticket.future

    def _settle(self, waiters: dict[KeyT, list[_Ticket]], key: KeyT | None) -> None:
        if key is not None:
            for ticket in waiters.pop(key, ()):
                ticket.settle()


class _Ticket:
    """Somebody waits until so many things are stored."""

    def __init__(self, missing: int) -> None:
        self._missing = missing
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self) -> None:
        self._missing -= 1
        if self._missing == 0 and not self.future.done():
            self.future.set_result(None)

    def fail(self, why: SwarmError) -> None:
        if not self.future.done():
            self.future.set_exception(type(why)(why.message, why.details))
            self.future.exception()
