"""Pages: blocks of text, tables and pictures as one HTML file that needs nothing else, and as Markdown."""

from autosparse.page.chart import Chart, Spec, coded, numbered
from autosparse.page.document import Document, Run
from autosparse.page.tables import markdown

__all__ = ["Chart", "Document", "Run", "Spec", "coded", "markdown", "numbered"]
