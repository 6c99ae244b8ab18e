"""A node told to serve metrics and names serves them, from the command line on."""

from __future__ import annotations

import http.client
import socket
import struct
from pathlib import Path

import pytest

from tests.support.plane_home import HOST, free_port
from tests.support.swarm import Swarm

pytestmark = pytest.mark.process


def test_a_node_serves_metrics_and_names_where_it_was_told_to(tmp_path: Path) -> None:
    page_port, dns_port = free_port(), free_port()
    with Swarm(tmp_path) as swarm:
        swarm.start("n1", "--listen-discovery", f"{HOST}:{page_port}", "--listen-dns", f"{HOST}:{dns_port}")
        connection = http.client.HTTPConnection(HOST, page_port, timeout=5.0)
        connection.request("GET", "/metrics")
        page = connection.getresponse().read()
        connection.close()
        assert b"\nswarmbus_ingress_workers 1\n" in page
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
            resolver.settimeout(5.0)
            question = b"\x06nobody\x05swarm\0" + struct.pack("!HH", 1, 1)
            resolver.sendto(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + question, (HOST, dns_port))
            reply = resolver.recv(600)
        assert reply[:2] == struct.pack("!H", 7)
        assert reply[3] & 15 == 3, "there is no such name"
