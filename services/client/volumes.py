"""Cluster volumes, as the client sees them. A ``ref`` is an id, an exact name or an unambiguous prefix of an id."""

from __future__ import annotations

from collections.abc import Callable

from services.client.changes import write_changed
from services.client.line import ControlLine
from services.kit.messages import control, volumes
from services.kit.model.objects import Volume
from services.kit.model.volumes import VolumeSpec


class Volumes:
    """``client.volumes``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def create(self, spec: VolumeSpec) -> Volume:
        """Create a volume; its driver makes it afterwards. Safe to have repeated. Raises InvalidArgument and AlreadyExists."""
        key = self._line.request_id()
        request = volumes.CreateVolumeRequest(spec=spec, request_id=key)
        return (await self._line.call(volumes.CREATE_VOLUME, request, repeatable=True, request_id=key)).volume

    async def get(self, ref: str, *, stale: bool = False) -> Volume:
        """Return one volume; raises NotFound."""
        return (await self._line.call(volumes.GET_VOLUME, control.GetRequest(ref=ref, stale=stale))).volume

    async def list(self, filters: control.Filters = control.Filters(), *, stale: bool = False) -> tuple[Volume, ...]:
        """Return volumes by name."""
        request = control.ListRequest(filters=filters, stale=stale)
        return (await self._line.call(volumes.LIST_VOLUMES, request)).volumes

    async def update(self, ref: str, change: Callable[[VolumeSpec], VolumeSpec]) -> Volume:
        """Change a volume's labels and availability; nothing else can change."""

        async def read() -> Volume:
            return await self.get(ref)

        async def send(volume: Volume, spec: VolumeSpec) -> Volume:
            request = volumes.UpdateVolumeRequest(volume_id=volume.id, version=volume.meta.version, spec=spec)
            return (await self._line.call(volumes.UPDATE_VOLUME, request)).volume

        return await write_changed(read, lambda volume: volume.spec, change, send)

    async def remove(self, ref: str, *, force: bool = False) -> Volume:
        """Have a volume destroyed and return it as it was; refused while a task uses it. Forced, the driver is not asked."""
        volume = await self.get(ref)
        request = volumes.RemoveVolumeRequest(volume_id=volume.id, force=force)
        await self._line.remove(volumes.REMOVE_VOLUME, request)
        return volume
