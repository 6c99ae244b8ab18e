"""Who may call what: every method of the registry, by every kind of caller, over real encrypted connections to a real gateway.

What the gateway lets through is taken down by processes that stand behind it, so a call that must not be counts as refused only when it
has reached none of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from services.gateway.config import GatewaySettings
from services.gateway.core.table import Change
from services.gateway.plane.messages import Counts
from services.gateway.shell.app import GatewayApp
from services.kit.bus.api import Caller, Connection, Context, LocalAddress, Meta, RemoteAddress
from services.kit.bus.identity import Identity, NodeKey, new_key, save_node, save_roots
from services.kit.bus.ports import parse_address
from services.kit.bus.rpc import Table
from services.kit.bus.zmq import ZmqBus
from services.kit.bus.zmq_socket import new_context
from services.kit.errors import PermissionDenied, SwarmError, Unauthenticated
from services.kit.lifecycle.app import Runtime
from services.kit.messages import routes
from services.kit.messages.method import ANYONE, MANAGER, WORKER, Call, Cast, Feed, Owner
from services.kit.messages.registry import METHODS
from services.kit.messages.supervise import Facts, NodeReport
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SeededIds
from services.kit.wire import frames
from services.kit.wire.codec import encode, encode_frame
from tests.support.pki import CLUSTER, Authority
from tests.support.ports import free_remote_api
from tests.support.running import eventually, run_async

AnyMethod = Call[Any, Any] | Feed[Any, Any] | Cast[Any]
EMPTY = b"\x80"
"""A message without fields."""
CALL_S = 5.0
QUIET_S = 0.3
"""How long after the last word of a peer that is sent away something of it could still arrive."""


class NoPlane:
    """A data plane without processes."""

    closed_ports: dict[str, str] = {}

    async def start(self) -> None:
        """There is nothing to start."""

    async def failed(self) -> BaseException:
        await asyncio.Event().wait()
        raise AssertionError

    def take(self, change: Change) -> None:
        """Carry nothing."""

    async def counts(self) -> list[Counts]:
        return []

    async def drain(self, within_s: float) -> None:
        """There is nothing to end."""

    async def detach(self) -> None:
        """There is nothing to leave."""


class StillNode:
    """A supervisor's line on which nothing happens."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._changes = Changes()

    async def changes(self) -> AsyncIterator[Facts]:
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


class Behind:
    """The processes behind the gateway: they answer everything and take down who asked what."""

    def __init__(self) -> None:
        self.came: dict[str, tuple[str, Caller]] = {}
        """By the cause that the asker gave: which method arrived, and in whose name."""
        self.revoked: tuple[bytes, ...] = ()

    def table(self, owner: Owner) -> Table:
        table = Table(trusted=True)
        for method in METHODS:
            if method.owner is owner and method is not routes.WATCH:
                if isinstance(method, Call):
                    table.forward_call(method, self._call)
                elif isinstance(method, Feed):
                    table.forward_feed(method, self._feed)
        if owner is Owner.DISPATCHER:
            table.on_feed(routes.WATCH, self._watch)
        return table

    def _note(self, context: Context) -> None:
        if context.meta.cause:
            self.came[context.meta.cause] = (context.method, context.caller)

    async def _call(self, context: Context, body: bytes) -> bytes:
        self._note(context)
        return EMPTY

    async def _feed(self, context: Context, body: bytes) -> AsyncIterator[bytes]:
        self._note(context)
        yield EMPTY

    async def _watch(self, context: Context, request: routes.WatchRoutes) -> AsyncIterator[routes.RouteTable]:
        self._note(context)
        yield routes.RouteTable(epoch=1, full=True, revoked=self.revoked)
        await asyncio.Event().wait()


