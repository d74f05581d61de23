"""Data frames as Markdown, and as rows of strings for a page."""

from typing import Any

import pandas as pd


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table, its index as the first column."""
    header, *rows = grid(table)
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rows.insert(1, ["---", *["---:"] * len(table.columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def grid(table: pd.DataFrame) -> list[list[str]]:
    """Header and rows as strings, the index as the first column."""
    header = [str(table.index.name or ""), *map(str, table.columns)]
    values: list[list[Any]] = table.to_numpy().tolist()
    return [header, *([str(index), *map(str, row)] for index, row in zip(table.index, values, strict=True))]
