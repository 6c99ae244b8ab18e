"""The drivers of this node: loads them, follows their fingerprints, finds what they still hold from before.

Used by ``shell.tasks`` (which driver runs this task), ``shell.app`` (load, recover, unload) and ``shell.session`` (what can this node
run). A driver that fails to load is reported and left out; the others serve.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from services.agent.core.describe import DriverFacts
from services.agent.drivers import make_driver
from services.agent.drivers.api import Driver, DriverContext, DriverError, Fingerprint, Recovered, Rejected
from services.kit.errors import SwarmError
from services.kit.model.ids import TaskId
from services.kit.runtime.changes import Changes
from services.kit.runtime.log import Log

FINGERPRINT_TIMEOUT_S = 5.0
RECOVER_TIMEOUT_S = 20.0


class NoSuchDriver(Rejected):
    """This node has no driver of that name."""


@dataclass(slots=True)
class _Loaded:
    driver: Driver
    fingerprint: Fingerprint
    recovered: bool = False
    """``recover`` was run since the driver became healthy."""


class Drivers:
    """All loaded drivers by name."""

    def __init__(self, context: DriverContext) -> None:
        self._changes = 0
        self._changed = Changes()
        self._context = context
        self._log = Log("drivers")
        self._loaded: dict[str, _Loaded] = {}

    async def load(self, drivers: Iterable[Driver]) -> None:
        """Load drivers side by side and wait for their first fingerprints."""
        await asyncio.gather(*(self._load(driver) for driver in drivers))

    async def load_named(self, names: Iterable[str]) -> None:
        """Make drivers by name and load them; raises InvalidArgument for a name that nobody knows."""
        await self.load([make_driver(name) for name in names])

    async def unload(self) -> None:
        """Unload all; tasks run on."""
        for loaded in self._loaded.values():
            try:
                await loaded.driver.unload()
            except (SwarmError, OSError) as error:
                self._log.warning("driver did not unload", driver=loaded.driver.name, reason=str(error))

    def find(self, name: str) -> Driver:
        """Return a driver; raises NoSuchDriver."""
        loaded = self._loaded.get(name)
        if loaded is None:
            raise NoSuchDriver(f"this node has no driver {name!r}, it has {', '.join(sorted(self._loaded)) or 'none'}")
        return loaded.driver

    def facts(self) -> dict[str, DriverFacts]:
        """Return what the healthy drivers say of the node."""
        return {
            name: DriverFacts(
                generic=loaded.fingerprint.resources.generic,
                unenforced=loaded.fingerprint.unenforced,
                engine=loaded.fingerprint.engine,
            )
            for name, loaded in self._loaded.items()
            if loaded.fingerprint.healthy
        }

    async def next_change(self, seen: int) -> int:
        """Wait until fingerprints have changed more often than ``seen`` and return how often."""
        while self._changes <= seen:
            await self._changed.wait()
        return self._changes

    async def recover(self) -> dict[TaskId, tuple[Driver, Recovered]]:
        """Return what the healthy drivers hold, each asked once since it became healthy."""
        found: dict[TaskId, tuple[Driver, Recovered]] = {}
        for name, loaded in sorted(self._loaded.items()):
            if loaded.recovered or not loaded.fingerprint.healthy:
                continue
            try:
                async with asyncio.timeout(RECOVER_TIMEOUT_S), aclosing(loaded.driver.recover()) as items:
                    async for item in items:
                        found[item.task_id] = (loaded.driver, item)
                loaded.recovered = True
            except (DriverError, TimeoutError) as error:
                self._log.warning("driver could not say what it holds", driver=name, reason=str(error) or "timed out")
        return found

    async def _load(self, driver: Driver) -> None:
        self._log.debug("driver loading", driver=driver.name)
        try:
            await driver.load(self._context)
            fingerprints = driver.fingerprint()
            async with asyncio.timeout(FINGERPRINT_TIMEOUT_S):
                first = await anext(fingerprints)
        except (SwarmError, OSError, TimeoutError, ImportError) as error:
            self._log.error("driver failed to load", driver=driver.name, reason=str(error) or type(error).__name__)
            return
        loaded = self._loaded[driver.name] = _Loaded(driver, first)
        self._report(loaded)
        self._context.tasks.spawn(f"fingerprint {driver.name}", self._follow(loaded, fingerprints))

    async def _follow(self, loaded: _Loaded, fingerprints: AsyncGenerator[Fingerprint]) -> None:
        async with aclosing(fingerprints):
            async for fingerprint in fingerprints:
                if fingerprint == loaded.fingerprint:
                    continue
                loaded.recovered = loaded.recovered and fingerprint.healthy
                loaded.fingerprint = fingerprint
                self._report(loaded)
                self._changes += 1
                self._changed.announce()

    def _report(self, loaded: _Loaded) -> None:
        fingerprint = loaded.fingerprint
        self._log.info(
            "driver able" if fingerprint.healthy else "driver unable",
            driver=loaded.driver.name,
            version=fingerprint.version,
            reason=fingerprint.reason,
            unenforced=",".join(fingerprint.unenforced),
        )
