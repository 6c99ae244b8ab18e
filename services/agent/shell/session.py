"""Keeps the node's session with the leader: carries out what ``core.session`` decides, and moves what the session carries.

One ``_Live`` is one attempt: a connection, the session stream, the assignments stream, the heartbeats, the reports, the log
subscriptions and the conversations with tasks, owned together and closed together. What it notices comes back to the machine as
events; events of an older attempt are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial

from services.agent.core import session as talk
from services.agent.core.credentials import Credentials
from services.agent.core.session import SessionMachine
from services.agent.shell.execs import Execs
from services.agent.shell.logs import Logs
from services.agent.shell.outbox import Outbox
from services.agent.shell.tasks import Tasks
from services.agent.shell.volumes import Volumes
from services.kit.bus.api import Connection
from services.kit.bus.session import ManagerLink
from services.kit.errors import (
    DeadlineExceeded,
    Distrusted,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SwarmError,
    Unauthenticated,
    Unavailable,
)
from services.kit.lifecycle.app import Runtime
from services.kit.messages import session as messages
from services.kit.messages.supervise import NodeReport
from services.kit.model.ids import SessionId
from services.kit.model.objects import Node, NodeDescription
from services.kit.model.states import IssuanceState
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner

CONNECT_TIMEOUT_S = 15.0
"""Longer than the longest pause of the link and one dial."""
REPORT_TIMEOUT_S = 10.0
HEARTBEAT_TIMEOUT_S = 5.0


class Session:
    """The node's session, made anew whenever it is lost."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        link: ManagerLink,
        tasks: Tasks,
        volumes: Volumes,
        outbox: Outbox,
        credentials: Credentials,
        describe: Callable[[], NodeDescription],
        addr: str,
    ) -> None:
        self._runtime = runtime
        self._link = link
        self._tasks = tasks
        self._volumes = volumes
        self._outbox = outbox
        self._credentials = credentials
        self._describe = describe
        self._addr = addr
        self._log = Log("session")
        self._machine = SessionMachine(runtime.rng)
        self._inbox: asyncio.Queue[tuple[_Live | None, talk.Event | BaseException]] = asyncio.Queue()
        self._live: _Live | None = None
        self._described = NodeDescription()

    def look_again(self) -> None:
        """Make a new session if the node's description has changed."""
        if self._live is not None and self._describe() != self._described:
            self.restart("node description changed")

    def restart(self, reason: str) -> None:
        """Give the session up and make a new one at once."""
        self._inbox.put_nowait((None, talk.Lost(reason, at_once=True)))

    async def run(self) -> None:
        """Keep a session until cancelled; raises Unauthenticated when the swarm does not know this node any more."""
        try:
            await self._act(self._machine.step(self._now(), talk.Begin()))
            while True:
                event = await self._next()
                if event is not None:
                    await self._act(self._machine.step(self._now(), event))
        finally:
            await self._close()

    def describe(self) -> dict[str, str | float | int]:
        """Return a plain tree for people and tests."""
        return self._machine.describe()

    async def _next(self) -> talk.Event | None:
        deadline = self._machine.deadline()
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - self._now())):
                source, event = await self._inbox.get()
        except TimeoutError:
            return talk.Due()
        if isinstance(event, BaseException):
            raise event
        return event if source in {None, self._live} else None

    async def _act(self, actions: list[talk.Action]) -> None:
        for action in actions:
            match action:
                case talk.Open(session_id):
                    self._described = self._describe()
                    self._live = _Live(self, session_id)
                case talk.Close(reason):
                    self._log.warning("session lost", reason=reason)
                    await self._close()
                case talk.OpenAssignments(session_id):
                    assert self._live is not None, "assignments belong to a session"
                    self._live.open_assignments(session_id)
                case talk.Beat(session_id):
                    assert self._live is not None, "a heartbeat belongs to a session"
                    self._live.beat(session_id)
                case talk.ReportAll():
                    self._outbox.put(self._tasks.statuses())
                case talk.SayReady():
                    await self._runtime.node.report_ready()
                case talk.GiveUp(reason):
                    raise Unauthenticated(f"the swarm does not know this node any more: {reason}")

    async def _close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            await live.close()
        self._outbox.reports.lost()

    def _now(self) -> float:
        return self._runtime.clock.monotonic()


