"""The HTTP server: which path goes where, who may, and how failures are answered.

Docker's paths work with and without ``/v1.xx`` in front. What must stay true: a change needs a right, every answer of an error is Docker's
JSON, and a browser that somebody else sent to the loopback address gets nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from services.kit.errors import PermissionDenied, SwarmError, Unimplemented
from services.kit.runtime.log import Log
from services.web.core import failures, versions
from services.web.core.missing import reason
from services.web.shell.desk import BODY_BYTES_MAX, Desk, answered
from services.web.shell.measuring import Measuring
from services.web.shell.networks import Networks
from services.web.shell.page import Page
from services.web.shell.payloads import Configs, Secrets
from services.web.shell.services import Services, Tasks
from services.web.shell.streams import Streams
from services.web.shell.swarm import Nodes, Swarm
from services.web.shell.system import SERVER, System

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
READS = frozenset({"GET", "HEAD"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
HEADERS = {
    "Api-Version": versions.written(versions.GREATEST),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"{SERVER} (linux)",
}
LOG = Log("http")


def make_app(desk: Desk) -> web.Application:
    """Return the application behind one door."""
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_guard(desk)])
    app.on_response_prepare.append(_add_headers)
    streams = Streams(desk)
    app.on_shutdown.append(streams.close)
    for method, path, handler in _routes(desk, streams):
        app.router.add_route(method, path, handler)
        app.router.add_route(method, r"/{api:v\d+\.\d+}" + path, handler)
    app.router.add_route("*", "/{rest:.*}", _missing)
    return app


def _routes(desk: Desk, streams: Streams) -> tuple[tuple[str, str, Handler], ...]:
    system, swarm, nodes = System(desk), Swarm(desk), Nodes(desk)
    services = Services(desk)
    tasks = Tasks(desk, services)
    page = Page(desk, streams)
    secrets, configs, networks = Secrets(desk), Configs(desk), Networks(desk)
    return (
        ("GET", "/_ping", system.ping),
        ("HEAD", "/_ping", system.ping),
        ("GET", "/version", system.version),
        ("GET", "/info", system.info),
        ("GET", "/", page.index),
        ("GET", "/ui/pictures", page.pictures),
        ("GET", "/ui/{name}", page.file),
        ("GET", "/metrics", Measuring(desk).metrics),
        ("GET", "/events", streams.events),
        ("GET", "/networks", networks.list),
        ("POST", "/networks/create", networks.create),
        ("GET", "/networks/{ref}", networks.inspect),
        ("DELETE", "/networks/{ref}", networks.remove),
        ("GET", "/volumes", system.volumes),
        ("GET", "/swarm", swarm.inspect),
        ("POST", "/swarm/update", swarm.update),
        ("POST", "/swarm/init", swarm.already),
        ("POST", "/swarm/join", swarm.already),
        ("POST", "/swarm/leave", swarm.leave),
        ("GET", "/swarm/unlockkey", swarm.unlock_key),
        ("POST", "/swarm/unlock", swarm.unlock),
        ("GET", "/nodes", nodes.list),
        ("GET", "/nodes/{ref}", nodes.inspect),
        ("POST", "/nodes/{ref}/update", nodes.update),
        ("DELETE", "/nodes/{ref}", nodes.remove),
        ("GET", "/services", services.list),
        ("POST", "/services/create", services.create),
        ("GET", "/services/{ref}", services.inspect),
        ("POST", "/services/{ref}/update", services.update),
        ("DELETE", "/services/{ref}", services.remove),
        ("GET", "/services/{ref}/logs", streams.service_logs),
        ("GET", "/secrets", secrets.list),
        ("POST", "/secrets/create", secrets.create),
        ("GET", "/secrets/{ref}", secrets.inspect),
        ("POST", "/secrets/{ref}/update", secrets.update),
        ("DELETE", "/secrets/{ref}", secrets.remove),
        ("GET", "/configs", configs.list),
        ("POST", "/configs/create", configs.create),
        ("GET", "/configs/{ref}", configs.inspect),
        ("POST", "/configs/{ref}/update", configs.update),
        ("DELETE", "/configs/{ref}", configs.remove),
        ("GET", "/tasks", tasks.list),
        ("GET", "/tasks/{ref}", tasks.inspect),
        ("GET", "/tasks/{ref}/logs", streams.task_logs),
    )


def _guard(desk: Desk) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            versions.split_path(request.path)
            _check_browser(desk, request)
            if request.method not in READS:
                desk.check_right(request)
            return await handler(request)
        except SwarmError as error:
            status, text = failures.answer(error)
            LOG.debug("request refused", method=request.method, path=request.path, status=status, cause=text)
            return answered({"message": text}, status=status)
        except web.HTTPException as error:
            return answered({"message": error.reason}, status=error.status)

    return guard


def _check_browser(desk: Desk, request: web.Request) -> None:
    """On a plain loopback door, refuse what came by a foreign name or from a foreign page (DNS rebinding, forged requests)."""
    if not desk.loopback:
        return
    name = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
    origin = request.headers.get("Origin", "")
    if name not in _LOOPBACK_NAMES or (origin and origin.partition("://")[2] != request.host):
        raise PermissionDenied("this address answers to its own name and its own page only")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


async def _missing(request: web.Request) -> web.StreamResponse:
    """Answer 501 for what Docker has and we do not, 404 for the rest."""
    _, path = versions.split_path(request.path)
    why = reason(path)
    if why:
        raise Unimplemented(f"swarmbus does not have {request.method} {path}: {why}")
    return answered({"message": "page not found"}, status=404)
