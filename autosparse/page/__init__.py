"""Pages: text, tables and charts as one HTML file that needs nothing else, and as Markdown."""

from autosparse.page.chart import ROWS, Chart, View, number_series, series_encodings
from autosparse.page.document import Comparison, Document, bar, markdown, sparkline

__all__ = [
    "ROWS",
    "Chart",
    "Comparison",
    "Document",
    "View",
    "bar",
    "markdown",
    "number_series",
    "series_encodings",
    "sparkline",
]
