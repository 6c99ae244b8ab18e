"""Streams and calls of agents: sessions, heartbeats, assignments, statuses. Part of a term; the rules are in core/sessions and
core/assignments.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from services.dispatcher.core.assignments import AssignmentBook
from services.dispatcher.core.presence import Word
from services.dispatcher.shell.bells import Bell, Bells
from services.kit.bus.api import Caller
from services.kit.errors import InvalidArgument, NotFound, Problem, SwarmError
from services.kit.messages.exec import ExecRequest
from services.kit.messages.logs import LogRequest
from services.kit.messages.session import (
    Assignments,
    AssignmentsRequest,
    Heartbeat,
    HeartbeatReply,
    SessionMessage,
    SessionRequest,
    UpdateTaskStatus,
    UpdateVolumes,
)
from services.kit.model.ids import NodeId, SessionId
from services.kit.model.objects import ManagerPeer, Node, Task
from services.kit.model.states import NodeState
from services.kit.model.validate import is_address
from services.kit.state.state import Event
from services.kit.state.tables import Table
from services.kit.state.transaction import Action

if TYPE_CHECKING:
    from services.dispatcher.shell.term import Term

RESOLVE_S = 2.0
"""Longest wait for the address of a node that gave a name."""


class _SessionLine:
    """One session's stream: what it was told, and what it has yet to be told."""

    def __init__(self, session: SessionId, bell: Bell) -> None:
        self.session = session
        self.bell = bell
        self.log_requests: list[LogRequest] = []
        self.exec_requests: list[ExecRequest] = []
        self._node: Node | None = None
        self._managers: tuple[ManagerPeer, ...] = ()
        self._roots = b""
        self._is_first = True

    def next(self, node: Node, managers: tuple[ManagerPeer, ...], roots: bytes) -> SessionMessage | None:
        """Return what changed since the last message, None when nothing did."""
        known = self._node
        node_changed = known is None or (known.spec, known.role, known.certificate) != (
            node.spec,
            node.role,
            node.certificate,
        )
        managers_changed = bool(managers) and managers != self._managers
        requests, self.log_requests = tuple(self.log_requests), []
        execs, self.exec_requests = tuple(self.exec_requests), []
        if not (self._is_first or node_changed or managers_changed or roots != self._roots or requests or execs):
            return None
        message = SessionMessage(
            session_id=self.session,
            node=node if node_changed else None,
            managers=managers if managers_changed else (),
            root_bundle=roots if roots != self._roots else b"",
            log_requests=requests,
            exec_requests=execs,
        )
        self._is_first = False
        self._node, self._roots = node, roots
        self._managers = managers or self._managers
        return message


