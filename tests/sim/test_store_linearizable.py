"""Concurrent clients on a partitioned store, in virtual time: every recorded history must be linearizable, and pairs are never seen apart.

Clients read through the read index of any member, write, and compare-and-set by version; members are split, isolated, cut one way, killed and brought
back meanwhile. A failing run names its seed; ``STORE_HISTORY_SEED`` plays one again, ``STORE_HISTORY_RUNS`` asks for more.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.runtime.clock import ManualClock
from services.kit.state.transaction import ANY_VERSION, Transaction, TxResult, create, update
from services.raft.shell.member import Member
from tests.support.linearizability import FOREVER, Kind, Operation, check
from tests.support.raft_group import Group, use_clock

FIRST_SEED = int(os.environ.get("STORE_HISTORY_SEED", "1"))
RUNS = int(os.environ.get("STORE_HISTORY_RUNS", "6"))
SECONDS = 20.0
STEP_S = 0.005
KEYS = ("x", "y", "z")
PAIR = ("left", "right")
CLIENTS = 5
PAUSE_S = 0.08
GIVE_UP_S = 1.5


@dataclass
class Client:
    """One operation after the other."""

    name: str
    free_at: float = 0.0
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Value and version of each key as last read."""
    reading: tuple[Member, str, int] | None = None
    """Member, key, and the index to wait for."""
    called: float = 0.0
    abandon: Callable[[], None] = lambda: None


