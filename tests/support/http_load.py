"""Clients that ask for a page again and again and take note of every request that fails."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from services.kit.runtime.clock import SystemClock

CLOCK = SystemClock()
TIMEOUT_S = 10.0
PAUSE_S = 0.005


class HttpLoad:
    """Threads, one a client: for each address one that keeps its connection and one that does not."""

    def __init__(self, addresses: Sequence[str], port: int, *, clients: int = 1) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(address, port, keeps), daemon=True)
            for address in addresses
            for keeps in (True, False)
            for _ in range(clients)
        ]

    @property
    def answered(self) -> int:
        """Return the number of requests answered so far."""
        with self._lock:
            return sum(self.answers.values())

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 1)

    def _ask(self, address: str, port: int, keeps: bool) -> None:
        connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
        headers = {} if keeps else {"Connection": "close"}
        while not self._stopping.wait(PAUSE_S):
            began = CLOCK.monotonic()
            try:
                connection.request("GET", "/", headers=headers)
                response = connection.getresponse()
                page = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with self._lock:
                    how = "kept" if keeps else "new"
                    self.failures.append(f"{address} {how} connection: {type(error).__name__} {error}")
                continue
            with self._lock:
                self.slowest_s = max(self.slowest_s, CLOCK.monotonic() - began)
                self.answers[page if response.status == 200 else f"status {response.status}"] += 1
        connection.close()
