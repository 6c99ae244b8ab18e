"""Members come, go, crash, hand over, lose their disks and return, for hours of virtual time; every acknowledged write stays.

A failing run names its seed; ``STORE_CHURN_SEED`` plays one again.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.model.ids import NodeId
from services.kit.runtime.clock import ManualClock
from services.kit.state.transaction import TxResult
from services.raft.core.members import ChangeKind, MembershipChange
from services.raft.shell.member import Member
from tests.support.raft_group import Group, names, record, use_clock

SEED = int(os.environ.get("STORE_CHURN_SEED", "1"))
STEP_S = 0.03
MOST, LEAST = 5, 2
HOUR_S = 3600.0


class Churn:
    """One run."""

    def __init__(self, seed: int, directory: Path, clock: ManualClock) -> None:
        self.rng = random.Random(seed)
        self.group = Group(directory, ["m0", "m1", "m2"], seed=seed, clock=clock)
        self.clock = clock
        self.incarnations = dict.fromkeys(self.group.founders, 1)
        self.fresh = len(self.group.founders)
        self.away: dict[str, float] = {}
        self.writes: dict[str, list[TxResult | Exception]] = {}
        self.done: dict[str, int] = {}

    def run(self, seconds: float) -> None:
        self.group.start_all()
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self._write()
            self._act()
            self._pass(self.rng.uniform(2, 30))
        self._bring_back(everybody=True)
        leader = self._leader()
        self._pass(5)
        self._check(leader)

    # -- acts

    def _act(self) -> None:
        leader = self._leader()
        counted = [str(name) for name in sorted(leader.member_ids)]
        running = [name for name in counted if name in self.group.members]
        act = self.rng.choice((self._join, self._leave, self._hand_over, self._crash, self._stay_away, self._wipe))
        if act(leader, counted, running):
            name = act.__name__
            self.done[name] = self.done.get(name, 0) + 1

    def _join(self, leader: Member, counted: list[str], _running: list[str]) -> bool:
        if len(counted) >= MOST:
            return False
        name = f"m{self.fresh}"
        self.fresh += 1
        self.incarnations[name] = 1
        return self._admit(leader, name)

    def _leave(self, leader: Member, counted: list[str], running: list[str]) -> bool:
        if len(counted) <= LEAST or not self._safe_without(running, counted):
            return False
        name = self.rng.choice(counted)
        if name == leader.me and not self._hand_over(leader, counted, running):
            return False
        if not self._change(ChangeKind.REMOVE, name):
            return False
        self._forget(name)
        return True

    def _hand_over(self, leader: Member, counted: list[str], _running: list[str]) -> bool:
        if not any(leader.reachable(NodeId(peer)) for peer in counted if peer != leader.me):
            return False
        answer = self.group.propose(leader)
        leader.proposing.hand_over(None)
        self._until(lambda: not leader.leads)
        assert answer, "a write was left without an answer by a hand-over"
        return True

    def _crash(self, _leader: Member, counted: list[str], running: list[str]) -> bool:
        if not self._safe_without(running, counted):
            return False
        name = self.rng.choice(running)
        self.group.kill(name)
        self.away[name] = self.clock.monotonic() + self.rng.uniform(0.1, 3)
        return True

    def _stay_away(self, _leader: Member, counted: list[str], running: list[str]) -> bool:
        if not self._safe_without(running, counted):
            return False
        name = self.rng.choice(running)
        self.group.kill(name)
        self.away[name] = self.clock.monotonic() + self.rng.uniform(60, 600)
        return True

    def _wipe(self, leader: Member, counted: list[str], running: list[str]) -> bool:
        """A member loses its disk and joins anew under its old name: first the one that it was is removed."""
        if len(counted) <= LEAST or not self._safe_without(running, counted):
            return False
        name = self.rng.choice([name for name in running if name != leader.me])
        self.group.kill(name)
        shutil.rmtree(self.group.directory / name)
        self.incarnations[name] += 1
        if not self._change(ChangeKind.REMOVE, name):
            self._forget(name)
            return False
        return self._admit(self._leader(), name)

    # -- parts of acts

    def _admit(self, leader: Member, name: str) -> bool:
        incarnation = str(self.incarnations[name])
        self.group.start(name, founders=[], incarnation=incarnation)
        joiner = record(name, incarnation)
        leader.observe(joiner)
        self._until(lambda: not leader.leads or leader.consensus.match_index(joiner.node_id) >= leader.commit_index)
        added = self._change(ChangeKind.ADD, name)
        leader.drop_observer(joiner.node_id)
        if not added:
            self._forget(name)
        return added

    def _change(self, kind: ChangeKind, name: str) -> bool:
        leader = self._leader()
        answers: list[SwarmError | None] = []
        change = MembershipChange(kind=kind, member=record(name, str(self.incarnations[name])))
        leader.proposing.change_members(change, answers.append)
        self._until(lambda: answers)
        if answers[0] is not None and answers[0].details.maybe_executed:
            self._leader()
            return (NodeId(name) in self._leader().member_ids) == (kind is ChangeKind.ADD)
        return answers[0] is None

    def _forget(self, name: str) -> None:
        self.away.pop(name, None)
        if name in self.group.members:
            self.group.kill(name)
        shutil.rmtree(self.group.directory / name, ignore_errors=True)

    def _safe_without(self, running: list[str], counted: list[str]) -> bool:
        return len(running) - 1 > len(counted) // 2

    def _write(self) -> None:
        name = f"w{len(self.writes)}"
        self.writes[name] = self.group.propose(self._leader(), name)

    # -- time

    def _leader(self) -> Member:
        self._until(self._ready)
        return max(self._ready(), key=lambda member: member.term)

    def _ready(self) -> list[Member]:
        return [member for member in self.group.members.values() if member.ready and member.is_member]

    def _until(self, condition: Callable[[], object]) -> None:
        end = self.clock.monotonic() + 60
        while not condition():
            assert self.clock.monotonic() < end, f"stuck after {self.done}"
            self._step()

    def _pass(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self._step()

    def _step(self) -> None:
        self._bring_back()
        self.group.step(STEP_S)

    def _bring_back(self, *, everybody: bool = False) -> None:
        now = self.clock.monotonic()
        for name in [name for name, until in self.away.items() if everybody or until <= now]:
            del self.away[name]
            self.group.start(name, founders=[], incarnation=str(self.incarnations[name]))

    def _check(self, leader: Member) -> None:
        acknowledged = {name for name, answer in self.writes.items() if answer and isinstance(answer[0], TxResult)}
        assert len(acknowledged) > len(self.writes) // 2
        for name in sorted(leader.member_ids):
            missing = acknowledged - names(self.group.members[name])
            assert not missing, f"{name} lost {len(missing)} of {len(acknowledged)} acknowledged writes"


def churn(seed: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    use_clock(monkeypatch, clock)
    with tempfile.TemporaryDirectory(prefix="swb-churn") as directory:
        run = Churn(seed, Path(directory), clock)
        try:
            run.run(seconds)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        finally:
            run.group.close()
    assert len(run.done) == 6, f"seed {seed}: only {run.done}"


def test_half_an_hour_of_churn_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    churn(SEED, HOUR_S / 2, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_day_of_churn_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    churn(SEED, 24 * HOUR_S, monkeypatch)
