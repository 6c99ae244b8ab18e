"""Exactly once: remembers what each client's transactions answered, so that a repeated one is not applied again.

Part of the replicated state: bounded by count, never by a clock, so that every manager forgets the same entries.
"""

from __future__ import annotations

from services.kit.model.value import Value
from services.kit.state.transaction import TxResult

CLIENTS_MAX = 1024
"""Least recently used clients are forgotten beyond this; a client is one run of one process."""
RESULTS_MAX = 2048
"""Results kept per client; a client has fewer transactions than this under way."""


class ClientSession(Value, frozen=True, kw_only=True):
    """One client's remembered results, oldest first (snapshot form)."""

    client: str
    results: tuple[tuple[int, TxResult], ...]


class Sessions:
    """Results by client and sequence number."""

    def __init__(self) -> None:
        self._clients: dict[str, dict[int, TxResult]] = {}

    def recall(self, client: str, sequence: int) -> TxResult | None:
        """Return what this transaction answered, or None when it is new."""
        results = self._clients.get(client)
        return None if results is None else results.get(sequence)

    def remember(self, client: str, sequence: int, result: TxResult) -> None:
        """Keep an answer and forget what is beyond the bounds."""
        results = self._clients.pop(client, None)
        if results is None:
            results = {}
        self._clients[client] = results
        results[sequence] = result
        if len(results) > RESULTS_MAX:
            del results[next(iter(results))]
        if len(self._clients) > CLIENTS_MAX:
            del self._clients[next(iter(self._clients))]

    def dump(self) -> tuple[ClientSession, ...]:
        """Return everything, least recently used client first."""
        return tuple(
            ClientSession(client=client, results=tuple(results.items())) for client, results in self._clients.items()
        )

    def load(self, dumped: tuple[ClientSession, ...]) -> None:
        """Replace everything by what ``dump`` returned."""
        self._clients = {entry.client: dict(entry.results) for entry in dumped}
