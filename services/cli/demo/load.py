"""The demo's load: one client per node asks for a page again and again, each request on a connection of its own."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from dataclasses import dataclass, field

from services.kit.runtime.clock import SystemClock

CLOCK = SystemClock()
TIMEOUT_S = 5.0
PAUSE_S = 0.01


@dataclass(slots=True)
class Tally:
    """What one node's gateway answered."""

    answered: int = 0
    failed: int = 0
    slowest_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class Load:
    """Clients on threads, one per address, until stopped."""

    def __init__(self, addresses: tuple[str, ...], port: int) -> None:
        self.tallies = {address: Tally() for address in addresses}
        self._port = port
        self._stopping = threading.Event()
        self._paused = {address: threading.Event() for address in addresses}
        self._threads = [
            threading.Thread(target=self._ask, args=(address,), name=f"load {address}", daemon=True)
            for address in addresses
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def leave_out(self, address: str) -> None:
        """Ask this node no more: it is about to be killed, and its clients with it."""
        self._paused[address].set()

    def stop(self) -> None:
        """Finish the requests under way and end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 1)

    def answered(self) -> int:
        """Return the number of requests answered so far."""
        return sum(tally.answered for tally in self.tallies.values())

    def _ask(self, address: str) -> None:
        tally = self.tallies[address]
        while not self._stopping.wait(PAUSE_S) and not self._paused[address].is_set():
            began = CLOCK.monotonic()
            reason = self._request(address)
            tally.slowest_s = max(tally.slowest_s, CLOCK.monotonic() - began)
            if reason is None:
                tally.answered += 1
            elif not self._paused[address].is_set():
                tally.failed += 1
                tally.reasons[reason] += 1

    def _request(self, address: str) -> str | None:
        connection = http.client.HTTPConnection(address, self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()
        return None if answer.status == http.client.OK else f"status {answer.status}"
