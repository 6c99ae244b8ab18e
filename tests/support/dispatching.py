"""A dispatcher over an in-memory bus with a store of one member, and agents, gateways and users that talk to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from services.dispatcher.config import DispatcherSettings
from services.dispatcher.shell.app import DispatcherApp
from services.kit.bus.api import Caller, Connection, LocalAddress, Meta
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.errors import Unavailable
from services.kit.lifecycle.app import Runtime
from services.kit.messages import control, logs, routes, session
from services.kit.messages.method import Call
from services.kit.messages.supervise import Facts, NodeReport
from services.kit.model.ids import ClusterId, NodeId, ServiceId, SessionId, TaskId
from services.kit.model.objects import (
    Cluster,
    ManagerPeer,
    Node,
    NodeCertificate,
    NodeDescription,
    PortStatus,
    SpecVersion,
    Task,
    TaskStatus,
)
from services.kit.model.specs import Annotations, ClusterSpec, DispatcherConfig, Resources, ServiceSpec
from services.kit.model.states import NodeState, Role, TaskState
from services.kit.model.value import Value
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SeededIds
from services.kit.runtime.tasks import TaskOwner
from services.kit.state.transaction import Op, Transaction, create
from tests.support.one_member_store import OneMemberStore
from tests.support.running import eventually

RequestT = TypeVar("RequestT", bound=Value)
ReplyT = TypeVar("ReplyT", bound=Value)

_replace = msgspec.structs.replace


class StillNode:
    """A supervisor's line without a supervisor."""

    def __init__(self) -> None:
        self.facts = Facts(
            node_id=NodeId("manager"),
            cluster_id=ClusterId("c"),
            role=Role.MANAGER,
            certificates_dir="",
            identity_serial=1,
        )

    async def changes(self) -> AsyncIterator[Facts]:
        """Yield nothing, ever."""
        await asyncio.Event().wait()
        yield self.facts

    async def report_lock(self, unlock_key: bytes) -> None:
        """Nobody listens."""

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Nobody listens."""

    async def report_node(self, report: NodeReport) -> None:
        """Nobody listens."""

    async def report_ready(self) -> None:
        """Nobody listens."""


class Agent:
    """An agent that does at once what it is told; what it does can be watched and changed."""

    def __init__(self, house: House, name: str) -> None:
        self.house = house
        self.name = name
        self.session = SessionId("")
        self.messages: list[session.SessionMessage] = []
        self.assignments: list[session.Assignments] = []
        self.tasks: dict[TaskId, Task] = {}
        self.specs: dict[tuple[ServiceId, int], SpecVersion] = {}
        self.errors: list[Exception] = []
        self.obeys = True
        self.beats = True
        self.log_requests: list[logs.LogRequest] = []
        self._port = 20_000

    @property
    def meta(self) -> Meta:
        """The stamp of the gateway."""
        return Meta(caller=Caller(node_id=self.name, role="swarm-worker", cluster_id="c", addr="10.0.0.1"))

    async def run(self) -> None:
        """Register, follow assignments, beat, until the session ends."""
        description = NodeDescription(
            hostname=self.name, drivers=("fake",), resources=Resources(nano_cpus=8 * 10**9, memory_bytes=8 << 30)
        )
        request = session.SessionRequest(description=description, session_id=self.session)
        try:
            async with self.house.connection.open(session.SESSION, request, meta=self.meta) as messages:
                first = await anext(messages)
                self.messages.append(first)
                self.session = first.session_id
                async with TaskOwner(self.name) as owner:
                    owner.spawn("assignments", self._follow())
                    owner.spawn("beats", self._beat())
                    ended = owner.spawn("session", self._listen(messages))
                    failed = owner.spawn("failed", owner.failed())
                    await asyncio.wait((ended, failed), return_when=asyncio.FIRST_COMPLETED)
                    if ended.done():
                        ended.result()
                    raise failed.result() if failed.done() else AssertionError("the session's stream just ended")
        except Exception as error:  # noqa: BLE001 - tests look at it
            self.errors.append(error)

    async def _listen(self, messages: AsyncIterator[session.SessionMessage]) -> None:
        self.log_requests += self.messages[-1].log_requests
        async for message in messages:
            self.messages.append(message)
            self.log_requests += message.log_requests

    async def _beat(self) -> None:
        while True:
            if self.beats:
                reply = await self.call(session.HEARTBEAT, session.Heartbeat(session_id=self.session))
                period_s = reply.period_s
            else:
                period_s = 1.0
            await asyncio.sleep(period_s)

    async def _follow(self) -> None:
        request = session.AssignmentsRequest(session_id=self.session)
        async with self.house.connection.open(session.ASSIGNMENTS, request, meta=self.meta) as items:
            async for item in items:
                self._take(item)
                if self.obeys:
                    await self.obey()

    def _take(self, item: session.Assignments) -> None:
        assert item.applies_to == (self.assignments[-1].results_in if self.assignments and not item.full else 0)
        self.assignments.append(item)
        if item.full:
            self.tasks, self.specs = {}, {}
        self.specs |= {(spec.service_id, spec.version): spec for spec in item.specs}
        self.tasks |= {assigned.task.id: assigned.task for assigned in item.tasks}
        for task_id in item.removed_tasks:
            self.tasks.pop(task_id, None)
        for task in self.tasks.values():
            assert (task.service_id, task.spec_version) in self.specs, "a task came without its template"

    async def obey(self) -> None:
        """Report what becomes of every task."""
        updates = [
            session.StatusUpdate(task_id=task.id, status=status)
            for task in list(self.tasks.values())
            if (status := self._next(task)) is not None
        ]
        if updates:
            await self.report(*updates)

    async def report(self, *updates: session.StatusUpdate) -> None:
        """Report statuses."""
        await self.call(session.UPDATE_STATUS, session.UpdateTaskStatus(session_id=self.session, updates=updates))
        for each in updates:
            if each.task_id in self.tasks:
                self.tasks[each.task_id] = _replace(self.tasks[each.task_id], status=each.status)

    def _next(self, task: Task) -> TaskStatus | None:
        if task.status.state.terminal:
            return None
        if task.desired_state > TaskState.COMPLETE:
            return _replace(task.status, state=TaskState.SHUTDOWN)
        if task.desired_state is TaskState.READY:
            return _replace(task.status, state=TaskState.READY) if task.status.state < TaskState.READY else None
        if task.status.state < TaskState.RUNNING:
            self._port += 1
            ports = (PortStatus(target_port=80, port=self._port),)
            return _replace(task.status, state=TaskState.RUNNING, ports=ports)
        return None

    async def call(self, method: Call[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Call the dispatcher as this node."""
        return await self.house.connection.call(method, request, meta=self.meta)


