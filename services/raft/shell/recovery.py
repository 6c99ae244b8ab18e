"""From a state directory to a log and a state machine: fresh, restarted, or made the only member by force.

What must stay true: a log that covers the snapshot is never cleared (hazard H2), and a state that cannot be read whole is never replaced
by an empty one (H12).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.kit.errors import DataLoss
from services.kit.model.ids import NodeId
from services.kit.runtime.files import REAL_DISK, Disk, make_directory
from services.raft.core.commands import encode_membership
from services.raft.core.entries import NO_OP, Entry
from services.raft.core.machine import Machine
from services.raft.core.members import ChangeKind, MemberRecord, MembershipChange
from services.raft.shell.keys import KeyStore
from services.raft.shell.log import Log
from services.raft.shell.sealed import WAY_BACK
from services.raft.shell.snapshots import Snapshots

INCARNATION_BYTES = 12
_FORCED = "forced"


@dataclass(slots=True, kw_only=True)
class Recovered:
    """What a member goes on with."""

    log: Log
    machine: Machine
    snapshots: Snapshots
    snapshot_index: int


class Incarnation:
    """The id of this log directory: a member that has lost its log comes back as somebody new, whom nobody believes what the old one said.

    What must stay true: the file is there only when a log was begun, or when this node was to join others.
    """

    def __init__(self, directory: Path, log: Log, node_id: NodeId, entropy: Callable[[int], bytes]) -> None:
        self._path = directory / "incarnation"
        self._is_kept = self._path.exists()
        self.log_is_lost = self._is_kept and log.is_new
        """True when there was a log, or might have been."""
        recorded = log.membership.latest.members.get(node_id)
        if self._is_kept and not log.is_new:
            self.value = self._path.read_text().strip()
        elif recorded is not None and not log.is_new:
            self.value = recorded.incarnation
        else:
            self._is_kept = False
            self.value = entropy(INCARNATION_BYTES).hex()

    def keep(self, disk: Disk = REAL_DISK) -> None:
        """Write it down; a founder does so behind the first entries of its log."""
        if not self._is_kept:
            disk.write_atomic(self._path, self.value.encode())
            self._is_kept = True


def recover(directory: Path, keys: KeyStore, entropy: Callable[[int], bytes], disk: Disk = REAL_DISK) -> Recovered:
    """Read snapshot and log; raises DataLoss when they are damaged or do not fit together."""
    log_directory, snapshot_directory = directory / "log", directory / "snapshots"
    make_directory(log_directory)
    make_directory(snapshot_directory)
    for place in (directory.parent, directory, log_directory, snapshot_directory):
        # What a killed process created or renamed there is seen now and must be there after a power cut as well.
        disk.sync_directory(place)
    key = keys.load()
    older = keys.older
    snapshots = Snapshots(snapshot_directory, key, entropy=entropy, disk=disk, older_keys=older)
    machine = Machine()
    index = snapshots.newest()
    if not index:
        log = Log(log_directory, key, entropy=entropy, disk=disk, older_keys=older)
        if log.entries.first > 1:
            raise DataLoss(
                f"{snapshot_directory}: the snapshot before entry {log.entries.first} is missing; {WAY_BACK}"
            )
        return Recovered(log=log, machine=machine, snapshots=snapshots, snapshot_index=0)
    assembly = snapshots.load(index)
    head = assembly.head
    assert head is not None
    log = Log(
        log_directory,
        key,
        entropy=entropy,
        base=head.configuration,
        base_index=head.index,
        disk=disk,
        older_keys=older,
    )
    if log.entries.term_at(head.index) != head.term:
        if log.entries.first > head.index:
            raise DataLoss(f"{log_directory}: entries {head.index} to {log.entries.first} are missing; {WAY_BACK}")
        log.begin_at(head.index, head.term, head.configuration)
    log.set_commit_index(head.index)
    machine.begin_at(head.index, assembly.state)
    return Recovered(log=log, machine=machine, snapshots=snapshots, snapshot_index=index)


def lost_log(directory: Path, snapshot_index: int) -> str:
    """Return what to tell about a log that is gone and that nobody else is known to have."""
    rest = (
        f"Only the snapshot of entry {snapshot_index} is left: bring the files back, or lose what came after it by starting once with"
        " --force-new-cluster"
        if snapshot_index
        else "Nothing else of the store is left here: bring the files back"
    )
    return f"{directory / 'log'} is empty although this manager had a log, and no other manager is known. {rest}"


def found_cluster(log: Log, founder: MemberRecord) -> None:
    """Begin the log of a new cluster with its first member."""
    assert not len(log.entries), "a log is there already"
    log.append(Entry(NO_OP, 1, 0))
    change = MembershipChange(kind=ChangeKind.ADD, member=founder)
    log.append(Entry(encode_membership(change), 2, 0))
    log.sync()


def force_new_cluster(directory: Path, log: Log, survivor: MemberRecord, disk: Disk = REAL_DISK) -> bool:
    """Drop all other members, keeping every entry; False when this was done since the process was last started without the wish."""
    done = directory / _FORCED
    if done.exists():
        return False
    change = MembershipChange(kind=ChangeKind.ONLY, member=survivor)
    log.append(Entry(encode_membership(change), log.entries.last + 1, max(log.term, log.entries.last_term)))
    log.sync()
    disk.write_atomic(done, b"")
    return True


def allow_force(directory: Path) -> None:
    """Note that the process was started without the wish to force."""
    (directory / _FORCED).unlink(missing_ok=True)
