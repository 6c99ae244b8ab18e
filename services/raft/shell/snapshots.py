"""Snapshots on disk: written from a frozen state in a thread, read whole at start, handed to a member that is behind, received from one.

A snapshot appears under its name only when it is whole and durable. A broken one is never replaced by an empty state (hazard H12):
loading raises DataLoss and the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from services.kit.errors import DataLoss
from services.kit.runtime.files import REAL_DISK, Disk
from services.kit.state.state import FrozenState
from services.raft.core.snapshot import Assembly, BrokenSnapshot, Head, encode_parts
from services.raft.shell.calm import breathe
from services.raft.shell.sealed import SALT_BYTES, WAY_BACK, Cipher, Preamble, preamble, read_payloads

SUFFIX = ".snapshot"
LOOSE_BYTES_MAX = 4 << 20
"""Written and not yet synced; the log's own syncs wait behind no more than this."""
_WRITING = ".writing"
_RECEIVING = ".receiving"


class Snapshots:
    """One member's snapshots."""

    def __init__(
        self,
        directory: Path,
        data_key: bytes,
        *,
        entropy: Callable[[int], bytes],
        keep_old: int = 0,
        disk: Disk = REAL_DISK,
        older_keys: tuple[bytes, ...] = (),
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._data_key = data_key
        self._older_keys = older_keys
        self._entropy = entropy
        self.keep_old = keep_old
        for unfinished in (*directory.glob(f"*{_WRITING}"), *directory.glob(f"*{_RECEIVING}")):
            disk.remove(unfinished)

    def newest(self) -> int:
        """Return the index of the newest snapshot, 0 when there is none."""
        return max((int(path.stem) for path in self._directory.glob(f"*{SUFFIX}")), default=0)

    def load(self, index: int) -> Assembly:
        """Return a snapshot's head and state; raises DataLoss when it is not whole."""
        return _assemble(self._path(index), self._data_keys)

    def use_key(self, data_key: bytes) -> None:
        """Seal under another key from now on."""
        self._older_keys = self._data_keys
        self._data_key = data_key

    @property
    def lie_under_older_keys(self) -> bool:
        """True while a snapshot is sealed under another key than new ones are."""
        return bool(self._older_keys) and any(
            not _opens_with(path, self._data_key) for path in self._directory.glob(f"*{SUFFIX}")
        )

    def write(self, head: Head, frozen: FrozenState) -> None:
        """Write a snapshot; durable on return. Runs in a thread."""
        temporary = self._path(head.index).with_suffix(_WRITING)
        self._write_file(temporary, encode_parts(head, frozen))
        self._install(temporary, head.index)

    def payloads(self, index: int, sequence: int) -> Iterator[tuple[int, bytes, bool]]:
        """Yield (sequence, payload, last) from a piece on; nothing when the snapshot is gone."""
        path = self._path(index)
        if not path.exists():
            return
        held: bytes | None = None
        number = -1
        for number, payload in enumerate(read_payloads(path, self._data_keys)):
            if held is not None and number - 1 >= sequence:
                yield number - 1, held, False
            held = payload
        if held is not None and number >= sequence:
            yield number, held, True

    def receive(self, index: int) -> Incoming:
        """Begin to take a snapshot from another member."""
        path = self._path(index).with_suffix(_RECEIVING)
        return Incoming(path, self._data_key, self._entropy(SALT_BYTES), self._disk)

    def install(self, incoming: Incoming, index: int) -> Assembly:
        """Check what was received and put it in place; durable on return. Raises DataLoss and removes it when it is not whole."""
        incoming.finish()
        try:
            assembly = _assemble(incoming.path, self._data_keys)
        except DataLoss:
            self._disk.remove(incoming.path)
            raise
        self._install(incoming.path, index)
        return assembly

    @property
    def _data_keys(self) -> tuple[bytes, ...]:
        return (self._data_key, *self._older_keys)

    def _install(self, temporary: Path, index: int) -> None:
        self._disk.replace(temporary, self._path(index))
        self._disk.sync_directory(self._directory)
        kept = sorted(self._directory.glob(f"*{SUFFIX}"))
        for old in kept[: max(0, len(kept) - 1 - self.keep_old)]:
            self._disk.remove(old)

    def _write_file(self, path: Path, payloads: Iterable[bytes]) -> None:
        salt = self._entropy(SALT_BYTES)
        cipher = Cipher(self._data_key, salt)
        descriptor = self._disk.create(path)
        try:
            self._disk.write(descriptor, preamble(Preamble(0, 0, salt)))
            loose = 0
            for sequence, payload in enumerate(payloads):
                self._disk.write(descriptor, cipher.seal(sequence, payload))
                loose += len(payload)
                if loose > LOOSE_BYTES_MAX:
                    self._disk.sync(descriptor)
                    loose = 0
                breathe()
            self._disk.sync(descriptor)
        finally:
            self._disk.close(descriptor)

    def _path(self, index: int) -> Path:
        return self._directory / f"{index:020d}{SUFFIX}"


class Incoming:
    """A snapshot on its way in, sealed anew under this node's key."""

    def __init__(self, path: Path, data_key: bytes, salt: bytes, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        self.next_sequence = 0
        self._cipher = Cipher(data_key, salt)
        self._descriptor = disk.create(path)
        disk.write(self._descriptor, preamble(Preamble(0, 0, salt)))

    def take(self, payload: bytes) -> None:
        """Add the next payload."""
        self._disk.write(self._descriptor, self._cipher.seal(self.next_sequence, payload))
        self.next_sequence += 1

    def finish(self) -> None:
        """Make it durable and let go of the file."""
        self._disk.sync(self._descriptor)
        self.close()

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
            self._descriptor = -1


def _opens_with(path: Path, data_key: bytes) -> bool:
    try:
        next(read_payloads(path, (data_key,)), None)
    except DataLoss:
        return False
    return True


def _assemble(path: Path, data_keys: Sequence[bytes]) -> Assembly:
    assembly = Assembly()
    try:
        for payload in read_payloads(path, data_keys):
            assembly.take(payload)
    except BrokenSnapshot as error:
        raise DataLoss(f"{path} is no whole snapshot: {error}; {WAY_BACK}") from error
    if not assembly.whole:
        raise DataLoss(f"{path} ends before its end; {WAY_BACK}")
    return assembly
