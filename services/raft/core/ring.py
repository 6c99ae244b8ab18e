"""The recent committed changes by version: what a watcher resumes from. Bounded in bytes; who is further behind re-syncs."""

from __future__ import annotations

from collections import deque

from services.kit.state.transaction import NOBODY, Change, Origin

RING_BYTES_MAX = 32 << 20
_CHANGE_BYTES = 200
"""Roughly what a change costs besides its object."""

Step = tuple[int, tuple[Change, ...], Origin]


class WatchRing:
    """Steps without a gap; the newest is the state's version."""

    def __init__(self, bytes_max: int = RING_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._steps: deque[tuple[tuple[Change, ...], Origin, int]] = deque()
        self._bytes = 0
        self._newest = 0

    @property
    def newest(self) -> int:
        """Version of the newest step."""
        return self._newest

    @property
    def oldest(self) -> int:
        """The least version that a watcher may have and still resume."""
        return self._newest - len(self._steps)

    def begin_at(self, version: int) -> None:
        """Forget all steps; the state jumped to this version."""
        self._steps.clear()
        self._bytes = 0
        self._newest = version

    def append(self, version: int, changes: tuple[Change, ...], origin: Origin = NOBODY) -> None:
        """Add the next step and forget the oldest beyond the bound."""
        assert version == self._newest + 1, f"step {version} after {self._newest}"
        size = sum(_CHANGE_BYTES + len(change.object) for change in changes)
        self._steps.append((changes, origin, size))
        self._bytes += size
        self._newest = version
        while self._bytes > self._bytes_max and len(self._steps) > 1:
            self._bytes -= self._steps.popleft()[2]

    def after(self, version: int) -> Step:
        """Return the step behind a version; the version must be resumable and not the newest."""
        assert self.oldest <= version < self._newest
        changes, origin, _ = self._steps[version - self.oldest]
        return version + 1, changes, origin

    def resumable(self, version: int) -> bool:
        """Tell whether all steps behind a version are here."""
        return self.oldest <= version <= self._newest
