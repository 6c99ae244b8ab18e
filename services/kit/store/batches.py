"""One message for all transactions that a process proposes in the same turn of its event loop. Used by ``client``.

Answers come in batches, so those who wrote one after the other soon write together, and nobody waits for a timer. What must stay true: each
transaction has its own outcome; a message fits a frame.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.kit.bus.api import Connection
from services.kit.errors import Details, SwarmError, Unavailable, from_wire
from services.kit.messages import store
from services.kit.runtime.tasks import TaskOwner
from services.kit.state.transaction import Transaction, TxResult

BATCH_BYTES_MAX = 128 << 10
"""A message is closed once it holds this much; a single transaction may be larger. Several under way keep client, leader and followers busy at
the same time, where one large message would have each wait for the others."""

Answer = TxResult | SwarmError


@dataclass(slots=True)
class _Waiting:
    transaction: Transaction
    timeout_s: float
    answer: asyncio.Future[Answer]


class Batches:
    """Proposals on their way."""

    def __init__(self) -> None:
        self._tasks = TaskOwner("proposals")
        self._connection: Connection | None = None
        self._waiting: list[_Waiting] = []
        self._bytes = 0

    async def propose(self, connection: Connection, transaction: Transaction, *, timeout_s: float) -> TxResult:
        """Send a transaction with the others of this turn and return its result; raises what its call or its own outcome says."""
        loop = asyncio.get_running_loop()
        if self._connection is not connection or self._bytes >= BATCH_BYTES_MAX:
            self._send()
        if not self._waiting:
            self._connection = connection
            loop.call_soon(self._send)
        waiting = _Waiting(transaction, timeout_s, loop.create_future())
        self._waiting.append(waiting)
        self._bytes += sum(len(op.object) for op in transaction.ops)
        answer = await waiting.answer
        if isinstance(answer, SwarmError):
            raise from_wire(answer.code, answer.message, answer.details)
        return answer

    async def close(self) -> None:
        """Give up what is under way; idempotent."""
        await self._tasks.close()

    def _send(self) -> None:
        batch, self._waiting, self._bytes = self._waiting, [], 0
        if batch:
            assert self._connection is not None
            self._tasks.spawn("batch", _run(self._connection, batch))


async def _run(connection: Connection, batch: list[_Waiting]) -> None:
    answers: list[Answer] = [Unavailable("the client was closed", Details(maybe_executed=True))] * len(batch)
    try:
        answers = await _ask(connection, batch)
    finally:
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


async def _ask(connection: Connection, batch: list[_Waiting]) -> list[Answer]:
    request = store.Propose(transactions=tuple(waiting.transaction for waiting in batch))
    try:
        reply = await connection.call(store.PROPOSE, request, timeout_s=min(waiting.timeout_s for waiting in batch))
    except SwarmError as error:
        return [error] * len(batch)
    return [_answer(outcome) for outcome in reply.outcomes]


def _answer(outcome: store.Outcome) -> Answer:
    if outcome.result is not None:
        return outcome.result
    return from_wire(outcome.code, outcome.message, outcome.details)
