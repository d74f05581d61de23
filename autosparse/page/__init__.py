"""Pages: text, tables and charts as one HTML file that needs nothing else, and as Markdown."""

from autosparse.page.chart import ROWS, Chart, View, number_series, series_encodings
from autosparse.page.document import Document, markdown

__all__ = ["ROWS", "Chart", "Document", "View", "markdown", "number_series", "series_encodings"]
