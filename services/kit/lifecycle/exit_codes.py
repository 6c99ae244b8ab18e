"""Exit codes of the processes; the supervisor acts on them."""

from __future__ import annotations

import errno
from enum import IntEnum

from services.kit.errors import DataLoss, FailedPrecondition, InvalidArgument, SwarmError, Unauthenticated


class ExitCode(IntEnum):
    """Why a process ended."""

    OK = 0
    CRASH = 1
    """A broken invariant or an unexpected error: restart with back-off."""
    USAGE = 64
    """Settings are wrong: a restart would not help."""
    IDENTITY_LOST = 65
    """The node was removed, or its certificate is no longer accepted: stop and say so."""
    STORE_DAMAGED = 66
    """The store on disk is damaged: stop and shout, never start with less."""
    LOCKED = 67
    """The state directory is in use, or sealed under the unlock key."""
    UNREACHABLE = 68
    """Nobody answers at the addresses given."""
    DISK_FULL = 69
    """The disk refuses writes: restart with back-off, the swarm goes on without this member."""

    @property
    def final(self) -> bool:
        """True when restarting the process cannot help."""
        return self in {ExitCode.USAGE, ExitCode.IDENTITY_LOST, ExitCode.STORE_DAMAGED, ExitCode.LOCKED}


_BY_ERROR: tuple[tuple[type[SwarmError], ExitCode], ...] = (
    (InvalidArgument, ExitCode.USAGE),
    (Unauthenticated, ExitCode.IDENTITY_LOST),
    (DataLoss, ExitCode.STORE_DAMAGED),
    (FailedPrecondition, ExitCode.LOCKED),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the code for what ended a process; what nobody expected is a crash, which is restarted."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
        return ExitCode.DISK_FULL
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), ExitCode.CRASH)
