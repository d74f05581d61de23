"""What a page holds: everything, within itself; and the same in Markdown."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from autosparse.page import Chart, Document, Run, coded, numbered
from autosparse.page.chart import COLORS, MARKERS, library
from autosparse.page.tables import markdown

LINE: dict[str, Any] = {"mark": "line", "encoding": {"x": {"field": "x"}, "y": {"field": "y", "type": "quantitative"}}}
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
    document.runs(
        [
            Run(name="net_snip", label="snip", cells={"seed": 1.0, "data": "digits"}, texts={"Log": "a\n</script>"}),
            Run(name="net_rand", label="rand", cells={"seed": 2.0, "data": "digits"}, chart=CHART),
            Run(name="net_fit", label="fit", cells={"seed": None}),
        ]
    )
    return document.write().read_text()


def test_the_page_needs_nothing_else(page: str) -> None:
    elements = Elements(page.replace(library(), "")).found
    places = [value for _, attributes in elements for key, value in attributes.items() if key in ("src", "href")]
    assert places
    assert all(place and place.startswith(("#", "data:")) for place in places)
    assert {tag for tag, _ in elements}.isdisjoint({"link", "iframe"} - {"link"})
    assert "url(" not in page.replace(library(), "")
    assert len(page.encode()) < 1_100_000


def test_the_page_has_the_parts_and_what_the_script_draws(page: str) -> None:
    assert "<h1>A title &amp; more</h1>" in page
    assert page.count('<li><a href="#part-') == 2
    assert "&lt;c&gt;" in page
    assert "<b>3</b>" in page
    data = packed(page)
    assert [[*chart["views"]] for chart in data["charts"]] == [["one", "two"]]
    assert data["charts"][0]["rows"][1] == {"x": 1, "y": None}
    assert [run["name"] for run in data["runs"]] == ["net_snip", "net_rand", "net_fit"]
    assert data["runs"][0]["texts"] == {"Log": "a\n</script>"}
    assert [run["cells"]["seed"] for run in data["runs"]] == ["1", "2", "–"]


def test_the_markdown_has_the_table_of_runs(page: str, tmp_path: Path) -> None:
    assert page
    table = "| run | seed |\n| --- | ---: |\n| snip | 1 |\n| rand | 2 |\n| fit | – |\n"
    assert table in (tmp_path / "report.md").read_text()


def test_a_bar_in_a_cell_does_not_end_it_in_markdown() -> None:
    assert "| x\\|y | 1 |" in markdown(pd.DataFrame({"a": [1]}, index=["x|y"]))


def test_columns_that_say_the_same_of_all_runs_are_left_out(page: str) -> None:
    assert '<th scope="col" class="number">seed</th>' in page
    assert '<th scope="col">data</th>' not in page


def test_markdown_has_every_choice_of_a_table(page: str, tmp_path: Path) -> None:
    text = (tmp_path / "report.md").read_text()
    assert text.index("![What is drawn.](figures/drawn.png)") < text.index("Last.") < text.index("Best.")
    assert text.count("| criterion | 90% |\n| --- | ---: |\n| a_b | 1 ± 2 |\n| <c> | **3** |\n") == 2


def test_a_chart_is_saved_as_it_is_at_first(page: str, tmp_path: Path) -> None:
    svg = (tmp_path / "figures" / "drawn.svg").read_text()
    assert svg.startswith("<svg")
    assert "one" in svg
    assert "currentColor" not in svg
    with Image.open(tmp_path / "figures" / "drawn.png") as image:
        assert image.width > 800


def test_charts_whose_names_differ_after_a_dot_are_two(tmp_path: Path) -> None:
    for name in ("rate-0.01", "rate-0.001"):
        CHART.save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"rate-{rate}.{kind}" for rate in ("0.01", "0.001") for kind in ("svg", "png")
    }


def test_series_keep_their_code_where_others_are_missing() -> None:
    all_of_them = numbered(["b", "a", "b", "c"])
    assert all_of_them == {"b": 0, "a": 1, "c": 2}
    color, shape = coded({"c": all_of_them["c"]})
    assert color["scale"] == {"domain": ["c"], "range": [COLORS[2]]}
    assert shape["scale"]["range"] == [MARKERS[2]]


def test_two_dozen_series_look_different() -> None:
    pairs = {(COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]) for n in range(24)}
    assert len(pairs) == 24


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", COLORS)
def test_a_colour_is_seen_on_both_grounds(color: str) -> None:
    for ground in ("#ffffff", "#15181c"):
        dark, light = sorted((luminance(color), luminance(ground)))
        assert (light + 0.05) / (dark + 0.05) >= 3
