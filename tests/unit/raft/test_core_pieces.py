"""The small pure parts: entries, frames, windows, reads, queue, ring, snapshots, repair."""

from __future__ import annotations

import pytest

from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.state import State
from services.kit.state.transaction import Change, Transaction, create
from services.raft.core import frames, records
from services.raft.core.entries import NO_OP, Entries, Entry
from services.raft.core.members import Configuration
from services.raft.core.messages import Append
from services.raft.core.queue import ProposalQueue
from services.raft.core.reads import Leading, ReadIndex
from services.raft.core.repair import repair, resume_at
from services.raft.core.ring import WatchRing
from services.raft.core.snapshot import Assembly, BrokenSnapshot, Head, encode_parts
from services.raft.core.window import SentWindow

ABC = frozenset(map(NodeId, "abc"))


def entries(*terms: int, first: int = 1) -> Entries:
    log = Entries()
    for index, term in enumerate(terms, start=first):
        log.append(Entry(NO_OP, index, term))
    return log


def append(log: Entries, prev: int, last: int, *, term: int = 1, commit: int = 0) -> Append:
    return Append(term, commit, prev, log.term_at(prev) or 0, list(log.between(prev + 1, last)))


# -- entries


def test_entries_know_their_terms_and_bytes() -> None:
    log = entries(1, 1, 2, first=5)
    assert (log.first, log.last, log.last_term, log.bytes) == (5, 7, 2, 3)
    assert [log.term_at(index) for index in (4, 5, 7, 8)] == [None, 1, 2, None]
    log.drop_before(6)
    log.cut_from(7)
    assert (log.first, log.last, log.bytes) == (6, 6, 1)


def test_the_last_entry_is_never_dropped() -> None:
    log = entries(1, 1, 1)
    log.drop_before(99)
    assert (log.first, log.last) == (3, 3)


def test_a_kept_tail_is_bounded_in_count_and_bytes() -> None:
    log = Entries()
    for index in range(1, 101):
        log.append(Entry(bytes(100), index, 1))
    assert log.tail(90, 10, 1 << 20) == 80
    assert log.tail(90, 50, 1000) == 80
    assert log.tail(90, 500, 1 << 20) == 1


# -- frames


def packed(*payloads: bytes) -> bytes:
    return b"".join(frames.pack(sequence, payload) for sequence, payload in enumerate(payloads))


def test_a_torn_end_is_not_damage() -> None:
    data = packed(b"one", b"two")
    scan = frames.scan(data[:-1], 0, 0)
    assert [bytes(frame.payload) for frame in scan.frames] == [b"one"]
    assert not scan.damaged


def test_a_broken_frame_before_a_whole_one_is_damage() -> None:
    data = bytearray(packed(b"one", b"two", b"three"))
    data[frames.HEADER_BYTES] ^= 1
    assert frames.scan(bytes(data), 0, 0).damaged


def test_a_broken_length_does_not_hide_the_frames_behind_it() -> None:
    data = bytearray(packed(b"one", b"two"))
    data[5] ^= 0xFF
    assert frames.scan(bytes(data), 0, 0).damaged


def test_records_are_gathered_into_frames_of_a_bounded_size() -> None:
    items = [bytes(3 << 20)] * 7
    sizes = [len(payload) for payload in records.gather(items)]
    assert sum(sizes) == 21 << 20
    assert max(sizes) <= records.PAYLOAD_BYTES
    assert list(records.gather([])) == []


def test_a_record_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(records.BrokenRecord):
        records.Recovered().take(b"\x09\x00\x00\x00\x00")


# -- repair


def test_known_entries_are_skipped_and_new_ones_kept() -> None:
    leader, mine = entries(1, 1, 1, 1), entries(1, 1)
    repaired = repair(mine, 0, append(leader, 1, 4))
    assert (repaired.prev_index, [entry.index for entry in repaired.entries]) == (2, [3, 4])


