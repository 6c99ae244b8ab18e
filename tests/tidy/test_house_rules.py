"""The house rules that a reader can check by looking at the files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES_MAX = 600
TEST_LINES_MAX = 900
FUNCTION_LINES_MAX = 80
BANNED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|assert True\b|pytest\.skip\(\)|NotImplementedError")
GRAB_BAGS = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
VAGUE = re.compile(r"^class \w*(Manager|Helper|Util|Utils|Data)\b\s*[(:]", re.MULTILINE)


def python_files(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts
    )


@pytest.mark.parametrize("path", python_files("services", "swarmbus"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_keeps_to_the_limits(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LINES_MAX, "over the limit: find the seam"
    assert path.name not in GRAB_BAGS, "name the file by its noun"
    assert not VAGUE.search(text), "name the class by its noun"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is and who calls it"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines: it should fit a screen"


@pytest.mark.parametrize("path", python_files("tests"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_test_file_keeps_to_the_limits(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= TEST_LINES_MAX
    assert path == Path(__file__) or "time.sleep(" not in text, "wait for a condition with a deadline"


def test_nothing_is_left_undone_in_the_sources() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files("services", "swarmbus", "tests")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BANNED.search(line)
    ]
    assert not found


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    home = re.compile(r"(^|[\s\"'=(])/(work|home|root)/")
    found = []
    for name in listed:
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        if home.search(text) and name != "tests/tidy/test_house_rules.py":
            found.append(name)
    assert not found


def test_every_process_starts_from_a_short_main() -> None:
    for path in sorted((ROOT / "services").glob("*/__main__.py")):
        assert path.read_text().count("\n") <= 25, f"{path} decides too much"


def test_the_import_rules_hold() -> None:
    script = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([script, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
