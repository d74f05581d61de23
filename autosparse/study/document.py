"""A report in the making: headings, text, tables and figures, written as one HTML page and as Markdown."""

from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from autosparse.files import write_text
from autosparse.study import figures, tables

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
td, th:not(:first-child) { text-align: right } td:first-child, th:first-child { text-align: left }
img { max-width: 100% } figure { margin: 1.2rem 0 }
h2 { margin-top: 2.4rem } .note { color: #666; font-size: 13px } code { font-size: 13px }
"""

LAYERS = "Share of each layer's weights that is kept, from the input to the output, mean over seeds."


class Document:
    """Collects blocks; `write` makes `index.html` and `report.md` of them, beside the folder `figures`.

    Args:
        title: of the page.
        folder: where to write.
    """

    def __init__(self, title: str, folder: Path) -> None:
        self.folder, self._title = folder, title
        self._html, self._markdown = [f"<h1>{escape(title)}</h1>"], [f"# {title}"]

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; the title has level 1."""
        self._html.append(f"<h{level}>{escape(text)}</h{level}>")
        self._markdown.append(f"{'#' * level} {text}")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._html.append(f"<p>{escape(text)}</p>")
        self._markdown.append(text)

    def note(self, text: str) -> None:
        """A remark, in smaller letters."""
        self._html.append(f'<p class="note">{escape(text)}</p>')
        self._markdown.append(text)

    def code(self, text: str) -> None:
        """A command."""
        self._html.append(f"<p><code>{escape(text)}</code></p>")
        self._markdown.append(f"    {text}")

    def table(self, frame: pd.DataFrame) -> None:
        """A table, its index as the first column."""
        self._html.append(frame.reset_index().to_html(index=False, border=0))
        self._markdown.append(tables.markdown(frame).rstrip())

    def rows(self, frame: pd.DataFrame) -> None:
        """All results, as `results.csv`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        frame.to_csv(self.folder / "results.csv", index=False)
        self._html.append('<p>All rows: <a href="results.csv">results.csv</a>.</p>')
        self._markdown.append("All rows: [results.csv](results.csv).")

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """A figure, saved as SVG and PNG."""
        path = figures.save(figure, self.folder / "figures" / name)
        image = f'<a href="figures/{name}.svg"><img src="figures/{path.name}" alt="{escape(caption)}"></a>'
        self._html.append(f'<figure>{image}<figcaption class="note">{escape(caption)}</figcaption></figure>')
        self._markdown.append(f"![{caption}](figures/{path.name})\n\n{caption}")

    def write(self) -> Path:
        """Write the pages; returns the path of the HTML."""
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(self._title)}</title>'
        write_text(self.folder / "index.html", f"{head}<style>{_STYLE}</style>" + "\n".join(self._html) + "</html>\n")
        write_text(self.folder / "report.md", "\n\n".join(self._markdown) + "\n")
        return self.folder / "index.html"
