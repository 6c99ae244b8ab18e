"""Proposing to the node's raft process: transactions with known outcomes, read barriers, status.

The dispatcher and the ca hold one each. What must stay true: a transaction keeps its (client, sequence) through every retry, so that
it takes effect at most once, and its caller learns the true outcome or that it is unknown (``details.maybe_executed``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import NoReturn

import msgspec

from services.kit.errors import Conflict, DeadlineExceeded, Unavailable
from services.kit.messages import store
from services.kit.messages.method import Empty
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import Clock
from services.kit.runtime.metrics import STORE_WRITE
from services.kit.state.sessions import UNDER_WAY_MAX
from services.kit.state.transaction import Op, Transaction, TxConflict, TxResult
from services.kit.store.batches import Batches
from services.kit.store.line import BackOff, Dial, Line


class TransactionConflict(Conflict):
    """The transaction did not take effect; ``conflict`` names the first operation that could not be done."""

    def __init__(self, result: TxResult) -> None:
        assert result.conflict is not None
        super().__init__(result.conflict.message)
        self.result = result
        self.conflict: TxConflict = result.conflict


class StoreClient:
    """A client of the local raft process. ``client_id`` is fresh for every run of a process."""

    def __init__(self, *, dial: Dial, client_id: str, clock: Clock, actor: str = "") -> None:
        """``actor`` is who makes the transactions that name nobody else."""
        self.client_id = client_id
        self._actor = actor
        self._line = Line(dial)
        self._clock = clock
        self._sequence = 0
        self._batches = Batches()
        self._unanswered: dict[int, None] = {}
        """Sequences under way, the oldest first."""
        self._answered = Changes()

    async def propose(
        self,
        ops: Iterable[Op],
        *,
        raise_conflict: bool = True,
        timeout_s: float = store.PROPOSE.timeout_s,
        actor: str = "",
        cause: str = "",
    ) -> TxResult:
        """Run one transaction on the leader and return its result; many may be under way at once.

        ``actor`` and ``cause`` say who wants it and why, for the stream of events.

        Raises TransactionConflict (unless asked not to); Unavailable when this node does not lead: ``details.leader`` may say who
        does, and ``details.maybe_executed`` whether the transaction may have taken effect; DeadlineExceeded likewise.
        """
        begun = self._clock.monotonic()
        sequence = await self._next_sequence()
        try:
            transaction = Transaction(
                client=self.client_id,
                sequence=sequence,
                at=self._clock.wall(),
                ops=tuple(ops),
                actor=actor or self._actor,
                cause=cause,
                unanswered_from=next(iter(self._unanswered)),
            )
            result = await self._outcome(transaction, self._clock.monotonic() + timeout_s)
        finally:
            del self._unanswered[sequence]
            self._answered.announce()
            STORE_WRITE.observe(self._clock.monotonic() - begun)
        if result.conflict is not None and raise_conflict:
            raise TransactionConflict(result)
        return result

    async def barrier(self, *, timeout_s: float = store.BARRIER.timeout_s) -> int:
        """Return a version such that a view at or behind it holds everything that was acknowledged before this call."""
        connection = await self._line.connection()
        return (await connection.call(store.BARRIER, store.Barrier(), timeout_s=timeout_s)).version

    async def status(self) -> store.RaftStatus:
        """Return what the local member thinks of raft."""
        connection = await self._line.connection()
        return await connection.call(store.STATUS, Empty())

    async def follow_status(self) -> AsyncIterator[store.RaftStatus | None]:
        """Yield the status at once and on each change of leadership, term, readiness or members; None while raft cannot be asked.

        On None a leader must stop acting: the next item tells whether it still leads.
        """
        back_off = BackOff()
        while True:
            try:
                connection = await self._line.connection()
                async with connection.open(store.STATUS_FEED, Empty()) as items:
                    back_off.reset()
                    async for status in items:
                        yield status
            except Unavailable:
                pass
            yield None
            await back_off.wait()

    async def close(self) -> None:
        """Release the connection; idempotent."""
        await self._line.close()
        await self._batches.close()

    async def _next_sequence(self) -> int:
        """Wait until no result that may still be asked for again can be forgotten (see ``services.kit.state.sessions``)."""
        while self._unanswered and self._sequence + 1 - next(iter(self._unanswered)) >= UNDER_WAY_MAX:
            await self._answered.wait()
        self._sequence += 1
        self._unanswered[self._sequence] = None
        return self._sequence

    async def _outcome(self, transaction: Transaction, deadline: float) -> TxResult:
        back_off = BackOff()
        unsure = False
        while True:
            remaining_s = deadline - self._clock.monotonic()
            if remaining_s <= 0:
                _raise(DeadlineExceeded("the transaction has no answer in time"), unsure)
            answered = False
            try:
                connection = await self._line.connection()
                try:
                    return await self._batches.propose(connection, transaction, timeout_s=remaining_s)
                finally:
                    answered = connection.lost is None
            except DeadlineExceeded:
                unsure = True
            except Unavailable as error:
                unsure = unsure or error.details.maybe_executed
                if answered and not error.details.maybe_executed:
                    _raise(error, unsure)
            await back_off.wait(at_most_s=deadline - self._clock.monotonic())


def _raise(error: Unavailable | DeadlineExceeded, unsure: bool) -> NoReturn:
    details = msgspec.structs.replace(error.details, maybe_executed=unsure)
    raise type(error)(error.message, details) from error
