"""An agent to test with: over the in-memory bus, against a dispatcher that does what the test says.

async with one_agent(tmp_path) as (agent, dispatcher):
    dispatcher.assign(make_task("a" * 25), specs=(make_spec(...),))
    await dispatcher.saw("a" * 25, TaskState.RUNNING)
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from services.agent.config import AgentSettings
from services.agent.shell.app import AgentApp
from services.kit.bus.api import Caller, Context, Listener
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.bus.rpc import Table
from services.kit.errors import InvalidArgument, SwarmError
from services.kit.lifecycle.app import Runtime
from services.kit.messages import exec as exec_messages
from services.kit.messages import logs, session
from services.kit.messages.exec import Act, ExecInput, ExecOutput, ExecRequest, TerminalSize
from services.kit.messages.logs import LogLine, LogRequest, PublishLogs
from services.kit.messages.method import MANAGER, WORKER, Empty
from services.kit.messages.session import AssignedTask, Assignments, SessionMessage
from services.kit.messages.supervise import Facts, NodeReport
from services.kit.model.ids import (
    ClusterId,
    ConversationId,
    NodeId,
    ServiceId,
    SessionId,
    SpecVersionId,
    TaskId,
    spec_version_id,
)
from services.kit.model.objects import Config, ManagerPeer, Node, NodeDescription, Secret, SpecVersion, Task, TaskStatus
from services.kit.model.specs import Annotations, ContainerSpec, EndpointSpec, TaskSpec
from services.kit.model.states import LogStream, Role, TaskState
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import Clock, SystemClock
from services.kit.runtime.ids import SeededIds
from services.kit.runtime.tasks import TaskOwner
from tests.support.running import eventually

NODE = NodeId("n" * 25)
CLUSTER = ClusterId("c" * 25)
SERVICE = ServiceId("s" * 25)
MANAGER_HOST, MANAGER_PORT = "manager", 4242


def task_id(number: int) -> TaskId:
    """Return the id of a test's nth task."""
    return TaskId(f"t{number:024}")


def make_spec(
    driver: str = "fake",
    *,
    version: int = 1,
    container: ContainerSpec = ContainerSpec(),
    endpoint: EndpointSpec = EndpointSpec(),
    name: str = "web",
    labels: dict[str, str] | None = None,
    task: TaskSpec | None = None,
    **options: str,
) -> SpecVersion:
    """Return a template whose driver options are the keyword arguments."""
    return SpecVersion(
        id=SpecVersionId(spec_version_id(SERVICE, version)),
        service_id=SERVICE,
        version=version,
        annotations=Annotations(name=name, labels=labels or {}),
        task=task or TaskSpec(driver=driver, driver_options=options, container=container),
        endpoint=endpoint,
    )


def make_task(
    number: int = 1, *, version: int = 1, desired: TaskState = TaskState.RUNNING, state: TaskState = TaskState.ASSIGNED
) -> Task:
    """Return a task of that template."""
    return Task(
        id=task_id(number),
        service_id=SERVICE,
        spec_version=version,
        slot=number,
        node_id=NODE,
        desired_state=desired,
        status=TaskStatus(state=state),
    )


class StubNode:
    """A supervisor's line that remembers what was reported."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.ready = asyncio.Event()
        self.managers: list[tuple[ManagerPeer, ...]] = []
        self.nodes: list[NodeReport] = []
        self._changed = Changes()
        self._heard = Changes()

    def change(self, facts: Facts) -> None:
        """Have new facts."""
        self.facts = facts
        self._changed.announce()

    async def changes(self) -> AsyncIterator[Facts]:
        """Yield the facts when they change."""
        while True:
            await self._changed.wait()
            yield self.facts
            self._heard.announce()

    async def heard(self) -> None:
        """Wait until the present facts were taken in."""
        await self._heard.wait()

    async def report_lock(self, unlock_key: bytes) -> None:
        """Nobody listens."""

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Remember."""
        self.managers.append(managers)

    async def report_node(self, report: NodeReport) -> None:
        """Remember."""
        self.nodes.append(report)

    async def report_ready(self) -> None:
        """Remember."""
        self.ready.set()


