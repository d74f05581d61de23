"""What a page holds: everything, within itself; and the same in Markdown."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest
from PIL import Image

from autosparse.page import ROWS, Chart, Document, markdown, number_series, series_encodings
from autosparse.page.chart import COLORS, MARKERS, library

LINE = alt.Chart(ROWS).mark_line().encode(x="x:Q", y="y:Q")
CHART = Chart(rows=[{"x": 0, "y": 1.0}, {"x": 1, "y": None}], views={"one": LINE, "two": LINE})
FRAME = pd.DataFrame({"90%": ["1 ± 2", "**3**"]}, index=pd.Index(["a_b", "<c>"], name="criterion"))


class Elements(HTMLParser):
    """The start tags of a page, and the text of those asked for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def packed(page: str) -> Any:
    """What the script of a page draws."""
    (text,) = re.findall(r'<script id="data"[^>]*>([^<]*)<', page)
    return json.loads(gzip.decompress(base64.b64decode(text)))


@pytest.fixture
def page(tmp_path: Path) -> str:
    document = Document(tmp_path, "A title & more")
    document.heading("First")
    document.switch("Test", {"test": "last", "test_best": "best"})
    document.chart(CHART, "drawn", "What is drawn.")
    document.tables({"test": ("Last.", FRAME), "test_best": ("Best.", FRAME)})
    document.heading("Second")
    runs = pd.DataFrame({"seed": [1, 2, None], "data": "digits", "note": ["a", None, "</script>"]})
    document.runs(runs.set_axis(pd.Index(["snip", "rand", "fit"], name="run")), "2 complete")
    return document.write().read_text()


def test_page_needs_no_other_file(page: str) -> None:
    elements = Elements(page.replace(library(), "")).found
    places = [value for _, attributes in elements for key, value in attributes.items() if key in ("src", "href")]
    assert places
    assert all(place and place.startswith(("#", "data:")) for place in places)
    assert "iframe" not in {tag for tag, _ in elements}
    assert "url(" not in page.replace(library(), "")
    assert len(page.encode()) < 1_100_000


def test_page_has_parts_tables_and_charts(page: str) -> None:
    assert "<h1>A title &amp; more</h1>" in page
    assert page.count('<li><a href="#part-') == 2
    assert "&lt;c&gt;" in page
    assert "<b>3</b>" in page
    data = packed(page)
    (chart,) = data["charts"].values()
    assert [*chart["views"]] == ["one", "two"]
    assert chart["rows"][1] == {"x": 1, "y": None}


def test_markdown_has_the_table_of_runs(page: str, tmp_path: Path) -> None:
    assert page
    table = (
        "| run | seed | note |\n| --- | ---: | ---: |\n| snip | 1 | a |\n| rand | 2 | – |\n| fit | – | </script> |\n"
    )
    assert f"2 complete\n\n{table}" in (tmp_path / "report.md").read_text()


def test_bar_in_a_cell_is_escaped_in_markdown() -> None:
    assert "| x\\|y | 1 |" in markdown(pd.DataFrame({"a": [1]}, index=["x|y"]))


def test_column_equal_for_all_runs_is_left_out(page: str) -> None:
    assert '<th scope="col" class="number">seed</th>' in page
    assert '<th scope="col">data</th>' not in page


def test_markdown_has_every_choice_of_a_table(page: str, tmp_path: Path) -> None:
    text = (tmp_path / "report.md").read_text()
    assert text.index("![What is drawn.](figures/drawn.png)") < text.index("Last.") < text.index("Best.")
    assert text.count("| criterion | 90% |\n| --- | ---: |\n| a_b | 1 ± 2 |\n| <c> | **3** |\n") == 2


def test_saved_chart_has_the_initial_state(page: str, tmp_path: Path) -> None:
    svg = (tmp_path / "figures" / "drawn.svg").read_text()
    assert svg.startswith("<svg")
    assert "one" in svg
    assert "currentColor" not in svg
    with Image.open(tmp_path / "figures" / "drawn.png") as image:
        assert image.width > 800


def test_charts_with_dots_in_their_names_have_their_own_files(tmp_path: Path) -> None:
    for name in ("rate-0.01", "rate-0.001"):
        CHART.save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"rate-{rate}.{kind}" for rate in ("0.01", "0.001") for kind in ("svg", "png")
    }


def test_series_keeps_its_code_where_others_are_missing() -> None:
    all_of_them = number_series(["b", "a", "b", "c"])
    assert all_of_them == {"b": 0, "a": 1, "c": 2}
    color, shape = series_encodings({"c": all_of_them["c"]})
    assert color.to_dict()["scale"] == {"domain": ["c"], "range": [COLORS[2]]}
    assert shape.to_dict()["scale"]["range"] == [MARKERS[2]]


def test_two_dozen_series_look_different() -> None:
    pairs = {(COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]) for n in range(24)}
    assert len(pairs) == 24


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", COLORS)
def test_color_is_visible_on_light_and_dark(color: str) -> None:
    for ground in ("#ffffff", "#15181c"):
        dark, light = sorted((luminance(color), luminance(ground)))
        assert (light + 0.05) / (dark + 0.05) >= 3
