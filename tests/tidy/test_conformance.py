"""The conformance page names tests that exist, and no row without one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def rows() -> list[str]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    return [line for line in lines if not line.startswith(("| behaviour |", "|---"))]


def test_every_row_names_a_test() -> None:
    assert len(rows()) > 100
    assert [row for row in rows() if not NAMED.search(row)] == []


def test_every_named_test_exists() -> None:
    named = [match.groups() for row in rows() for match in NAMED.finditer(row)]
    missing = [
        f"{file}::{name}" for file, name in named if not (ROOT / "tests" / file).is_file() or name not in names_in(file)
    ]
    assert missing == []
