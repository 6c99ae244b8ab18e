"""Hostile bytes: whatever arrives, the bus refuses it with an answer or ends the connection, and never trips over it."""

from __future__ import annotations

import asyncio
import base64

import msgpack
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from services.kit.bus.answered import Answered
from services.kit.bus.api import Caller, Limits, Meta
from services.kit.bus.credit import Inbox, cost
from services.kit.bus.dialled import Dialled
from services.kit.errors import InvalidArgument, PermissionDenied, SwarmError, Unauthenticated
from services.kit.messages.method import WORKER
from services.kit.messages.session import UpdateTaskStatus
from services.kit.runtime.clock import SystemClock
from services.kit.wire import frames
from services.kit.wire.codec import decode, decode_frame, encode, encode_frame
from tests.support.buses import COUNT, ECHO, SLOW, TELL, Answers, Word
from tests.support.pki import Authority
from tests.support.running import run_async

KINDS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 18, 19, 20, 21, 22, 23, 99])
NAMES = st.sampled_from([ECHO.name, SLOW.name, COUNT.name, TELL.name, "nobody", ""])
BODIES = st.sampled_from([encode(Word(number=3)), encode(Word()), b"", b"\xc1", b"\x81\xa6number\xa1x"])
METAS = st.sampled_from([b"", encode(Meta(forwarded=True, caller=Caller(node_id="x"))), b"\x91", b"\x80"])
LEAVES = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=8) | st.binary()
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
SMALL = st.integers(-2, 6)
FIELDS = SMALL | NAMES | BODIES | METAS | ANYTHING
PACKED = st.builds(lambda kind, fields: msgpack.packb([kind, *fields]), KINDS, st.lists(FIELDS, max_size=7))
REQUESTS = st.builds(
    lambda call, name, timeout, window, meta, body: encode_frame(
        frames.Request(call, name, timeout, window, meta, body)
    ),
    st.integers(1, 4),
    NAMES,
    st.sampled_from([0, 1, 60_000]),
    st.sampled_from([0, 100, 1 << 20]),
    METAS,
    BODIES,
)
FOLLOWING = st.builds(lambda kind, call: msgpack.packb([kind, call, 50]), st.sampled_from([20, 21, 22]), SMALL)
STREAMS = st.lists(st.binary(max_size=40) | PACKED | REQUESTS | FOLLOWING, max_size=12)


class RecordingLink:
    """A wire that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def send(self, data: bytes) -> bool:
        assert not self.closed, "nothing is sent after the end"
        self.sent.append(data)
        return True

    def close(self) -> None:
        assert not self.closed, "the wire is closed once"
        self.closed = True


@given(st.binary(max_size=200) | PACKED)
def test_any_bytes_are_a_frame_or_are_refused(data: bytes) -> None:
    try:
        frame = decode_frame(data)
    except InvalidArgument:
        return
    if not isinstance(frame, frames.Unknown):
        assert decode_frame(encode_frame(frame)) == frame


@given(st.binary(max_size=300) | ANYTHING.map(msgpack.packb))
def test_any_bytes_are_a_message_or_are_refused(data: bytes) -> None:
    for kind in (Word, Meta, UpdateTaskStatus):
        try:
            value = decode(kind, data)
        except InvalidArgument:
            continue
        assert isinstance(value, kind)


@settings(max_examples=300)
@given(STREAMS, st.booleans())
def test_a_listener_survives_any_sequence_of_frames_and_answers_each_request_at_most_once(
    stream: list[bytes], pausing: bool
) -> None:
    note(f"frames: {stream}")

    async def check() -> None:
        answers, link = Answers(), RecordingLink()
        broken: list[BaseException] = []
        end = Answered(
            link,
            answers.table(),
            peer=Caller(node_id="w", role=WORKER, public_key=b"k"),
            limits=Limits(calls_max=3),
            inside=False,
            on_broken=broken.append,
        )
        for data in stream:
            end.feed(data)
            if pausing:
                await asyncio.sleep(0)
        answers.go_on.set()
        tasks = end.tasks()
        if end.gone is None:
            end.kill(InvalidArgument("the test is over"))
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert not broken
        assert not end.tasks()
        assert link.closed
        _at_most_one_answer_each(stream, link.sent)

    run_async(check())


def _at_most_one_answer_each(asked: list[bytes], sent: list[bytes]) -> None:
    requests = sum(msgpack_kind(data) >= frames.FIRST_CALL_KIND for data in asked)
    finals = [
        frame for frame in map(decode_frame, sent) if isinstance(frame, frames.Reply | frames.ErrorFrame | frames.End)
    ]
    assert len(finals) <= requests


def msgpack_kind(data: bytes) -> int:
    """Return the kind of a frame, or -1."""
    try:
        frame = decode_frame(data)
    except InvalidArgument:
        return -1
    return frame.kind if isinstance(frame, frames.Unknown) else int(msgpack.unpackb(data)[0])


@settings(max_examples=200)
@given(STREAMS)
def test_a_dialler_survives_any_sequence_of_frames_and_leaves_nobody_waiting(stream: list[bytes]) -> None:
    async def check() -> None:
        link = RecordingLink()
        connection = Dialled(link, peer=Caller(), limits=Limits(), heartbeat_s=5)

        async def follow() -> None:
            async with connection.open(COUNT, Word(number=1)) as items:
                async for item in items:
                    assert isinstance(item, Word)

        loop = asyncio.get_running_loop()
        waiting = [loop.create_task(connection.call(ECHO, Word())), loop.create_task(follow())]
        await asyncio.sleep(0)
        for data in stream:
            connection.feed(data)
            await asyncio.sleep(0)
        await connection.close()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert outcome is None or isinstance(outcome, Word | SwarmError)
        assert connection.lost is not None

    run_async(check())


@given(st.lists(st.binary(max_size=300), max_size=40), st.integers(1, 2000))
def test_credit_given_back_never_exceeds_what_was_consumed_and_a_stream_never_starves(
    bodies: list[bytes], window: int
) -> None:
    async def check() -> None:
        given_back: list[int] = []
        inbox: Inbox[bytes] = Inbox(window, given_back.append, bytes)
        left, consumed = window, 0
        waiting = list(bodies)
        while waiting:
            while waiting and left > 0:
                left -= cost(waiting[0])
                inbox.put(waiting.pop(0))
            before = sum(given_back)
            consumed += cost(await anext(inbox))
            left += sum(given_back) - before
            assert sum(given_back) <= consumed
            assert left > 0 or inbox._items, "the sender has no credit and the receiver nothing to read"

    run_async(check())


def test_a_sender_that_ignores_its_credit_is_found_out() -> None:
    inbox: Inbox[bytes] = Inbox(1000, lambda credit: None, bytes)
    for _ in range(7):
        inbox.put(b"x" * 100)
    with pytest.raises(InvalidArgument, match="ignores its credit"):
        inbox.put(b"x")


AUTHORITY = Authority()
ME = AUTHORITY.manager()
LEAF = AUTHORITY.worker("w1")
DER = base64.b64decode(b"".join(LEAF.certificate.splitlines()[1:-1]))


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, len(DER) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_certificate_changed_in_any_byte_is_refused(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(DER)
    for place, byte in changes:
        changed[place] = byte
    if bytes(changed) == DER:
        return
    text = base64.encodebytes(bytes(changed))
    pem = b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"
    with pytest.raises((Unauthenticated, PermissionDenied)):
        ME.check(pem, LEAF.public_key, now=SystemClock().wall())
