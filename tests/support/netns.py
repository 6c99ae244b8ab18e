"""A network of our own: one namespace per node and one with the bridge between them; a cable can be pulled and put back. Needs root.

Nothing of it touches the machine's own network, and everything is gone with ``close``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

PREFIX = "10.77.0."


def is_possible() -> str:
    """Return why network namespaces cannot be used here; nothing when they can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs iproute2"
    name = f"swb{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode != 0:
        return "network namespaces cannot be made here"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Cables:
    """So many machines on one bridge."""

    def __init__(self, count: int) -> None:
        self._hub = f"swb{os.getpid()}-hub"
        self._names = [f"swb{os.getpid()}-{number}" for number in range(count)]

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self._hub)
            _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._hub, "link", "set", "bridge", "up")
            for number, name in enumerate(self._names):
                self._connect(number, name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def address(self, number: int) -> str:
        """Return a machine's address."""
        return f"{PREFIX}{number + 1}"

    def wrapper(self, number: int) -> tuple[str, ...]:
        """Return what runs a command on a machine."""
        return ("ip", "netns", "exec", self._names[number])

    def pull(self, number: int) -> None:
        """Pull a machine's cable."""
        _ip("-n", self._hub, "link", "set", f"port{number}", "down")

    def put_back(self, number: int) -> None:
        """Put it back."""
        _ip("-n", self._hub, "link", "set", f"port{number}", "up")

    def close(self) -> None:
        """Remove everything; idempotent."""
        for name in (*self._names, self._hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _connect(self, number: int, name: str) -> None:
        port = f"port{number}"
        _ip("netns", "add", name)
        _ip("-n", self._hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", self._hub, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