class AgentLines:
    """All agents of a term."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self.bells = Bells()
        self._sessions: dict[NodeId, _SessionLine] = {}
        self._books: dict[NodeId, dict[Bell, AssignmentBook]] = {}

    # -- calls and streams

    async def session(self, caller: Caller, request: SessionRequest) -> AsyncIterator[SessionMessage]:
        """Register a node and tell it what changes, until its session is over."""
        term, node = self._term, NodeId(caller.node_id)
        if node not in term.state.nodes:
            # It may have joined a moment ago; a node that hears NotFound gives up for good.
            await term.reads.fresh()
        if node not in term.state.nodes:
            raise NotFound(f"node {node} is not in the swarm")
        fresh = SessionId(term.runtime.ids.new("session"))
        session = term.sessions.register(node, request.session_id, fresh, term.runtime.clock.wall())
        term.nudge()
        self._end(node, _replaced(session))
        line = self._sessions[node] = _SessionLine(session, self.bells.add())
        try:
            addr = await _numeric(request.addr, _host(caller.addr))
            await term.hear(node, Word(state=NodeState.READY, addr=addr, description=request.description))
            line.log_requests += term.logs.joined(node)
            while True:
                line.bell.check()
                known = term.state.nodes.get(node)
                if known is None:
                    raise NotFound(f"node {node} was removed from the swarm")
                message = line.next(known, self._managers(), self._roots())
                if message is not None:
                    yield message
                await line.bell.wait()
        finally:
            self.bells.remove(line.bell)
            if self._sessions.get(node) is line:
                del self._sessions[node]
                term.left(node)

    async def beat(self, caller: Caller, request: Heartbeat) -> HeartbeatReply:
        """Take a heartbeat."""
        term = self._term
        period_s = term.sessions.beat(NodeId(caller.node_id), request.session_id, term.runtime.clock.wall())
        return HeartbeatReply(period_s=period_s)

    async def assignments(self, caller: Caller, request: AssignmentsRequest) -> AsyncIterator[Assignments]:
        """Tell a node what it must run, until its session is over."""
        term, node = self._term, NodeId(caller.node_id)
        term.sessions.check_session(node, request.session_id)
        bell = self.bells.add()
        book = AssignmentBook(node, term.state, term.draining.shown)
        self._books.setdefault(node, {})[bell] = book
        try:
            while True:
                message = book.take(term.state)
                while message is not None:
                    yield message
                    bell.check()
                    message = book.take(term.state)
                await bell.wait()
        finally:
            self.bells.remove(bell)
            self._books.get(node, {}).pop(bell, None)

    async def report(self, caller: Caller, request: UpdateTaskStatus) -> None:
        """Take statuses of a node's tasks; return when they are stored."""
        node = NodeId(caller.node_id)
        self._term.sessions.check_session(node, request.session_id)
        await self._term.report(node, request.updates)

    async def took_down(self, caller: Caller, request: UpdateVolumes) -> None:
        """Take a node's word that it has taken volumes down; return when it is stored."""
        node = NodeId(caller.node_id)
        self._term.sessions.check_session(node, request.session_id)
        await self._term.volumes.unpublished(node, request.unpublished)

    # -- what comes in

    def absorb(self, events: Sequence[Event]) -> None:
        """Wake the streams of nodes that must hear of what was applied."""
        for event in events:
            if event.table is Table.TASK:
                self._notice_task(event)
            elif event.table is Table.VOLUME:
                self._notice_volume(event)
            elif event.table is Table.NODE:
                line = self._sessions.get(NodeId(event.object.id))
                if line is not None:
                    line.bell.ring()
            elif event.table is Table.CLUSTER:
                self.ring()

    def released(self, task: Task) -> None:
        """A task's node may hear now that it is unwanted."""
        self._notice_task(Event(action=Action.UPDATE, table=Table.TASK, old=task, new=task))

    def ring(self) -> None:
        """Managers or roots may have changed."""
        for line in self._sessions.values():
            line.bell.ring()

    def expired(self, node: NodeId) -> None:
        """A node was silent for too long."""
        line = self._sessions.get(node)
        self._end(node, _replaced(SessionId("") if line is None else line.session))

    def ask(self, node: NodeId, request: LogRequest) -> None:
        """Send a log request through a node's session; without one it is not sent."""
        line = self._sessions.get(node)
        if line is not None:
            line.log_requests.append(request)
            line.bell.ring()

    def ask_exec(self, node: NodeId, request: ExecRequest) -> None:
        """Send a request about a conversation through a node's session; without one it is not sent."""
        line = self._sessions.get(node)
        if line is not None:
            line.exec_requests.append(request)
            line.bell.ring()

    def connected(self) -> set[NodeId]:
        """Return the nodes that can be asked something."""
        return set(self._sessions)

    # -- inside

    def _notice_task(self, event: Event) -> None:
        nodes = {
            thing.node_id for thing in (event.old, event.new) if isinstance(thing, Task) and thing.node_id is not None
        }
        for node in sorted(nodes):
            for bell, book in self._books.get(node, {}).items():
                if book.notice(event):
                    bell.ring()

    def _notice_volume(self, event: Event) -> None:
        for books in self._books.values():
            for bell, book in books.items():
                if book.notice_volume(event):
                    bell.ring()

    def _end(self, node: NodeId, why: SwarmError) -> None:
        """End what the node's session so far had open."""
        line = self._sessions.pop(node, None)
        if line is not None:
            line.bell.break_(why)
            self._term.left(node)
        for bell in self._books.pop(node, {}):
            bell.break_(why)

    def _managers(self) -> tuple[ManagerPeer, ...]:
        status = self._term.leadership.status
        members = () if status is None else status.members
        return tuple(
            ManagerPeer(node_id=member.node_id, addr=member.remote_addr, certificate=member.certificate)
            for member in sorted(members, key=lambda member: member.node_id)
            if member.remote_addr
        )

    def _roots(self) -> bytes:
        cluster = self._term.state.cluster
        return b"" if cluster is None else cluster.root_ca.ca_cert


def _replaced(session: SessionId) -> InvalidArgument:
    problem = Problem(path="session_id", reason="session invalid", value=session, hint="register again")
    return InvalidArgument.of((problem,))


async def _numeric(host: str, seen: str) -> str:
    """Return a node's address in numbers, which is what data planes connect to; what it is seen under when its name is not known."""
    if not host or is_address(host):
        return host or seen
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, TimeoutError):
        return seen or host
    return str(found[0][4][0])


def _host(addr: str) -> str:
    """Return the host that a caller came from; a local socket has none."""
    return "" if addr.startswith("uid:") else addr
