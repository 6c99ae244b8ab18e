"""Reading a member's files without changing them: what is in them, are they whole, how far did this member get. Used by the operator's tool.

Works beside a running member: files that it drops meanwhile are looked up again, and the end of a write under way counts as torn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from services.kit.errors import DataLoss, FailedPrecondition
from services.kit.runtime.files import Disk
from services.kit.runtime.sealed_key import is_sealed, split_keys, unseal
from services.kit.state.packed import decode_packed
from services.kit.state.transaction import Action, Op, Transaction
from services.raft.core.commands import membership_of, transactions_of
from services.raft.core.entries import NO_OP, Entry
from services.raft.core.machine import Machine
from services.raft.core.members import Configuration
from services.raft.core.snapshot import Head
from services.raft.shell.log import Log
from services.raft.shell.sealed import WAY_BACK
from services.raft.shell.snapshots import SUFFIX, Snapshots

ATTEMPTS_MAX = 5
ResultT = TypeVar("ResultT")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How far a member got, from its files alone. Of several, the greatest ``(last_term, last_index)`` is the most advanced (Raft §5.4.1)."""

    directory: str
    term: int
    vote: str
    first_index: int
    last_index: int
    last_term: int
    commit_index: int
    """At least this much is committed; a hint that is never ahead of the truth."""
    snapshot_index: int
    version: int
    """Of the state when everything known to be committed is applied."""
    objects: int
    members: tuple[str, ...]
    torn_bytes: int
    """Behind the last whole frame: the end of a write that was never acknowledged."""


class EntryLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the log."""

    index: int
    term: int
    kind: str
    bytes: int
    what: tuple[str, ...]


class SnapshotLine(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot."""

    index: int
    term: int
    version: int
    bytes: int
    sessions: int
    objects: dict[str, int]
    members: tuple[str, ...]


class _LookingDisk(Disk):
    """Changes nothing; remembers what recovery would have cut."""

    def __init__(self) -> None:
        self.torn_bytes = 0

    def create(self, path: Path, mode: int = 0o600) -> int:
        raise AssertionError(f"{path} would be written")

    def cut(self, path: Path, size: int) -> None:
        self.torn_bytes += path.stat().st_size - size

    def settle(self, path: Path) -> None:
        """Do nothing."""

    def remove(self, path: Path) -> None:
        """Do nothing."""

    def sync_directory(self, path: Path) -> None:
        """Do nothing."""