def test_an_unverified_tail_is_kept_and_not_acknowledged() -> None:
    log = entries(1, 1, 1, 1)
    repaired = repair(log, 0, append(log, 1, 2, commit=9))
    assert (repaired.prev_index, repaired.verified, repaired.commit_index) == (4, 2, 2)


def test_a_contradiction_cuts_from_the_first_entry_that_differs() -> None:
    leader, mine = entries(1, 1, 2), entries(1, 1, 1, 1)
    repaired = repair(mine, 2, append(leader, 1, 3, term=2))
    assert (repaired.prev_index, [entry.index for entry in repaired.entries]) == (2, [3])


def test_a_contradiction_of_what_is_committed_is_a_broken_invariant() -> None:
    leader, mine = entries(1, 2, 2), entries(1, 1, 1)
    with pytest.raises(AssertionError, match="committed"):
        repair(mine, 3, append(leader, 1, 3, term=2))


def test_a_refusal_points_behind_what_is_committed() -> None:
    log = entries(1, 1, 1, 1, 1)
    assert resume_at(log, 2, 5) == 3
    assert resume_at(log, 2, 9) == 9


# -- window


def test_what_is_under_way_is_not_sent_again() -> None:
    log = entries(1, 1, 1, 1, 1)
    window = SentWindow(0.05)
    assert window.trim(append(log, 1, 3), log, 0.0) == append(log, 1, 3)
    assert window.trim(append(log, 1, 5), log, 0.0) == append(log, 3, 5)
    assert window.trim(append(log, 1, 5), log, 0.01) is None
    assert window.trim(append(log, 1, 5), log, 0.06) == append(log, 5, 5)


def test_a_commit_is_news() -> None:
    log = entries(1, 1, 1)
    window = SentWindow(0.05)
    window.trim(append(log, 1, 3), log, 0.0)
    assert window.trim(append(log, 3, 3, commit=3), log, 0.0) == append(log, 3, 3, commit=3)


def test_a_lost_link_makes_everything_news_again() -> None:
    log = entries(1, 1, 1)
    window = SentWindow(0.05)
    window.trim(append(log, 1, 3), log, 0.0)
    window.forget()
    assert window.trim(append(log, 1, 3), log, 0.0) == append(log, 1, 3)


# -- reads


def leading(term: int | None = 3, commit: int = 7, commit_term: int = 3) -> Leading:
    return Leading(term=term, commit_index=commit, commit_term=commit_term)


def test_a_read_needs_a_majority_of_this_term() -> None:
    reads = ReadIndex(NodeId("a"), timeout_s=2, again_s=0.06)
    answers: list[int | None] = []
    reads.ask(answers.append)
    number = reads.begin(leading(), 0.0)
    assert number is not None
    reads.settle(leading(), ABC, 0.0)
    reads.confirm(NodeId("b"), 2, number)
    reads.confirm(NodeId("x"), 3, number)
    reads.settle(leading(), ABC, 0.0)
    assert answers == []
    reads.confirm(NodeId("b"), 3, number)
    reads.settle(leading(), ABC, 0.0)
    assert answers == [7]


def test_members_are_asked_again_because_a_ping_may_get_lost_and_one_answer_serves_all_rounds_before_it() -> None:
    reads = ReadIndex(NodeId("a"), timeout_s=2, again_s=0.06)
    answers: list[int | None] = []
    reads.ask(answers.append)
    assert reads.begin(leading(), 0.0) == 1
    assert reads.begin(leading(), 0.05) is None
    assert reads.begin(leading(), 0.06) == 1
    reads.ask(answers.append)
    assert reads.begin(leading(), 0.07) == 2
    reads.confirm(NodeId("b"), 3, 2)
    reads.settle(leading(), ABC, 0.08)
    assert answers == [7, 7]
    assert reads.begin(leading(), 9.0) is None


