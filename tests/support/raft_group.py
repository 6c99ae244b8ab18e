"""A group of raft members without sockets or an event loop: a clock that is moved by hand, links that can be cut, disks that are real.

The library reads time from a name in its own module; ``use_clock`` puts the group's clock there for the length of a test.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.model.specs import NodeSpec
from services.kit.runtime.clock import ManualClock
from services.kit.runtime.files import Disk
from services.kit.state.transaction import Transaction, TxResult, create
from services.raft.core import messages
from services.raft.core.commands import encode_membership
from services.raft.core.entries import NO_OP, Entry
from services.raft.core.machine import Machine
from services.raft.core.members import ChangeKind, MemberRecord, MembershipChange
from services.raft.shell.library import Timing
from services.raft.shell.log import Log
from services.raft.shell.member import Member

KEY = bytes(32)
TIMING = Timing(election_timeout_min_s=0.25, election_timeout_max_s=0.5, heartbeat_s=0.06, quorum_timeout_s=1.0)


def use_clock(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    """Let the library live in the group's time."""
    monkeypatch.setattr("pysyncobj.syncobj.monotonicTime", clock.monotonic)


def record(node_id: str, incarnation: str = "1") -> MemberRecord:
    return MemberRecord(
        node_id=NodeId(node_id),
        incarnation=f"{node_id}/{incarnation}",
        raft_addr=f"{node_id}:3",
        remote_addr=f"{node_id}:1",
        certificate=node_id.encode(),
    )


def founded_log(directory: Path, founders: list[str], *, entropy: Callable[[int], bytes]) -> Log:
    """Return a log; a fresh one begins with the founders as members."""
    directory.mkdir(parents=True, exist_ok=True)
    log = Log(directory, KEY, entropy=entropy, disk=_NoWait())
    if not len(log.entries):
        log.append(Entry(NO_OP, 1, 0))
        for index, founder in enumerate(founders, start=2):
            change = MembershipChange(kind=ChangeKind.ADD, member=record(founder))
            log.append(Entry(encode_membership(change), index, 0))
        log.sync()
    return log


class _NoWait(Disk):
    """Spares the tests the disk's time: what was written survives a killed process anyway."""

    def sync(self, descriptor: int) -> None:
        """Do nothing."""


@dataclass
class Group:
    """Members, and what travels between them."""

    directory: Path
    founders: list[str]
    seed: int = 1
    clock: ManualClock = field(default_factory=ManualClock)
    members: dict[str, Member] = field(default_factory=dict)
    links: dict[tuple[str, str], deque[bytes]] = field(default_factory=dict)
    cut: set[tuple[str, str]] = field(default_factory=set)
    runs: int = 0
    sequence: int = 0
    on_send: Callable[[str, str, bytes], None] = lambda source, target, data: None

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        random.seed(self.seed)

    def start(self, name: str, *, founders: list[str] | None = None, incarnation: str = "1") -> Member:
        """Start a member from its directory (fresh ones know the founders) and link it with everybody."""
        log = founded_log(
            self.directory / name, self.founders if founders is None else founders, entropy=self.rng.randbytes
        )
        self.runs += 1

        def post(peer: NodeId, data: bytes) -> bool:
            return self._send(name, peer, data)

        member = Member(
            record=record(name, incarnation),
            run=str(self.runs),
            log=log,
            machine=Machine(),
            timing=TIMING,
            clock=self.clock,
            post=post,
        )
        self.members[name] = member
        for other in self.members:
            if other != name:
                self._open(name, other)
                self._open(other, name)
        return member

    def start_all(self) -> None:
        for founder in self.founders:
            self.start(founder)

    def kill(self, name: str) -> None:
        """End a member as kill -9 does: nothing more is written; what it sent may still arrive."""
        member = self.members.pop(name)
        member.log._close_segment()
        for other in self.members:
            self.links.pop((other, name), None)
            self.members[other].link_down(NodeId(name))

    def _open(self, source: str, target: str) -> None:
        self.links[(source, target)] = deque()
        if source in self.members:
            self.members[source].link_up(NodeId(target))

    def _send(self, source: str, target: str, data: bytes) -> bool:
        self.on_send(source, target, data)
        queue = self.links.get((source, target))
        if queue is None or (source, target) in self.cut:
            return False
        queue.append(data)
        return True

    def split(self, *sides: str) -> None:
        """Cut every link between the sides; links inside stay."""
        for one in sides:
            for other in sides:
                if one != other:
                    for a in one:
                        for b in other:
                            self.cut.add((a, b))
                            if (a, b) in self.links:
                                self.links[(a, b)].clear()

    def heal(self) -> None:
        """Mend all links; what was under way is lost, as with new connections."""
        broken, self.cut = self.cut, set()
        for source, target in sorted(broken):
            if source in self.members and target in self.members:
                self.members[source].link_down(NodeId(target))
                self._open(source, target)

    def deliver(self, source: str, target: str, most: int = 1 << 30) -> list[messages.AnyMessage]:
        """Hand over what travels on one link and return it decoded."""
        queue = self.links.get((source, target), deque())
        taken: list[messages.AnyMessage] = []
        while queue and most > 0:
            data = queue.popleft()
            most -= 1
            taken.append(messages.decode(data))
            if target in self.members:
                self.members[target].receive(NodeId(source), data)
        return taken

    def step(self, seconds: float = 0.01, only: str = "") -> None:
        """Let time pass, deliver everything, and give each member a turn."""
        self.clock.advance(seconds)
        for source, target in sorted(self.links):
            if not only or (source in only and target in only):
                self.deliver(source, target)
        for name in sorted(self.members):
            if not only or name in only:
                self.members[name].turn()

    def run(self, seconds: float, only: str = "") -> None:
        """Step for a while."""
        for _ in range(round(seconds / 0.01)):
            self.step(only=only)

    def until(self, condition: Callable[[], object], *, seconds: float = 20.0, only: str = "") -> None:
        """Step until something is so; fails when it does not come to be."""
        for _ in range(round(seconds / 0.01)):
            if condition():
                return
            self.step(only=only)
        raise AssertionError(f"did not happen within {seconds} s")

    def leader(self, only: str = "") -> Member:
        """Step until there is a ready leader (the newest, when an old one does not know yet) and return it."""

        def ready() -> list[Member]:
            found = [m for name, m in self.members.items() if m.ready and (not only or name in only)]
            return sorted(found, key=lambda m: m.term)

        self.until(ready, only=only)
        return ready()[-1]

    def propose(self, member: Member, name: str = "") -> list[TxResult | Exception]:
        """Propose a small transaction; the returned list fills with its answer."""
        self.sequence += 1
        answer: list[TxResult | Exception] = []
        member.proposing.propose(transaction("test", self.sequence, name or f"n{self.sequence}"), answer.append)
        return answer

    def write(self, member: Member, name: str = "", only: str = "") -> TxResult:
        """Propose and step until it is answered."""
        answer = self.propose(member, name)
        self.until(lambda: answer, only=only)
        result = answer[0]
        assert isinstance(result, TxResult), result
        return result

    def close(self) -> None:
        for name in list(self.members):
            self.kill(name)


def transaction(client: str, sequence: int, name: str) -> Transaction:
    """Return a transaction that creates a node with this id."""
    return Transaction(client=client, sequence=sequence, at=1.0, ops=(create(Node(id=NodeId(name), spec=NodeSpec())),))


def names(member: Member) -> set[str]:
    """Return the ids of the nodes in a member's state."""
    return set(member.machine.state.nodes)
