"""The cluster volumes of this node: which are given to it, which step each needs, which task may have which. Pure; one machine a node.

A volume that was given is brought up (stage, publish) at once; one that is taken back is taken down (unpublish, unstage) when no task here
uses it any more, and reported until that was acknowledged. Its driver's steps may be repeated, so a restart of the agent begins anew with
what is noted on disk. What must stay true: no step of a volume begins before the last one has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.kit.messages.session import AssignedVolume
from services.kit.model.ids import VolumeId

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 600.0


class Step(StrEnum):
    """What is to be done with a volume."""

    UP = "up"
    DOWN = "down"


@dataclass(slots=True)
class _Volume:
    given: AssignedVolume | None
    """None once it was taken back."""
    known: AssignedVolume
    """As it was given last: what its driver is told to take it down."""
    path: str = ""
    """Where it is published; empty while it is not."""
    touched: bool = False
    """A step of its driver was begun: there may be something to take down."""
    busy: bool = False
    attempts: int = 0
    retry_at: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Do:
    """Take a volume one way."""

    step: Step
    volume: AssignedVolume


@dataclass(slots=True)
class VolumeBook:
    """All volumes of this node."""

    _volumes: dict[VolumeId, _Volume] = field(default_factory=dict)
    _reported: dict[VolumeId, None] = field(default_factory=dict)
    """Taken down, and not acknowledged."""

    def adopt(self, noted: Iterable[AssignedVolume]) -> None:
        """Take note of what an earlier agent brought up: it is brought up again, or taken down, when the dispatcher has said which."""
        for volume in noted:
            self._volumes[volume.id] = _Volume(given=volume, known=volume, touched=True)

    def assign(self, *, full: bool, given: Iterable[AssignedVolume], removed: Iterable[VolumeId]) -> None:
        """Take over a message; a full one means that what it does not give is not ours."""
        fresh = {volume.id: volume for volume in given}
        gone = set(removed)
        if full:
            gone |= self._volumes.keys() - fresh.keys()
        for volume_id in sorted(gone):
            held = self._volumes.get(volume_id)
            if held is None:
                self._reported[volume_id] = None
            else:
                held.given = None
                held.attempts, held.retry_at = 0, 0.0
        for volume in fresh.values():
            self._reported.pop(volume.id, None)
            held = self._volumes.setdefault(volume.id, _Volume(given=volume, known=volume))
            held.given = held.known = volume
            held.attempts, held.retry_at = 0, 0.0

    def due(self, now: float, used: Collection[VolumeId]) -> list[Do]:
        """Return what to do now; each is under way until ``done`` or ``failed``. ``used`` are volumes that tasks here have."""
        steps: list[Do] = []
        for volume_id, held in list(self._volumes.items()):
            if held.busy or held.retry_at > now:
                continue
            if held.given is not None:
                if not held.path:
                    steps.append(Do(Step.UP, held.given))
            elif not held.touched:
                self._down(volume_id)
                continue
            elif volume_id not in used:
                steps.append(Do(Step.DOWN, held.known))
        for step in steps:
            held = self._volumes[step.volume.id]
            held.busy = held.touched = True
        return steps

    def deadline(self) -> float | None:
        """Return when to look again for a step that failed."""
        waits = [
            v.retry_at for v in self._volumes.values() if v.retry_at and not v.busy and (v.given is None or not v.path)
        ]
        return min(waits, default=None)

    def done(self, volume_id: VolumeId, step: Step, path: str = "") -> None:
        """A step has succeeded."""
        held = self._volumes[volume_id]
        held.busy, held.attempts, held.retry_at, held.error = False, 0, 0.0, ""
        held.path = path
        if step is Step.DOWN:
            if held.given is None:
                self._down(volume_id)
            else:
                held.touched = False  # it was given again meanwhile

    def failed(self, volume_id: VolumeId, now: float, reason: str) -> None:
        """A step has failed: it is tried again, later each time."""
        held = self._volumes[volume_id]
        held.busy, held.error = False, reason
        held.retry_at = now + min(RETRY_FIRST_S * 2.0 ** min(held.attempts, 20), RETRY_MAX_S)
        held.attempts += 1

    def path(self, volume_id: VolumeId) -> str:
        """Return where a volume is published; empty while it is not, or not ours."""
        held = self._volumes.get(volume_id)
        return "" if held is None or held.given is None else held.path

    def trouble(self, volume_id: VolumeId) -> str:
        """Return why a volume is not published yet."""
        held = self._volumes.get(volume_id)
        return "it has not come yet" if held is None else held.error or "it is being brought up"

    def reports(self) -> tuple[VolumeId, ...]:
        """Return the volumes to report as taken down."""
        return tuple(self._reported)

    def acknowledged(self, volumes: Iterable[VolumeId]) -> None:
        """The dispatcher has stored that these are down."""
        for volume_id in volumes:
            self._reported.pop(volume_id, None)

    def describe(self) -> Mapping[str, str]:
        """Return a plain tree for people and tests."""
        return {volume_id: held.path or held.error or "on its way" for volume_id, held in self._volumes.items()}

    def _down(self, volume_id: VolumeId) -> None:
        del self._volumes[volume_id]
        self._reported[volume_id] = None
