"""Buses to test with: the same suite runs over memory, a Unix socket and CURVE; and a small conversation that is declared for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.kit.bus.api import Address, Caller, Connection, Context, Limits, Listener, LocalAddress, RemoteAddress
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.bus.ports import parse_address
from services.kit.bus.rpc import Table
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import InvalidArgument, NotFound, Problem
from services.kit.messages.method import INSIDE, MANAGER, MANAGERS, NODES, OPEN, WORKER, Call, Cast, Feed, Owner
from services.kit.model.value import Value
from services.kit.runtime.clock import SystemClock
from tests.support.pki import CLUSTER, Authority

KINDS = ("memory-local", "memory-remote", "zmq-local", "zmq-remote")


class Word(Value, frozen=True, kw_only=True):
    """Something said."""

    text: str = ""
    number: int = 0
    data: bytes = b""


ECHO = Call(name="test.echo", request=Word, reply=Word, owner=Owner.AGENT, roles=NODES, idempotent=True)
SECRET = Call(name="test.secret", request=Word, reply=Word, owner=Owner.AGENT, roles=MANAGERS)
HIDDEN = Call(name="test.hidden", request=Word, reply=Word, owner=Owner.AGENT, roles=INSIDE)
JOIN = Call(name="test.join", request=Word, reply=Word, owner=Owner.AGENT, roles=OPEN)
SLOW = Call(name="test.slow", request=Word, reply=Word, owner=Owner.AGENT, roles=OPEN)
FAIL = Call(name="test.fail", request=Word, reply=Word, owner=Owner.AGENT, roles=NODES)
UNKNOWN = Call(name="test.unknown", request=Word, reply=Word, owner=Owner.AGENT, roles=NODES)
COUNT = Feed(name="test.count", request=Word, item=Word, owner=Owner.AGENT, roles=NODES)
TELL = Cast(name="test.tell", message=Word, owner=Owner.AGENT, roles=NODES)


@dataclass
class Answers:
    """The handlers of the test conversation, and what they saw."""

    cancelled: int = 0
    produced: int = 0
    feeds_closed: int = 0
    slow: int = 0
    told: list[int] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def table(self, *, trusted: bool = False) -> Table:
        """Return them in a table."""
        table = Table(trusted=trusted)
        for method in (ECHO, SECRET, HIDDEN, JOIN):
            table.on_call(method, self.echo)
        table.on_call(SLOW, self.wait)
        table.on_call(FAIL, self.fail)
        table.on_feed(COUNT, self.count)
        table.on_cast(TELL, self.tell)
        return table

    async def echo(self, context: Context, request: Word) -> Word:
        """Say the same."""
        self.contexts.append(context)
        return request

    async def wait(self, context: Context, request: Word) -> Word:
        """Answer when told to go on."""
        self.slow += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    async def fail(self, context: Context, request: Word) -> Word:
        """Fail as asked."""
        match request.text:
            case "not-found":
                raise NotFound("no such word")
            case "large":
                return Word(data=request.data * 2)
            case "problems":
                raise InvalidArgument.of(tuple(Problem(path=f"p{n}", reason="x" * 1000) for n in range(request.number)))
            case "cancelled":
                raise asyncio.CancelledError
            case "assert":
                raise AssertionError("broken on purpose")
            case _:
                raise ValueError("a secret detail")

    async def count(self, context: Context, request: Word) -> AsyncIterator[Word]:
        """Count up to the number, with that much data in each item; then fail if the text says so."""
        try:
            for number in range(request.number):
                self.produced += 1
                yield Word(number=number, data=request.data)
            if request.text == "not-found":
                raise NotFound("no more words")
            if request.text == "wait":
                await self.go_on.wait()
        finally:
            self.feeds_closed += 1

    def tell(self, context: Context, message: Word) -> None:
        """Remember."""
        self.told.append(message.number)


@dataclass
class Line:
    """A listener with the test conversation, and a connection to it."""

    answers: Answers
    listener: Listener
    connection: Connection
    address: Address
    server: ZmqBus | MemoryBus
    client: ZmqBus | MemoryBus
    network: MemoryNetwork | None = None


@asynccontextmanager
async def line(kind: str, directory: Path, limits: Limits | None = None, role: str = WORKER) -> AsyncIterator[Line]:
    """Open a line of a kind; everything is closed at the end."""
    medium, _, place = kind.partition("-")
    limits = limits or Limits()
    network = MemoryNetwork()
    server: ZmqBus | MemoryBus
    client: ZmqBus | MemoryBus
    certificate = b""
    if medium == "memory":
        me = Caller(node_id="manager-1", role=MANAGER, cluster_id=CLUSTER, public_key=b"m" * 32)
        you = Caller(node_id="node-1", role=role, cluster_id=CLUSTER, public_key=b"w" * 32)
        server = MemoryBus(network, me, limits=limits, host="one" if place == "remote" else "")
        client = MemoryBus(network, you, limits=limits, process="tester", host="two" if place == "remote" else "")
    else:
        authority = Authority()
        manager = authority.manager()
        certificate = manager.certificate
        server = ZmqBus(manager, clock=SystemClock(), limits=limits, process="server")
        node = authority.identity("node-1", role)
        client = ZmqBus(node, clock=SystemClock(), limits=limits, process="tester")
    answers = Answers()
    address: Address
    try:
        if place == "local":
            address = LocalAddress(path=str(directory / "test.sock"))
            listener: Listener = await server.listen_local(address.path, answers.table(trusted=True))
        else:
            listener = await server.listen_remote("127.0.0.1", 0, answers.table())
            host, port = parse_address(listener.endpoint)
            address = RemoteAddress(host=host, port=port, certificate=certificate)
        connection = await client.dial(address)
        yield Line(answers, listener, connection, address, server, client, network)
    finally:
        await client.close()
        await server.close()
