"""Addresses as people write them."""

from __future__ import annotations

import pytest

from services.kit.bus.ports import HostPort, NodePorts, format_address, node_ports, parse_address
from services.kit.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:4242", "127.0.0.1", 4242),
        ("manager-1.example.org:1", "manager-1.example.org", 1),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("[fd00::5]:80", "fd00::5", 80),
    ],
)
def test_an_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    assert parse_address(text) == HostPort(host, port)
    assert format_address(host, port) == text == str(HostPort(host, port))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "host",
        "host:",
        ":80",
        "host:port",
        "host:-1",
        "host:65536",
        "host:99999999999999999999999999",
        "host:8 0",
        "host:٤٢",
        "ho st:80",
        "höst:80",
        "tcp://host:80",
        "::1:80",
        "[::1]",
        "[::1:80",
        "[nonsense]:80",
        "[127.0.0.1]:80",
    ],
)
def test_junk_is_refused_with_the_place_the_value_and_a_hint(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_address(text, path="join-addr")
    (problem,) = caught.value.problems
    assert problem.path == "join-addr"
    assert problem.value == text
    assert problem.hint


def test_a_node_has_three_ports_in_a_row() -> None:
    assert node_ports("[::1]:4242") == NodePorts(
        remote=HostPort("::1", 4242), door=HostPort("::1", 4243), raft=HostPort("::1", 4244)
    )


@pytest.mark.parametrize("text", ["h:0", "h:65534", "h:65535"])
def test_a_node_needs_room_for_three_ports(text: str) -> None:
    with pytest.raises(InvalidArgument, match="the two ports after it"):
        node_ports(text)