class Doors:
    """A manager's gateway over TCP, and everybody who may come to it."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority()
        self.me = self.authority.manager("m1")
        self.removed_worker = self.authority.worker("w9")
        self.removed_manager = self.authority.manager("m9")
        self.behind = Behind()
        self.behind.revoked = (self.removed_worker.public_key, self.removed_manager.public_key)
        self.remote_api = free_remote_api()
        self.settings = GatewaySettings(
            state_dir=directory, listen_remote_api=self.remote_api, claim_well_known_socket=False
        )
        self.app: GatewayApp
        self._stack = AsyncExitStack()
        self._asked = 0

    async def open(self) -> None:
        self.settings.run_dir.mkdir()
        certificates = self.settings.state_dir / "certificates"
        save_roots(certificates, self.me.roots)
        save_node(certificates, self.me.key, self.me.certificate)
        for owner in (Owner.CA, Owner.RAFT, Owner.DISPATCHER):
            bus = self.bus(None)
            await bus.listen_local(self.settings.socket(owner.value), self.behind.table(owner))
        peer = ManagerPeer(node_id=NodeId("m1"), addr=self.remote_api, certificate=self.me.certificate)
        facts = Facts(
            node_id=NodeId("m1"), cluster_id=ClusterId(CLUSTER), role=Role.MANAGER,
            certificates_dir=str(certificates), identity_serial=1, remote_addr=self.remote_api, managers=(peer,),
        )  # fmt: skip
        runtime = Runtime(
            process="gateway", clock=SystemClock(), ids=SeededIds(1), rng=random.Random(1), bus=self.bus(self.me),
            node=StillNode(facts),
        )  # fmt: skip
        self.app = GatewayApp(self.settings, runtime, make_plane=lambda confirmed: NoPlane())
        await self.app.start()
        self._stack.push_async_callback(self.app.stop)
        await eventually(lambda: self.app._ingress.book.revoked == frozenset(self.behind.revoked))

    async def close(self) -> None:
        await self._stack.aclose()

    def bus(self, identity: Identity | None) -> ZmqBus:
        bus = ZmqBus(identity, clock=SystemClock())
        self._stack.push_async_callback(bus.close)
        return bus

    def bearer(self, certificate: bytes, key: NodeKey | None = None) -> Identity:
        """Return somebody who shows a certificate that may not be his."""
        identity = Identity.joining(self.authority.pem, key)
        identity.certificate = certificate
        return identity

    async def dial(self, identity: Identity) -> Connection:
        host, port = parse_address(self.remote_api)
        return await self.bus(identity).dial(RemoteAddress(host=host, port=port, certificate=self.me.certificate))

    async def operator(self) -> Connection:
        """Return a connection to the control socket."""
        return await self.bus(None).dial(LocalAddress(path=self.settings.control_socket))

    async def outcome(
        self, connection: Connection, method: AnyMethod, *, stamp: Caller | None = None, forwarded: bool = False
    ) -> Caller | SwarmError | None:
        """Call a method; returns in whose name it arrived, the refusal, or None when the gateway itself answered."""
        self._asked += 1
        cause = f"ask-{self._asked}"
        meta = Meta(caller=stamp, forwarded=forwarded, cause=cause)
        refusal: SwarmError | None = None
        try:
            if isinstance(method, Feed):
                async with connection.open_raw(method.name, EMPTY, meta=meta) as items:
                    await anext(aiter(items))
            else:
                await connection.call_raw(method.name, EMPTY, timeout_s=CALL_S, meta=meta)
        except SwarmError as error:
            refusal = error
        arrived = self.behind.came.get(cause)
        if arrived is None:
            return refusal
        assert arrived[0] == method.name
        assert refusal is None, f"{method.name} arrived although it was refused: {refusal}"
        return arrived[1]


@asynccontextmanager
async def doors(directory: Path) -> AsyncIterator[Doors]:
    opened = Doors(directory)
    try:
        await opened.open()
        yield opened
    finally:
        await opened.close()


def let_in(outcome: Caller | SwarmError | None) -> bool:
    return not isinstance(outcome, SwarmError)


def may_call(role: str, method: AnyMethod) -> bool:
    """Tell what the table says: the method's declaration is the whole of it, and consensus has a port of its own."""
    if isinstance(method, Cast) or method.name.startswith("consensus."):
        return False
    return ANYONE in method.roles or role in method.roles


