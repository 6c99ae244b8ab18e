"""The dispatcher process: follows the store, opens a term when this manager leads, and answers users, agents and gateways.

What must stay true: nothing but stale reads and watches is answered without an open term; what ends a term ends its streams with an
error that names the leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from services.dispatcher.config import DispatcherSettings
from services.dispatcher.core.leadership import Leadership
from services.dispatcher.shell.control import Control, actor_of
from services.dispatcher.shell.counting import Counting
from services.dispatcher.shell.reads import Reads
from services.dispatcher.shell.swarm_clock import SwarmClock
from services.dispatcher.shell.term import Term
from services.dispatcher.shell.watches import Watches
from services.kit.bus.api import Context, Listener
from services.kit.bus.rpc import Table
from services.kit.lifecycle.app import Runtime
from services.kit.messages import exec as exec_messages
from services.kit.messages import logs, routes, session
from services.kit.messages.method import Empty
from services.kit.messages.store import RaftStatus
from services.kit.model.ids import NodeId
from services.kit.runtime.log import Log
from services.kit.runtime.metrics import MANAGER_LEADER
from services.kit.runtime.tasks import TaskOwner
from services.kit.store.client import StoreClient
from services.kit.store.line import local
from services.kit.store.replica import Batch, Replica


class DispatcherApp:
    """One run of the dispatcher process."""

    def __init__(self, settings: DispatcherSettings, runtime: Runtime) -> None:
        self._settings = settings
        self._clock = SwarmClock(runtime.clock)
        runtime = self._runtime = replace(runtime, clock=self._clock)
        self._log = Log("dispatcher")
        self._tasks = TaskOwner("dispatcher")
        dial = local(runtime.bus, settings.socket("raft"))
        self._store = StoreClient(
            dial=dial, client_id=runtime.ids.new("client"), clock=runtime.clock, actor="dispatcher"
        )
        self._replica = Replica(dial)
        self._replica.listen(self._absorb)
        counting = Counting()
        self._replica.listen(lambda batch: counting.absorb(batch, leads=self._term is not None))
        self._leadership = Leadership(runtime.node.facts.node_id)
        self._reads = Reads(self._store, self._replica, self._tasks, settings.read_timeout_s)
        self._watches = Watches(self._replica.state)
        self._moved = asyncio.Event()
        self._term: Term | None = None
        self._listener: Listener | None = None

    # -- life

    async def start(self) -> None:
        """Listen."""
        table = Table(trusted=True)
        Control(self._runtime, self._store, self._replica.state, self._reads, self._watches, self).serve(table)
        table.on_feed(session.SESSION, self._session)
        table.on_call(session.HEARTBEAT, self._heartbeat)
        table.on_feed(session.ASSIGNMENTS, self._assignments)
        table.on_call(session.UPDATE_STATUS, self._update_status)
        table.on_call(session.UPDATE_VOLUMES, self._update_volumes)
        table.on_feed(routes.WATCH, self._watch_routes)
        table.on_call(routes.ACK, self._ack_routes)
        table.on_feed(logs.SUBSCRIBE, self._subscribe_logs)
        table.on_call(logs.PUBLISH, self._publish_logs)
        table.on_feed(exec_messages.OPEN, self._open_exec)
        table.on_call(exec_messages.INPUT, self._exec_input)
        table.on_feed(exec_messages.SERVE, self._serve_exec)
        table.on_call(exec_messages.PUBLISH, self._publish_exec)
        self._listener = await self._runtime.bus.listen_local(self._settings.socket("dispatcher"), table)

    async def serve(self) -> None:
        """Follow raft and the store, and lead when it is our turn, until cancelled."""
        self._tasks.spawn("replica", self._replica.run())
        self._tasks.spawn("raft", self._follow_raft())
        self._tasks.spawn("terms", self._lead())
        raise await self._tasks.failed()

    async def stop(self) -> None:
        """Send everybody to another manager, let calls under way finish, close."""
        if self._term is not None:
            await self._term.close(self._leadership.refusal())
        if self._listener is not None:
            await self._listener.close(drain_s=self._settings.drain_s)
        await self._tasks.close()
        await self._replica.close()
        await self._store.close()

    # -- leadership

    @property
    def raft(self) -> RaftStatus | None:
        """What raft said last."""
        return self._leadership.status

    def check_leading(self) -> None:
        """Raise Unavailable, naming the leader, unless this manager leads."""
        self._open_term()

    def _open_term(self) -> Term:
        if self._term is None:
            raise self._leadership.refusal()
        return self._term

    def _absorb(self, batch: Batch) -> None:
        self._watches.absorb(batch)
        if self._term is not None:
            self._term.absorb(batch)
            return
        stamps = (event.object.meta.updated_at for event in batch.events) if batch.reset else (batch.origin.at,)
        self._clock.heard(max(stamps, default=0.0))
        self._moved.set()

    async def _follow_raft(self) -> None:
        async for status in self._store.follow_status():
            if self._leadership.heard(status) and self._term is not None:
                self._term.fail(self._leadership.refusal())
            if self._term is not None:
                self._term.members_seen()
                self._term.agents.ring()
            self._moved.set()

    async def _lead(self) -> None:
        """Open a term whenever leadership allows it, and see it to its end."""
        state = self._replica.state
        while True:
            self._moved.clear()
            if self._replica.synced and self._leadership.may_open(state.version, has_cluster=state.cluster is not None):
                await self._live_through_term()
            else:
                await self._moved.wait()

    async def _live_through_term(self) -> None:
        self._clock.begin_term()
        term = Term(self._settings, self._runtime, self._store, self._reads, self._replica.state, self._leadership)
        self._term = term
        MANAGER_LEADER.set(1)
        try:
            why = await term.run()
            self._log.warning("term ended", cause=str(why))
        finally:
            self._term = None
            MANAGER_LEADER.set(0)
            await term.close(self._leadership.refusal())
        self._leadership.give_up()
        self._moved.set()

    # -- agents, gateways, logs

    async def _session(
        self, context: Context, request: session.SessionRequest
    ) -> AsyncIterator[session.SessionMessage]:
        async for message in self._open_term().agents.session(context.caller, request):
            yield message

    async def _heartbeat(self, context: Context, request: session.Heartbeat) -> session.HeartbeatReply:
        return await self._open_term().agents.beat(context.caller, request)

    async def _assignments(
        self, context: Context, request: session.AssignmentsRequest
    ) -> AsyncIterator[session.Assignments]:
        async for message in self._open_term().agents.assignments(context.caller, request):
            yield message

    async def _update_status(self, context: Context, request: session.UpdateTaskStatus) -> Empty:
        await self._open_term().agents.report(context.caller, request)
        return Empty()

    async def _update_volumes(self, context: Context, request: session.UpdateVolumes) -> Empty:
        await self._open_term().agents.took_down(context.caller, request)
        return Empty()

    async def _watch_routes(self, context: Context, request: routes.WatchRoutes) -> AsyncIterator[routes.RouteTable]:
        async with aclosing(self._open_term().watch_routes(NodeId(context.caller.node_id), request)) as tables:
            async for table in tables:
                yield table

    async def _ack_routes(self, context: Context, request: routes.AckRoutes) -> Empty:
        self._open_term().acknowledge(NodeId(context.caller.node_id), request)
        return Empty()

    async def _subscribe_logs(self, context: Context, request: logs.SubscribeLogs) -> AsyncIterator[logs.LogBatch]:
        async for batch in self._open_term().logs.subscribe(request):
            yield batch

    async def _publish_logs(self, context: Context, request: logs.PublishLogs) -> Empty:
        await self._open_term().logs.publish(context, request)
        return Empty()

    # -- users inside tasks

    async def _open_exec(
        self, context: Context, request: exec_messages.OpenExec
    ) -> AsyncIterator[exec_messages.ExecOutput]:
        actor = actor_of(context.caller)
        async with aclosing(self._open_term().conversations.open(context.caller, request, actor)) as outputs:
            async for output in outputs:
                yield output

    async def _exec_input(self, context: Context, item: exec_messages.ExecInput) -> Empty:
        await self._open_term().conversations.input(context, item)
        return Empty()

    async def _serve_exec(
        self, context: Context, request: exec_messages.ServeExec
    ) -> AsyncIterator[exec_messages.ExecInput]:
        async with aclosing(self._open_term().conversations.serve(context.caller, request)) as items:
            async for item in items:
                yield item

    async def _publish_exec(self, context: Context, output: exec_messages.ExecOutput) -> Empty:
        await self._open_term().conversations.publish(context, output)
        return Empty()
