"""The log: one structured line per event, on standard error. The only door to loguru.

Levels: error = a person must act; warning = we degraded; info = lifecycle and leadership; debug = each step. A message is a constant
event name; what varies goes into fields. Secrets, keys and tokens are never fields.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loguru import Logger, Record

LEVELS = {
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "error": "ERROR",
    "fatal": "CRITICAL",
    "panic": "CRITICAL",
}
Field = str | int | float | bool | None


@cache
def _logger() -> Logger:
    """Return loguru's logger, loaded with the first line or by ``set_up``: commands that log nothing start faster."""
    from loguru import logger  # noqa: PLC0415

    return logger


def set_up(process: str, level: str) -> None:
    """Write lines of this level and above to standard error, marked with the process."""
    logger = _logger()
    logger.remove()
    logger.configure(extra={"process": process, "node": "-"})
    logger.add(sys.stderr, level=LEVELS[level], format=_line, backtrace=False, diagnose=False)


def set_node(node_id: str) -> None:
    """Mark the following lines with the node."""
    logger = _logger()
    extra = {**logger._core.extra, "node": node_id}  # type: ignore[attr-defined]
    logger.configure(extra=extra)


class Log:
    """A named source of lines; fields given here are on each of them."""

    def __init__(self, part: str, **fields: Field) -> None:
        self._part = part
        self._fields = fields

    def debug(self, event: str, **fields: Field) -> None:
        """Report a step."""
        self._write("DEBUG", event, fields)

    def info(self, event: str, **fields: Field) -> None:
        """Report lifecycle or leadership."""
        self._write("INFO", event, fields)

    def warning(self, event: str, **fields: Field) -> None:
        """Report that we degraded."""
        self._write("WARNING", event, fields)

    def error(self, event: str, **fields: Field) -> None:
        """Report what a person must act on."""
        self._write("ERROR", event, fields)

    def crash(self, event: str, error: BaseException, **fields: Field) -> None:
        """Report the end of something by a bug, with its traceback."""
        bound = _logger().bind(part=self._part, fields={**self._fields, **fields}).opt(exception=error)
        bound.log("CRITICAL", event)

    def _write(self, level: str, event: str, fields: dict[str, Field]) -> None:
        _logger().bind(part=self._part, fields={**self._fields, **fields}).log(level, event)


def _line(record: Record) -> str:
    fields = record["extra"].get("fields", {})
    shown = " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())
    record["extra"]["shown"] = f" {shown}" if shown else ""
    return (
        "{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level.name:<8} {extra[process]} {extra[node]} "
        "{extra[part]}: {message}{extra[shown]}\n{exception}"
    )


def _quoted(value: Field) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "'\"=" for c in text) else text
