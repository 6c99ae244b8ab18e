"""Templates of ``--format``."""

from __future__ import annotations

import pytest

from services.cli.parser import UsageError
from services.cli.template import column_name, read_template, table

COLUMNS = {"ID": "abc", "Name": "web", "CurrentState": "Running"}
THING = {"id": "abcdef", "spec": {"mode": {"replicas": 3}, "read_only": False}, "note": None}


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("{{.Name}}: {{ .ID }}", "web: abc"),
        ("{{.currentstate}}", "Running"),
        ("{{.spec.mode.replicas}}", "3"),
        ("{{.spec.read_only}}{{.note}}", "false"),
        ("{{.spec.mode}}", '{"replicas": 3}'),
        ("{{json .Name}} {{upper .Name}} {{lower .ID}}", '"web" WEB abc'),
        ("{{json .spec}}", '{"mode": {"replicas": 3}, "read_only": false}'),
        (r"a\tb", "a\tb"),
    ],
)
def test_a_template_is_filled_in(written: str, shown: str) -> None:
    assert read_template(written).render(COLUMNS, THING) == shown


def test_a_table_has_a_heading() -> None:
    read = read_template(r"table {{.ID}}\t{{.CurrentState}}")
    assert read.table
    lines = table([read.heading(), read.render(COLUMNS, THING)])
    assert lines == ["ID    CURRENT STATE", "abc   Running"]


@pytest.mark.parametrize("written", ["{{.Nam}}", "{{.spec.mod}}", "{{.spec.mode.replicas.x}}"])
def test_a_field_that_is_not_there_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match="there is no"):
        read_template(written).render(COLUMNS, THING)


def test_what_was_meant_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        read_template("{{.Nam}}").render(COLUMNS, THING)
    assert caught.value.hint == "did you mean Name?"


@pytest.mark.parametrize("written", ["{{range .}}x{{end}}", "{{.Name | upper}}", "{{}}"])
def test_more_of_gos_templates_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match="does not know"):
        read_template(written)


def test_headings_become_names() -> None:
    assert [column_name(heading) for heading in ("ID", "CURRENT STATE")] == ["ID", "CurrentState"]
