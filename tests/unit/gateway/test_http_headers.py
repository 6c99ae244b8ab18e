"""Headers on their way through a gateway, and requests that go no further."""

from __future__ import annotations

import pytest

from services.gateway.core.http_headers import (
    BadRequest,
    Header,
    answer_headers,
    check_request,
    request_headers,
    upgrade_asked,
    values,
)

HOST: Header = (b"host", b"shop.example:8080")


def passed_on(
    *headers: Header, is_trusted: bool = False, upgrade: bytes = b"", client: str = "192.0.2.7"
) -> list[Header]:
    return request_headers(
        [HOST, *headers], client=client, scheme="http", port=8080, is_trusted=is_trusted, upgrade=upgrade
    )


def test_the_task_hears_who_asked_and_how() -> None:
    headers = passed_on()
    assert (b"x-forwarded-for", b"192.0.2.7") in headers
    assert (b"x-forwarded-proto", b"http") in headers
    assert (b"x-forwarded-host", b"shop.example:8080") in headers
    assert (b"x-forwarded-port", b"8080") in headers
    assert (b"forwarded", b'for=192.0.2.7;proto=http;host="shop.example:8080"') in headers
    assert HOST in headers


def test_an_address_of_version_six_is_quoted_in_forwarded() -> None:
    assert values(passed_on(client="2001:db8::7"), b"forwarded")[0].startswith(b'for="[2001:db8::7]";')


def test_what_a_stranger_says_of_itself_is_dropped() -> None:
    headers = passed_on((b"x-forwarded-for", b"10.0.0.1"), (b"x-forwarded-proto", b"https"), (b"forwarded", b"for=me"))
    assert values(headers, b"x-forwarded-for") == [b"192.0.2.7"]
    assert values(headers, b"x-forwarded-proto") == [b"http"]
    assert b"for=me" not in values(headers, b"forwarded")[0]


def test_what_a_trusted_balancer_says_is_continued() -> None:
    said = ((b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https"), (b"forwarded", b"for=203.0.113.9"))
    headers = passed_on(*said, is_trusted=True)
    assert values(headers, b"x-forwarded-for") == [b"203.0.113.9, 192.0.2.7"]
    assert values(headers, b"x-forwarded-proto") == [b"https"]
    assert values(headers, b"forwarded")[0].startswith(b"for=203.0.113.9, for=192.0.2.7;")


def test_headers_about_one_connection_stay_there() -> None:
    headers = passed_on(
        (b"connection", b"keep-alive, X-Private"), (b"keep-alive", b"5"), (b"x-private", b"1"), (b"x-other", b"2")
    )
    names = {name for name, _ in headers}
    assert names.isdisjoint({b"connection", b"keep-alive", b"x-private"})
    assert (b"x-other", b"2") in headers
    answer = answer_headers([(b"connection", b"close"), (b"keep-alive", b"5"), (b"etag", b"x")], closes=False)
    assert answer == [(b"etag", b"x")]
    assert (b"connection", b"close") in answer_headers([], closes=True)


def test_a_switch_of_protocols_is_passed_on_by_name_only() -> None:
    asked = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    assert upgrade_asked(asked) == b"websocket"
    assert upgrade_asked([(b"upgrade", b"websocket")]) == b"", "Connection has to say so"
    headers = passed_on(*asked, upgrade=b"websocket")
    assert values(headers, b"upgrade") == [b"websocket"]
    assert values(headers, b"connection") == [b"upgrade"]


@pytest.mark.parametrize(
    ("headers", "target", "method", "status"),
    [
        ([], b"/", b"GET", 400),
        ([HOST, HOST], b"/", b"GET", 400),
        ([(b"host", b"a b")], b"/", b"GET", 400),
        ([(b"host", b"a/b")], b"/", b"GET", 400),
        ([HOST, (b"content-length", b"5"), (b"transfer-encoding", b"chunked")], b"/", b"POST", 400),
        ([HOST, (b"content-length", b"5"), (b"content-length", b"5")], b"/", b"POST", 400),
        ([HOST, (b"content-length", b"+5")], b"/", b"POST", 400),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], b"/", b"POST", 400),
        ([HOST, (b"transfer-encoding", b"identity")], b"/", b"POST", 400),
        ([HOST], b"shop.example:443", b"CONNECT", 405),
        ([HOST], b"shop.example", b"GET", 400),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(
    headers: list[Header], target: bytes, method: bytes, status: int
) -> None:
    with pytest.raises(BadRequest) as refused:
        check_request(method, target, b"1.1", headers)
    assert refused.value.status == status


def test_ordinary_requests_are_let_through() -> None:
    check_request(b"POST", b"/a?b=c", b"1.1", [HOST, (b"content-length", b"5")])
    check_request(b"POST", b"http://shop.example/", b"1.1", [HOST, (b"transfer-encoding", b"Chunked")])
    check_request(b"OPTIONS", b"*", b"1.1", [(b"host", b"[2001:db8::1]:80")])
    check_request(b"GET", b"/", b"1.0", [])
