"""The client of the store: what is proposed together travels together, and each transaction has its own outcome."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.kit.bus.api import Context, LocalAddress
from services.kit.bus.memory import MemoryBus, MemoryNetwork
from services.kit.bus.rpc import Table
from services.kit.errors import DeadlineExceeded, InvalidArgument
from services.kit.messages import store
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.runtime.clock import SystemClock
from services.kit.state.sessions import UNDER_WAY_MAX
from services.kit.state.transaction import Op, TxResult, create
from services.kit.store.batches import BATCH_BYTES_MAX
from services.kit.store.client import StoreClient
from tests.support.raft_home import Homes, run_homes


def node(name: str, size: int = 0) -> Op:
    return create(Node(id=NodeId(name), remote_addr="x" * size))


class Recorder:
    """A raft process that answers everything and remembers how it came."""

    def __init__(self) -> None:
        self.messages: list[int] = []
        self.answers = True
        self.asked = asyncio.Event()
        self.newest = 0
        """Sequence that came last."""
        self.oldest = 0
        """The oldest without an answer, as the client said then."""

    async def propose(self, _context: Context, request: store.Propose) -> store.ProposeReply:
        self.messages.append(len(request.transactions))
        self.asked.set()
        self.newest, self.oldest = request.transactions[-1].sequence, request.transactions[-1].unanswered_from
        if not self.answers:
            await asyncio.Event().wait()
        outcome = store.Outcome(result=TxResult(version=1))
        return store.ProposeReply(outcomes=(outcome,) * len(request.transactions))


async def with_recorder(recorder: Recorder) -> tuple[MemoryBus, StoreClient]:
    bus = MemoryBus(MemoryNetwork())
    table = Table(trusted=True)
    table.on_call(store.PROPOSE, recorder.propose)
    await bus.listen_local("/raft.sock", table)
    client = StoreClient(dial=lambda: bus.dial(LocalAddress(path="/raft.sock")), client_id="c", clock=SystemClock())
    return bus, client


def test_transactions_of_one_turn_travel_as_one_message() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        bus, client = await with_recorder(recorder)
        await client.propose([node("first")])
        await asyncio.gather(*(client.propose([node(f"n{n}")]) for n in range(20)))
        assert recorder.messages == [1, 20]
        await client.close()
        await bus.close()

    asyncio.run(scenario())


def test_a_message_is_closed_before_it_outgrows_a_frame() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        bus, client = await with_recorder(recorder)
        await client.propose([node("first")])
        await asyncio.gather(*(client.propose([node(f"n{n}", BATCH_BYTES_MAX // 2)]) for n in range(6)))
        assert recorder.messages == [1, 2, 2, 2]
        await client.close()
        await bus.close()

    asyncio.run(scenario())


def test_a_transaction_without_an_answer_in_time_may_have_happened() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        bus, client = await with_recorder(recorder)
        recorder.answers = False
        outcomes = await asyncio.gather(client.propose([node("n")], timeout_s=0.05), return_exceptions=True)
        assert isinstance(outcomes[0], DeadlineExceeded)
        assert outcomes[0].details.maybe_executed
        await client.close()
        await bus.close()

    asyncio.run(scenario())


def test_a_bad_transaction_does_not_harm_those_that_travel_with_it(tmp_path: Path) -> None:
    async def scenario(homes: Homes) -> None:
        await homes.grow("a")
        client = (await homes.leader()).client()
        outcomes = await asyncio.gather(
            client.propose([node("one")]),
            client.propose([node("large", 1_600_000)]),
            client.propose([node("one")], raise_conflict=False),
            client.propose([node("two")]),
            return_exceptions=True,
        )
        first, large, again, second = outcomes
        assert isinstance(first, TxResult)
        assert isinstance(large, InvalidArgument)
        assert isinstance(again, TxResult)
        assert again.conflict is not None
        assert isinstance(second, TxResult)
        assert second.version == 2

    run_homes(tmp_path, scenario)


def test_a_client_waits_before_it_runs_too_far_ahead_of_its_oldest_transaction() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        bus, client = await with_recorder(recorder)
        recorder.answers = False
        slow = asyncio.ensure_future(client.propose([node("slow")]))
        await recorder.asked.wait()
        recorder.answers = True
        for number in range(UNDER_WAY_MAX - 1):
            await client.propose([node(f"n{number}")])
        one_more = asyncio.ensure_future(client.propose([node("one more")]))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not one_more.done()
        assert recorder.newest == UNDER_WAY_MAX
        slow.cancel()
        await one_more
        assert recorder.oldest == UNDER_WAY_MAX + 1
        await client.close()
        await bus.close()

    asyncio.run(scenario())
