"""The header in front of a connection that says whose it is."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.proxy_header import (
    HEADER_BYTES_MAX,
    SIGNATURE,
    V1,
    V2,
    Address,
    BrokenHeader,
    Header,
    encode,
    parse,
)

FOUR = (Address("192.0.2.7", 4711), Address("198.51.100.1", 80))
SIX = (Address("2001:db8::7", 65535), Address("2001:db8::1", 1))


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("pair", [FOUR, SIX])
def test_what_is_written_is_read_again(version: str, pair: tuple[Address, Address]) -> None:
    data = encode(version, *pair)
    assert parse(data + b"GET / HTTP/1.1\r\n") == Header(len(data), *pair)


@pytest.mark.parametrize("version", [V1, V2])
def test_a_pair_of_both_families_is_written_as_version_six(version: str) -> None:
    data = encode(version, FOUR[0], SIX[1])
    assert b"TCP6 ::ffff:192.0.2.7 2001:db8::1" in data or data[13] == 0x21
    assert parse(data) == Header(len(data), FOUR[0], SIX[1])


@pytest.mark.parametrize("version", [V1, V2])
def test_every_beginning_of_a_header_asks_for_more(version: str) -> None:
    data = encode(version, *SIX)
    assert all(parse(data[:length]) is None for length in range(len(data)))


def test_the_bytes_are_those_of_the_specification() -> None:
    assert encode(V1, *FOUR) == b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n"
    body = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 4711, 80)
    assert encode(V2, *FOUR) == b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + body


@pytest.mark.parametrize("data", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b c d\r\n", SIGNATURE + b"\x20\0\0\0"])
def test_a_sender_may_speak_for_itself(data: bytes) -> None:
    assert parse(data) == Header(len(data), None, None)


def test_extensions_behind_the_addresses_are_passed_over() -> None:
    plain = encode(V2, *FOUR)
    data = plain[:14] + struct.pack("!H", 12 + 5) + plain[16:] + b"\x04\0\x02hi"
    assert parse(data) == Header(len(data), *FOUR)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 -1\r\n",
        b"PROXY TCP4 2001:db8::1 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 me you 1 2\r\n",
        b"PROXY TCP9 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY " + b"x" * 200,
        SIGNATURE + b"\x31\x11\0\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\0\x04" + bytes(4),
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, HEADER_BYTES_MAX),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenHeader):
        parse(data)


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: SIGNATURE + tail))
def test_any_bytes_are_read_refused_or_asked_on(data: bytes) -> None:
    try:
        header = parse(data)
    except BrokenHeader:
        return
    assert header is None or header.length <= len(data)
