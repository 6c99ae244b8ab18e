"""The web process: a client of the node's control API, and the doors at which it is asked in HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path

from aiohttp import web

from services.client.client import Client
from services.kit.bus.ports import HostPort, parse_address
from services.kit.errors import FailedPrecondition, InvalidArgument, Problem
from services.kit.lifecycle.app import Runtime
from services.kit.runtime.log import Log
from services.web.config import WebSettings
from services.web.shell.desk import Desk
from services.web.shell.server import make_app

UNIX = "unix://"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
SOCKET_MODE = 0o660
STOP_S = 3.0
"""How long open requests may take when the process stops."""
TOKEN_BYTES_MAX = 4096


class WebApp:
    """See the module."""

    def __init__(self, settings: WebSettings, runtime: Runtime) -> None:
        self._settings = settings
        self._runtime = runtime
        self._client = Client(
            settings.control_socket,
            timeout_s=settings.control_timeout_s,
            bus=runtime.bus,
            clock=runtime.clock,
            ids=runtime.ids,
        )
        self._runners: list[web.AppRunner] = []
        self._sockets: list[Path] = []
        self._log = Log("web")

    async def start(self) -> None:
        """Open every door."""
        if not self._settings.addresses:
            raise _wrong("is empty", "", "write unix:///path or 127.0.0.1:2375")
        token = _token(self._settings.token_file)
        for address in self._settings.addresses:
            if address.startswith(UNIX):
                await self._open_socket(Path(address.removeprefix(UNIX)))
            else:
                await self._open_tcp(parse_address(address.removeprefix("tcp://"), path="listen_http"), token)

    async def serve(self) -> None:
        """Run until cancelled."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Close the doors, let open requests end, leave no socket behind."""
        for runner in self._runners:
            await runner.cleanup()
        for path in self._sockets:
            path.unlink(missing_ok=True)
        await self._client.close()

    async def _open_socket(self, path: Path) -> None:
        runner = await self._runner(trusted=True)
        await web.SockSite(runner, _local_socket(path)).start()
        self._sockets.append(path)
        self._log.info("http", addr=f"{UNIX}{path}")

    async def _open_tcp(self, address: HostPort, token: str) -> None:
        context = _tls(self._settings.http_tls_dir)
        if context is None and address.host not in LOOPBACK:
            raise _wrong(
                "would be open to everybody",
                str(address),
                "listen on loopback, or give http_tls_dir so that clients need a certificate",
            )
        runner = await self._runner(trusted=context is not None, token=token, loopback=context is None)
        await web.TCPSite(runner, address.host, address.port, ssl_context=context).start()
        self._log.info("http", addr=str(address), tls=context is not None)

    async def _runner(self, *, trusted: bool, token: str = "", loopback: bool = False) -> web.AppRunner:
        desk = Desk(
            client=self._client,
            clock=self._runtime.clock,
            ids=self._runtime.ids,
            node_id=self._runtime.node.facts.node_id,
            trusted=trusted,
            token=token,
            loopback=loopback,
        )
        runner = web.AppRunner(
            make_app(desk), handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=STOP_S
        )
        await runner.setup()
        self._runners.append(runner)
        return runner


def _local_socket(path: Path) -> socket.socket:
    """Return a socket bound to a path, for its user and group from the first moment; raises FailedPrecondition."""
    if path.is_socket() and _is_heard(path):
        raise FailedPrecondition(f"somebody listens on {path} already")
    if path.exists() and not path.is_socket():
        raise FailedPrecondition(f"{path} is there and is no socket")
    bound = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o777 & ~SOCKET_MODE)
    try:
        path.unlink(missing_ok=True)
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise FailedPrecondition(f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(mask)
    return bound


def _is_heard(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        token = path.read_text()[:TOKEN_BYTES_MAX].strip()
    except OSError as error:
        raise InvalidArgument(f"the token file {path} cannot be read: {error.strerror}") from None
    if not token:
        raise InvalidArgument(f"the token file {path} is empty")
    return token


def _tls(directory: str) -> ssl.SSLContext | None:
    """Return a context that asks every client for a certificate of the ca; None when there is to be no TLS."""
    if not directory:
        return None
    folder = Path(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        context.load_verify_locations(folder / "ca.pem")
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"ca.pem, cert.pem or key.pem in {folder} cannot be read: {error}") from None
    return context


def _wrong(reason: str, value: str, hint: str) -> InvalidArgument:
    return InvalidArgument.of((Problem(path="listen_http", reason=reason, value=value, hint=hint),))
