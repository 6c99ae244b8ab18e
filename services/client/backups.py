"""Backups, as the client sees them: everything that users have put into the swarm, at one version, and the way back."""

from __future__ import annotations

from collections.abc import Iterable

from services.client.line import ControlLine, Patience
from services.kit.errors import Unavailable
from services.kit.messages.backup import (
    BACKUP,
    RESTORE,
    BackupItem,
    BackupRequest,
    RestoreRequest,
)


class Backups:
    """``client.backups``. What it gives holds secrets in the clear: encrypt it before it is written anywhere."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def read(self) -> tuple[BackupItem, ...]:
        """Return the parts of a whole backup, all of one version; begun anew when the leader changes on the way."""
        patience = Patience(self._line)
        while True:
            try:
                async with self._line.stream(BACKUP, BackupRequest()) as items:
                    parts = [item async for item in items]
                if parts and sum(len(part.objects) for part in parts) == parts[0].total:
                    return tuple(parts)
                raise Unavailable("the backup ended before it was whole")
            except Unavailable as error:
                await patience.wait(error)

    async def restore(self, parts: Iterable[BackupItem]) -> int:
        """Put back what ``read`` gave and return how many objects were made or changed; those that are there already are left alone.

        Safe to repeat after a failure. Raises InvalidArgument for what is no object.
        """
        written = 0
        for part in parts:
            written += (await self._line.call(RESTORE, RestoreRequest(objects=part.objects))).written
        return written
