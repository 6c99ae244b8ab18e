"""Who is let in over CURVE, as whom, and for how long. Every refusal is tried over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.kit.bus.api import Caller, Limits, Meta, RemoteAddress
from services.kit.bus.dialled import Dialled
from services.kit.bus.identity import Identity, new_key
from services.kit.bus.ports import parse_address
from services.kit.bus.zmq import ZmqBus
from services.kit.bus.zmq_listener import ZmqListener
from services.kit.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    PermissionDenied,
    ResourceExhausted,
    SwarmError,
    Unauthenticated,
    Unavailable,
)
from services.kit.messages.method import MANAGER, WORKER
from services.kit.runtime.clock import SystemClock
from tests.support.buses import COUNT, ECHO, HIDDEN, JOIN, SECRET, SLOW, TELL, Answers, Word
from tests.support.pki import CLUSTER, Authority
from tests.support.running import eventually, run_async


class World:
    """One manager that listens, and whoever dials it."""

    def __init__(self, authority: Authority, manager: Identity, server: ZmqBus, listener: ZmqListener) -> None:
        self.authority = authority
        self.manager = manager
        self.server = server
        self.listener = listener
        self.answers = Answers()
        self.buses: list[ZmqBus] = []

    def address(self, certificate: bytes = b"") -> RemoteAddress:
        host, port = parse_address(self.listener.endpoint)
        return RemoteAddress(host=host, port=port, certificate=certificate or self.manager.certificate)

    async def dial(self, identity: Identity, certificate: bytes = b"") -> Dialled:
        bus = ZmqBus(identity, clock=SystemClock(), process="tester")
        self.buses.append(bus)
        return await bus.dial(self.address(certificate))


@asynccontextmanager
async def world(limits: Limits | None = None) -> AsyncIterator[World]:
    authority = Authority()
    manager = authority.manager()
    server = ZmqBus(manager, clock=SystemClock(), limits=limits)
    answers = Answers()
    listener = await server.listen_remote("127.0.0.1", 0, answers.table())
    made = World(authority, manager, server, listener)
    made.answers = answers
    try:
        yield made
    finally:
        for bus in made.buses:
            await bus.close()
        await server.close()


async def refused(on: World, identity: Identity, error: type[SwarmError], match: str) -> None:
    with pytest.raises(error, match=match):
        await on.dial(identity)
    await eventually(lambda: not on.listener._ends)


def test_both_ends_know_each_other_by_their_certificates() -> None:
    async def check() -> None:
        async with world() as on:
            worker = on.authority.worker("worker-9")
            connection = await on.dial(worker)
            assert connection.peer == Caller(
                node_id="manager-1", role=MANAGER, cluster_id=CLUSTER, public_key=on.manager.public_key
            )
            await connection.call(ECHO, Word())
            assert on.answers.contexts[0].caller == Caller(
                node_id="worker-9",
                role=WORKER,
                cluster_id=CLUSTER,
                addr="127.0.0.1",
                public_key=worker.public_key,
                process="tester",
            )

    run_async(check())


def test_a_certificate_of_another_authority_is_refused() -> None:
    async def check() -> None:
        async with world() as on:
            stranger = Authority()
            key = new_key()
            identity = Identity(key, stranger.issue("evil", MANAGER, public_key=key.public), stranger.pem)
            identity.check = on.authority.manager().check  # type: ignore[method-assign]  # the attacker does not check
            await refused(on, identity, Unauthenticated, "does not hang on this cluster's root")

    run_async(check())


def test_somebody_elses_certificate_with_an_own_key_is_refused() -> None:
    async def check() -> None:
        async with world() as on:
            thief = on.authority.worker("thief")
            thief.certificate = on.authority.manager("manager-2").certificate
            await refused(on, thief, Unauthenticated, "for another key")

    run_async(check())


def test_an_expired_certificate_is_refused() -> None:
    async def check() -> None:
        async with world() as on:
            await refused(on, on.authority.identity("late", days=-0.01), Unauthenticated, "expired")

    run_async(check())


def test_a_certificate_of_another_cluster_is_refused() -> None:
    async def check() -> None:
        async with world() as on:
            other = on.authority.identity("other", cluster="cluster-2")
            other.cluster_id = ""
            await refused(on, other, PermissionDenied, "another cluster")

    run_async(check())


def test_garbage_for_a_certificate_is_refused() -> None:
    async def check() -> None:
        async with world() as on:
            for junk in (b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
                worker = on.authority.worker()
                worker.certificate = junk
                await refused(on, worker, Unauthenticated, "cannot be read")

    run_async(check())


def test_a_caller_without_certificate_reaches_open_methods_only_and_its_key_is_known() -> None:
    async def check() -> None:
        async with world() as on:
            joiner = Identity.joining(on.authority.pem)
            connection = await on.dial(joiner)
            assert await connection.call(JOIN, Word(number=1)) == Word(number=1)
            caller = on.answers.contexts[0].caller
            assert (caller.role, caller.node_id, caller.public_key) == ("", "", joiner.public_key)
            for method in (ECHO, SECRET, HIDDEN):
                with pytest.raises(Unauthenticated):
                    await connection.call(method, Word())
            with pytest.raises(Unauthenticated):
                async with connection.open(COUNT, Word(number=1)) as items:
                    await anext(items)
            connection.cast(TELL, Word(number=1))
            await connection.call(JOIN, Word())
            assert on.answers.told == []

    run_async(check())


def test_roles_decide_who_may_call_what_and_inside_methods_are_closed_to_the_network() -> None:
    async def check() -> None:
        async with world() as on:
            worker = await on.dial(on.authority.worker())
            manager = await on.dial(on.authority.manager("manager-2"))
            await worker.call(ECHO, Word())
            await manager.call(SECRET, Word())
            with pytest.raises(PermissionDenied, match="not open to a swarm-worker"):
                await worker.call(SECRET, Word())
            for connection in (worker, manager):
                with pytest.raises(PermissionDenied):
                    await connection.call(HIDDEN, Word())

    run_async(check())


def test_only_a_forwarding_manager_may_name_another_caller() -> None:
    async def check() -> None:
        async with world() as on:
            somebody = Caller(node_id="worker-7", role=WORKER, cluster_id=CLUSTER)
            forged = Caller(node_id="boss", role=MANAGER, cluster_id=CLUSTER)
            worker = await on.dial(on.authority.worker("worker-1"))
            manager = await on.dial(on.authority.manager("manager-2"))
            with pytest.raises(PermissionDenied):
                await worker.call(SECRET, Word(), meta=Meta(caller=forged, forwarded=True))
            await worker.call(ECHO, Word(), meta=Meta(caller=forged, forwarded=True))
            await manager.call(ECHO, Word(), meta=Meta(caller=somebody))
            await manager.call(ECHO, Word(), meta=Meta(caller=somebody, forwarded=True))
            with pytest.raises(PermissionDenied):
                await manager.call(SECRET, Word(), meta=Meta(caller=somebody, forwarded=True))
            with pytest.raises(Unauthenticated):
                await manager.call(SECRET, Word(), meta=Meta(caller=Caller(), forwarded=True))
            names = [context.caller.node_id for context in on.answers.contexts]
            assert names == ["worker-1", "manager-2", "worker-7"]
            assert on.answers.contexts[2].peer.node_id == "manager-2"

    run_async(check())


def test_revoking_a_key_cuts_its_live_connection_and_keeps_it_out() -> None:
    async def check() -> None:
        async with world() as on:
            worker = on.authority.worker("worker-1")
            connection = await on.dial(worker)
            other = await on.dial(on.authority.worker("worker-2"))
            async with asyncio.TaskGroup() as group:
                group.create_task(_expect(Unavailable, connection))
                await eventually(lambda: on.answers.slow == 1)
                on.listener.revoke(worker.public_key)
            assert isinstance(await connection.wait_lost(), Unauthenticated)
            await eventually(lambda: on.answers.cancelled == 1)
            with pytest.raises(Unauthenticated):
                await on.dial(worker)
            assert await other.call(ECHO, Word(number=3)) == Word(number=3)
            await eventually(lambda: len(on.listener._peers) == 1)

    run_async(check())


def test_revoking_a_key_cuts_a_peer_that_does_not_listen_to_reason() -> None:
    async def check() -> None:
        async with world() as on:
            worker = on.authority.worker("worker-1")
            connection = await on.dial(worker)
            connection.feed = lambda data: None  # type: ignore[method-assign]  # a peer that ignores GOAWAY
            on.listener.revoke(worker.public_key)
            async with asyncio.timeout(5):
                assert isinstance(await connection.wait_lost(), Unavailable)
            await eventually(lambda: not on.listener._peers and not on.listener._by_descriptor)

    run_async(check())


def test_more_joining_machines_than_the_bound_are_sent_away_and_room_comes_back() -> None:
    async def check() -> None:
        async with world(Limits(anonymous_peers_max=2, anonymous_calls_max=1)) as on:
            first = await on.dial(Identity.joining(on.authority.pem))
            await on.dial(Identity.joining(on.authority.pem))
            with pytest.raises(ResourceExhausted):
                await on.dial(Identity.joining(on.authority.pem))
            worker = await on.dial(on.authority.worker())
            assert await worker.call(ECHO, Word()) == Word()
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(first.call(SLOW, Word()))
                await eventually(lambda: on.answers.slow == 1)
                with pytest.raises(ResourceExhausted):
                    await first.call(JOIN, Word())
                on.answers.go_on.set()
                await waiting
            await first.close()
            await eventually(lambda: len(on.listener._anonymous) == 1)
            await on.dial(Identity.joining(on.authority.pem))

    run_async(check())


def test_a_dialler_refuses_a_worker_that_poses_as_manager() -> None:
    async def check() -> None:
        async with world() as on:
            worker = on.authority.worker("worker-1")
            with pytest.raises(PermissionDenied, match="not a manager"):
                await on.dial(on.authority.worker("worker-2"), worker.certificate)

    run_async(check())


def test_a_dialler_refuses_a_manager_of_another_authority() -> None:
    async def check() -> None:
        async with world() as on:
            with pytest.raises(Unauthenticated):
                await on.dial(on.authority.worker(), Authority().manager().certificate)
            with pytest.raises(Unauthenticated):
                await on.dial(Identity.joining(on.authority.pem), Authority().manager().certificate)

    run_async(check())


def test_a_genuine_certificate_at_an_attackers_address_ends_in_a_failed_handshake() -> None:
    async def check() -> None:
        async with world() as on:
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await on.dial(on.authority.worker(), on.authority.manager("manager-2").certificate)
            await eventually(lambda: not on.listener._peers)

    run_async(check())


def test_a_renewed_certificate_is_shown_to_new_peers_and_live_connections_go_on() -> None:
    async def check() -> None:
        async with world() as on:
            before = await on.dial(on.authority.worker("worker-1"))
            renewed = on.authority.identity("manager-1", MANAGER, key=on.manager.key, days=30)
            on.server.set_identity(renewed)
            after = await on.dial(on.authority.worker("worker-2"))
            assert on.listener._desk.certificate() == renewed.certificate
            for connection in (before, after):
                assert await connection.call(ECHO, Word()) == Word()

    run_async(check())


def test_a_listener_with_a_new_key_still_shows_the_certificate_of_the_key_it_proves() -> None:
    async def check() -> None:
        async with world() as on:
            on.server.set_identity(on.authority.manager("manager-1"))
            connection = await on.dial(on.authority.worker())
            assert await connection.call(ECHO, Word()) == Word()
            assert connection.peer.public_key == on.manager.public_key

    run_async(check())


def test_after_a_change_of_roots_nodes_of_the_new_root_are_let_in() -> None:
    async def check() -> None:
        async with world() as on:
            second = Authority()
            key = new_key()
            bundle = on.authority.pem + second.pem
            newcomer = Identity(key, second.issue("worker-5", public_key=key.public), bundle)
            await refused(on, newcomer, Unauthenticated, "root")
            on.server.set_identity(Identity(on.manager.key, on.manager.certificate, bundle))
            connection = await on.dial(newcomer)
            assert await connection.call(ECHO, Word()) == Word()

    run_async(check())


def test_without_a_certificate_nobody_listens_to_the_network() -> None:
    async def check() -> None:
        authority = Authority()
        for identity in (None, Identity.joining(authority.pem)):
            bus = ZmqBus(identity, clock=SystemClock())
            with pytest.raises(FailedPrecondition):
                await bus.listen_remote("127.0.0.1", 0, Answers().table())
            await bus.close()

    run_async(check())


async def _expect(error: type[SwarmError], connection: Dialled) -> None:
    with pytest.raises(error):
        await connection.call(SLOW, Word())
