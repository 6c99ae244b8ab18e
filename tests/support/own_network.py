"""Work inside a network namespace that a test has made, without another Python: sockets and processes of the work belong there."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def in_network(namespace: str, work: Callable[[], None]) -> None:
    """Run this in a thread whose network is the namespace, as is that of the processes it starts. Raises what the work raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _enter(namespace)
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the work was asked for
            failures.append(error)

    thread = threading.Thread(target=run, name="own-network")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _enter(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
