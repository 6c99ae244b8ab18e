"""Where ids and randomness come from."""

from __future__ import annotations

import os
import random
from typing import Protocol

from services.kit.model.ids import ENTROPY_BYTES, form_id


class IdSource(Protocol):
    """Makes ids. One stream per noun, so that a new task does not reshuffle the ids of nodes in a replay."""

    def new(self, noun: str) -> str:
        """Return a fresh 25-character id for this kind of thing."""

    def secret(self, noun: str, size: int) -> bytes:
        """Return bytes that nobody can guess, for tokens and keys."""


class SystemIds:
    """Ids from the machine's entropy."""

    def new(self, noun: str) -> str:
        """Return an id that nobody has seen before."""
        return form_id(os.urandom(ENTROPY_BYTES))

    def secret(self, noun: str, size: int) -> bytes:
        """Return bytes of the machine's entropy."""
        return os.urandom(size)


class SeededIds:
    """Replayable ids: the same seed gives the same stream for each noun."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._streams: dict[str, random.Random] = {}

    def new(self, noun: str) -> str:
        """Return the next id of this noun's stream."""
        return form_id(self.secret(noun, ENTROPY_BYTES))

    def secret(self, noun: str, size: int) -> bytes:
        """Return the next bytes of this noun's stream."""
        return self._streams.setdefault(noun, random.Random(f"{self._seed}/{noun}")).randbytes(size)


def system_rng() -> random.Random:
    """Return a generator seeded by the machine, for jitter and ties."""
    return random.Random(os.urandom(16))