class _Live:
    """One attempt at a session, and the session when it succeeds."""

    def __init__(self, session: Session, session_id: SessionId) -> None:
        self._session = session
        self._owner = TaskOwner("session")
        self._connection: Connection | None = None
        self._node: Node | None = None
        self._assignments: asyncio.Task[None] | None = None
        self._logs: Logs | None = None
        self._execs: Execs | None = None
        self._owner.spawn("stream", self._guard(partial(self._follow, session_id)))
        self._owner.spawn("watch", self._watch())

    def open_assignments(self, session_id: SessionId) -> None:
        """Open the assignments stream, in place of an older one."""
        if self._assignments is not None:
            self._assignments.cancel()
        self._assignments = self._owner.spawn("assignments", self._guard(partial(self._assign, session_id)))

    def beat(self, session_id: SessionId) -> None:
        """Send one heartbeat."""
        self._owner.spawn("heartbeat", self._guard(partial(self._beat, session_id)))

    async def close(self) -> None:
        """End everything of this attempt; the connection stays with the link."""
        await self._owner.close()

    # -- the parts --

    async def _watch(self) -> None:
        """Hand a bug in any part to the session's own task, which ends with it."""
        self._session._inbox.put_nowait((self, await self._owner.failed()))

    async def _guard(self, part: Callable[[], Coroutine[None, None, None]]) -> None:
        """Turn the failure of a part into the loss of the session; a part cancelled before it began was never made."""
        try:
            await part()
        except SwarmError as error:
            await self._blame(error)
            if isinstance(error, Distrusted):
                await self._session._runtime.node.report_node(NodeReport(distrusts=True))
            self._post(
                talk.Lost(
                    str(error),
                    session_unknown=isinstance(error, (InvalidArgument, NotFound)),
                    at_once=bool(error.details.leader_addr),
                    refused=isinstance(error, (NotFound, Unauthenticated, PermissionDenied))
                    and not isinstance(error, Distrusted)
                    and not self._expired(),
                    by_itself=self._is_with_itself(),
                )
            )

    def _is_with_itself(self) -> bool:
        """Tell whether the manager at the other end is this very node's."""
        connection = self._connection
        return connection is not None and connection.peer.node_id == self._session._runtime.node.facts.node_id

    def _expired(self) -> bool:
        """Tell whether this node's certificate has run out: refused now, it may be let in again with the next one."""
        runtime = self._session._runtime
        return 0.0 < runtime.node.facts.not_after < runtime.clock.wall()

    async def _blame(self, error: SwarmError) -> None:
        """Let the link draw its conclusions; a manager that keeps silent is as good as gone."""
        if self._connection is not None:
            silent = isinstance(error, DeadlineExceeded)
            await self._session._link.report(self._connection, Unavailable(str(error)) if silent else error)

    async def _follow(self, session_id: SessionId) -> None:
        session = self._session
        connection = self._connection = await session._link.connection(timeout_s=CONNECT_TIMEOUT_S)
        self._post(talk.Connected())
        request = messages.SessionRequest(description=session._described, session_id=session_id, addr=session._addr)
        registered = SessionId("")
        async with connection.open(messages.SESSION, request) as stream:
            async for message in stream:
                if not registered:
                    registered = message.session_id
                    session._link.succeeded()
                    self._logs = Logs(
                        connection=connection,
                        tasks=session._tasks,
                        node_id=session._runtime.node.facts.node_id,
                        owner=self._owner,
                    )
                    self._execs = Execs(
                        connection=connection,
                        tasks=session._tasks,
                        clock=session._runtime.clock,
                        node_addr=session._addr,
                        owner=self._owner,
                    )
                    self._owner.spawn("reports", self._guard(partial(self._report, registered)))
                    self._owner.spawn("volumes", self._guard(partial(self._report_volumes, registered)))
                    self._post(talk.Registered(registered))
                    session._log.info("session registered", session=registered, manager=connection.peer.node_id)
                await self._take(message)
        self._post(talk.Lost("the dispatcher ended the session"))

    async def _take(self, message: messages.SessionMessage) -> None:
        node = self._session._runtime.node
        if message.managers:
            self._session._link.set_managers(message.managers)
            await node.report_managers(message.managers)
        if message.node is not None or message.root_bundle:
            self._node = message.node or self._node
            await node.report_node(_report(self._node, message.root_bundle))
        if message.registry_auths is not None:
            self._session._credentials.replace(message.registry_auths)
        assert self._logs is not None, "made with the first message"
        assert self._execs is not None, "made with the first message"
        for request in message.log_requests:
            self._logs.request(request)
        for exec_request in message.exec_requests:
            self._execs.request(exec_request)

    async def _assign(self, session_id: SessionId) -> None:
        assert self._connection is not None, "a registered session has a connection"
        request = messages.AssignmentsRequest(session_id=session_id)
        async with self._connection.open(messages.ASSIGNMENTS, request) as stream:
            async for message in stream:
                gap = self._session._tasks.apply(message)
                if gap is None:
                    self._session._volumes.apply(message)
                else:
                    self._session._log.warning("assignments have a gap", reason=gap)
                    self._post(talk.Gap())
                    return
        self._post(talk.Lost("the dispatcher ended the assignments"))

    async def _beat(self, session_id: SessionId) -> None:
        assert self._connection is not None, "a registered session has a connection"
        request = messages.Heartbeat(session_id=session_id)
        reply = await self._connection.call(messages.HEARTBEAT, request, timeout_s=HEARTBEAT_TIMEOUT_S)
        self._post(talk.Beaten(reply.period_s))

    async def _report(self, session_id: SessionId) -> None:
        """Send statuses in batches, each until it was acknowledged; whatever fails ends the session and the batch goes again."""
        assert self._connection is not None, "a registered session has a connection"
        session, reports = self._session, self._session._outbox.reports
        while True:
            await self._until_due()
            batch = reports.take(session._now())
            request = messages.UpdateTaskStatus(session_id=session_id, updates=batch)
            await self._connection.call(messages.UPDATE_STATUS, request, timeout_s=REPORT_TIMEOUT_S)
            reports.acknowledged(session._now())

    async def _report_volumes(self, session_id: SessionId) -> None:
        """Say which volumes were taken down, until it was acknowledged."""
        assert self._connection is not None, "a registered session has a connection"
        volumes = self._session._volumes
        while True:
            while not (down := volumes.reports()):
                await volumes.news.wait()
            request = messages.UpdateVolumes(session_id=session_id, unpublished=down)
            await self._connection.call(messages.UPDATE_VOLUMES, request, timeout_s=REPORT_TIMEOUT_S)
            volumes.acknowledged(down)

    async def _until_due(self) -> None:
        now, outbox = self._session._now, self._session._outbox
        while (deadline := outbox.reports.deadline()) is None or deadline > now():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if deadline is None else deadline - now()):
                    await outbox.news.wait()

    def _post(self, event: talk.Event) -> None:
        self._session._inbox.put_nowait((self, event))


def _report(node: Node | None, roots: bytes) -> NodeReport:
    if node is None:
        return NodeReport(root_bundle=roots)
    rotate = node.certificate.state is IssuanceState.ROTATE
    return NodeReport(role=node.role, rotate_certificate=rotate, root_bundle=roots)
