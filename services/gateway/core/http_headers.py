"""What a gateway changes in the headers of HTTP requests and answers, and which requests it refuses.

Pure functions on lists of (name, value), names in lower case. What must stay true: two readers of a request can never see different
ends of it; headers that are about one connection do not cross to the next; what a client says of itself counts only when it is trusted.
Sources: RFC 9110 section 7.6, RFC 9112 sections 6.1 and 11.2, RFC 7239.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Header = tuple[bytes, bytes]
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
FORWARDED = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto"}
)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{1,5})?")


class BadRequest(Exception):
    """The request is not passed on; the text says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def check_request(method: bytes, target: bytes, version: bytes, headers: Sequence[Header]) -> None:
    """Raise BadRequest for what could be read in two ways, or asks for another kind of proxy."""
    hosts = values(headers, b"host")
    if version == b"1.1" and len(hosts) != 1:
        raise BadRequest(400, "there is not exactly one Host")
    if len(hosts) > 1 or (hosts and not _HOST.fullmatch(hosts[0])):
        raise BadRequest(400, "the Host is not one")
    lengths, codings = values(headers, b"content-length"), values(headers, b"transfer-encoding")
    if lengths and codings:
        raise BadRequest(400, "the body has two lengths")
    if len(lengths) > 1 or (lengths and not lengths[0].isdigit()):
        raise BadRequest(400, "the length of the body is not a number")
    if codings and (version != b"1.1" or [coding.lower() for coding in codings] != [b"chunked"]):
        raise BadRequest(400, "the body is coded in a way that is not known")
    if method == b"CONNECT":
        raise BadRequest(405, "this is no way to the world")
    if not (target.startswith((b"/", b"http://", b"https://")) or target == b"*"):
        raise BadRequest(400, "the target is not one")


def request_headers(
    headers: Sequence[Header],
    *,
    client: str,
    scheme: str,
    port: int,
    is_trusted: bool,
    upgrade: bytes,
    asked_at: str = "",
) -> list[Header]:
    """Return the headers of a request for the task; ``upgrade`` is the protocol that it asks to switch to, if any.

    A client of HTTP/1.0 that names no host is taken to mean the address that it ``asked_at``.
    """
    kept = _without(headers, HOP_BY_HOP | named_by_connection(headers) | (frozenset() if is_trusted else FORWARDED))
    host = values(headers, b"host")
    if not host and asked_at:
        host = [f"[{asked_at}]:{port}".encode() if ":" in asked_at else f"{asked_at}:{port}".encode()]
        kept.append((b"host", host[0]))
    if is_trusted and values(headers, b"x-forwarded-for"):
        chain = b", ".join(values(headers, b"x-forwarded-for"))
        kept = _without(kept, frozenset({b"x-forwarded-for"}))
        kept.append((b"x-forwarded-for", chain + b", " + client.encode()))
    else:
        kept.append((b"x-forwarded-for", client.encode()))
    facts = (
        (b"x-forwarded-proto", scheme.encode()),
        (b"x-forwarded-port", b"%d" % port),
        (b"x-forwarded-host", host[0] if host else b""),
    )
    kept += [(name, value) for name, value in facts if value and not values(kept, name)]
    by = f"for={_node(client)};proto={scheme}".encode()
    chain = b", ".join([*values(kept, b"forwarded"), by + (b';host="' + host[0] + b'"' if host and host[0] else b"")])
    kept = [*_without(kept, frozenset({b"forwarded"})), (b"forwarded", chain)]
    if upgrade:
        kept += [(b"connection", b"upgrade"), (b"upgrade", upgrade)]
    return kept


def answer_headers(headers: Sequence[Header], *, closes: bool, upgrade: bytes = b"") -> list[Header]:
    """Return the headers of an answer for the client; ``closes`` tells it that its connection ends after this."""
    kept = _without(headers, HOP_BY_HOP | named_by_connection(headers))
    if upgrade:
        return [*kept, (b"connection", b"upgrade"), (b"upgrade", upgrade)]
    return [*kept, (b"connection", b"close")] if closes else kept


def upgrade_asked(headers: Sequence[Header]) -> bytes:
    """Return the protocol that a request or answer switches to, nothing when it does not."""
    if b"upgrade" not in named_by_connection(headers):
        return b""
    return b", ".join(values(headers, b"upgrade"))


def named_by_connection(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the names that Connection says are about this connection only."""
    return frozenset(
        word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",") if word
    )


def values(headers: Iterable[Header], wanted: bytes) -> list[bytes]:
    """Return the values of a header."""
    return [value for name, value in headers if name == wanted]


def _without(headers: Iterable[Header], names: frozenset[bytes]) -> list[Header]:
    return [(name, value) for name, value in headers if name not in names]


def _node(host: str) -> str:
    return f'"[{host}]"' if ":" in host else host
