"""The table of criteria and the page that is made from it."""

import re

import pytest

from autosparse.criteria.table import TABLE, Row
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "criteria.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_row_of_the_table_is_a_section_of_the_page(row: Row) -> None:
    assert f"| [`{row.name}`](#{row.name}) | {row.data} | {row.cost} |" in PAGE.splitlines()
    section = re.search(rf"^### {row.name}\n\n(.*?)(?:\n\n|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"no heading: ### {row.name}"
    lines = section[1].splitlines()
    fields = {"Source": row.source, "Data": row.data, "Trains": row.trains, "Cost": row.cost, "When": row.when}
    assert [line for name, text in fields.items() if text and (line := f"- **{name}**: {text}") not in lines] == []
    written = [match[1] for line in lines if (match := re.match(r"- \*\*(.+?)\*\*: .", line))]
    assert written == ["Computes", *(name for name, text in fields.items() if text), "When not", "Example"]
