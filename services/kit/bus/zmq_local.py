"""The file of a Unix socket that a listener claims. libzmq's own bind would steal the path of a living listener.

What must stay true: of several processes that claim a path only one gets it, a living listener keeps it, and the file is 0600 before the
first peer can connect.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from services.kit.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Problem

PATH_BYTES_MAX = 107
_BACKLOG = 1024
_MODE = 0o600


class ClaimedSocket:
    """A listening Unix socket, and its file."""

    def __init__(self, path: str) -> None:
        """Claim the path; raises FailedPrecondition when somebody listens there, InvalidArgument when it is not usable."""
        _check_length(path)
        self._path = Path(path)
        self._socket = _claim(self._path)
        self._inode = self._path.stat().st_ino

    @property
    def descriptor(self) -> int:
        """The listening descriptor."""
        return self._socket.fileno()

    def hand_over(self) -> None:
        """Leave the descriptor to libzmq, which closes it."""
        self._socket.detach()

    def remove(self) -> None:
        """Remove the file unless a successor has put its own there; idempotent."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def close(self) -> None:
        """Give up a claim that was not handed over."""
        self._socket.close()
        self.remove()


def check_owner(path: str) -> None:
    """Raise PermissionDenied when a socket belongs to a user whom we should not talk to."""
    with contextlib.suppress(FileNotFoundError):
        if os.geteuid() != 0 and Path(path).stat().st_uid not in {0, os.geteuid()}:
            raise PermissionDenied(f"{path} belongs to another user")


def _claim(path: Path) -> socket.socket:
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(path, f"its directory cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        _remove_dead(path)
        claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claimed.bind(str(path))
            path.chmod(_MODE)
            claimed.listen(_BACKLOG)
            claimed.setblocking(False)
        except OSError as error:
            claimed.close()
            raise _unusable(path, f"cannot listen there: {error.strerror}") from None
        return claimed
    finally:
        os.close(directory)


def _remove_dead(path: Path) -> None:
    """Remove a socket's file that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if path.is_socket():
                path.unlink()
                return
            raise _unusable(path, "another file is in the way") from None
        except BlockingIOError:
            pass
        except OSError as error:
            raise _unusable(path, f"cannot be claimed: {error.strerror}") from None
    raise FailedPrecondition(f"somebody listens on {path} already")


def _check_length(path: str) -> None:
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise _unusable(Path(path), f"a socket's path has at most {PATH_BYTES_MAX} bytes")


def _unusable(path: Path, reason: str) -> InvalidArgument:
    return InvalidArgument.of((Problem(path="socket", reason=reason, value=str(path)),))
