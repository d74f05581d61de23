"""Data frames as Markdown, and as rows of strings for a page."""

from typing import Any

import pandas as pd


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table, its index as the first column."""
    header, *rows = grid(table)
    lines = [header, ["---", *["---:"] * len(table.columns)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def grid(table: pd.DataFrame) -> list[list[str]]:
    """Header and rows as strings, the index as the first column."""
    header = [str(table.index.name or ""), *map(str, table.columns)]
    values: list[list[Any]] = table.to_numpy().tolist()
    return [header, *([str(index), *map(str, row)] for index, row in zip(table.index, values, strict=True))]