def test_an_answer_to_an_earlier_ping_does_not_confirm_a_later_read() -> None:
    reads = ReadIndex(NodeId("a"), timeout_s=2, again_s=0.06)
    answers: list[int | None] = []
    reads.ask(lambda _: None)
    first = reads.begin(leading(), 0.0)
    reads.ask(answers.append)
    reads.begin(leading(), 0.01)
    assert first is not None
    reads.confirm(NodeId("b"), 3, first)
    reads.settle(leading(), ABC, 0.02)
    assert answers == []


def test_a_read_waits_for_an_entry_of_the_leaders_own_term() -> None:
    reads = ReadIndex(NodeId("a"), timeout_s=2, again_s=0.06)
    answers: list[int | None] = []
    reads.ask(answers.append)
    reads.begin(leading(commit_term=2), 0.0)
    reads.settle(leading(commit_term=2), frozenset({NodeId("a")}), 0.0)
    assert answers == []
    reads.settle(leading(), frozenset({NodeId("a")}), 0.0)
    assert answers == [7]


def test_a_read_fails_when_leadership_is_lost_or_time_runs_out() -> None:
    for later, now in ((leading(term=4), 0.0), (leading(term=None), 0.0), (leading(), 3.0)):
        reads = ReadIndex(NodeId("a"), timeout_s=2, again_s=0.06)
        answers: list[int | None] = []
        reads.ask(answers.append)
        reads.begin(leading(), 0.0)
        reads.settle(later, ABC, now)
        assert answers == [None]


# -- queue


def proposal(sequence: int, size: int = 0) -> Transaction:
    thing = Node(id=NodeId(f"n{sequence}"), remote_addr="x" * size)
    return Transaction(client="c", sequence=sequence, at=0.0, ops=(create(thing),))


def test_a_turn_takes_what_has_queued_up_to_a_bound() -> None:
    queue = ProposalQueue()
    for sequence in range(10):
        assert queue.put(proposal(sequence, 1000))
    assert [len(queue.take(3000)), len(queue.take(10)), len(queue.take())] == [2, 1, 7]


def test_a_full_queue_refuses() -> None:
    queue = ProposalQueue(bytes_max=2000)
    assert queue.put(proposal(1, 1500))
    assert not queue.put(proposal(2, 1500))
    queue.take()
    assert queue.put(proposal(2, 1500))


# -- ring


def test_a_ring_is_bounded_in_bytes_and_knows_who_can_resume() -> None:
    ring = WatchRing(bytes_max=1000)
    for version in range(1, 11):
        ring.append(version, (Change(action=create(Node(id=NodeId("n"))).action, table="node", id="n"),))  # type: ignore[arg-type]
    assert (ring.oldest, ring.newest) == (5, 10)
    assert [ring.resumable(version) for version in (4, 5, 10, 11)] == [False, True, True, False]
    assert ring.after(5)[0] == 6


# -- snapshots


def snapshot() -> tuple[list[bytes], State]:
    state = State()
    for sequence in range(500):
        state.apply(proposal(sequence, 1000))
    return list(encode_parts(Head(9, 2, state.version, Configuration()), state.freeze())), state


def test_a_state_comes_back_whole_with_its_sessions() -> None:
    payloads, state = snapshot()
    assembly = Assembly()
    for payload in payloads:
        assembly.take(payload)
    assert assembly.whole
    assert list(assembly.state.full()) == list(state.full())
    assert assembly.state.version == state.version
    assert assembly.state.apply(proposal(3, 1000)) == state.apply(proposal(3, 1000))


@pytest.mark.parametrize("missing", [0, 1, -1])
def test_a_snapshot_with_a_missing_part_is_not_whole(missing: int) -> None:
    payloads, _ = snapshot()
    del payloads[missing]
    assembly = Assembly()
    try:
        for payload in payloads:
            assembly.take(payload)
    except BrokenSnapshot:
        return
    assert not assembly.whole
