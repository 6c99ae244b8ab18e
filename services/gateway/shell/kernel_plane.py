"""The kernel's part of the data plane: has nft load the rules, says when they hold, looks now and then whether they still do.

Owned by the keeper. What must stay true: a table counts as acted on when the kernel has it, or when the kernel was told to have nothing,
so that the gateway's own listeners take all; what somebody else changed in the node's table is put right.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Sequence

from services.gateway.core import kernel_rules
from services.kit.messages.routes import Route
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner

LOOK_AGAIN_S = 5.0
NFT_TIMEOUT_S = 5.0
_PLACES = "/usr/sbin:/sbin:/usr/local/sbin"


class NftFailed(Exception):
    """The nft program is not there, or did not do it."""


class KernelPlane:
    """See the module."""

    def __init__(
        self, node_id: str, host: str, acted: Callable[[], None], *, look_again_s: float = LOOK_AGAIN_S
    ) -> None:
        """``host`` is where ports without addresses of their own are answered; ``acted`` is called when a table holds."""
        self.serial = 0
        """Of the newest table that is acted on."""
        self.failure = ""
        """Why the kernel does nothing although it is asked to."""
        self.ports: tuple[str, ...] = ()
        """What the kernel was asked to carry and does, where the node has tasks."""
        self._node_id = node_id
        self._host = host
        self._acted = acted
        self._look_again_s = look_again_s
        self._newest = 0
        self._routes: tuple[Route, ...] = ()
        self._script = ""
        self._listing = ""
        """What nft shows when nobody has changed anything."""
        self._is_used = False
        """This node has, or may have from an earlier gateway, a table in the kernel."""
        self._news = asyncio.Event()
        self._owner = TaskOwner("kernel")
        self._log = Log("kernel")

    def start(self) -> None:
        """Begin to act on tables."""
        self._is_used = os.geteuid() == 0 and _program() is not None
        self._owner.spawn("keep", self._keep())

    def take(self, serial: int, routes: Sequence[Route]) -> None:
        """Act on a table."""
        self._newest, self._routes = serial, tuple(routes)
        self._news.set()

    def draining(self) -> dict[str, int]:
        """Return this node's draining tasks to which the kernel may have open connections, counted as one: it is not asked how many."""
        if not self.ports:
            return {}
        return {
            backend.task_id: 1
            for route in kernel_rules.wanted(self._routes)
            for backend in kernel_rules.here(route, self._node_id)
            if backend.draining
        }

    async def failed(self) -> BaseException:
        """Wait for a broken invariant and return it."""
        return await self._owner.failed()

    async def close(self, *, remove: bool) -> None:
        """Act no more; ``remove``: have the kernel forget."""
        await self._owner.close()
        if remove and self._listing:
            with contextlib.suppress(NftFailed):
                await _nft("-f", "-", words=kernel_rules.script((), self._node_id, self._host))

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._look_again_s if self._listing or self.failure else None):
                    await self._news.wait()
            except TimeoutError:
                await self._look_again()
                continue
            self._news.clear()
            serial, script = self._newest, kernel_rules.script(self._routes, self._node_id, self._host)
            if script != self._script:
                await self._load(script)
            self.serial = serial
            self._acted()

    async def _load(self, script: str) -> None:
        """Have the kernel do this; nothing at all when it cannot be done, so that the gateway carries everything."""
        is_asked = bool(kernel_rules.wanted(self._routes))
        if not is_asked and not self._is_used:
            return
        self._listing, self.ports = "", ()
        try:
            if os.geteuid() != 0:
                raise NftFailed("needs root")
            await _nft("-f", "-", words=script)
            self._script = script
            self._is_used = is_asked
            if is_asked:
                self._listing = await self._shown()
                self.ports = tuple(
                    route.door for route in kernel_rules.wanted(self._routes) if kernel_rules.here(route, self._node_id)
                )
            self._worked()
        except NftFailed as error:
            await self._fell_back(error, is_asked=is_asked)

    async def _fell_back(self, error: NftFailed, *, is_asked: bool) -> None:
        self._script = ""
        if is_asked and self.failure != str(error):
            self._log.warning("kernel plane not used, the gateway carries its ports", cause=str(error))
        self.failure = str(error) if is_asked else ""
        if self._is_used:
            with contextlib.suppress(NftFailed):
                await _nft("-f", "-", words=kernel_rules.script((), self._node_id, self._host))

    def _worked(self) -> None:
        if self.failure:
            self._log.info("kernel plane used after all")
        self.failure = ""

    async def _look_again(self) -> None:
        """Compare what the kernel does with what it was told."""
        script = kernel_rules.script(self._routes, self._node_id, self._host)
        try:
            if self._listing and await self._shown() == self._listing:
                return
        except NftFailed:
            self._log.debug("the node's table is gone")
        if self._listing:
            self._log.warning("somebody changed the rules of published ports in the kernel, they are put right")
        await self._load(script)

    async def _shown(self) -> str:
        return await _nft("--stateless", "list", "table", "inet", kernel_rules.table_name(self._node_id))


def _program() -> str | None:
    return shutil.which("nft", path=os.environ.get("PATH", "") + ":" + _PLACES)


async def _nft(*arguments: str, words: str = "") -> str:
    """Run nft and return what it says; raises NftFailed."""
    program = _program()
    if program is None:
        raise NftFailed("the nft program is not installed")
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise NftFailed(f"cannot run nft: {error.strerror}") from None
    try:
        async with asyncio.timeout(NFT_TIMEOUT_S):
            said, complaint = await process.communicate(words.encode())
    except TimeoutError:
        raise NftFailed("nft does not end") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise NftFailed(complaint.decode(errors="replace").strip().splitlines()[0] if complaint else "nft failed")
    return said.decode()
