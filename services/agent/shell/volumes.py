"""Brings cluster volumes to this node and takes them down again, through the node's volume drivers. What is due, core/volumes decides.

Below ``<state-dir>/worker/cluster-volumes``: ``<id>/volume.json`` (what is noted before a driver is asked for anything; never secrets),
``<id>/staged`` and ``<id>/published``, where drivers put things.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from services.agent.core.volumes import Do, Step, VolumeBook
from services.kit.errors import FailedPrecondition, SwarmError
from services.kit.messages.session import AssignedVolume, Assignments
from services.kit.model.ids import VolumeId
from services.kit.model.volumes import VolumeDriverNode
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import Clock
from services.kit.runtime.files import make_directory, write_atomic
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from services.kit.runtime.volume_driver import StepRequest, driver_names, find_driver

STEPS_AT_ONCE_MAX = 4


class Volumes:
    """The cluster volumes of this node."""

    def __init__(
        self,
        *,
        clock: Clock,
        owner: TaskOwner,
        drivers_dir: Path,
        directory: Path,
        node_id: str,
        used: Callable[[], Collection[VolumeId]],
        secrets: Callable[[], Mapping[str, bytes]],
    ) -> None:
        """``used`` says which volumes tasks here have, ``secrets`` what the node was given."""
        self._clock = clock
        self._owner = owner
        self._drivers_dir = drivers_dir
        self._directory = directory
        self._node_id = node_id
        self._used = used
        self._secrets = secrets
        self._log = Log("volumes")
        self._book = VolumeBook()
        self._wake = asyncio.Event()
        self._at_once = asyncio.Semaphore(STEPS_AT_ONCE_MAX)
        self._told = False
        self.drivers: tuple[VolumeDriverNode, ...] = ()
        """The drivers that answer, as of the last look."""
        self.news = Changes()
        """Announced when there is something to report."""

    def adopt(self) -> None:
        """Take note of what an earlier agent left."""
        noted = []
        for file in sorted(self._directory.glob("*/volume.json")):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                noted.append(msgspec.json.decode(file.read_bytes(), type=AssignedVolume))
        self._book.adopt(noted)

    async def look_at_drivers(self) -> bool:
        """Ask every driver what it is; True when that has changed."""
        found: list[VolumeDriverNode] = []
        for name in driver_names(self._drivers_dir):
            try:
                info = await find_driver(self._drivers_dir, name).info()
            except SwarmError as error:
                self._log.warning("volume driver unable", driver=name, reason=str(error))
                continue
            found.append(
                VolumeDriverNode(name=name, node_id=info.node_id, volumes_max=info.volumes_max, topology=info.topology)
            )
        changed, self.drivers = self.drivers != tuple(found), tuple(found)
        return changed

    def apply(self, message: Assignments) -> None:
        """Take over what the dispatcher gives and takes back."""
        self._told = self._told or message.full
        self._book.assign(full=message.full, given=message.volumes, removed=message.removed_volumes)
        self.look()

    def look(self) -> None:
        """Tasks have come or gone."""
        self._wake.set()
        if self._book.reports():
            self.news.announce()

    async def run(self) -> None:
        """Do what is due until cancelled."""
        while True:
            self._wake.clear()
            if self._told:
                for do in self._book.due(self._clock.monotonic(), self._used()):
                    self._owner.spawn(f"volume {do.volume.id}", self._do(do))
            if self._book.reports():
                self.news.announce()
            deadline = self._book.deadline()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - self._clock.monotonic())):
                    await self._wake.wait()

    def path(self, volume_id: VolumeId) -> str:
        """Return where a volume is; empty while it is not here."""
        return self._book.path(volume_id)

    def trouble(self, volume_id: VolumeId) -> str:
        """Return why a volume is not here."""
        return self._book.trouble(volume_id)

    def reports(self) -> tuple[VolumeId, ...]:
        """Return the volumes to report as taken down."""
        return self._book.reports()

    def acknowledged(self, volumes: Collection[VolumeId]) -> None:
        """The dispatcher knows."""
        self._book.acknowledged(volumes)

    # -- steps

    async def _do(self, do: Do) -> None:
        try:
            async with self._at_once:
                path = await (self._up(do.volume) if do.step is Step.UP else self._down(do.volume))
        except (SwarmError, OSError) as error:
            self._log.warning("volume step failed", volume=do.volume.id, step=do.step.value, reason=str(error))
            self._book.failed(do.volume.id, self._clock.monotonic(), str(error))
        else:
            self._log.info("volume moved", volume=do.volume.id, step=do.step.value, path=path)
            self._book.done(do.volume.id, do.step, path)
        self.look()

    async def _up(self, volume: AssignedVolume) -> str:
        """Stage and publish it, and return where it is."""
        place = self._directory / volume.id
        make_directory(place)
        write_atomic(place / "volume.json", msgspec.json.encode(volume))
        driver = find_driver(self._drivers_dir, volume.driver)
        request = self._request(volume)
        if (await driver.info()).stages:
            make_directory(place / "staged")
            await driver.step("stage", request)
        make_directory(place / "published")
        answer = await driver.step("publish", request)
        path = answer.path or request.target_path
        if not Path(path).is_absolute():
            raise FailedPrecondition(f"volume driver {volume.driver} publishes at {path!r}, which is no absolute path")
        return path

    async def _down(self, volume: AssignedVolume) -> str:
        """Unpublish and unstage it, and forget it."""
        driver = find_driver(self._drivers_dir, volume.driver)
        request = self._request(volume)
        await driver.step("unpublish", request)
        if (await driver.info()).stages:
            await driver.step("unstage", request)
        place = self._directory / volume.id
        # Never what may still be mounted there: rmdir refuses what is not empty.
        for name in ("published", "staged"):
            with contextlib.suppress(FileNotFoundError):
                (place / name).rmdir()
        shutil.rmtree(place, ignore_errors=True)
        return ""

    def _request(self, volume: AssignedVolume) -> StepRequest:
        place, known = self._directory / volume.id, self._secrets()
        return StepRequest(
            volume_id=volume.volume_id,
            options=volume.driver_options,
            access_mode=volume.access_mode,
            secrets={
                each.key: base64.b64encode(known[each.secret_id]).decode()
                for each in volume.secrets
                if each.secret_id in known
            },
            node_id=next((each.node_id for each in self.drivers if each.name == volume.driver and each.node_id), "")
            or self._node_id,
            volume_context=volume.volume_context,
            publish_context=volume.publish_context,
            staging_path=str(place / "staged"),
            target_path=str(place / "published"),
        )
