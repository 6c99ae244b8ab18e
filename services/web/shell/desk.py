"""What every handler has at hand: the client, the clock, who is asking; and the small words of requests and answers."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from services.client.client import Client
from services.kit.errors import InvalidArgument, PermissionDenied
from services.kit.model.ids import NodeId
from services.kit.runtime.clock import Clock
from services.kit.runtime.ids import IdSource
from services.web.core.json import Json

BODY_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One door's view of the world."""

    client: Client
    clock: Clock
    ids: IdSource
    node_id: NodeId
    trusted: bool
    """Whoever comes through this door may change things."""
    token: str = ""
    """Or whoever shows this."""
    loopback: bool = False
    """The door is a plain TCP one on this machine only: a browser may have been sent there by somebody else."""

    def may_change(self, request: web.Request) -> bool:
        """Tell whether the caller may change things and see secrets."""
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        return self.trusted or (bool(self.token) and hmac.compare_digest(shown.encode(), self.token.encode()))

    def check_right(self, request: web.Request) -> None:
        """Refuse a change from those who may only read."""
        if not self.may_change(request):
            raise PermissionDenied(
                "this address only reads: changes need its token, a client certificate or the local socket"
            )


def answered(value: Any, status: int = 200) -> web.Response:
    """Return a JSON answer. Docker's client knows a message by the exact content type, so no charset is named."""
    return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")


def done(status: int = 200) -> web.Response:
    """Return an answer that says nothing."""
    return web.Response(status=status)


async def body_of(request: web.Request) -> Json:
    """Return the JSON object of a request."""
    try:
        value = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument("the body is not a JSON object")
    return value


def asked(request: web.Request, name: str) -> bool:
    """Return a truth value of the query, as Docker writes them."""
    return request.query.get(name, "").strip().lower() not in {"", "0", "no", "false", "none"}


def version_of(request: web.Request) -> int:
    """Return the version that an update is based on."""
    text = request.query.get("version", "")
    if not text.isdigit():
        raise InvalidArgument(f"invalid version '{text}': it is not a number")
    return int(text)