async def check_direct(on: Doors, identity: Identity, role: str) -> None:
    connection = await on.dial(identity)
    for method in METHODS:
        outcome = await on.outcome(connection, method)
        assert let_in(outcome) is may_call(role, method), f"{method.name} for {role or 'a stranger'}: {outcome}"
        if isinstance(outcome, Caller):
            assert (outcome.node_id, outcome.role) == (identity.node_id, role)
            assert outcome.public_key == identity.public_key


@pytest.mark.parametrize("role", ["", WORKER, MANAGER])
def test_who_proves_a_key_may_call_what_its_certificate_says_and_nothing_else(tmp_path: Path, role: str) -> None:
    async def scenario() -> None:
        async with doors(tmp_path) as on:
            kinds = {
                "": Identity.joining(on.authority.pem),
                WORKER: on.authority.worker("w2"),
                MANAGER: on.authority.manager("m2"),
            }
            await check_direct(on, kinds[role], role)

    run_async(scenario())


def test_the_operator_of_a_manager_may_call_what_a_manager_may(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with doors(tmp_path) as on:
            connection = await on.operator()
            for method in METHODS:
                for stamp in (None, Caller(node_id="w2", role=WORKER, cluster_id=CLUSTER)):
                    outcome = await on.outcome(connection, method, stamp=stamp, forwarded=stamp is not None)
                    may = may_call(MANAGER, method) and (MANAGER in method.roles)
                    assert let_in(outcome) is may, f"{method.name}: {outcome}"
                    if isinstance(outcome, Caller):
                        assert (outcome.node_id, outcome.role, outcome.public_key) == ("m1", MANAGER, b"")

    run_async(scenario())


Wrong = Callable[[Doors], Identity]

WRONG: dict[str, Wrong] = {
    "a foreign cluster's manager": lambda on: on.bearer(*of(Authority().manager("f1"))),
    "a manager of another cluster under the same root": lambda on: on.bearer(*of(on.authority.manager("f2", "c2"))),
    "a removed worker": lambda on: on.removed_worker,
    "a removed manager": lambda on: on.removed_manager,
    "an expired manager": lambda on: on.authority.identity("m3", MANAGER, days=-0.001),
    "a manager that is not valid yet": lambda on: on.bearer(*early(on.authority)),
    "a stolen certificate without its key": lambda on: on.bearer(on.authority.manager("m4").certificate),
    "a manager certified by somebody who may not sign": lambda on: on.bearer(*by_an_impostor(on.authority)),
    "junk in place of a certificate": lambda on: on.bearer(b"-----BEGIN CERTIFICATE-----\nMAA=\n"),
}


def of(identity: Identity) -> tuple[bytes, NodeKey]:
    return identity.certificate, identity.key


def by_an_impostor(authority: Authority) -> tuple[bytes, NodeKey]:
    key = new_key()
    return Authority("a worker", issuer=authority, ca=False).issue("m5", MANAGER, public_key=key.public), key


def early(authority: Authority) -> tuple[bytes, NodeKey]:
    key = new_key()
    return authority.issue("m6", MANAGER, public_key=key.public, starts_in_days=1), key


@pytest.mark.parametrize("kind", WRONG)
def test_who_must_not_come_in_reaches_no_method_whatever_it_sends(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        async with doors(tmp_path) as on:
            identity = WRONG[kind](on)
            with pytest.raises((Unauthenticated, PermissionDenied)):
                await on.dial(identity)
            for says_hello in (True, False):
                await shout(on, identity, says_hello=says_hello)

    run_async(scenario())


async def shout(on: Doors, identity: Identity, *, says_hello: bool) -> None:
    """Send every method's request at once, without waiting to be welcomed, and wait until that has been heard."""
    context = new_context()
    dealer = context.socket(zmq.DEALER)
    try:
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.setsockopt(zmq.CURVE_SERVERKEY, on.me.public_key)
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, identity.key.public)
        dealer.setsockopt(zmq.CURVE_SECRETKEY, identity.key.secret)
        dealer.connect(f"tcp://{on.remote_api}")
        if says_hello:
            dealer.send(encode_frame(frames.Hello(frames.VERSION, frames.VERSION, identity.certificate)))
        for number, method in enumerate(METHODS, 1):
            meta = encode(Meta(cause=f"shout-{number}"))
            window = 1 << 16 if isinstance(method, Feed) else 0
            dealer.send(encode_frame(frames.Request(number, method.name, 1000, window, meta, EMPTY)))
            dealer.send(encode_frame(frames.CastFrame(method.name, meta, EMPTY)))
        await asyncio.sleep(QUIET_S)
        witness = await on.dial(on.authority.manager("m7"))
        assert let_in(await on.outcome(witness, next(m for m in METHODS if m.name == "control.get_cluster")))
        assert not [cause for cause in on.behind.came if cause.startswith("shout")]
    finally:
        context.destroy(0)


def test_nobody_speaks_for_another_but_a_manager_that_forwards(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with doors(tmp_path) as on:
            king = Caller(node_id="m1", role=MANAGER, cluster_id=CLUSTER, public_key=on.me.public_key)
            forgers = {"a stranger": Identity.joining(on.authority.pem), "a worker": on.authority.worker("w3")}
            for kind, forger in forgers.items():
                connection = await on.dial(forger)
                for method in METHODS:
                    for forwarded in (True, False):
                        outcome = await on.outcome(connection, method, stamp=king, forwarded=forwarded)
                        own = method.owner is Owner.GATEWAY and may_call(forger.role, method)
                        is_its_own = outcome is None and own
                        assert isinstance(outcome, SwarmError) or is_its_own, (
                            f"{kind} called {method.name} as {outcome}"
                        )
            connection = await on.dial(on.authority.manager("m2"))
            for method in METHODS:
                outcome = await on.outcome(connection, method, stamp=king, forwarded=False)
                is_its_own = outcome is None and method.owner is Owner.GATEWAY and may_call(MANAGER, method)
                assert isinstance(outcome, SwarmError) or is_its_own, f"{method.name} went in as {outcome}"

    run_async(scenario())


def test_a_forwarded_caller_may_call_what_itself_may_and_a_removed_one_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with doors(tmp_path) as on:
            worker, stranger = new_key().public, new_key().public
            spoken_for = {
                WORKER: Caller(node_id="w4", role=WORKER, cluster_id=CLUSTER, public_key=worker),
                MANAGER: Caller(node_id="m3", role=MANAGER, cluster_id=CLUSTER, public_key=new_key().public),
                "": Caller(public_key=stranger),
            }
            wrong = (
                Caller(node_id="w9", role=WORKER, cluster_id=CLUSTER, public_key=on.removed_worker.public_key),
                Caller(public_key=on.removed_manager.public_key),
                Caller(node_id="m8", role=MANAGER, cluster_id="another", public_key=new_key().public),
            )
            connection = await on.dial(on.authority.manager("m2"))
            for method in METHODS:
                is_forwarded = method.owner is not Owner.GATEWAY
                for role, caller in spoken_for.items():
                    outcome = await on.outcome(connection, method, stamp=caller, forwarded=True)
                    assert let_in(outcome) is may_call(role, method), f"{method.name} for {role}: {outcome}"
                    if is_forwarded and let_in(outcome):
                        assert isinstance(outcome, Caller)
                        assert outcome.public_key == caller.public_key
                for caller in wrong if is_forwarded else ():
                    outcome = await on.outcome(connection, method, stamp=caller, forwarded=True)
                    assert isinstance(outcome, SwarmError), f"{method.name} went in as {outcome}"

    run_async(scenario())
