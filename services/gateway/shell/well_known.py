"""The claim to the well-known control socket of this user: a symbolic link to the control socket of the first node of the host.

Used by the app at start and stop. What must stay true: a link to a socket on which somebody listens is left alone, whoever that is; a dead one
is replaced; only a link that is still ours is removed.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from services.kit.runtime.files import make_directory
from services.kit.runtime.log import Log
from services.kit.runtime.paths import well_known_socket

_log = Log("doors")


def claim(control_socket: str, link: Path | None = None) -> bool:
    """Point the well-known link at this control socket unless it leads to a living one; True when it leads here now."""
    link = link or well_known_socket()
    try:
        if _leads_to(link, control_socket):
            return True
        if _is_alive(link):
            return False
        _prepare(link.parent)
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(control_socket)
        fresh.replace(link)
    except OSError as error:
        _log.warning("well-known socket not claimed", path=str(link), cause=str(error))
        return False
    return True


def release(control_socket: str, link: Path | None = None) -> None:
    """Remove the link if it leads here; idempotent."""
    link = link or well_known_socket()
    if _leads_to(link, control_socket):
        link.unlink(missing_ok=True)


def _prepare(directory: Path) -> None:
    """Make the directory, for this user alone; raises PermissionError when it is somebody else's."""
    if not directory.exists():
        make_directory(directory)
    if directory.is_symlink() or directory.stat().st_uid != os.geteuid():
        raise PermissionError(f"{directory} belongs to somebody else")


def _leads_to(link: Path, control_socket: str) -> bool:
    return link.is_symlink() and os.readlink(link) == control_socket


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True