class Inspection:
    """The files of one member as they are now. Raises DataLoss when they are damaged, FailedPrecondition when there are none."""

    def __init__(self, state_dir: Path, unlock_key: bytes = b"") -> None:
        self._state_dir = state_dir
        self._directory = state_dir / "raft"
        self._key, *older = _read_keys(self._directory / "data.key", unlock_key)
        self._older_keys = tuple(older)
        self.log, self.head, self.torn_bytes = _while_files_vanish(self._open)

    def standing(self) -> Standing:
        """Return how far this member got; applies what is known to be committed."""
        machine = self.replay(self.log.commit_index)
        entries = self.log.entries
        return Standing(
            directory=str(self._state_dir),
            term=max(self.log.term, entries.last_term),
            vote=self.log.vote or "",
            first_index=entries.first,
            last_index=max(entries.last, self._snapshot_index),
            last_term=entries.last_term if entries.last >= self._snapshot_index else self._snapshot_term,
            commit_index=max(self.log.commit_index, self._snapshot_index),
            snapshot_index=self._snapshot_index,
            version=machine.state.version,
            objects=len(machine.state),
            members=_names(self.log.membership.latest),
            torn_bytes=self.torn_bytes,
        )

    def replay(self, up_to: int) -> Machine:
        """Return a state machine with the snapshot and the entries up to an index applied."""
        machine = Machine()
        if self.head is not None:
            machine.begin_at(self.head.index, self._shelf().load(self.head.index).state)
        else:
            machine.applied_index = self.log.entries.first
        for entry in self.log.entries.between(machine.applied_index + 1, up_to):
            machine.apply(entry)
        return machine

    def lines(self, first: int, last: int) -> Iterator[EntryLine]:
        """Yield what the entries from ``first`` to ``last`` say, as far as they are kept."""
        for entry in self.log.entries.between(first, last):
            yield _line(entry)

    def snapshots(self) -> list[SnapshotLine]:
        """Return what the snapshots say, the newest last."""
        paths = sorted((self._directory / "snapshots").glob(f"*{SUFFIX}"))
        return [self._snapshot_line(int(path.stem), path.stat().st_size) for path in paths]

    @property
    def _snapshot_index(self) -> int:
        return 0 if self.head is None else self.head.index

    @property
    def _snapshot_term(self) -> int:
        return 0 if self.head is None else self.head.term

    def _open(self) -> tuple[Log, Head | None, int]:
        disk = _LookingDisk()
        newest = self._shelf().newest()
        head = self._shelf().load(newest).head if newest else None
        base, index = (Configuration(), 0) if head is None else (head.configuration, head.index)
        log = Log(
            self._directory / "log",
            self._key,
            entropy=bytes,
            base=base,
            base_index=index,
            disk=disk,
            older_keys=self._older_keys,
        )
        if log.entries.first > max(index, 1):
            raise DataLoss(f"{self._directory}: entries {index} to {log.entries.first} are missing; {WAY_BACK}")
        return log, head, disk.torn_bytes

    def _shelf(self) -> Snapshots:
        directory = self._directory / "snapshots"
        return Snapshots(directory, self._key, entropy=bytes, disk=_LookingDisk(), older_keys=self._older_keys)

    def _snapshot_line(self, index: int, size: int) -> SnapshotLine:
        assembly = self._shelf().load(index)
        assert assembly.head is not None
        frozen = assembly.state.freeze()
        return SnapshotLine(
            index=index,
            term=assembly.head.term,
            version=assembly.head.version,
            bytes=size,
            sessions=len(frozen.sessions),
            objects={table.value: len(objects) for table, objects in frozen.tables if objects},
            members=_names(assembly.head.configuration),
        )


def most_advanced(standings: list[Standing]) -> Standing:
    """Return the one that holds every acknowledged write of the others, if a majority of the members is among them."""
    return max(standings, key=lambda standing: (standing.last_term, standing.last_index))


def _line(entry: Entry) -> EntryLine:
    kind, what = "transactions", [_transaction_line(each) for each in transactions_of(entry.command)]
    change = membership_of(entry.command)
    if change is not None:
        kind, what = "membership", [f"{change.kind.value} {change.member.node_id} at {change.member.raft_addr}"]
    elif entry.command == NO_OP:
        kind = "term"
    return EntryLine(index=entry.index, term=entry.term, kind=kind, bytes=len(entry.command), what=tuple(what))


def _transaction_line(transaction: Transaction) -> str:
    ops = ", ".join(_op_words(op) for op in transaction.ops)
    return f"{transaction.client}#{transaction.sequence}: {ops}"


def _op_words(op: Op) -> str:
    if op.action is not Action.TASKS:
        return f"{op.action.value} {op.table.value} {op.id}"
    packed = decode_packed(op.object)
    created = sum(len(births.ids) for births in packed.births)
    return f"create {created} and update {len(packed) - created} tasks from {op.id} on"


def _names(configuration: Configuration) -> tuple[str, ...]:
    return tuple(f"{node_id} {record.raft_addr}" for node_id, record in sorted(configuration.members.items()))


def _read_keys(path: Path, unlock_key: bytes) -> tuple[bytes, ...]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FailedPrecondition(f"{path.parent} holds no store: this node is no manager, or never was") from None
    if is_sealed(content):
        if not unlock_key:
            raise FailedPrecondition(f"{path} is sealed: give the unlock key as SWARMBUS_UNLOCK_KEY in the environment")
        content = unseal(content, unlock_key)
    return split_keys(content, path)


def _while_files_vanish(read: Callable[[], ResultT]) -> ResultT:
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()
