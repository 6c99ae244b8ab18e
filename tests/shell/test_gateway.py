"""The doors of managers and workers over an in-memory bus: who is let in, where requests go, and what happens when leaders change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from services.gateway.config import GatewaySettings
from services.gateway.core.rights import Door
from services.gateway.shell.doors import refuse_all
from services.gateway.shell.manager import ManagerHalf
from services.kit.bus.api import Caller, Connection, Context, LocalAddress, Meta, RemoteAddress
from services.kit.bus.door import knock
from services.kit.bus.identity import ROOTS_FILE
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.bus.ports import HostPort
from services.kit.bus.rpc import Table
from services.kit.errors import (
    DeadlineExceeded,
    Details,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    SwarmError,
    Unauthenticated,
    Unavailable,
)
from services.kit.lifecycle.app import Runtime
from services.kit.messages import control, identity, session
from services.kit.messages.method import MANAGER, WORKER, Call, Empty
from services.kit.messages.supervise import Facts, NodeReport
from services.kit.model.ids import ClusterId, NodeId, ServiceId, SessionId
from services.kit.model.objects import ManagerPeer, NodeDescription
from services.kit.model.states import Role
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SeededIds
from tests.support.one_member_store import OneMemberStore
from tests.support.running import eventually, run_async

CLUSTER = "c" * 25
PORT = 4242


class StillNode:
    """A supervisor's line without a supervisor."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._changes = Changes()

    async def changes(self) -> AsyncIterator[Facts]:
        """Nothing changes here."""
        while True:
            await self._changes.wait()
            yield self.facts

    async def report_lock(self, unlock_key: bytes) -> None:
        """Nobody listens."""

    async def report_managers(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Nobody listens."""

    async def report_node(self, report: NodeReport) -> None:
        """Nobody listens."""

    async def report_ready(self) -> None:
        """Nobody listens."""


@dataclass
class Desk:
    """What the dispatcher and the ca of one manager do and saw."""

    node_id: str
    leader: ManagerPeer | None = None
    """None: this one leads."""
    seen: list[Context] = field(default_factory=list)
    hold: asyncio.Event | None = None
    feeds_closed: int = 0

    def enter(self, context: Context) -> None:
        """Take note, and refuse what only the leader can do."""
        self.seen.append(context)
        if self.leader is not None:
            details = Details(leader=self.leader.node_id, leader_addr=self.leader.addr)
            raise Unavailable(f"{self.leader.node_id} leads", details if self.leader.node_id else Details())

    async def remove_service(self, context: Context, request: control.RemoveServiceRequest) -> Empty:
        """Remove anything but a service called ``missing``."""
        self.enter(context)
        if self.hold is not None:
            await self.hold.wait()
        if request.service_id == "missing":
            raise NotFound("no such service")
        return Empty()

    async def beat(self, context: Context, request: session.Heartbeat) -> session.HeartbeatReply:
        """Answer a heartbeat."""
        self.enter(context)
        return session.HeartbeatReply(period_s=5.0)

    async def open_session(
        self, context: Context, request: session.SessionRequest
    ) -> AsyncIterator[session.SessionMessage]:
        """Say two things and wait for ever."""
        self.enter(context)
        try:
            for number in range(2):
                yield session.SessionMessage(session_id=SessionId(str(number)))
            await asyncio.Event().wait()
        finally:
            self.feeds_closed += 1

    async def issue(self, context: Context, request: identity.IssueRequest) -> identity.Issued:
        """Certify the key that the caller was proven to have."""
        self.enter(context)
        return identity.Issued(
            node_id=NodeId("new"), cluster_id=ClusterId(CLUSTER), role=Role.WORKER,
            certificate=context.caller.public_key, roots=b"",
        )  # fmt: skip


class Manager:
    """One manager: its gateway's manager half, and a dispatcher, ca and raft that do as told."""

    def __init__(self, network: MemoryNetwork, directory: Path, number: int) -> None:
        self.node_id = f"m{number}"
        self.host = f"10.0.0.{number}"
        self.caller = Caller(
            node_id=self.node_id, role=MANAGER, cluster_id=CLUSTER, public_key=self.node_id.encode() * 16
        )
        self.peer = ManagerPeer(node_id=NodeId(self.node_id), addr=f"{self.host}:{PORT}", certificate=b"pem")
        certificates = directory / self.node_id
        certificates.mkdir()
        (certificates / ROOTS_FILE).write_bytes(b"the roots")
        self.facts = Facts(
            node_id=NodeId(self.node_id), cluster_id=ClusterId(CLUSTER), role=Role.MANAGER,
            certificates_dir=str(certificates), remote_addr=self.peer.addr,
        )  # fmt: skip
        self.settings = GatewaySettings(state_dir=directory, listen_remote_api=self.peer.addr)
        self.network = network
        self.desk = Desk(self.node_id)
        self.raft = OneMemberStore(self.node_id)
        self.bus = MemoryBus(network, self.caller, host=self.host)
        self.inner = MemoryBus(network, host=self.host)
        self.dispatcher = MemoryBus(network, host=self.host)
        self.half: ManagerHalf

    async def open(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Have everything up."""
        self.facts = msgspec.structs.replace(self.facts, managers=managers)
        await self.raft.open(self.inner, self.settings.socket("raft"))
        table = Table(trusted=True)
        table.on_call(identity.ISSUE, self.desk.issue)
        await self.inner.listen_local(self.settings.socket("ca"), table)
        await self.start_dispatcher()
        runtime = Runtime(
            process="gateway", clock=SystemClock(), ids=SeededIds(1), rng=random.Random(1), bus=self.bus,
            node=StillNode(self.facts),
        )  # fmt: skip
        self.half = ManagerHalf(self.settings, runtime)
        for_nodes, for_users = Table(), Table(trusted=True)
        self.half.admission(Door.REMOTE).fill(for_nodes)
        self.half.admission(Door.LOCAL).fill(for_users)
        await self.half.open(for_nodes)
        await self.bus.listen_local(self.settings.control_socket, for_users)

    async def start_dispatcher(self) -> None:
        """Let the dispatcher answer."""
        table = Table(trusted=True)
        table.on_call(control.REMOVE_SERVICE, self.desk.remove_service)
        table.on_call(session.HEARTBEAT, self.desk.beat)
        table.on_feed(session.SESSION, self.desk.open_session)
        self.dispatcher = MemoryBus(self.network, host=self.host)
        await self.dispatcher.listen_local(self.settings.socket("dispatcher"), table)

    def follow(self, leader: ManagerPeer | None) -> None:
        """Learn who leads, in every process."""
        self.desk.leader = leader
        self.raft.follow_leader(leader)

    async def user(self) -> Connection:
        """Return a connection to the control socket."""
        return await MemoryBus(self.network, host=self.host).dial(LocalAddress(path=self.settings.control_socket))

    async def node(self, caller: Caller) -> Connection:
        """Return a connection to the remote API."""
        bus = MemoryBus(self.network, caller, host="10.0.1.1")
        return await bus.dial(RemoteAddress(host=self.host, port=PORT, certificate=b"pem"))

    async def die(self) -> None:
        """Be gone with every process."""
        await self.half.close()
        for bus in (self.bus, self.dispatcher, self.inner):
            await bus.close()


@asynccontextmanager
async def swarm(directory: Path, size: int = 3) -> AsyncIterator[list[Manager]]:
    """Run managers m1 (the leader) to m<size>."""
    network = MemoryNetwork()
    managers = [Manager(network, directory, number) for number in range(1, size + 1)]
    peers = tuple(manager.peer for manager in managers)
    async with AsyncExitStack() as stack:
        for manager in managers:
            stack.push_async_callback(manager.die)
            await manager.open(peers)
        for manager in managers[1:]:
            manager.follow(managers[0].peer)
        yield managers


def worker_caller(name: str = "w1") -> Caller:
    return Caller(node_id=name, role=WORKER, cluster_id=CLUSTER, public_key=name.encode() * 16)


REMOVE = control.RemoveServiceRequest(service_id=ServiceId("web"))
BEAT = session.Heartbeat(session_id=SessionId("s"))


def test_a_user_of_the_leader_speaks_as_that_manager(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path, 1) as (leader,):
            user = await leader.user()
            lie = Meta(caller=worker_caller(), forwarded=True, cause="c1", request_id="r1")
            await user.call(control.REMOVE_SERVICE, REMOVE, meta=lie)
            (context,) = leader.desk.seen
            assert (context.caller.node_id, context.caller.role) == ("m1", MANAGER)
            assert context.caller.addr == "uid:0"
            assert not context.meta.forwarded
            assert (context.meta.cause, context.meta.request_id) == ("c1", "r1")
            with pytest.raises(NotFound, match="no such service"):
                await user.call(control.REMOVE_SERVICE, control.RemoveServiceRequest(service_id=ServiceId("missing")))
            await user.close()

    run_async(scenario())


def test_a_user_of_a_follower_is_taken_to_the_leader_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path) as (leader, follower, _):
            user = await follower.user()
            await user.call(control.REMOVE_SERVICE, REMOVE)
            await user.call(control.REMOVE_SERVICE, REMOVE)
            for context in leader.desk.seen:
                assert context.caller.node_id == "m2"
                assert context.meta.forwarded
            assert len(leader.desk.seen) == 2
            await user.close()

    run_async(scenario())


def test_an_agent_is_told_who_leads(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path) as (leader, follower, _):
            agent = await follower.node(worker_caller())
            with pytest.raises(Unavailable) as refusal:
                await agent.call(session.HEARTBEAT, BEAT)
            assert refusal.value.details.leader == "m1"
            assert refusal.value.details.leader_addr == leader.peer.addr
            assert not leader.desk.seen
            await agent.close()
            agent = await leader.node(worker_caller())
            await agent.call(session.HEARTBEAT, BEAT)
            assert leader.desk.seen[0].caller == msgspec.structs.replace(worker_caller(), addr="10.0.1.1")
            await agent.close()

    run_async(scenario())


def test_a_joining_machine_is_taken_to_the_leader_with_the_key_it_proved(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path) as (leader, follower, _):
            joiner = await follower.node(Caller(public_key=b"k" * 32))
            issued = await joiner.call(identity.ISSUE, identity.IssueRequest(token="t"))
            assert issued.certificate == b"k" * 32
            (context,) = leader.desk.seen
            assert context.caller.role == ""
            assert context.caller.addr == "10.0.1.1"
            with pytest.raises(Unauthenticated):
                await joiner.call(session.HEARTBEAT, BEAT)
            await joiner.close()

    run_async(scenario())


def test_nobody_but_a_forwarding_manager_may_speak_for_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path, 1) as (leader,):
            stamp = Meta(caller=leader.caller, forwarded=True)
            worker = await leader.node(worker_caller())
            with pytest.raises(PermissionDenied):
                await worker.call(session.HEARTBEAT, BEAT, meta=stamp)
            with pytest.raises(PermissionDenied):
                await worker.call(control.REMOVE_SERVICE, REMOVE)
            assert not leader.desk.seen
            await worker.close()

    run_async(scenario())


def test_a_removed_node_is_cut_off_and_has_no_rights_even_through_another_manager(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path, 1) as (leader,):
            gone = worker_caller("gone")
            agent = await leader.node(gone)
            await agent.call(session.HEARTBEAT, BEAT)
            leader.half.revoke(frozenset({gone.public_key}))
            await agent.wait_lost()
            with pytest.raises(SwarmError):
                await leader.node(gone)
            other = await leader.node(Caller(node_id="m7", role=MANAGER, cluster_id=CLUSTER, public_key=b"7" * 32))
            with pytest.raises(PermissionDenied, match="removed"):
                await other.call(session.HEARTBEAT, BEAT, meta=Meta(caller=gone, forwarded=True))
            assert len(leader.desk.seen) == 1
            await other.close()

    run_async(scenario())


def test_a_request_waits_for_the_next_leader_and_goes_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path) as (leader, follower, next_leader):
            user = await follower.user()
            await user.call(control.REMOVE_SERVICE, REMOVE)
            await leader.die()
            request = asyncio.gather(user.call(control.REMOVE_SERVICE, REMOVE))
            await eventually(lambda: len(follower.desk.seen) >= 2)
            assert not request.done()
            next_leader.follow(None)
            follower.follow(next_leader.peer)
            await request
            assert len(next_leader.desk.seen) == 1
            await user.close()

    run_async(scenario())


def test_a_request_waits_for_this_very_manager_to_lead(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path) as (leader, follower, _):
            await leader.die()
            follower.follow(ManagerPeer(node_id=NodeId(""), addr=""))
            user = await follower.user()
            request = asyncio.gather(user.call(control.REMOVE_SERVICE, REMOVE))
            await eventually(lambda: follower.desk.seen)
            follower.follow(None)
            await request
            await user.close()

    run_async(scenario())


def test_a_call_does_not_go_from_manager_to_manager_to_manager(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path) as (leader, follower, confused):
            follower.follow(confused.peer)
            user = await follower.user()
            request = asyncio.gather(user.call(control.REMOVE_SERVICE, REMOVE))
            await eventually(lambda: confused.desk.seen)
            assert not leader.desk.seen, "who is wrong about the leader does not pass the call on"
            follower.follow(leader.peer)
            await request
            assert len(leader.desk.seen) == 1
            await user.close()

    run_async(scenario())


def test_without_a_leader_the_caller_gets_the_reason_in_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path, 2) as (_, follower):
            follower.follow(ManagerPeer(node_id=NodeId(""), addr=""))
            user = await follower.user()
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await user.call(control.REMOVE_SERVICE, REMOVE, timeout_s=0.3)
            assert loop.time() - began < 1.0
            await user.close()

    run_async(scenario())


@pytest.mark.parametrize("request_id", ["", "r1"])
def test_a_call_that_may_have_run_is_repeated_only_with_a_request_id(tmp_path: Path, request_id: str) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path) as (leader, follower, next_leader):
            leader.desk.hold = asyncio.Event()
            user = await follower.user()
            request = asyncio.gather(
                user.call(control.REMOVE_SERVICE, REMOVE, meta=Meta(request_id=request_id)), return_exceptions=True
            )
            await eventually(lambda: leader.desk.seen)
            leader.network.cut(leader.host, follower.host)
            await leader.die()
            next_leader.follow(None)
            follower.follow(next_leader.peer)
            (outcome,) = await request
            if request_id:
                assert outcome == Empty()
                assert next_leader.desk.seen[0].meta.request_id == "r1"
            else:
                assert isinstance(outcome, Unavailable)
                assert outcome.details.maybe_executed
                assert not next_leader.desk.seen
            await user.close()

    run_async(scenario())


def test_a_dispatcher_that_restarts_delays_a_user_and_is_reported_to_a_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path, 1) as (leader,):
            user, agent = await leader.user(), await leader.node(worker_caller())
            await user.call(control.REMOVE_SERVICE, REMOVE)
            await leader.dispatcher.close()
            with pytest.raises(Unavailable):
                await agent.call(session.HEARTBEAT, BEAT)
            request = asyncio.gather(user.call(control.REMOVE_SERVICE, REMOVE))
            await asyncio.wait([request], timeout=0.1)
            assert not request.done()
            await leader.start_dispatcher()
            await request
            await agent.call(session.HEARTBEAT, BEAT)
            await user.close()
            await agent.close()

    run_async(scenario())


def test_a_stream_passes_undecoded_and_ends_at_its_source_when_the_client_leaves(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path) as (leader, follower, _):
            for connection in (await leader.node(worker_caller()), await follower.user()):
                async with connection.open(
                    session.SESSION, session.SessionRequest(description=NodeDescription())
                ) as items:
                    found = [(await anext(items)).session_id, (await anext(items)).session_id]
                assert found == ["0", "1"]
                await connection.close()
                await eventually(lambda: leader.desk.feeds_closed == len(leader.desk.seen))
            assert leader.desk.seen[1].caller.node_id == "m2"
            agent = await follower.node(worker_caller())
            with pytest.raises(Unavailable) as refusal:
                async with agent.open(session.SESSION, session.SessionRequest(description=NodeDescription())) as items:
                    await anext(items)
            assert refusal.value.details.leader == "m1"
            await agent.close()

    run_async(scenario())


def test_the_join_door_shows_the_roots_and_the_managers_of_now(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with swarm(tmp_path, 2) as (leader, other):
            visitor = MemoryBus(leader.network, host="10.0.9.9")
            shown = await knock(visitor, HostPort(leader.host, PORT + 1))
            assert shown.roots == b"the roots"
            assert shown.managers == (leader.peer, other.peer)
            node = leader.half._runtime.node
            assert isinstance(node, StillNode)
            node.facts = msgspec.structs.replace(leader.facts, managers=(leader.peer,))
            leader.half.facts_changed()
            assert (await knock(visitor, HostPort(leader.host, PORT + 1))).managers == (leader.peer,)

    run_async(scenario())


def test_a_worker_sends_its_user_to_the_managers(tmp_path: Path) -> None:
    async def scenario() -> None:
        network = MemoryNetwork()
        bus = MemoryBus(network, worker_caller(), host="10.0.1.1")
        table = Table(trusted=True)
        refuse_all(table, lambda: ("10.0.0.1:4242", "10.0.0.2:4242"))
        await bus.listen_local("control.sock", table)
        user = await bus.dial(LocalAddress(path="control.sock"))
        for method in control.METHODS:
            with pytest.raises(FailedPrecondition, match=r"ask a manager \(10\.0\.0\.1:4242, 10\.0\.0\.2:4242\)"):
                await _try(user, method.name, is_call=isinstance(method, Call))
        await bus.close()

    run_async(scenario())


async def _try(user: Connection, name: str, *, is_call: bool) -> None:
    if is_call:
        await user.call_raw(name, b"", timeout_s=5.0)
        return
    async with user.open_raw(name, b"") as items:
        await anext(items)