class ScriptedDispatcher:
    """Answers agents as the test says, and remembers what they said."""

    def __init__(self, peer: ManagerPeer) -> None:
        self.peer = peer
        self.registrations: list[session.SessionRequest] = []
        self.beats = 0
        self.period_s = 5.0
        self.refuse_registration: SwarmError | None = None
        self.refuse_statuses: SwarmError | None = None
        self.batches: list[session.UpdateTaskStatus] = []
        self.history: dict[TaskId, list[TaskStatus]] = {}
        self.lines: list[LogLine] = []
        self.publications: list[PublishLogs] = []
        self.hold_logs = asyncio.Event()
        self.hold_logs.set()
        self.assignment_streams = 0
        self.said: dict[ConversationId, list[ExecOutput]] = {}
        self.hold_output = asyncio.Event()
        self.hold_output.set()
        self._inputs: dict[ConversationId, asyncio.Queue[ExecInput | None]] = {}
        self._input_numbers = itertools.count(1)
        self._session = SessionId("")
        self._tasks: dict[TaskId, Task] = {}
        self._specs: dict[SpecVersionId, SpecVersion] = {}
        self._secrets: dict[str, Secret] = {}
        self._configs: dict[str, Config] = {}
        self._sequence = 0
        self._streams: list[asyncio.Queue[Assignments | None]] = []
        self._sessions: list[asyncio.Queue[SessionMessage | None]] = []

    def table(self) -> Table:
        """Return its handlers."""
        table = Table()
        table.on_feed(session.SESSION, self._register)
        table.on_call(session.HEARTBEAT, self._beat)
        table.on_feed(session.ASSIGNMENTS, self._assignments)
        table.on_call(session.UPDATE_STATUS, self._update)
        table.on_call(logs.PUBLISH, self._publish)
        table.on_feed(exec_messages.SERVE, self._serve_exec)
        table.on_call(exec_messages.PUBLISH, self._publish_exec)
        return table

    # -- what the test says --

    def assign(
        self,
        *tasks: Task,
        specs: tuple[SpecVersion, ...] = (),
        removed: tuple[TaskId, ...] = (),
        secrets: tuple[Secret, ...] = (),
        configs: tuple[Config, ...] = (),
    ) -> None:
        """Assign, change and remove tasks."""
        self._tasks.update({task.id: task for task in tasks})
        self._specs.update({spec.id: spec for spec in specs})
        self._secrets.update({secret.id: secret for secret in secrets})
        self._configs.update({config.id: config for config in configs})
        for gone in removed:
            self._tasks.pop(gone, None)
        self._sequence += 1
        message = Assignments(
            full=False,
            applies_to=self._sequence - 1,
            results_in=self._sequence,
            tasks=tuple(AssignedTask(task=task) for task in tasks),
            removed_tasks=removed,
            specs=specs,
            secrets=secrets,
            configs=configs,
        )
        self.send(message)

    def send(self, message: Assignments) -> None:
        """Send any message down the assignments streams."""
        for stream in self._streams:
            stream.put_nowait(message)

    def skip(self) -> None:
        """Lose one message."""
        self._sequence += 1

    def say(self, message: SessionMessage) -> None:
        """Send a further session message; the session's id is filled in."""
        for stream in self._sessions:
            stream.put_nowait(msgspec.structs.replace(message, session_id=self._session))

    def ask_logs(self, request: LogRequest) -> None:
        """Ask for logs."""
        self.say(SessionMessage(session_id=self._session, log_requests=(request,)))

    def go_inside(self, task: TaskId, act: Act) -> ConversationId:
        """Begin a conversation with a task."""
        conversation = ConversationId(f"conversation-{len(self.said)}")
        self.said[conversation] = []
        self._inputs[conversation] = asyncio.Queue()
        request = ExecRequest(conversation_id=conversation, task_id=task, act=act)
        self.say(SessionMessage(session_id=self._session, exec_requests=(request,)))
        return conversation

    def leave(self, conversation: ConversationId, task: TaskId, act: Act) -> None:
        """End a conversation as a user does who goes away."""
        request = ExecRequest(conversation_id=conversation, task_id=task, act=act, closed=True)
        self.say(SessionMessage(session_id=self._session, exec_requests=(request,)))

    def tell(
        self, conversation: ConversationId, data: bytes = b"", *, ended: bool = False, size: TerminalSize | None = None
    ) -> None:
        """Give a conversation input."""
        sequence = next(self._input_numbers)
        self._inputs[conversation].put_nowait(
            ExecInput(conversation_id=conversation, sequence=sequence, data=data, ended=ended, size=size)
        )

    def heard(self, conversation: ConversationId, stream: LogStream = LogStream.STDOUT) -> bytes:
        """Return what a conversation has said on one stream."""
        pieces = (piece for output in self.said[conversation] for piece in output.pieces)
        return b"".join(piece.data for piece in pieces if piece.stream is stream)

    async def ended(self, conversation: ConversationId) -> ExecOutput:
        """Wait for a conversation's end and return its last word."""
        await eventually(lambda: any(output.done for output in self.said[conversation]))
        assert self.said[conversation][-1].done, "nothing comes after the end"
        return self.said[conversation][-1]

    def drop_session(self) -> None:
        """End the session stream."""
        self._session = SessionId("")
        for stream in self._sessions:
            stream.put_nowait(None)

    # -- what the test waits for --

    def state(self, task: TaskId) -> TaskState:
        """Return the newest reported state of a task."""
        history = self.history.get(task)
        return history[-1].state if history else TaskState.NEW

    def status(self, task: TaskId) -> TaskStatus:
        """Return the newest reported status of a task."""
        return self.history[task][-1]

    async def saw(self, task: TaskId, state: TaskState) -> TaskStatus:
        """Wait until a task was reported in a state, and return that report."""
        await eventually(lambda: any(status.state is state for status in self.history.get(task, ())))
        return next(status for status in self.history[task] if status.state is state)

    # -- handlers --

    async def _register(self, context: Context, request: session.SessionRequest) -> AsyncIterator[SessionMessage]:
        if self.refuse_registration is not None:
            raise self.refuse_registration
        self.registrations.append(request)
        if not self._session or request.session_id != self._session:
            self._session = SessionId(f"session-{len(self.registrations)}")
        stream: asyncio.Queue[SessionMessage | None] = asyncio.Queue()
        self._sessions.append(stream)
        try:
            yield SessionMessage(
                session_id=self._session, node=Node(id=NodeId(context.caller.node_id)), managers=(self.peer,)
            )
            while (message := await stream.get()) is not None:
                yield message
        finally:
            self._sessions.remove(stream)

    async def _beat(self, context: Context, request: session.Heartbeat) -> session.HeartbeatReply:
        if request.session_id != self._session:
            raise InvalidArgument("session invalid")
        self.beats += 1
        return session.HeartbeatReply(period_s=self.period_s)

    async def _assignments(self, context: Context, request: session.AssignmentsRequest) -> AsyncIterator[Assignments]:
        self.assignment_streams += 1
        stream: asyncio.Queue[Assignments | None] = asyncio.Queue()
        self._streams.append(stream)
        try:
            yield Assignments(
                full=True,
                applies_to=0,
                results_in=self._sequence,
                tasks=tuple(AssignedTask(task=task) for task in self._tasks.values()),
                specs=tuple(self._specs.values()),
                secrets=tuple(self._secrets.values()),
                configs=tuple(self._configs.values()),
            )
            while (message := await stream.get()) is not None:
                yield message
        finally:
            self._streams.remove(stream)

    async def _update(self, context: Context, request: session.UpdateTaskStatus) -> Empty:
        if self.refuse_statuses is not None:
            raise self.refuse_statuses
        self.batches.append(request)
        for update in request.updates:
            self.history.setdefault(update.task_id, []).append(update.status)
        return Empty()

    async def _publish(self, context: Context, request: PublishLogs) -> Empty:
        await self.hold_logs.wait()
        self.publications.append(request)
        self.lines.extend(request.lines)
        return Empty()

    async def _serve_exec(self, context: Context, request: exec_messages.ServeExec) -> AsyncIterator[ExecInput]:
        inputs = self._inputs[request.conversation_id]
        while (item := await inputs.get()) is not None:
            yield item

    async def _publish_exec(self, context: Context, request: ExecOutput) -> Empty:
        await self.hold_output.wait()
        self.said[request.conversation_id].append(request)
        return Empty()


