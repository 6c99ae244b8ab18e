"""Messages and frames as bytes, and what becomes of bytes that are neither."""

from __future__ import annotations

import msgpack
import pytest

from services.kit.errors import Details, InvalidArgument, Problem
from services.kit.model.value import Value
from services.kit.wire import frames
from services.kit.wire.codec import BYTES_MAX, decode, decode_frame, encode, encode_frame


class Inner(Value, frozen=True, kw_only=True):
    count: int


class Outer(Value, frozen=True, kw_only=True):
    name: str = ""
    inner: tuple[Inner, ...] = ()


FRAMES = (
    frames.Hello(1, 2, b"pem", "agent"),
    frames.Welcome(1, b"pem", 5000, 4 << 20),
    frames.Goaway(14, "bye"),
    frames.Ping(),
    frames.Pong(),
    frames.CastFrame("a.b", b"", b"x"),
    frames.Request(1, "a.b", 1000, 0, b"m", b"x"),
    frames.Reply(7, b"x"),
    frames.ErrorFrame(
        7, 3, "bad", Details(problems=(Problem(path="a", reason="b"),), leader="n1", maybe_executed=True)
    ),
    frames.Item(7, b"x"),
    frames.End(7),
    frames.Credit(7, 100),
    frames.Cancel((1 << 53) - 1),
)


def refusal_of(data: bytes) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        decode_frame(data)
    return caught.value


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_frame_comes_back_as_it_was(frame: frames.Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_every_frame_is_plain_msgpack_with_its_kind_first(frame: frames.Frame) -> None:
    read = msgpack.unpackb(encode_frame(frame))
    assert isinstance(read, list)
    assert isinstance(read[0], int)
    assert decode_frame(msgpack.packb(read)) == frame


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_fields_that_a_newer_peer_adds_are_ignored(frame: frames.Frame) -> None:
    read = msgpack.unpackb(encode_frame(frame))
    if isinstance(frame, frames.ErrorFrame):
        read[-1]["new"] = 1
    assert decode_frame(msgpack.packb([*read, "new", {"x": 1}])) == frame


def test_a_frame_of_an_unknown_kind_is_told_apart_by_its_id() -> None:
    assert decode_frame(msgpack.packb([9, "new"])) == frames.Unknown(kind=9, id=0)
    assert decode_frame(msgpack.packb([40, 3, "x" * 1000])) == frames.Unknown(kind=40, id=3)
    assert decode_frame(msgpack.packb([40, "no id"])) == frames.Unknown(kind=40, id=0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x80",
        b"\x91\xc0",
        msgpack.packb([-1, 2]),
        msgpack.packb([True, 2]),
        msgpack.packb([[16], 2]),
        msgpack.packb([{}, 2]),
        msgpack.packb([16, 1, "m", 0, 0, b""]),
        msgpack.packb([16, 0, "m", 0, 0, b"", b""]),
        msgpack.packb([16, 1 << 53, "m", 0, 0, b"", b""]),
        msgpack.packb([16, 1, "m" * 129, 0, 0, b"", b""]),
        msgpack.packb([16, 1, "m", -1, 0, b"", b""]),
        msgpack.packb([16, 1, "m", 0, "w", b"", b""]),
        msgpack.packb([16, 1, "m", 0, 0, {}, b""]),
        msgpack.packb([16, 1, "m", 0, 0, b"x" * 70_000, b""]),
        msgpack.packb([1, 1, 1, b"x" * 70_000]),
        msgpack.packb([18, 1, 3, "x" * 5000]),
        msgpack.packb([18, 1, 3, "x", {"problems": 3}]),
        msgpack.packb([21, 1, -5]),
        msgpack.packb([21, 1, 1 << 40]),
        b"\x93\x03\x01\xa2\xff\xfe",
        b"\xdc\xff\xff\x10",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92\x10" + b"\x81\xa1a" * 100_000,
    ],
)
def test_a_frame_of_a_wrong_shape_is_refused(data: bytes) -> None:
    assert len(refusal_of(data).problems) == 1


def test_a_message_comes_back_as_it_was_and_defaults_are_left_out() -> None:
    value = Outer(name="a", inner=(Inner(count=1), Inner(count=2)))
    assert decode(Outer, encode(value)) == value
    assert encode(Outer()) == b"\x80"


def test_unknown_fields_of_a_message_are_ignored() -> None:
    assert decode(Outer, msgpack.packb({"name": "a", "later": [1, {"x": 2}]})) == Outer(name="a")


def test_a_refusal_names_the_place() -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode(Outer, msgpack.packb({"inner": [{"count": 1}, {"count": "two"}]}))
    (problem,) = caught.value.problems
    assert problem.path == "Outer.inner[1].count"
    assert problem.reason == "expected `int`, got `str`"


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidArgument, match="missing required field `count`") as caught:
        decode(Outer, msgpack.packb({"inner": [{}]}))
    assert caught.value.problems[0].path == "Outer.inner[0]"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80\x80", b"\xa1\xff", b"\x81\xa5inner" + b"\x91" * 100_000])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode(Outer, data)


def test_a_message_over_the_bound_is_refused_unread() -> None:
    with pytest.raises(InvalidArgument, match="more than"):
        decode(Outer, b"\x80" + b"\x00" * BYTES_MAX)
