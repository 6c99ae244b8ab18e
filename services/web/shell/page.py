"""The page: its three files, and the pictures that it is sent as server-sent events."""

from __future__ import annotations

import json
from importlib.resources import files

from aiohttp import web

from services.client.following import follow
from services.web.core.json import Json
from services.web.core.picture import picture
from services.web.shell.desk import Desk
from services.web.shell.streams import Streams

SETTLE_S = 0.15
"""Changes that follow one another so quickly make one picture."""
PACE_S = 1.0
"""But while changes never pause there is a picture this often."""
_TABLES = ("node", "service", "task")
_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Page:
    """See the module."""

    def __init__(self, desk: Desk, streams: Streams) -> None:
        self._desk = desk
        self._streams = streams

    async def index(self, request: web.Request) -> web.StreamResponse:
        """Send the page itself."""
        return _file("index.html")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Send what belongs to it."""
        name = request.match_info["name"]
        return _file(name) if name in _TYPES else web.Response(status=404)

    async def pictures(self, request: web.Request) -> web.StreamResponse:
        """Send a picture now and after each change, for as long as somebody looks."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        async with self._streams.open(), follow(self._desk.client, tables=_TABLES) as follower:
            await follower.next()
            await response.prepare(request)
            while True:
                data = json.dumps(await self._picture())
                await response.write(f"data: {data}\n\n".encode())
                await follower.next()
                latest = self._desk.clock.monotonic() + PACE_S
                while self._desk.clock.monotonic() < latest and await follower.next(timeout_s=SETTLE_S) is not None:
                    continue

    async def _picture(self) -> Json:
        client = self._desk.client
        nodes, services = await client.nodes.list(stale=True), await client.services.list(stale=True)
        tasks = await client.tasks.list_with_specs(stale=True)
        statuses = await client.services.statuses(stale=True) if services else ()
        return picture(nodes, services, statuses, tasks.tasks, tasks.specs)


def _file(name: str) -> web.Response:
    body = files("services.web").joinpath("page", name).read_bytes()
    return web.Response(body=body, content_type=_TYPES[name], charset="utf-8", headers=_SAFE)
