"""What does not end by itself: logs of services and tasks, and events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from aiohttp import web

from services.client.feed import ObjectChange, changes_of
from services.client.following import follow
from services.kit.errors import InvalidArgument, NotFound
from services.kit.messages.control import ObjectEvents
from services.kit.model.states import LogStream
from services.kit.state.tables import name_of
from services.web.core import failures, versions
from services.web.core.filters import Wanted, among, labelled, read_filters
from services.web.core.json import Json
from services.web.core.log_frames import MULTIPLEXED, RAW, log_bytes
from services.web.core.times import moment
from services.web.shell.desk import Desk, asked

EVENT_FILTERS = (
    "config",
    "daemon",
    "event",
    "label",
    "node",
    "scope",
    "secret",
    "service",
    "type",
    "network",
    "volume",
)
MULTIPLEXED_SINCE = (1, 42)
_TABLES = ("service", "node", "secret", "config", "network")


class Streams:
    """See the module."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tasks: set[asyncio.Task[object]] = set()

    async def close(self, app: web.Application) -> None:
        """End every stream: none ends by itself."""
        for task in tuple(self._tasks):
            task.cancel()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Count the current request among the open streams."""
        task = asyncio.current_task()
        assert task is not None, "a request is a task"
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def service_logs(self, request: web.Request) -> web.StreamResponse:
        """Stream the logs of a service's tasks."""
        ref = request.match_info["ref"]
        try:
            service = await self._desk.client.services.get(ref)
        except NotFound:
            raise failures.not_found("service", ref) from None
        return await self._logs(request, tty=service.spec.task.container.tty, services=(service.id,))

    async def task_logs(self, request: web.Request) -> web.StreamResponse:
        """Stream the logs of a task."""
        ref = request.match_info["ref"]
        try:
            reply = await self._desk.client.tasks.get(ref)
        except NotFound:
            raise failures.not_found("task", ref) from None
        tty = reply.spec is not None and reply.spec.task.container.tty
        return await self._logs(request, tty=tty, tasks=(reply.task.id,))

    async def _logs(
        self, request: web.Request, *, tty: bool, services: tuple[str, ...] = (), tasks: tuple[str, ...] = ()
    ) -> web.StreamResponse:
        streams = [stream for stream in LogStream if asked(request, stream.value)]
        if not streams:
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        batches = self._desk.client.log_batches(
            services=services,
            tasks=tasks,
            follow=asked(request, "follow"),
            tail=_tail(request.query.get("tail", "all")),
            since=moment(request.query.get("since", ""), "since"),
            streams=streams,
        )
        timestamps, details = asked(request, "timestamps"), asked(request, "details")
        version, _ = versions.split_path(request.path)
        response = web.StreamResponse()
        response.content_type = MULTIPLEXED if version >= MULTIPLEXED_SINCE and not tty else RAW
        async with self.open(), aclosing(batches):
            await response.prepare(request)
            async for batch in batches:
                lines = (log_bytes(line, timestamps=timestamps, details=details, tty=tty) for line in batch.lines)
                await response.write(b"".join(lines))
        await response.write_eof()
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream what happens to services, nodes, networks, secrets and configs from now on."""
        wanted = read_filters(request.query.get("filters", ""), EVENT_FILTERS)
        until = moment(request.query.get("until", ""), "until")
        left_s = until - self._desk.clock.wall() if until else None
        response = web.StreamResponse()
        response.content_type = "application/json"
        try:
            async with self.open(), asyncio.timeout(left_s), follow(self._desk.client, tables=_TABLES) as follower:
                while True:
                    item = await follower.next()
                    if not response.prepared:
                        await response.prepare(request)
                    if isinstance(item, ObjectEvents):
                        events = (_event(change) for change in changes_of(item))
                        lines = (json.dumps(event).encode() + b"\n" for event in events if _wanted(wanted, event))
                        await response.write(b"".join(lines))
        except TimeoutError:
            if not response.prepared:
                await response.prepare(request)
        await response.write_eof()
        return response


def _tail(text: str) -> int:
    if text in {"", "all"}:
        return -1
    if not text.isdigit():
        raise InvalidArgument(f"invalid tail '{text}': it is neither a number nor all")
    return int(text)


def _event(change: ObjectChange) -> Json:
    thing = change.object
    seconds = thing.meta.updated_at
    return {
        "Type": change.table.value,
        "Action": change.action,
        "Actor": {"ID": thing.id, "Attributes": {"name": name_of(thing)}},
        "scope": "swarm",
        "time": int(seconds),
        "timeNano": round(seconds * 1e9),
    }


def _wanted(wanted: Wanted, event: Json) -> bool:
    kind, actor = event["Type"], event["Actor"]
    names = (actor["ID"], actor["Attributes"]["name"])
    nouns = [noun for noun in ("service", "node", "secret", "config") if noun in wanted]
    return (
        among(wanted, "type", kind)
        and among(wanted, "event", event["Action"])
        and among(wanted, "scope", "swarm")
        and labelled(wanted, "label", {})
        and (not nouns or (kind in nouns and among(wanted, kind, *names)))
    )
