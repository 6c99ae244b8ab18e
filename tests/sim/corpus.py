"""The seeds that have found a bug, with a line of why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("corpus.txt")


@dataclass(frozen=True, slots=True)
class Seed:
    """One line of the corpus."""

    number: int
    why: str


def load_corpus(path: Path = PATH) -> tuple[Seed, ...]:
    """Return the seeds: a number and what it found on each line."""
    seeds = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            number, _, why = line.strip().partition(" ")
            seeds.append(Seed(int(number), why.strip()))
    return tuple(seeds)
