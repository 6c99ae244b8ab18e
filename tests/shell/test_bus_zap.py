"""CURVE fails open. First of all tests: what libzmq does with and without a ZAP handler, and that our listeners are on the safe side."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import zmq

from services.kit.bus.identity import new_key
from services.kit.bus.ports import parse_address
from services.kit.bus.rpc import Table
from services.kit.bus.zmq import ZmqBus
from services.kit.bus.zmq_socket import ZAP_ENFORCE_DOMAIN
from services.kit.runtime.clock import SystemClock
from services.kit.wire import frames
from services.kit.wire.codec import encode_frame
from tests.support.pki import Authority
from tests.support.running import eventually, run_async

ARRIVES_WITHIN_MS = 5000
NEVER_ARRIVES_WITHIN_MS = 400


def admitted(enforce: int, domain: bytes, *, handler: bool, mechanism: str, patience_ms: int) -> bool:
    """Tell whether a stranger's message reaches a CURVE (or NULL) server under these settings."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server_key, stranger = new_key(), new_key()
    zap = context.socket(zmq.REP)
    server = context.socket(zmq.ROUTER)
    client = context.socket(zmq.DEALER)
    try:
        if handler:
            zap.bind("inproc://zeromq.zap.01")
        server.setsockopt(ZAP_ENFORCE_DOMAIN, enforce)
        if domain:
            server.setsockopt(zmq.ZAP_DOMAIN, domain)
        if mechanism == "CURVE":
            server.setsockopt(zmq.CURVE_SERVER, 1)
            server.setsockopt(zmq.CURVE_SECRETKEY, server_key.secret)
            client.setsockopt(zmq.CURVE_SERVERKEY, server_key.public)
            client.setsockopt(zmq.CURVE_PUBLICKEY, stranger.public)
            client.setsockopt(zmq.CURVE_SECRETKEY, stranger.secret)
        server.bind("tcp://127.0.0.1:*")
        client.connect(server.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        client.send(b"let me in")
        return _arrives(zap, server, handler=handler, patience_ms=patience_ms)
    finally:
        context.destroy(linger=0)


def _arrives(zap: zmq.Socket[bytes], server: zmq.Socket[bytes], *, handler: bool, patience_ms: int) -> bool:
    poller = zmq.Poller()
    poller.register(server, zmq.POLLIN)
    if handler:
        poller.register(zap, zmq.POLLIN)
    while ready := dict(poller.poll(patience_ms)):
        if server in ready:
            return True
        question = zap.recv_multipart()
        zap.send_multipart((b"1.0", question[1], b"400", b"no", b"", b""))
    return False


@pytest.mark.parametrize(
    ("enforce", "domain", "handler", "curve_admitted", "null_admitted"),
    [
        (0, b"", False, True, True),
        (0, b"cluster", False, True, True),
        (0, b"", True, False, True),
        (0, b"cluster", True, False, False),
        (1, b"", True, True, True),
        (1, b"cluster", False, False, False),
        (1, b"cluster", True, False, False),
    ],
)
def test_what_libzmq_does_with_a_stranger(
    enforce: int, domain: bytes, handler: bool, curve_admitted: bool, null_admitted: bool
) -> None:
    for mechanism, expected in (("CURVE", curve_admitted), ("NULL", null_admitted)):
        patience_ms = ARRIVES_WITHIN_MS if expected else NEVER_ARRIVES_WITHIN_MS
        came = admitted(enforce, domain, handler=handler, mechanism=mechanism, patience_ms=patience_ms)
        assert came is expected, mechanism


def test_every_listener_enforces_a_domain_and_has_a_handler(tmp_path: Path) -> None:
    async def check() -> None:
        bus = ZmqBus(Authority().manager(), clock=SystemClock())
        try:
            remote = await bus.listen_remote("127.0.0.1", 0, Table())
            local = await bus.listen_local(str(tmp_path / "a.sock"), Table(trusted=True))
            domains = set()
            for listener in (remote, local):
                watched = listener._socket
                assert watched.getsockopt(ZAP_ENFORCE_DOMAIN) == 1
                domains.add(watched.getsockopt(zmq.ZAP_DOMAIN))
            assert b"" not in domains
            assert len(domains) == 2, "each listener has a domain of its own"
            assert remote._socket.getsockopt(zmq.CURVE_SERVER) == 1
        finally:
            await bus.close()

    run_async(check())


def test_when_the_handler_is_gone_our_listener_admits_nobody() -> None:
    async def check() -> None:
        authority = Authority()
        manager = authority.manager()
        bus = ZmqBus(manager, clock=SystemClock())
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            listener = await bus.listen_remote("127.0.0.1", 0, Table())
            assert bus._zap is not None
            bus._zap.close()
            worker = authority.worker()
            dealer = context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.CURVE_SERVERKEY, manager.public_key)
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, worker.key.public)
            dealer.setsockopt(zmq.CURVE_SECRETKEY, worker.key.secret)
            dealer.connect(f"tcp://{listener.endpoint}")
            hello = frames.Hello(frames.VERSION, frames.VERSION, worker.certificate)
            dealer.send(encode_frame(hello))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(NEVER_ARRIVES_WITHIN_MS / 1000):
                    await asyncio.to_thread(dealer.poll, NEVER_ARRIVES_WITHIN_MS * 2)
            assert not listener._peers
        finally:
            context.destroy(linger=0)
            await bus.close()

    run_async(check())


def test_a_peer_without_encryption_is_not_heard() -> None:
    async def check() -> None:
        bus = ZmqBus(Authority().manager(), clock=SystemClock())
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            listener = await bus.listen_remote("127.0.0.1", 0, Table())
            host, port = parse_address(listener.endpoint)
            dealer = context.socket(zmq.DEALER)
            monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
            dealer.connect(f"tcp://{host}:{port}")
            dealer.send(encode_frame(frames.Hello(1, 1)))
            await eventually(lambda: monitor.poll(0))
            assert not listener._peers
            dealer.disable_monitor()
            monitor.close(0)
        finally:
            context.destroy(linger=0)
            await bus.close()

    run_async(check())
