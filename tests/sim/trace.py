"""What happened in a run, line by line: the product's own log lines, the faults, and what users did.

The text of a run is a function of its seed; its digest is what two runs are compared by. Lines name virtual seconds, node, process and part.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message

KEPT_LINES = 20_000


class Trace:
    """The lines of one run; only the last ones are kept, all count for the digest."""

    def __init__(self, now: Callable[[], float], who: Callable[[], str], hidden: str) -> None:
        """``hidden`` is a path that differs from run to run."""
        self._now = now
        self._who = who
        self._hidden = hidden
        self._digest = hashlib.sha256()
        self._sink: int | None = None
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.count = 0

    @property
    def digest(self) -> str:
        """A digest of every line so far."""
        return self._digest.hexdigest()

    def note(self, source: str, text: str) -> None:
        """Add a line."""
        line = f"{self._now():10.4f} {source:<16} {text}".replace(self._hidden, "~")
        self._digest.update(line.encode())
        self.lines.append(line)
        self.count += 1

    def open(self) -> None:
        """Take the log lines of the whole program, until ``close``."""
        logger.remove()
        self._sink = logger.add(self._take, level="DEBUG", format="{message}", catch=False)

    def close(self) -> None:
        """Let log lines go again."""
        if self._sink is not None:
            logger.remove(self._sink)
            self._sink = None

    def _take(self, message: Message) -> None:
        record = message.record
        fields = " ".join(f"{name}={value}" for name, value in record["extra"].get("fields", {}).items())
        level = "" if record["level"].name in {"DEBUG", "INFO"} else f"{record['level'].name} "
        self.note(self._who(), f"{level}{record['extra'].get('part', '')}: {record['message']} {fields}".rstrip())