class History:
    """One run."""

    def __init__(self, seed: int, directory: Path, clock: ManualClock) -> None:
        self.rng = random.Random(seed)
        names = ["a", "b", "c"] if seed % 2 else ["a", "b", "c", "d", "e"]
        self.group = Group(directory, names, seed=seed, clock=clock)
        self.clock = clock
        self.clients = [Client(f"c{number}") for number in range(CLIENTS)]
        self.operations: list[Operation] = []
        self.value = 0
        self.sequence = 0
        self.dead: dict[str, float] = {}
        self.splits = 0

    def run(self) -> None:
        self.group.start_all()
        leader = self.group.leader()
        for key in (*KEYS, *PAIR):
            self._propose(leader, key, 0, lambda _: None, creating=True)
        self.group.run(0.5)
        end = self.clock.monotonic() + SECONDS
        while self.clock.monotonic() < end:
            if self.clock.monotonic() > end - 3:
                self.group.heal()
            elif self.rng.random() < 0.01:
                self._fault()
            self._step()
        for client in self.clients:
            client.abandon()

    def _step(self) -> None:
        now = self.clock.monotonic()
        for name in [name for name, until in self.dead.items() if until <= now]:
            del self.dead[name]
            self.group.start(name)
        for client in self.clients:
            self._go_on(client, now)
        self.clock.advance(STEP_S)
        for source, target in sorted(self.group.links):
            self.group.deliver(source, target, self.rng.choice((0, 1, 3, 100)))
        for name in sorted(self.group.members):
            self.group.members[name].turn()
            self._check_pair(self.group.members[name])

    # -- clients

    def _go_on(self, client: Client, now: float) -> None:
        if client.reading is not None:
            member, key, index = client.reading
            if member.machine.applied_index >= index:
                value, version = _register(member, key)
                client.seen[key] = (value, version)
                client.reading = None
                self.operations.append(
                    Operation(key=key, kind=Kind.READ, called=client.called, returned=now, value=value)
                )
                client.free_at = now + self.rng.uniform(0, PAUSE_S)
        if client.free_at <= now:
            client.abandon()
            client.reading = None
            self._begin(client, now)

    def _begin(self, client: Client, now: float) -> None:
        client.free_at, client.called = now + GIVE_UP_S, now
        if not self.group.members:
            return
        members = sorted(self.group.members.values(), key=lambda member: member.me)
        key = self.rng.choice(KEYS)
        if self.rng.random() < 0.5:
            self._read(client, self.rng.choice(members), key)
            return
        leading = [member for member in members if member.leads]
        if not leading:
            return
        member = self.rng.choice(leading)
        if self.rng.random() < 0.1:
            self._write_pair(member)
        elif key in client.seen and self.rng.random() < 0.5:
            self._write(client, member, key, client.seen[key])
        else:
            self._write(client, member, key, None)

    def _read(self, client: Client, member: Member, key: str) -> None:
        called = client.called

        def answer(index: int | None) -> None:
            if client.called == called and index is not None:
                client.reading = (member, key, index)

        client.abandon = lambda: member.reading.abandon(answer)
        member.reading.ask(answer)

    def _write(self, client: Client, member: Member, key: str, seen: tuple[int, int] | None) -> None:
        self.value += 1
        value, called = self.value, client.called
        kind = Kind.WRITE if seen is None else Kind.CAS
        expected = None if seen is None else seen[0]
        answered: list[object] = []

        def note(returned: float, *, succeeded: bool = True) -> None:
            self.operations.append(
                Operation(
                    key=key,
                    kind=kind,
                    called=called,
                    returned=returned,
                    value=value,
                    expected=expected,
                    succeeded=succeeded,
                ),
            )

        def done(answer: TxResult | SwarmError) -> None:
            if answered:
                return
            answered.append(answer)
            if client.called == called:
                client.free_at = self.clock.monotonic() + self.rng.uniform(0, PAUSE_S)
            if isinstance(answer, TxResult):
                note(self.clock.monotonic(), succeeded=answer.conflict is None)
            elif answer.details.maybe_executed:
                note(FOREVER)

        def give_up() -> None:
            if not answered:
                answered.append(None)
                note(FOREVER)

        client.abandon = give_up
        self._propose(member, key, value, done, base=ANY_VERSION if seen is None else seen[1])

    def _write_pair(self, member: Member) -> None:
        self.value += 1
        ops = tuple(update(_thing(key, self.value), base=ANY_VERSION) for key in PAIR)
        self.sequence += 1
        transaction = Transaction(client="pair", sequence=self.sequence, at=0.0, ops=ops)
        member.proposing.propose(transaction, lambda _: None)

    def _propose(
        self,
        member: Member,
        key: str,
        value: int,
        done: Callable[[TxResult | SwarmError], None],
        *,
        base: int = ANY_VERSION,
        creating: bool = False,
    ) -> None:
        self.sequence += 1
        op = create(_thing(key, value)) if creating else update(_thing(key, value), base=base)
        member.proposing.propose(Transaction(client="w", sequence=self.sequence, at=0.0, ops=(op,)), done)

    # -- faults and checks

    def _fault(self) -> None:
        members = sorted(self.group.members)
        names = sorted(self.group.founders)
        self.splits += 1
        match self.rng.randrange(5):
            case 0 | 1:
                self.group.heal()
                self.rng.shuffle(names)
                at = self.rng.randrange(1, len(names))
                self.group.split("".join(names[:at]), "".join(names[at:]))
            case 2:
                self.group.cut.add((names[0], self.rng.choice(names[1:])))
            case 3 if len(members) > 1:
                killed = self.rng.choice(members)
                self.group.kill(killed)
                self.dead[killed] = self.clock.monotonic() + self.rng.uniform(0.2, 1.5)
            case _:
                self.group.heal()

    def _check_pair(self, member: Member) -> None:
        nodes = member.machine.state.nodes
        left, right = (nodes.get(NodeId(key)) for key in PAIR)
        if left is not None and right is not None:
            assert left.remote_addr == right.remote_addr, f"{member.me} shows half of a transaction"


def _thing(key: str, value: int) -> Node:
    return Node(id=NodeId(key), remote_addr=str(value))


def _register(member: Member, key: str) -> tuple[int, int]:
    thing = member.machine.state.nodes[NodeId(key)]
    return int(thing.remote_addr), thing.meta.version


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + RUNS))
def test_histories_of_partitioned_members_are_linearizable(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    use_clock(monkeypatch, clock)
    with tempfile.TemporaryDirectory(prefix="swb-history") as directory:
        history = History(seed, Path(directory), clock)
        try:
            history.run()
        finally:
            history.group.close()
    reads = sum(1 for operation in history.operations if operation.kind is Kind.READ)
    assert reads > 100, f"seed {seed}: only {reads} reads"
    assert len(history.operations) - reads > 50, f"seed {seed}: hardly any writes"
    assert history.splits > 5, f"seed {seed}: hardly any fault"
    violations = check(history.operations, initial=0)
    assert not violations, f"seed {seed}: {violations[0]}"
