"""The hazards of the library (H1 to H20 in the process's README): each scenario played, and survived."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.errors import DataLoss, SwarmError, Unavailable
from services.kit.lifecycle.exit_codes import ExitCode, exit_code_of
from services.kit.model.ids import NodeId
from services.kit.runtime.clock import ManualClock
from services.kit.state.tables import Table
from services.kit.state.transaction import Action, ConflictReason, Op, Transaction, TxResult
from services.raft.core import messages
from services.raft.core.commands import encode_transactions
from services.raft.core.entries import NO_OP, Entry
from services.raft.core.members import ChangeKind, MembershipChange
from services.raft.shell.keys import FileKey
from services.raft.shell.log import Log
from services.raft.shell.member import Member
from services.raft.shell.recovery import recover
from services.raft.shell.snapshots import Snapshots
from tests.support.raft_group import KEY, TIMING, Group, founded_log, names, record, transaction, use_clock

THREE = ["a", "b", "c"]
FIVE = ["a", "b", "c", "d", "e"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock()
    use_clock(monkeypatch, clock)
    return clock


@pytest.fixture
def group(tmp_path: Path, clock: ManualClock) -> Iterator[Group]:
    group = Group(tmp_path, THREE, clock=clock)
    yield group
    group.close()


@pytest.fixture
def five(tmp_path: Path, clock: ManualClock) -> Iterator[Group]:
    group = Group(tmp_path, FIVE, clock=clock)
    yield group
    group.close()


def follower_of(group: Group, leader: Member) -> Member:
    return next(member for _, member in sorted(group.members.items()) if member is not leader)


def settled(group: Group, writes: int = 10) -> Member:
    """Start everybody, write a little, and return the leader."""
    group.start_all()
    leader = group.leader()
    for _ in range(writes):
        group.write(leader)
    group.run(0.3)
    return leader


# -- H1


def resent(leader: Member, last: int) -> messages.Append:
    """An append that was under way when more had been acknowledged: the entries from 2 to ``last``."""
    return messages.Append(leader.term, leader.commit_index, 1, 0, list(leader.log.entries.between(2, last)))


def test_h1_acknowledged_entries_are_not_cut_by_a_repeated_append(group: Group) -> None:
    leader = settled(group)
    follower = follower_of(group, leader)
    before = follower.log.entries.last
    acks: list[messages.AnyMessage] = []
    group.on_send = lambda source, _target, data: acks.append(messages.decode(data)) if source == follower.me else None
    follower.receive(leader.me, messages.encode(resent(leader, 4)))
    follower.turn()
    assert follower.log.entries.last == before
    assert [ack.next_index for ack in acks if isinstance(ack, messages.Ack)] == [5]


def test_h1_the_library_alone_would_cut_them(group: Group) -> None:
    leader = settled(group)
    follower = follower_of(group, leader)
    append = resent(leader, 4)
    message = {
        "type": "append_entries",
        "term": append.term,
        "commit_index": append.commit_index,
        "entries": [Entry._make(entry) for entry in append.entries],
        "prevLogIdx": 1,
        "prevLogTerm": 0,
    }
    with pytest.raises(AssertionError, match="is committed"):
        follower.consensus.receive(leader.me, message)


# -- H2


def test_h2_a_snapshot_with_a_longer_log_behind_it_costs_nothing_at_restart(tmp_path: Path) -> None:
    key = FileKey(tmp_path / "key", bytes)
    recovered = recover(tmp_path, key, bytes)
    log, machine = recovered.log, recovered.machine
    log.append(Entry(NO_OP, 1, 0))
    machine.applied_index = 1
    for index in range(2, 101):
        log.append(Entry(encode_transactions([transaction("c", index, f"n{index}")]), index, 1))
        if index <= 50:
            machine.apply(log.entries.items[-1])
    log.set_commit_index(100)
    log.sync()
    member_head = _head(machine, log, 50)
    recovered.snapshots.write(member_head, machine.state.freeze())
    log.close()
    again = recover(tmp_path, key, bytes)
    assert (again.machine.applied_index, again.machine.state.version) == (50, 49)
    assert (again.log.entries.first, again.log.entries.last, again.log.commit_index) == (1, 100, 100)
    for entry in again.log.entries.between(51, 100):
        again.machine.apply(entry)
    assert again.machine.state.version == 99
    again.log.close()


def _head(machine: object, log: Log, index: int):  # type: ignore[no-untyped-def]
    from services.raft.core.snapshot import Head

    return Head(index, log.entries.term_at(index) or 0, index - 1, log.membership.at(index))


# -- H3


def test_h3_a_second_change_of_members_waits_for_the_first(group: Group) -> None:
    leader = settled(group)
    group.split(leader.me, "".join(name for name in THREE if name != leader.me))
    outcomes: list[SwarmError | None] = []
    for joiner in ("d", "e"):
        change = MembershipChange(kind=ChangeKind.ADD, member=record(joiner))
        leader.proposing.change_members(change, outcomes.append)
        leader.turn()
    assert isinstance(outcomes[0], Unavailable)
    assert outcomes[0].details.retry_ms
    assert leader.member_ids == {"a", "b", "c", "d"}
    others = "".join(name for name in THREE if name != leader.me)
    second = group.leader(only=others)
    assert second.me != leader.me
    group.heal()
    group.run(2)
    assert {member.member_ids for member in group.members.values()} == {frozenset(THREE)}


# -- H4


def acknowledged_by_two(group: Group, leader: Member, term: int) -> bool:
    """Deliver acknowledgements of a term for everything from two followers, and tell whether the newest entry is committed."""
    last = leader.log.entries.last
    for name in [name for name in FIVE if name != leader.me][:2]:
        leader.receive(NodeId(name), messages.encode(messages.Ack(term, last + 1, False, True)))
    leader.turn()
    return leader.commit_index == last


def test_h4_acknowledgements_of_another_term_do_not_count(five: Group) -> None:
    leader = settled(five)
    five.split(*FIVE)
    five.propose(leader)
    leader.turn()
    assert not acknowledged_by_two(five, leader, leader.term - 1)
    assert acknowledged_by_two(five, leader, leader.term)


# -- H5


def test_h5_an_isolated_leader_answers_no_linearizable_read_and_steps_down(group: Group) -> None:
    leader = settled(group)
    group.split(leader.me, "".join(name for name in THREE if name != leader.me))
    answers: list[int | None] = []
    leader.reading.ask(answers.append)
    group.run(0.5)
    assert answers == []
    group.run(2)
    assert answers == [None]
    assert not leader.leads


def test_h5_a_new_leader_answers_reads_only_after_an_entry_of_its_own_term(group: Group) -> None:
    leader = settled(group)
    written = leader.commit_index
    group.kill(leader.me)
    second = group.leader()
    answers: list[int | None] = []
    second.reading.ask(answers.append)
    group.run(0.2)
    assert answers[0] is not None
    assert answers[0] > written


def test_h5_a_read_whose_pings_were_lost_is_answered_soon(group: Group) -> None:
    leader = settled(group)
    answers: list[int | None] = []
    leader.reading.ask(answers.append)
    leader.turn()
    for (source, _), queue in group.links.items():
        if source == leader.me:
            queue.clear()
    group.run(0.2)
    assert answers == [leader.commit_index]


# -- H6


def test_h6_nothing_is_acknowledged_or_voted_that_is_not_on_disk(group: Group, tmp_path: Path) -> None:
    checked: list[str] = []

    def on_disk(name: str) -> Log:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / name, copy)
        return Log(copy, KEY, entropy=bytes)

    def check(source: str, target: str, data: bytes) -> None:
        message = messages.decode(data)
        match message:
            case messages.Ack(success=True):
                assert on_disk(source).entries.last >= message.next_index - 1
            case messages.Vote():
                log = on_disk(source)
                assert (log.term, log.vote) == (message.term, target)
            case messages.VoteRequest():
                log = on_disk(source)
                assert (log.term, log.vote) == (message.term, source)
            case _:
                return
        checked.append(type(message).__name__)

    group.on_send = check
    group.start_all()
    leader = group.leader()
    for _ in range(3):
        group.write(leader)
    assert set(checked) == {"Ack", "Vote", "VoteRequest"}


# -- H7


def test_h7_the_largest_transaction_travels_in_one_piece(group: Group) -> None:
    leader = settled(group, writes=1)
    big = Transaction(
        client="c",
        sequence=1,
        at=1.0,
        ops=(Op(action=Action.CREATE, table=Table.NODE, id="n", object=bytes(1_500_000)),),
    )
    answers: list[TxResult | SwarmError] = []
    leader.proposing.propose(big, answers.append)
    group.run(0.3)
    assert isinstance(answers[0], TxResult)
    assert {member.log.entries.last for member in group.members.values()} == {leader.log.entries.last}


# -- H8


def test_h8_a_restarted_member_counts_the_members_of_its_log_at_once(group: Group) -> None:
    leader = settled(group)
    for joiner in ("d", "e"):
        group.start(joiner, founders=[])
        add(group, leader, joiner)
    group.run(0.5)
    pair = [name for name in THREE if name != leader.me]
    for name in pair:
        group.kill(name)
    group.split(leader.me + "de", "".join(pair))
    for name in pair:
        group.start(name)
        assert len(group.members[name].consensus.otherNodes) == 4
    group.run(5)
    assert not any(group.members[name].leads for name in pair)
    assert group.leader().me not in pair


def add(group: Group, leader: Member, joiner: str) -> None:
    outcomes: list[SwarmError | None] = []
    leader.observe(record(joiner))
    group.until(lambda: leader.lag(NodeId(joiner)) == 0)
    change = MembershipChange(kind=ChangeKind.ADD, member=record(joiner))
    leader.proposing.change_members(change, outcomes.append)
    group.until(lambda: outcomes)
    assert outcomes == [None]
    leader.drop_observer(NodeId(joiner))


# -- H9


def test_h9_a_long_divergent_tail_is_mended_within_a_few_heartbeats(group: Group, tmp_path: Path) -> None:
    log = founded_log(tmp_path / "c", THREE, entropy=bytes)
    log.set_term(1, None)
    for index in range(5, 205):
        log.append(Entry(NO_OP, index, 1))
    log.sync()
    log._close_segment()
    for name in ("a", "b"):
        other = founded_log(tmp_path / name, THREE, entropy=bytes)
        other.set_term(2, None)
        other.append(Entry(NO_OP, 5, 2))
        other.sync()
        other._close_segment()
    group.start("a")
    group.start("b")
    leader = group.leader()
    group.start("c")
    group.until(lambda: group.members["c"].log.entries.last == leader.log.entries.last, seconds=10 * TIMING.heartbeat_s)


# -- H10


def test_h10_a_repeated_vote_counts_once(five: Group) -> None:
    five.start_all()
    one = five.members["a"]
    five.split(*FIVE)
    five.clock.advance(1)
    one.elections.transfer = True
    one.turn()
    assert one.state_name == "candidate"
    for _ in range(3):
        one.receive(NodeId("b"), messages.encode(messages.Vote(one.term)))
        one.turn()
    assert not one.leads
    one.receive(NodeId("c"), messages.encode(messages.Vote(one.term)))
    one.turn()
    assert one.leads


# -- H11


def test_h11_a_late_snapshot_does_not_replace_a_log_that_covers_it(group: Group) -> None:
    from services.raft.core.snapshot import Assembly, encode_parts

    leader = settled(group)
    follower = follower_of(group, leader)
    assembly = Assembly()
    for payload in encode_parts(leader.head(), leader.machine.state.freeze()):
        assembly.take(payload)
    for _ in range(5):
        group.write(leader)
    group.run(0.2)
    last = follower.log.entries.last
    assert not follower.install(assembly)
    assert follower.log.entries.last == last


# -- H12


def test_h12_a_broken_snapshot_ends_the_process_instead_of_starting_empty(tmp_path: Path) -> None:
    key = FileKey(tmp_path / "key", bytes)
    recovered = recover(tmp_path, key, bytes)
    recovered.machine.applied_index = 7
    recovered.log.append(Entry(NO_OP, 7, 1))
    recovered.snapshots.write(_head(recovered.machine, recovered.log, 7), recovered.machine.state.freeze())
    recovered.log.close()
    (path,) = (tmp_path / "snapshots").glob("*.snapshot")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataLoss) as damage:
        recover(tmp_path, key, bytes)
    assert exit_code_of(damage.value) is ExitCode.STORE_DAMAGED


# -- H13


def test_h13_a_leader_does_not_spin_for_a_member_that_needs_the_snapshot(group: Group) -> None:
    leader = settled(group, writes=30)
    behind = follower_of(group, leader)
    group.kill(behind.me)
    shutil.rmtree(group.directory / behind.me)
    leader.log.compact(leader.machine.applied_index, keep=0, keep_bytes=0)
    group.start(behind.me, founders=[])
    sent: list[messages.AnyMessage] = []
    group.on_send = lambda source, target, data: (
        sent.append(messages.decode(data)) if (source, target) == (leader.me, behind.me) else None
    )
    asked: list[int] = []
    group.members[behind.me].intake.on_behind = lambda _leader, index: asked.append(index)
    group.run(0.6)
    assert asked[0] == leader.log.entries.first
    assert len(sent) <= 3 * 0.6 / TIMING.heartbeat_s


# -- H14


def test_h14_a_member_that_was_away_does_not_depose_the_leader(group: Group) -> None:
    leader = settled(group)
    away = follower_of(group, leader)
    group.split(away.me, "".join(name for name in THREE if name != away.me))
    group.run(10)
    assert away.term == leader.term
    group.heal()
    group.run(3)
    assert leader.leads
    assert {member.term for member in group.members.values()} == {1}


def test_h14_of_two_members_that_run_at_the_same_moment_one_wins_the_first_election(group: Group) -> None:
    leader = settled(group)
    group.kill(leader.me)
    group.run(0.24)
    for member in group.members.values():
        member.consensus.campaign_soon()
    group.until(lambda: any(member.ready for member in group.members.values()), seconds=0.15)
    assert {member.term for member in group.members.values()} == {2}


# -- H15


def test_h15_a_transaction_tried_again_at_the_next_leader_takes_effect_once(group: Group) -> None:
    leader = settled(group)
    once = transaction("client", 1, "once")
    first: list[TxResult | SwarmError] = []
    leader.proposing.propose(once, first.append)
    group.until(lambda: first)
    group.kill(leader.me)
    second = group.leader()
    again: list[TxResult | SwarmError] = []
    second.proposing.propose(once, again.append)
    group.until(lambda: again)
    assert again == first


def test_h15_a_leader_that_steps_down_says_what_may_have_happened(group: Group) -> None:
    leader = settled(group)
    group.split(leader.me, "".join(name for name in THREE if name != leader.me))
    answer = group.propose(leader)
    group.until(lambda: answer)
    assert isinstance(answer[0], Unavailable)
    assert answer[0].details.maybe_executed


# -- H16


def test_h16_a_stranger_is_not_listened_to_and_reported(group: Group) -> None:
    leader = settled(group)
    strangers: list[tuple[str, str]] = []
    leader.intake.on_stranger = lambda node_id, reason: strangers.append((node_id, reason))
    leader.receive(NodeId("x"), messages.encode(messages.VoteRequest(99, 999, 99, True)))
    leader.turn()
    assert strangers == [("x", "it is no member")]
    assert leader.leads
    assert leader.term == 1


def test_h16_a_member_that_lost_its_log_is_not_taken_for_the_one_it_was(group: Group) -> None:
    leader = settled(group)
    lost = follower_of(group, leader).me
    group.kill(lost)
    shutil.rmtree(group.directory / lost)
    strangers: list[tuple[str, str]] = []
    leader.intake.on_stranger = lambda node_id, reason: strangers.append((node_id, reason))
    group.start(lost, founders=[], incarnation="2")
    before = leader.consensus.match_index(NodeId(lost))
    group.run(1)
    assert group.members[lost].state_name == "joining"
    assert (lost, "it has lost its log") in strangers
    assert leader.consensus.match_index(NodeId(lost)) == before


def changed(group: Group, kind: ChangeKind, name: str, incarnation: str = "1") -> None:
    """Change the members and wait until that is committed."""
    outcomes: list[object] = []
    change = MembershipChange(kind=kind, member=record(name, incarnation))
    group.leader().proposing.change_members(change, outcomes.append)
    group.until(lambda: outcomes)
    assert outcomes == [None]


def admitted(group: Group, name: str, incarnation: str = "1") -> None:
    """Start a joiner and make it a member."""
    group.start(name, founders=[], incarnation=incarnation)
    leader = group.leader()
    leader.observe(record(name, incarnation))
    group.until(lambda: leader.consensus.match_index(NodeId(name)) >= leader.commit_index)
    changed(group, ChangeKind.ADD, name, incarnation)
    leader.drop_observer(NodeId(name))


def follows_after_absence(group: Group, away: str, leader: str) -> None:
    """Make somebody lead, bring back who was away, and wait until it has what was written since."""
    if group.leader().me != leader:
        group.leader().proposing.hand_over(NodeId(leader))
        group.until(lambda: group.members[leader].ready)
    group.write(group.members[leader], "after")
    group.start(away, founders=[])
    group.until(lambda: "after" in names(group.members[away]))


def test_h16_a_member_that_was_away_follows_a_newcomer_that_leads(group: Group) -> None:
    away = follower_of(group, settled(group)).me
    group.kill(away)
    admitted(group, "d")
    follows_after_absence(group, away, "d")


def test_h16_a_member_that_was_away_follows_a_leader_that_has_joined_anew(five: Group) -> None:
    leader = settled(five)
    away, wiped = [name for name in FIVE if name != leader.me][:2]
    five.kill(away)
    five.kill(wiped)
    shutil.rmtree(five.directory / wiped)
    changed(five, ChangeKind.REMOVE, wiped)
    admitted(five, wiped, "2")
    follows_after_absence(five, away, wiped)


def test_h16_a_removed_member_with_a_later_term_leads_nobody(group: Group) -> None:
    leader = settled(group)
    removed = follower_of(group, leader).me
    changed(group, ChangeKind.REMOVE, removed)
    refused: list[str] = []
    leader.intake.on_stranger = lambda node_id, _reason: refused.append(node_id)
    term, last = leader.term, leader.log.entries.last
    append = messages.Append(term + 9, last, last, term, [(NO_OP, last + 1, term + 9)])
    for member in [member for member in group.members.values() if member.me != removed]:
        member.receive(removed, messages.encode(append))
        member.turn()
        assert (member.term, member.log.entries.last) == (term, last)
    assert refused == [removed]


# -- H17


def test_h17_a_snapshot_is_written_while_writes_go_on_and_no_process_is_forked(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_arguments: object) -> int:
        raise AssertionError("a child would keep the sockets")

    for name in ("fork", "posix_spawn", "forkpty"):
        monkeypatch.setattr(os, name, forbidden)
    leader = settled(group)
    directory = tmp_path / "snapshots"
    directory.mkdir()
    snapshots = Snapshots(directory, KEY, entropy=bytes)
    head, frozen = leader.head(), leader.machine.state.freeze()
    writing = threading.Thread(target=snapshots.write, args=(head, frozen))
    writing.start()
    for _ in range(20):
        group.write(leader)
    writing.join(10)
    loaded = snapshots.load(head.index)
    assert (loaded.state.version, len(loaded.state)) == (10, 10)
    assert leader.machine.state.version == 30


# -- H18


def test_h18_an_operation_that_makes_no_sense_is_a_result_and_not_the_end(group: Group) -> None:
    leader = settled(group)
    nonsense = Transaction(
        client="c", sequence=1, at=1.0, ops=(Op(action=Action.CREATE, table=Table.NODE, id="n", object=b"\xc1"),)
    )
    answers: list[TxResult | SwarmError] = []
    leader.proposing.propose(nonsense, answers.append)
    group.until(lambda: answers)
    assert isinstance(answers[0], TxResult)
    assert answers[0].conflict is not None
    assert answers[0].conflict.reason is ConflictReason.MALFORMED
    assert group.write(leader, "after").conflict is None
    assert "after" in names(leader)


# -- H19


def test_h19_a_full_disk_ends_the_member_and_nothing_that_was_synced_is_lost(tmp_path: Path) -> None:
    log = Log(tmp_path, KEY, entropy=bytes)
    log.append(Entry(NO_OP, 1, 0))
    log.close()
    log = Log(tmp_path, KEY, entropy=bytes)
    log.append(Entry(NO_OP, 2, 1))
    (tmp_path / "000000000002.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as full:
        log.sync()
    assert full.value.errno == errno.ENOSPC
    assert exit_code_of(full.value) is ExitCode.DISK_FULL
    log._close_segment()
    assert Log(tmp_path, KEY, entropy=bytes).entries.last == 1


# -- H20


def test_h20_the_journal_pipe_queue_and_callbacks_of_the_library_stay_unused(group: Group) -> None:
    leader = settled(group, writes=100)
    follower = follower_of(group, leader)
    follower.proposing.propose(transaction("c", 1, "n"), lambda _: None)
    group.split(leader.me, "".join(sorted(set(THREE) - {leader.me})))
    leader.proposing.propose(transaction("c", 2, "m"), lambda _: None)
    group.run(2)
    assert not leader.leads
    for member in group.members.values():
        held = vars(member.consensus)
        assert "_SyncObj__pipeNotifier" not in held
        assert not held["_SyncObj__commandsWaitingCommit"]
        assert not held["_SyncObj__commandsWaitingReply"]
        assert not len(held["_SyncObj__commandsQueue"]._FastQueue__queue)
