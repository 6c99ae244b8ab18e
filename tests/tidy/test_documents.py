"""Documents agree with the code."""

from __future__ import annotations

from pathlib import Path

from tests.tidy.protocol_page import PAGE, render

ROOT = Path(__file__).parents[2]


def test_the_protocol_page_shows_the_messages_as_they_are() -> None:
    assert PAGE.read_text() == render(), "docs/protocol.md is stale: run `make docs`"


def test_every_process_has_a_page_of_its_own() -> None:
    processes = sorted(path.parent for path in (ROOT / "services").glob("*/__main__.py"))
    assert processes
    missing = [process.name for process in processes if not (process / "README.md").is_file()]
    assert not missing, f"no README.md in {missing}"


def test_the_changelog_has_the_three_headings() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings
    assert set(headings) <= {"### Safety", "### Features", "### Internals"}
