"""Random faults in virtual time on the real members: crashes in the middle of a turn, cut and one-way links, isolation, pauses.

What is checked: the same command at the same index everywhere, one leader per term, and every acknowledged write in every member's
state at the end. A failing run names its seed; ``RAFT_SIM_SEED`` plays one again, ``RAFT_SIM_RUNS`` asks for more of them.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

from services.kit.runtime.clock import ManualClock
from services.kit.state.transaction import TxResult
from services.raft.core import messages
from tests.support.raft_group import Group, names, use_clock

FIRST_SEED = int(os.environ.get("RAFT_SIM_SEED", "1"))
RUNS = int(os.environ.get("RAFT_SIM_RUNS", "6"))
SECONDS = 12.0
CALM_S = 6.0
STEP_S = 0.005


class Crash(Exception):
    """The member dies in the middle of its turn."""


class Storm:
    """One run."""

    def __init__(self, seed: int, directory: Path, clock: ManualClock) -> None:
        self.rng = random.Random(seed)
        members = ["a", "b", "c"] if seed % 2 else ["a", "b", "c", "d", "e"]
        self.group = Group(directory, members, seed=seed, clock=clock)
        self.group.on_send = self._on_send
        self.turning = ""
        self.doomed: dict[str, int] = {}
        self.down: dict[str, float] = {}
        self.paused: dict[str, float] = {}
        self.stalled: dict[tuple[str, str], float] = {}
        self.commands: dict[int, bytes] = {}
        self.checked: dict[str, int] = {}
        self.leaders: dict[int, set[str]] = defaultdict(set)
        self.answers: dict[str, list[TxResult | Exception]] = {}
        self.faults = 0

    def _on_send(self, source: str, _target: str, data: bytes) -> None:
        messages.decode(data)
        if source in self.doomed and source == self.turning:
            self.doomed[source] -= 1
            if self.doomed[source] <= 0:
                raise Crash(source)

    def run(self) -> None:
        self.group.start_all()
        clock = self.group.clock
        self.group.leader()
        end = clock.monotonic() + SECONDS
        while clock.monotonic() < end:
            clock.advance(STEP_S)
            if clock.monotonic() < end - CALM_S:
                if self.answers:
                    self._maybe_fault()
                self._maybe_write()
            self._come_back()
            self._deliver()
            self._turns()
        self._final()

    def _turns(self) -> None:
        now = self.group.clock.monotonic()
        for name in sorted(self.group.members):
            if self.paused.get(name, 0) > now:
                continue
            member = self.group.members[name]
            self.turning = name
            try:
                member.turn()
            except Crash:
                self._crash(name)
                continue
            finally:
                self.turning = ""
            if member.leads:
                self.leaders[member.term].add(name)
            self._check(name)

    def _check(self, name: str) -> None:
        member = self.group.members[name]
        applied = member.machine.applied_index
        for entry in member.log.entries.between(self.checked.get(name, 1) + 1, applied):
            known = self.commands.setdefault(entry.index, entry.command)
            assert known == entry.command, f"{name} applied another command at {entry.index}"
        self.checked[name] = applied

    def _crash(self, name: str) -> None:
        self.doomed.pop(name, None)
        self.group.kill(name)
        self.checked.pop(name, None)
        self.down[name] = self.group.clock.monotonic() + self.rng.uniform(0.05, 1.5)
        self.faults += 1

    def _come_back(self) -> None:
        now = self.group.clock.monotonic()
        for name in [name for name, at in self.down.items() if at <= now]:
            del self.down[name]
            self.group.start(name)

    def _deliver(self) -> None:
        now = self.group.clock.monotonic()
        for source, target in sorted(self.group.links):
            if self.stalled.get((source, target), 0) <= now and self.paused.get(target, 0) <= now:
                self.group.deliver(source, target, self.rng.choice((1, 3, 100)))

    def _maybe_write(self) -> None:
        leading = [member for _, member in sorted(self.group.members.items()) if member.leads]
        if leading and self.rng.random() < 0.4:
            for _ in range(self.rng.choice((1, 1, 2, 20))):
                name = f"w{len(self.answers)}"
                self.answers[name] = self.group.propose(self.rng.choice(leading), name)

    def _maybe_fault(self) -> None:
        if self.rng.random() > 0.012 or not self.group.members:
            return
        now = self.group.clock.monotonic()
        name = self.rng.choice(sorted(self.group.members))
        others = [other for other in self.group.founders if other != name]
        self.faults += 1
        match self.rng.randrange(7):
            case 0 | 1:
                self.doomed[name] = self.rng.randint(1, 8)
            case 2:
                for each in sorted(self.group.members):
                    self._crash(each)
            case 3:
                self.group.heal()
                self.group.cut |= {(name, other) for other in others} | {(other, name) for other in others}
            case 4:
                self.group.heal()
                self.group.cut.add((name, self.rng.choice(others)))
            case 5:
                self.stalled[(name, self.rng.choice(others))] = now + self.rng.uniform(0.2, 2.5)
            case _:
                self.paused[name] = now + self.rng.uniform(0.1, 1.5)

    def _final(self) -> None:
        self.doomed.clear()
        self.group.heal()
        self.group.leader()
        self.group.run(2)
        twice = {term: who for term, who in self.leaders.items() if len(who) > 1}
        assert not twice, f"two leaders in one term: {twice}"
        acknowledged = {name for name, answer in self.answers.items() if answer and isinstance(answer[0], TxResult)}
        assert acknowledged, "a run without an acknowledged write shows nothing"
        for name, member in self.group.members.items():
            missing = acknowledged - names(member)
            assert not missing, f"{name} lost {len(missing)} of {len(acknowledged)} acknowledged writes"
        states = {b"".join(change.object for change in m.machine.state.full()) for m in self.group.members.values()}
        assert len(states) == 1, "the states differ"


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + RUNS))
def test_no_acknowledged_write_is_lost_in_a_storm(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    use_clock(monkeypatch, clock)
    with tempfile.TemporaryDirectory(prefix="swb-storm") as directory:
        storm = Storm(seed, Path(directory), clock)
        try:
            storm.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        finally:
            storm.group.close()
        assert storm.faults > 3, f"seed {seed}: only {storm.faults} faults"
