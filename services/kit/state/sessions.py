"""Exactly once: remembers what each client's transactions answered, so that a repeated one is not applied again.

Part of the replicated state: bounded by what clients say they have heard and by count, never by a clock, so that every manager forgets the
same entries. What must stay true: a client has no sequence under way that is UNDER_WAY_MAX above its oldest one without an answer. Then of the
RESULTS_MAX results that came last to be remembered, none that may still be asked for is missing, in whatever order they were applied.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.kit.model.value import Value
from services.kit.state.transaction import TxResult

CLIENTS_MAX = 1024
"""Least recently used clients are forgotten beyond this; a client is one run of one process."""
RESULTS_MAX = 2048
"""Results kept per client."""
UNDER_WAY_MAX = RESULTS_MAX // 2
"""How far a client's newest sequence may be ahead of its oldest one without an answer."""


class ClientSession(Value, frozen=True, kw_only=True):
    """One client's remembered results, oldest first (snapshot form)."""

    client: str
    results: tuple[tuple[int, TxResult], ...]
    begins_at: int = 0
    """What is below was answered, and its results are forgotten."""


@dataclass(slots=True)
class _Session:
    results: dict[int, TxResult] = field(default_factory=dict)
    begins_at: int = 0

    def remember(self, sequence: int, result: TxResult, unanswered_from: int) -> None:
        self.results[sequence] = result
        self.begins_at = max(self.begins_at, unanswered_from)
        while (oldest := next(iter(self.results))) < self.begins_at and oldest != sequence:
            del self.results[oldest]
        if len(self.results) > RESULTS_MAX:
            del self.results[oldest]
            self.begins_at = max(self.begins_at, oldest + 1)


class Sessions:
    """Results by client and sequence number."""

    def __init__(self) -> None:
        self._clients: dict[str, _Session] = {}

    def recall(self, client: str, sequence: int) -> TxResult | None:
        """Return what this transaction answered, or None when it is new or forgotten."""
        session = self._clients.get(client)
        return None if session is None else session.results.get(sequence)

    def is_over(self, client: str, sequence: int) -> bool:
        """Tell whether a transaction without a remembered result was answered long ago: it must not be applied."""
        session = self._clients.get(client)
        return session is not None and sequence < session.begins_at

    def remember(self, client: str, sequence: int, result: TxResult, unanswered_from: int = 0) -> None:
        """Keep an answer; forget what the client has heard and what is beyond the bounds."""
        session = self._clients.pop(client, None)
        if session is None:
            session = _Session()
        self._clients[client] = session
        session.remember(sequence, result, unanswered_from)
        if len(self._clients) > CLIENTS_MAX:
            del self._clients[next(iter(self._clients))]

    def dump(self) -> tuple[ClientSession, ...]:
        """Return everything, least recently used client first."""
        return tuple(
            ClientSession(client=client, results=tuple(session.results.items()), begins_at=session.begins_at)
            for client, session in self._clients.items()
        )

    def load(self, dumped: tuple[ClientSession, ...]) -> None:
        """Replace everything by what ``dump`` returned."""
        self._clients = {entry.client: _Session(dict(entry.results), entry.begins_at) for entry in dumped}