class World:
    """A network with one manager, on which agents come and go."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.clock: Clock = SystemClock()
        self.network = MemoryNetwork()
        self.peer = ManagerPeer(
            node_id=NodeId("m" * 25), addr=f"{MANAGER_HOST}:{MANAGER_PORT}", certificate=b"not looked at here"
        )
        self.dispatcher = ScriptedDispatcher(self.peer)
        self.node = StubNode(
            Facts(
                node_id=NODE,
                cluster_id=CLUSTER,
                role=Role.WORKER,
                certificates_dir=str(state_dir / "certificates"),
                remote_addr="127.0.0.1:5000",
                managers=(self.peer,),
            )
        )
        self._bus = MemoryBus(
            self.network, Caller(node_id=self.peer.node_id, role=MANAGER, cluster_id=CLUSTER), host=MANAGER_HOST
        )
        self._listener: Listener | None = None

    async def open(self) -> None:
        """Let the manager serve."""
        self._listener = await self._bus.listen_remote(MANAGER_HOST, MANAGER_PORT, self.dispatcher.table())

    async def shut(self) -> None:
        """Let the manager be gone."""
        if self._listener is not None:
            await self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """End the manager."""
        await self.shut()
        await self._bus.close()

    @asynccontextmanager
    async def agent(self, **settings: Any) -> AsyncIterator[AgentApp]:
        """Run an agent; at the end it is stopped as its lifecycle would."""
        bus = MemoryBus(self.network, Caller(node_id=NODE, role=WORKER, cluster_id=CLUSTER), host="worker")
        runtime = Runtime(
            process="agent", clock=self.clock, ids=SeededIds(1), rng=random.Random(1), bus=bus, node=self.node
        )
        given = {"drivers": ("fake",), "hostname": "worker-1", "state_dir": self.state_dir, **settings}
        app = AgentApp(AgentSettings(**given), runtime)
        async with TaskOwner("test") as owner:
            try:
                await app.start()
                serving = owner.spawn("serve", app.serve())
                yield app
                if serving.done():
                    serving.result()
                serving.cancel()
                await asyncio.wait({serving})
            finally:
                await app.stop()
                await bus.close()


@asynccontextmanager
async def one_world(state_dir: Path) -> AsyncIterator[World]:
    """Make a world with a manager that serves."""
    world = World(state_dir)
    await world.open()
    try:
        yield world
    finally:
        await world.close()


@asynccontextmanager
async def one_agent(state_dir: Path, **settings: Any) -> AsyncIterator[tuple[AgentApp, ScriptedDispatcher]]:
    """Make a world with one agent in it."""
    async with one_world(state_dir) as world, world.agent(**settings) as app:
        yield app, world.dispatcher


def described(dispatcher: ScriptedDispatcher) -> NodeDescription:
    """Return what the node said of itself last."""
    return dispatcher.registrations[-1].description
