"""The table of criteria and the page that is made from it."""

import pytest

from autosparse.criteria.table import TABLE, Row
from tests.conftest import ROOT


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_row_of_the_table_is_a_row_of_the_page(row: Row) -> None:
    line = f"| `{row.name}` | {row.source} | {row.data} | {row.trains} | {row.cost} | {row.when} |"
    assert line in (ROOT / "docs/criteria.md").read_text().splitlines()
