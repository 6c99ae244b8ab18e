"""Who is meant by a name and a path, and what a client's first words of TLS say."""

from __future__ import annotations

import random
import ssl

import pytest

from services.gateway.core.client_hello import HELLO_BYTES_MAX, BrokenHello, server_name
from services.gateway.core.switchboard import Switchboard, host_and_path

SEED = random.SystemRandom().randrange(1 << 30)


def board() -> Switchboard[str]:
    found: Switchboard[str] = Switchboard()
    found.add(["shop.example.org"], [], "shop")
    found.add(["shop.example.org"], ["/api/", "/admin/users"], "api")
    found.add(["*.example.org"], [], "wild")
    found.add([], ["/status"], "status")
    return found


@pytest.mark.parametrize(
    ("name", "path", "owner"),
    [
        ("shop.example.org", "/", "shop"),
        ("SHOP.Example.ORG.", "/", "shop"),
        ("shop.example.org", "/api", "api"),
        ("shop.example.org", "/api/v1/things", "api"),
        ("shop.example.org", "/apiary", "shop"),
        ("shop.example.org", "/admin", "shop"),
        ("shop.example.org", "/admin/users/1", "api"),
        ("shop.example.org", "/status", "shop"),
        ("blog.example.org", "/", "wild"),
        ("a.blog.example.org", "/", None),
        ("example.org", "/", None),
        ("example.org", "/status/now", "status"),
        ("", "/status", "status"),
    ],
)
def test_the_most_special_name_and_then_path_wins(name: str, path: str, owner: str | None) -> None:
    assert board().owner(name, path) == owner


def test_a_name_alone_leads_to_one_of_its_owners() -> None:
    assert board().owner_of_name("shop.example.org") in {"shop", "api"}
    assert board().owner_of_name("x.example.org") == "wild"
    assert board().owner_of_name("elsewhere") == "status"


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        (b"a.example:8080", b"/x/y?z=/w#f", ("a.example", "/x/y")),
        (b"[fd00::1]:80", b"/", ("fd00::1", "/")),
        (b"a.example", b"http://b.example:81/p?q", ("b.example", "/p")),
        (b"a.example", b"http://b.example", ("b.example", "/")),
        (b"a.example", b"*", ("a.example", "/")),
        (b"", b"/", ("", "/")),
    ],
)
def test_a_request_names_a_host_and_a_path(host: bytes, target: bytes, expected: tuple[str, str]) -> None:
    assert host_and_path(host, target) == expected


# -- first words of TLS


def hello(name: str | None) -> bytes:
    """Return what a client of the standard library says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("name", ["shop.example.org", "a." * 100 + "example"])
def test_the_name_is_found_and_every_beginning_asks_for_more(name: str) -> None:
    data = hello(name)
    assert server_name(data) == name
    assert all(server_name(data[:length]) is None for length in range(len(data)))


def test_a_hello_in_many_records_is_read() -> None:
    data = hello("shop.example.org")
    body = data[5:]
    parts = [body[start : start + 7] for start in range(0, len(body), 7)]
    cut = b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)
    assert server_name(cut) == "shop.example.org"


def test_a_client_may_name_nobody() -> None:
    assert server_name(hello(None)) == ""


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x06\x01\x00\x00\x02ab",
        (b"\x16\x03\x01\x00\x01\x01" * HELLO_BYTES_MAX)[:HELLO_BYTES_MAX],
    ],
)
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenHello):
        server_name(data)


def test_any_bytes_are_read_refused_or_asked_on() -> None:
    rng = random.Random(SEED)
    for _ in range(3000):
        data = bytearray(hello("a.example") if rng.random() < 0.02 else b"\x16\x03\x01" + rng.randbytes(60))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            server_name(bytes(data))
        except BrokenHello:
            continue
