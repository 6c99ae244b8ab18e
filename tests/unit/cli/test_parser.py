"""Reading a command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.cli.commands import GROUPS
from services.cli.outcomes import MEANINGS, Outcome
from services.cli.parser import Parser, UsageError, add_flag

ROOT = Path(__file__).parents[3]


def parser() -> Parser:
    made = Parser("swarmctl x", "X.")
    made.add_argument("-e", "--env", action="append", default=[])
    made.add_argument("--name")
    add_flag(made, "-d", "--detach")
    return made


@pytest.mark.parametrize(
    ("words", "flags", "rest", "dashed"),
    [
        ("--name a img -d x", ["--name", "a"], ["img", "-d", "x"], None),
        ("--name=a -d img", ["--name=a", "-d"], ["img"], None),
        ("-d -e A=1 -- run -x", ["-d", "-e", "A=1"], [], ["run", "-x"]),
        ("-eA=1 img -- run", ["-eA=1"], ["img"], ["run"]),
        ("--name --", ["--name", "--"], [], None),
        ("", [], [], None),
    ],
)
def test_words_of_the_tasks_command_are_not_read_as_flags(
    words: str, flags: list[str], rest: list[str], dashed: list[str] | None
) -> None:
    assert parser().split(words.split()) == (flags, rest, dashed)


def test_a_value_may_begin_with_a_dash() -> None:
    values = parser().read(["--name", "-web-", "-e", "-x=1", "-d"])
    assert (values.name, values.env, values.detach) == ("-web-", ["-x=1"], True)


def test_a_flag_is_not_taken_for_a_missing_value() -> None:
    with pytest.raises(UsageError, match="--name expected one argument"):
        parser().read(["--name", "-d"])


def test_abbreviations_are_refused_with_what_was_meant() -> None:
    with pytest.raises(UsageError) as caught:
        parser().read(["--nam", "a"])
    assert caught.value.hint == "did you mean --name?"


def test_every_command_has_its_own_name_and_a_summary() -> None:
    for group in GROUPS:
        commands = group.commands()
        names = [name for command in commands for name in (command.name, *command.aliases)]
        assert len(names) == len(set(names))
        assert all(command.summary and not command.summary.endswith(".") for command in commands)


def test_the_page_of_exit_codes_is_the_table_of_the_code() -> None:
    page = (ROOT / "docs" / "swarmctl.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", page, re.MULTILINE))
    assert rows == {str(int(outcome)): meaning for outcome, meaning in MEANINGS.items()}
    assert set(MEANINGS) == set(Outcome)


def test_the_page_names_every_verb() -> None:
    page = (ROOT / "docs" / "swarmctl.md").read_text()
    for group in GROUPS:
        for command in group.commands():
            verb = group.name if command.name == group.name else f"{group.name} {command.name}"
            assert f"`{verb}`" in page, verb
