"""Shows a service's convergence: lines that are rewritten on a terminal, plain lines elsewhere.

    overall progress: 2 out of 3 tasks
    1/3: running   ━━━━━━━━━━━━━━
    2/3: running   ━━━━━━━━━━━━━━
    3/3: pending   ━━
         no suitable node (insufficient memory on 3 nodes)

Pure rendering in ``frame`` and ``plain_lines``; ``Display`` writes.
"""

from __future__ import annotations

import textwrap
from typing import Protocol

from services.cli.output import Output, Style, has_colour, paint
from services.client.convergence import Progress, SlotProgress, Stage
from services.kit.model.states import TaskState

SLOTS_SHOWN_MAX = 20
"""With more tasks only the overall line and the reasons are shown."""
BAR = (
    TaskState.NEW,
    TaskState.PENDING,
    TaskState.ASSIGNED,
    TaskState.ACCEPTED,
    TaskState.PREPARING,
    TaskState.READY,
    TaskState.STARTING,
    TaskState.RUNNING,
)
BAR_STEP = "━━"


class Display(Protocol):
    """Takes each step of a service's progress."""

    def show(self, progress: Progress) -> None:
        """Show where the service stands now."""


def display_for(output: Output, *, quiet: bool) -> Display:
    """Return the display that suits where progress is written to."""
    if quiet:
        return Silent()
    return Screen(output) if output.err.isatty() else Lines(output)


class Silent:
    """Shows nothing."""

    def show(self, progress: Progress) -> None:
        """Show nothing."""


class Lines:
    """One line for each thing that changed: for files and pipes."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said: set[str] = set()
        self._last = ""

    def show(self, progress: Progress) -> None:
        """Print what is new."""
        overall = overall_line(progress)
        if overall != self._last:
            self._output.note(f"{progress.name}: {overall}")
            self._last = overall
        for line in reason_lines(progress):
            if line not in self._said:
                self._said.add(line)
                self._output.note(f"{progress.name}: {line}")


class Screen:
    """A block of lines that is rewritten in place: for terminals."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._height = 0

    def show(self, progress: Progress) -> None:
        """Rewrite the block."""
        lines = frame(progress, width=self._output.width, colour=has_colour(self._output.err))
        up = f"\x1b[{self._height}A" if self._height else ""
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        self._output.err.write(f"{up}\r{body}\x1b[0J")
        self._output.err.flush()
        self._height = len(lines)


def overall_line(progress: Progress) -> str:
    """Return the line that sums up."""
    counts = f"overall progress: {progress.done} out of {progress.desired} tasks"
    match progress.stage:
        case Stage.WORKING:
            return f"{counts} ({progress.message})" if progress.message else counts
        case Stage.VERIFYING:
            return f"{counts}, verifying that they stay up"
        case Stage.CONVERGED:
            return f"{counts}, converged"
        case Stage.FAILED:
            return f"{counts}, failed: {progress.message}"


def reason_lines(progress: Progress) -> list[str]:
    """Return why tasks are not running, equal reasons once."""
    slots_by_reason: dict[tuple[str, str], list[str]] = {}
    for slot in progress.slots:
        if slot.reason:
            slots_by_reason.setdefault((slot.state.name.lower(), slot.reason), []).append(_label(slot))
    return [
        f"{f'task {labels[0]}' if len(labels) == 1 else f'{len(labels)} tasks'} {state}: {reason}"
        for (state, reason), labels in slots_by_reason.items()
    ]


def frame(progress: Progress, *, width: int, colour: bool) -> list[str]:
    """Return the block for a terminal; no line is wider than it."""
    style = {Stage.CONVERGED: Style.GOOD, Stage.FAILED: Style.BAD}.get(progress.stage, Style.PLAIN)
    lines = [paint(part, style, colour=colour) for part in _wrapped(overall_line(progress), width, "")]
    if len(progress.slots) > SLOTS_SHOWN_MAX:
        for reason in reason_lines(progress):
            lines += _wrapped(reason, width, "  ")
        return lines
    for slot in progress.slots:
        state = slot.state.name.lower() if slot.current else f"{slot.state.name.lower()}, old version"
        head = f"{_label(slot)}/{progress.desired}: " if slot.slot else f"{_label(slot)}: "
        steps = sum(slot.state >= step for step in BAR) if slot.current and not slot.state.terminal else 0
        lines.append((head + f"{state:<10}" + (" " + BAR_STEP * steps if steps else ""))[:width].rstrip())
        if slot.reason:
            lines += _wrapped(slot.reason, width, " " * len(head))
    return lines


def _label(slot: SlotProgress) -> str:
    return str(slot.slot) if slot.slot else (slot.node_id or "-")[:12]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, max(20, width), initial_indent=indent, subsequent_indent=indent) or [""]
