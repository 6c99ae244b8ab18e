"""Linearizable reads: on the leader by read index, on a follower by asking the leader for one."""

from __future__ import annotations

from services.kit.model.ids import NodeId
from services.raft.core import messages
from services.raft.core.reads import Answer, Leading, ReadIndex
from services.raft.shell.seat import Seat

READ_TIMEOUT_S = 2.0
ReadMessage = messages.ReadPing | messages.ReadPong | messages.ReadAsk | messages.ReadAnswer


class Reading:
    """One member's reads under way."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._index = ReadIndex(seat.me, timeout_s=READ_TIMEOUT_S, again_s=seat.timing.heartbeat_s)
        self._asks: dict[int, tuple[Answer, float]] = {}
        """What the leader was asked, and when."""
        self._ask = 0

    def ask(self, answer: Answer) -> None:
        """Find an index such that a state applied up to it is linearizable; None when no leader confirms one."""
        leader = self._seat.leader
        if self._seat.leads:
            self._index.ask(answer)
        elif leader is not None:
            self._ask += 1
            self._asks[self._ask] = (answer, self._seat.clock.monotonic())
            if not self._seat.send_now(leader, messages.ReadAsk(self._ask)):
                self._settle_ask(self._ask, None)
        else:
            answer(None)

    def abandon(self, answer: Answer) -> None:
        """Forget a read that nobody waits for any more."""
        self._asks = {ask: known for ask, known in self._asks.items() if known[0] is not answer}

    def lose_leader(self) -> None:
        """The leader that was asked does not lead any more, or cannot be reached."""
        for ask in list(self._asks):
            self._settle_ask(ask, None)

    def take(self, sender: NodeId, message: ReadMessage) -> None:
        """Act on a member's message."""
        seat = self._seat
        match message:
            case messages.ReadPing():
                if message.term == seat.term and not seat.leads:
                    seat.outbox.hold(sender, messages.ReadPong(message.term, message.round))
            case messages.ReadPong():
                self._index.confirm(sender, message.term, message.round)
            case messages.ReadAsk():
                self._asked(sender, message.ask)
            case messages.ReadAnswer():
                self._settle_ask(message.ask, message.index or None)

    def turn(self, now: float) -> None:
        """Begin a round for who waits, settle the rounds that can be, and give up what the leader does not answer."""
        for ask in [ask for ask, (_, asked_at) in self._asks.items() if now - asked_at > READ_TIMEOUT_S]:
            self._settle_ask(ask, None)
        if not self._index.busy:
            return
        seat = self._seat
        leading = Leading(
            term=seat.term if seat.leads else None,
            commit_index=seat.commit_index,
            commit_term=seat.log.entries.term_at(seat.commit_index),
        )
        number = self._index.begin(leading, now)
        if number is not None:
            for peer in seat.others:
                seat.send_now(peer, messages.ReadPing(seat.term, number))
        self._index.settle(leading, seat.member_ids, now)

    def _asked(self, sender: NodeId, ask: int) -> None:
        def answer(index: int | None) -> None:
            self._seat.send_now(sender, messages.ReadAnswer(ask, index or 0))
            self._seat.consensus.tell_commit_soon()

        if self._seat.leads:
            self._index.ask(answer)
        else:
            answer(None)

    def _settle_ask(self, ask: int, index: int | None) -> None:
        known = self._asks.pop(ask, None)
        if known is not None:
            known[0](index)
