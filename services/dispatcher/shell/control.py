"""The control API's handlers: read at the right version, or judge, propose and judge again when others were faster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeVar

from services.dispatcher.core.control import cluster as clusters
from services.dispatcher.core.control import filters, nodes, refs, services, tasks
from services.dispatcher.core.control.answers import OTHERS_WERE_FASTER, Answer, refusal
from services.dispatcher.shell.backup import Backup
from services.dispatcher.shell.inquiry import Inquiry
from services.dispatcher.shell.networks import Networks
from services.dispatcher.shell.payloads import Payloads
from services.dispatcher.shell.reads import Reads
from services.dispatcher.shell.volumes import VolumeRequests
from services.dispatcher.shell.watches import Watches
from services.kit.bus.api import Caller, Context
from services.kit.bus.rpc import Table
from services.kit.errors import FailedPrecondition
from services.kit.lifecycle.app import Runtime
from services.kit.messages import control
from services.kit.messages.method import Empty
from services.kit.messages.store import RaftStatus
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Cluster, Node, Object, Service
from services.kit.state.state import State
from services.kit.state.tables import TABLE_OF
from services.kit.store.client import StoreClient

ATTEMPTS_MAX = 5
"""How often a request is judged again because others were faster."""

ThingT = TypeVar("ThingT", Cluster, Node, Service)


class Leader(Protocol):
    """What the handlers must know of leadership."""

    @property
    def raft(self) -> RaftStatus | None:
        """What raft said last."""

    def check_leading(self) -> None:
        """Raise Unavailable, naming the leader, unless this manager leads."""


class Control:
    """Answers users."""

    def __init__(
        self, runtime: Runtime, store: StoreClient, state: State, reads: Reads, watches: Watches, leader: Leader
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._state = state
        self._reads = reads
        self._watches = watches
        self._leader = leader

    def serve(self, table: Table) -> None:
        """Put the handlers into a table."""
        table.on_call(control.GET_CLUSTER, self._get_cluster)
        table.on_call(control.UPDATE_CLUSTER, self._update_cluster)
        table.on_call(control.LIST_NODES, self._list_nodes)
        table.on_call(control.GET_NODE, self._get_node)
        table.on_call(control.UPDATE_NODE, self._update_node)
        table.on_call(control.REMOVE_NODE, self._remove_node)
        table.on_call(control.LIST_SERVICES, self._list_services)
        table.on_call(control.GET_SERVICE, self._get_service)
        table.on_call(control.CREATE_SERVICE, self._create_service)
        table.on_call(control.UPDATE_SERVICE, self._update_service)
        table.on_call(control.REMOVE_SERVICE, self._remove_service)
        table.on_call(control.SERVICE_STATUSES, self._service_statuses)
        table.on_call(control.LIST_TASKS, self._list_tasks)
        table.on_call(control.GET_TASK, self._get_task)
        table.on_call(control.REMOVE_TASK, self._remove_task)
        table.on_feed(control.WATCH, self._watch)
        Payloads(self._runtime, self._state, self._readable, self._change).serve(table)
        VolumeRequests(self._runtime, self._state, self._readable, self._change).serve(table)
        Backup(self._runtime.clock, self._state, self._readable, self._change).serve(table)
        Networks(self._runtime, self._state, self._readable, self._change).serve(table)
        Inquiry(self._runtime.clock, self._state, self._readable, self._watches).serve(table)

    # -- reading

    async def _get_cluster(self, context: Context, request: control.GetRequest) -> control.ClusterReply:
        await self._readable(stale=request.stale)
        return control.ClusterReply(cluster=clusters.shown_cluster(refs.find_cluster(self._state, request.ref)))

    async def _list_nodes(self, context: Context, request: control.ListRequest) -> control.NodeList:
        await self._readable(stale=request.stale)
        found = filters.list_nodes(self._state, request.filters)
        return control.NodeList(nodes=tuple(nodes.shown_node(node, self._leader.raft) for node in found))

    async def _get_node(self, context: Context, request: control.GetRequest) -> control.NodeReply:
        await self._readable(stale=request.stale)
        node = refs.find_node(self._state, request.ref)
        return control.NodeReply(node=nodes.shown_node(node, self._leader.raft))

    async def _list_services(self, context: Context, request: control.ListRequest) -> control.ServiceList:
        await self._readable(stale=request.stale)
        return control.ServiceList(services=filters.list_services(self._state, request.filters))

    async def _get_service(self, context: Context, request: control.GetRequest) -> control.ServiceReply:
        await self._readable(stale=request.stale)
        return control.ServiceReply(service=refs.find_service(self._state, request.ref))

    async def _service_statuses(self, context: Context, request: control.StatusesRequest) -> control.StatusesReply:
        await self._readable(stale=request.stale)
        wanted = request.service_ids or tuple(self._state.services)
        found = (refs.find_service(self._state, service_id) for service_id in wanted)
        return control.StatusesReply(statuses=tuple(services.service_status(self._state, each) for each in found))

    async def _list_tasks(self, context: Context, request: control.ListRequest) -> control.TaskList:
        await self._readable(stale=request.stale)
        found, specs = filters.list_tasks(self._state, request.filters)
        return control.TaskList(tasks=found, specs=specs)

    async def _get_task(self, context: Context, request: control.GetRequest) -> control.TaskReply:
        await self._readable(stale=request.stale)
        task = refs.find_task(self._state, request.ref)
        return control.TaskReply(task=task, spec=self._state.spec(task.service_id, task.spec_version))

    async def _watch(self, context: Context, request: control.WatchObjects) -> AsyncIterator[control.ObjectEvents]:
        async for item in self._watches.watch(request):
            yield item

    async def _readable(self, *, stale: bool) -> None:
        if not stale:
            self._leader.check_leading()
            await self._reads.fresh()

    # -- writing

    async def _create_service(self, context: Context, request: control.CreateServiceRequest) -> control.ServiceReply:
        fresh_id = ServiceId(self._runtime.ids.new("service"))
        made = await self._change(context, lambda: services.create_service(self._state, request, fresh_id, self._now()))
        return control.ServiceReply(service=_as(Service, made))

    async def _update_service(self, context: Context, request: control.UpdateServiceRequest) -> control.ServiceReply:
        made = await self._change(context, lambda: services.update_service(self._state, request, self._now()))
        return control.ServiceReply(service=_as(Service, made))

    async def _remove_service(self, context: Context, request: control.RemoveServiceRequest) -> Empty:
        await self._change(context, lambda: services.remove_service(self._state, request))
        return Empty()

    async def _update_node(self, context: Context, request: control.UpdateNodeRequest) -> control.NodeReply:
        made = await self._change(context, lambda: nodes.update_node(self._state, request, self._leader.raft))
        return control.NodeReply(node=nodes.shown_node(_as(Node, made), self._leader.raft))

    async def _remove_node(self, context: Context, request: control.RemoveNodeRequest) -> Empty:
        await self._change(context, lambda: nodes.remove_node(self._state, request, self._leader.raft, self._now()))
        return Empty()

    async def _update_cluster(self, context: Context, request: control.UpdateClusterRequest) -> control.ClusterReply:
        made = await self._change(
            context, lambda: clusters.update_cluster(self._state, request, self._entropy, self._now())
        )
        return control.ClusterReply(cluster=clusters.shown_cluster(_as(Cluster, made)))

    async def _remove_task(self, context: Context, request: control.RemoveTaskRequest) -> Empty:
        await self._change(context, lambda: tasks.remove_task(self._state, request))
        return Empty()

    async def _change(self, context: Context, judge: Callable[[], Answer]) -> Object:
        """Make the writes that a request comes to and return its object as it is stored then."""
        for _ in range(ATTEMPTS_MAX):
            self._leader.check_leading()
            answer = judge()
            assert answer.thing is not None
            if not answer.ops:
                return answer.thing
            result = await self._store.propose(
                answer.ops, raise_conflict=False, actor=actor_of(context.caller), cause=context.method
            )
            await self._reads.reached(result.version)
            if result.conflict is None:
                stored = self._state.get(TABLE_OF[type(answer.thing)], answer.thing.id)
                return answer.thing if stored is None else stored
            if result.conflict.reason not in OTHERS_WERE_FASTER:
                raise refusal(result.conflict)
        raise FailedPrecondition("the object keeps changing: try again")

    def _entropy(self, size: int) -> bytes:
        return self._runtime.ids.secret("token", size)

    def _now(self) -> float:
        return self._runtime.clock.wall()


def actor_of(caller: Caller) -> str:
    """Return who asks, for the stream of events."""
    if caller.addr.startswith("uid:"):
        return f"user {caller.addr.removeprefix('uid:')} on {caller.node_id or 'this node'}"
    return f"{caller.role or 'somebody'} {caller.node_id}".strip() + (f" from {caller.addr}" if caller.addr else "")


def _as(kind: type[ThingT], thing: Object) -> ThingT:
    assert isinstance(thing, kind)
    return thing