class House:
    """A running dispatcher, its store, and a line to it as a gateway has."""

    def __init__(self, store: OneMemberStore, connection: Connection, tasks: TaskOwner) -> None:
        self.store = store
        self.connection = connection
        self.tasks = tasks
        self.agents: dict[str, Agent] = {}
        self._writes = 0

    @property
    def user(self) -> Meta:
        """The stamp of a user."""
        return Meta(caller=Caller(node_id="manager", role="swarm-manager", cluster_id="c", addr="uid:0"))

    def write(self, *ops: Op) -> None:
        """Write to the store beside the dispatcher, as the ca does."""
        self._writes += 1
        transaction = Transaction(client="test", sequence=self._writes, at=SystemClock().wall(), ops=ops)
        result, changes = self.store.state.apply(transaction)
        assert result.conflict is None, result
        self.store.record(changes)

    def add_node(self, name: str) -> None:
        """Let a node in."""
        certificate = NodeCertificate(public_key=name.encode().ljust(32), not_after=4e9)
        self.write(create(Node(id=NodeId(name), certificate=certificate)))

    async def start_agent(self, name: str) -> Agent:
        """Let a node in and start its agent; returns once it is ready."""
        if NodeId(name) not in self.store.state.nodes:
            self.add_node(name)
        agent = self.agents[name] = Agent(self, name)
        self.tasks.spawn(name, agent.run())
        await eventually(lambda: agent.assignments or agent.errors)
        return agent

    async def call(self, method: Call[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """Call the dispatcher as a user."""
        return await self.connection.call(method, request, meta=self.user)

    async def create(self, spec: ServiceSpec, request_id: str = "") -> control.ServiceReply:
        """Create a service."""
        return await self.call(control.CREATE_SERVICE, control.CreateServiceRequest(spec=spec, request_id=request_id))

    async def update(self, ref: str, change: Callable[[ServiceSpec], ServiceSpec]) -> control.ServiceReply:
        """Read a service and update it."""
        service = (await self.call(control.GET_SERVICE, control.GetRequest(ref=ref))).service
        request = control.UpdateServiceRequest(
            service_id=service.id, version=service.meta.version, spec=change(service.spec)
        )
        return await self.call(control.UPDATE_SERVICE, request)

    def running(self, name: str = "web") -> list[Task]:
        """Tasks of a service that run and are meant to."""
        service = self.store.state.service_named(name)
        tasks = () if service is None else self.store.state.tasks_of_service(service.id).values()
        return [t for t in tasks if t.status.state is TaskState.RUNNING and t.desired_state is TaskState.RUNNING]

    def node_state(self, name: str) -> NodeState:
        """What the store says of a node."""
        return self.store.state.nodes[NodeId(name)].status.state

    def watch_routes(self, *, confirms: bool = True) -> Routes:
        """Follow the route table, and confirm each epoch as a gateway does."""
        watcher = Routes(confirms)
        self.tasks.spawn("routes", watcher.follow(self))
        return watcher


class Routes:
    """A gateway's copy of the route table."""

    def __init__(self, confirms: bool) -> None:
        self.routes: dict[str, routes.Route] = {}
        self.epoch = -1
        self._confirms = confirms

    async def follow(self, house: House) -> None:
        """Take every change in."""
        async with house.connection.open(routes.WATCH, routes.WatchRoutes(), meta=house.user) as tables:
            async for table in tables:
                assert table.full or table.epoch == self.epoch + 1, "an epoch was left out"
                if table.full:
                    self.routes = {}
                self.epoch = table.epoch
                self.routes |= {f"{route.published_port}/{route.protocol}": route for route in table.routes}
                for key in table.removed:
                    del self.routes[key]
                if self._confirms:
                    await self.confirm(house)

    async def confirm(self, house: House, **connections: int) -> None:
        """Tell the dispatcher that its newest table is acted on."""
        ack = routes.AckRoutes(epoch=self.epoch, connections=connections)
        await house.connection.call(routes.ACK, ack, meta=house.user)

    def backends(self, port: int) -> Sequence[routes.Backend]:
        """Backends of a TCP port that take connections."""
        route = self.routes.get(f"{port}/tcp")
        return () if route is None else [backend for backend in route.backends if not backend.draining]


async def wait_for_leader(swarm: House) -> None:
    """Return once the dispatcher has opened its term."""

    async def leads() -> bool:
        try:
            await swarm.call(control.LIST_SERVICES, control.ListRequest())
        except Unavailable:
            return False
        return True

    for _ in range(1000):
        if await leads():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("no term was opened")


@asynccontextmanager
async def house(directory: Path, *, period_s: float = 5.0) -> AsyncIterator[House]:
    """Run a dispatcher that leads a cluster without nodes."""
    network = MemoryNetwork()
    bus = MemoryBus(network, process="dispatcher")
    settings = DispatcherSettings(state_dir=directory)
    store = OneMemberStore("manager")
    await store.open(bus, settings.socket("raft"))
    runtime = Runtime(
        process="dispatcher", clock=SystemClock(), ids=SeededIds(1), rng=random.Random(1), bus=bus, node=StillNode()
    )
    app = DispatcherApp(settings, runtime)
    client = MemoryBus(network, process="gateway")
    async with TaskOwner("test") as tasks:
        await app.start()
        serving = tasks.spawn("serve", app.serve())
        connection = await client.dial(LocalAddress(path=settings.socket("dispatcher")))
        made = House(store, connection, tasks)
        spec = ClusterSpec(
            annotations=Annotations(name="default"), dispatcher=DispatcherConfig(heartbeat_period_s=period_s)
        )
        made.write(create(Cluster(id=ClusterId("c"), spec=spec)))
        yield made
        assert not serving.done(), serving.exception()
        await app.stop()
    await client.close()
    await store.close()
    await bus.close()
