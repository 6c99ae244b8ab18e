"""A control API to test clients with: the real state of the store behind it, a small hand that runs tasks, and faults on demand.

Not the dispatcher: it validates with the model's rules and starts tasks in one step.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from services.client.blocking import LoopThread
from services.kit.bus.api import Bus, Context, Listener
from services.kit.bus.rpc import Table as Methods
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound, SwarmError
from services.kit.messages import control, logs
from services.kit.messages.method import Call, Empty
from services.kit.model.ids import ClusterId, NodeId, ServiceId, TaskId, spec_version_id
from services.kit.model.objects import (
    Cluster,
    Endpoint,
    JoinTokens,
    ManagerStatus,
    Node,
    NodeDescription,
    NodeStatus,
    Object,
    RootCa,
    Service,
    SpecVersion,
    Task,
    TaskStatus,
)
from services.kit.model.specs import Global, Replicated
from services.kit.model.states import NodeState, Reachability, Role, TaskState
from services.kit.model.validate import service_problems
from services.kit.model.value import Value
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SeededIds
from services.kit.state.state import State
from services.kit.state.transaction import Change, Op, Transaction, create, remove, update
from tests.support.control_networks import Networks
from tests.support.control_payloads import Payloads

ObjectT = TypeVar("ObjectT", bound=Object)
RequestT = TypeVar("RequestT", bound=Value)
ReplyT = TypeVar("ReplyT", bound=Value)
ResultT = TypeVar("ResultT")
AT = 1_700_000_000.0


class ControlServer:
    """Answers every control method. Change its attributes to script it."""

    def __init__(self) -> None:
        self.state = State()
        self.ids = SeededIds(7)
        self.runs_tasks = True
        """Bring every service's tasks to RUNNING as soon as its spec changes."""
        self.calls: Counter[str] = Counter()
        self.refuse_before: dict[str, deque[SwarmError]] = {}
        """Errors to answer with instead of doing a call, by method name."""
        self.refuse_after: dict[str, deque[SwarmError]] = {}
        """Errors to answer with after a call was done."""
        self.before: dict[str, Callable[[], None]] = {}
        """What to do, once, before a call is answered, by method name."""
        self.log_batches: list[logs.LogBatch] = []
        self._requests: dict[str, ServiceId] = {}
        self._sequence = 0
        self._history: list[tuple[int, tuple[Change, ...]]] = []
        self._watchers: set[asyncio.Queue[tuple[int, tuple[Change, ...]]]] = set()
        self.node = NodeId(self.ids.new("node"))
        self.commit(
            create(
                Cluster(
                    id=ClusterId(self.ids.new("cluster")),
                    root_ca=RootCa(digest="d1g35t", join_tokens=JoinTokens(worker="SWMTKN-1-w", manager="SWMTKN-1-m")),
                )
            ),
            create(self._node(self.node, "alpha", Role.MANAGER)),
            create(self._node(NodeId(self.ids.new("node")), "beta", Role.WORKER)),
        )

    def _node(self, node_id: NodeId, hostname: str, role: Role) -> Node:
        return Node(
            id=node_id,
            description=NodeDescription(hostname=hostname, drivers=("process",)),
            status=NodeStatus(state=NodeState.READY, addr="127.0.0.1"),
            role=role,
            manager_status=ManagerStatus(leader=True, reachability=Reachability.REACHABLE)
            if role is Role.MANAGER
            else None,
        )

    def methods(self) -> Methods:
        """Return what a listener answers."""
        table = Methods(trusted=True)
        self.answer(table, control.GET_CLUSTER, self._get_cluster)
        self.answer(table, control.UPDATE_CLUSTER, self._update_cluster)
        self.answer(table, control.LIST_NODES, self._list_nodes)
        self.answer(table, control.GET_NODE, self._get_node)
        self.answer(table, control.UPDATE_NODE, self._update_node)
        self.answer(table, control.REMOVE_NODE, self._remove_node)
        self.answer(table, control.LIST_SERVICES, self._list_services)
        self.answer(table, control.GET_SERVICE, self._get_service)
        self.answer(table, control.CREATE_SERVICE, self._create_service)
        self.answer(table, control.UPDATE_SERVICE, self._update_service)
        self.answer(table, control.REMOVE_SERVICE, self._remove_service)
        self.answer(table, control.SERVICE_STATUSES, self._statuses)
        self.answer(table, control.LIST_TASKS, self._list_tasks)
        self.answer(table, control.GET_TASK, self._get_task)
        self.answer(table, control.REMOVE_TASK, self._remove_task)
        self.answer(table, control.VERSION, self._version)
        Payloads(self).answer(table)
        Networks(self).answer(table)
        table.on_feed(control.WATCH, self._watch)
        table.on_feed(logs.SUBSCRIBE, self._logs)
        return table

    async def listen(self, bus: Bus, path: str) -> Listener:
        """Listen on a control socket."""
        return await bus.listen_local(path, self.methods())

    # -- the hand that runs tasks

    def commit(self, *ops: Op) -> int:
        """Apply a transaction and tell the watchers; a conflict is a mistake of the test."""
        self._sequence += 1
        transaction = Transaction(client="server", sequence=self._sequence, at=AT + self._sequence, ops=ops)
        result, changes = self.state.apply(transaction)
        if result.conflict is not None:
            raise Conflict(result.conflict.message)
        self._history.append((result.version, changes))
        for queue in self._watchers:
            queue.put_nowait((result.version, changes))
        return result.version

    def set_task(self, task: Task, state: TaskState, *, error: str = "", message: str = "") -> None:
        """Move a task to an observed state."""
        now = self.state.tasks[task.id]
        status = replace(now.status, state=state, error=error, message=message, timestamp=AT)
        self.commit(update(replace(now, status=status)))

    def add_task(self, service: Service, slot: int, state: TaskState, *, error: str = "", message: str = "") -> Task:
        """Add a task of a service's present version."""
        service = self.state.services[service.id]
        nodes = sorted(self.state.nodes)
        self.ensure_spec(service)
        task = Task(
            id=TaskId(self.ids.new("task")),
            service_id=service.id,
            spec_version=service.spec_version,
            slot=slot,
            node_id=nodes[slot % len(nodes)] if state >= TaskState.ASSIGNED else None,
            status=TaskStatus(state=state, timestamp=AT, error=error, message=message),
        )
        self.commit(create(task))
        return self.state.tasks[task.id]

    def ensure_spec(self, service: Service) -> None:
        """Keep the present version of a service's template."""
        if self.state.spec(service.id, service.spec_version) is None:
            spec = SpecVersion(
                id=spec_version_id(service.id, service.spec_version),
                service_id=service.id,
                version=service.spec_version,
                annotations=service.spec.annotations,
                task=service.spec.task,
                endpoint=service.spec.endpoint,
            )
            self.commit(create(spec))

    def run(self, service_id: ServiceId) -> None:
        """Make a service's tasks what its spec says."""
        service = self.state.services[service_id]
        mode = service.spec.mode
        wanted = (
            mode.replicas if isinstance(mode, Replicated) else len(self.state.nodes) if isinstance(mode, Global) else 0
        )
        old = list(self.state.tasks_of_service(service_id).values())
        for task in old:
            spec = self.state.spec(task.service_id, task.spec_version)
            assert spec is not None
            if task.slot > wanted or spec.task != service.spec.task:
                self.commit(remove(self.state.tasks[task.id]))
        slots = {task.slot for task in self.state.tasks_of_service(service_id).values()}
        for slot in range(1, wanted + 1):
            if slot not in slots:
                self.add_task(service, slot, TaskState.RUNNING)

    # -- handlers

    def answer(
        self, table: Methods, method: Call[RequestT, ReplyT], handler: Callable[[Context, RequestT], ReplyT]
    ) -> None:
        """Answer a method by a handler, with the faults that were asked for."""

        async def run(context: Context, request: RequestT) -> ReplyT:
            self.calls[method.name] += 1
            before, after = self.refuse_before.get(method.name), self.refuse_after.get(method.name)
            if before:
                raise before.popleft()
            self.before.pop(method.name, lambda: None)()
            reply = handler(context, request)
            if after:
                raise after.popleft()
            return reply

        table.on_call(method, run)

    def _find(self, kind: str, objects: dict[str, ObjectT], ref: str, names: dict[str, str]) -> ObjectT:
        if ref in objects:
            return objects[ref]
        if ref in names:
            return objects[names[ref]]
        near = [object_id for object_id in objects if ref and object_id.startswith(ref)]
        if len(near) > 1:
            raise InvalidArgument(f"{ref!r} is the beginning of several ids")
        if not near:
            raise NotFound(f"there is no {kind} {ref!r}")
        return objects[near[0]]

    def _service(self, ref: str) -> Service:
        services = {str(key): value for key, value in self.state.services.items()}
        names = {service.spec.annotations.name: service.id for service in services.values()}
        return self._find("service", services, ref, {name: str(key) for name, key in names.items()})

    def _node_of(self, ref: str) -> Node:
        nodes = {str(key): value for key, value in self.state.nodes.items()}
        return self._find("node", nodes, ref, {node.description.hostname: str(node.id) for node in nodes.values()})

    def _cluster(self) -> Cluster:
        assert self.state.cluster is not None
        return self.state.cluster

    def _get_cluster(self, context: Context, request: control.GetRequest) -> control.ClusterReply:
        if request.ref not in {"default", self._cluster().id}:
            raise NotFound(f"there is no cluster {request.ref!r}")
        return control.ClusterReply(cluster=self._cluster())

    def _update_cluster(self, context: Context, request: control.UpdateClusterRequest) -> control.ClusterReply:
        cluster = replace(self._cluster(), spec=request.spec)
        tokens = cluster.root_ca.join_tokens
        tokens = replace(
            tokens,
            worker=tokens.worker + "-new" if request.rotate_worker_token else tokens.worker,
            manager=tokens.manager + "-new" if request.rotate_manager_token else tokens.manager,
        )
        cluster = replace(cluster, root_ca=replace(cluster.root_ca, join_tokens=tokens))
        self.commit(update(cluster, base=request.version))
        return control.ClusterReply(cluster=self._cluster())

    def _list_nodes(self, context: Context, request: control.ListRequest) -> control.NodeList:
        return control.NodeList(nodes=tuple(sorted(self.state.nodes.values(), key=lambda n: n.description.hostname)))

    def _get_node(self, context: Context, request: control.GetRequest) -> control.NodeReply:
        return control.NodeReply(node=self._node_of(request.ref))

    def _update_node(self, context: Context, request: control.UpdateNodeRequest) -> control.NodeReply:
        node = replace(self._node_of(request.node_id), spec=request.spec)
        self.commit(update(node, base=request.version))
        return control.NodeReply(node=self._node_of(request.node_id))

    def _remove_node(self, context: Context, request: control.RemoveNodeRequest) -> Empty:
        node = self._node_of(request.node_id)
        if node.status.state is NodeState.READY and not request.force:
            raise FailedPrecondition(f"node {node.description.hostname} is ready: drain and stop it, or force")
        self.commit(remove(node))
        return Empty()

    def _list_services(self, context: Context, request: control.ListRequest) -> control.ServiceList:
        wanted = request.filters.labels
        services = [s for s in self.state.services.values() if _labelled(wanted, s.spec.annotations.labels)]
        return control.ServiceList(services=tuple(sorted(services, key=lambda s: s.spec.annotations.name)))

    def _get_service(self, context: Context, request: control.GetRequest) -> control.ServiceReply:
        return control.ServiceReply(service=self._service(request.ref))

    def _create_service(self, context: Context, request: control.CreateServiceRequest) -> control.ServiceReply:
        known = self._requests.get(request.request_id)
        if known is not None:
            return control.ServiceReply(service=self.state.services[known])
        problems = service_problems(request.spec)
        if problems:
            raise InvalidArgument.of(problems)
        if self.state.service_named(request.spec.annotations.name) is not None:
            raise AlreadyExists(f"the service name {request.spec.annotations.name!r} is taken")
        service_id = ServiceId(self.ids.new("service"))
        endpoint = Endpoint(spec=request.spec.endpoint, ports=request.spec.endpoint.ports)
        self.commit(create(Service(id=service_id, spec=request.spec, endpoint=endpoint)))
        self._requests[request.request_id] = service_id
        if self.runs_tasks:
            self.run(service_id)
        return control.ServiceReply(service=self.state.services[service_id])

    def _update_service(self, context: Context, request: control.UpdateServiceRequest) -> control.ServiceReply:
        old = self._service(request.service_id)
        spec = old.previous_spec if request.rollback else request.spec
        if spec is None:
            raise FailedPrecondition(f"service {old.spec.annotations.name!r} has no previous spec")
        problems = service_problems(spec)
        if problems:
            raise InvalidArgument.of(problems)
        endpoint = Endpoint(spec=spec.endpoint, ports=spec.endpoint.ports)
        new = replace(
            old,
            spec=spec,
            spec_version=old.spec_version + 1,
            previous_spec=old.spec,
            update_status=None,
            endpoint=endpoint,
        )
        self.commit(update(new, base=request.version))
        if self.runs_tasks:
            self.run(old.id)
        return control.ServiceReply(service=self.state.services[old.id])

    def _remove_service(self, context: Context, request: control.RemoveServiceRequest) -> Empty:
        service = self._service(request.service_id)
        tasks = tuple(remove(task) for task in self.state.tasks_of_service(service.id).values())
        self.commit(*tasks, remove(service))
        return Empty()

    def _statuses(self, context: Context, request: control.StatusesRequest) -> control.StatusesReply:
        statuses = []
        for service_id in request.service_ids or tuple(self.state.services):
            mode = self.state.services[service_id].spec.mode
            tasks = self.state.tasks_of_service(service_id).values()
            running = sum(task.status.state == TaskState.RUNNING for task in tasks)
            desired = mode.replicas if isinstance(mode, Replicated) else len(tasks)
            statuses.append(control.ServiceStatus(service_id=service_id, desired=desired, running=running))
        return control.StatusesReply(statuses=tuple(statuses))

    def _list_tasks(self, context: Context, request: control.ListRequest) -> control.TaskList:
        filters = request.filters
        tasks = tuple(
            task
            for task in self.state.tasks.values()
            if (not filters.service_ids or task.service_id in filters.service_ids)
            and (not filters.node_ids or task.node_id in filters.node_ids)
        )
        found = (self.state.spec(task.service_id, task.spec_version) for task in tasks)
        specs = {spec.id: spec for spec in found if spec is not None}
        return control.TaskList(tasks=tasks, specs=tuple(specs.values()))

    def _get_task(self, context: Context, request: control.GetRequest) -> control.TaskReply:
        tasks = {str(key): value for key, value in self.state.tasks.items()}
        task = self._find("task", tasks, request.ref, {})
        return control.TaskReply(task=task, spec=self.state.spec(task.service_id, task.spec_version))

    def _remove_task(self, context: Context, request: control.RemoveTaskRequest) -> Empty:
        self.commit(remove(self.state.tasks[request.task_id]))
        return Empty()

    def _version(self, context: Context, request: Empty) -> control.VersionReply:
        return control.VersionReply(version="9.9.9", protocol=1, node_id=self.node)

    async def _watch(self, context: Context, request: control.WatchObjects) -> AsyncIterator[control.ObjectEvents]:
        self.calls["control.watch"] += 1
        queue: asyncio.Queue[tuple[int, tuple[Change, ...]]] = asyncio.Queue()
        for version, changes in self._history:
            if 0 < request.version < version:
                queue.put_nowait((version, changes))
        self._watchers.add(queue)
        try:
            yield control.ObjectEvents(version=request.version or self.state.version)
            while True:
                version, changes = await queue.get()
                yield control.ObjectEvents(
                    version=version,
                    events=tuple(
                        control.ObjectEvent(action=change.action, table=change.table, object=change.object)
                        for change in changes
                        if not request.tables or change.table in request.tables
                    ),
                )
        finally:
            self._watchers.discard(queue)

    async def _logs(self, context: Context, request: logs.SubscribeLogs) -> AsyncIterator[logs.LogBatch]:
        self.calls["logs.subscribe"] += 1
        for batch in self.log_batches:
            yield batch


def _labelled(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return all(key in labels and value in {"", labels[key]} for key, value in wanted.items())


class ServedSocket:
    """A control server on a real Unix socket, on a thread of its own, for clients that bring their own event loop."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.server = ControlServer()
        self._thread = LoopThread()
        self._bus = self._thread.run(self._open())

    async def _open(self) -> ZmqBus:
        bus = ZmqBus(clock=SystemClock(), process="gateway")
        await self.server.listen(bus, self.path)
        return bus

    def call(self, act: Callable[[ControlServer], ResultT]) -> ResultT:
        """Change the server's state from the test's own thread."""

        async def run() -> ResultT:
            return act(self.server)

        return self._thread.run(run())

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._thread.run(self._bus.close())
        self._thread.close()
