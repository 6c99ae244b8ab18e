"""The list of planted bugs keeps up with the code."""

from __future__ import annotations

from tests.mutations.__main__ import applies
from tests.mutations.planted import PLANTED

LEAST = 40


def test_at_least_forty_bugs_can_be_planted() -> None:
    fitting = [bug for bug in PLANTED if applies(bug)]
    stale = [f"{bug.file}: {bug.what}" for bug in PLANTED if not applies(bug)]
    assert len(fitting) >= LEAST, f"plant others for these: {stale}"


def test_no_planted_bug_is_the_code_itself() -> None:
    assert all(bug.before != bug.after for bug in PLANTED)
    assert len({(bug.file, bug.before, bug.after) for bug in PLANTED}) == len(PLANTED)
