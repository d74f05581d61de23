"""What a page holds: everything, within itself; and the same in Markdown."""

import math
import re
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from autosparse.page import ROWS, Chart, Comparison, Document, markdown, sparkline
from autosparse.page.chart import COLORS, DARK, LIGHT, MARKERS, library

LINE = alt.Chart(ROWS).mark_line().encode(x="x:Q", y="y:Q")
CHART = Chart(rows=[{"x": 0, "y": 1.0}, {"x": 1, "y": None}], views={"one": LINE, "two": LINE})
NONE = Comparison(runs={}, networks=[], chart=CHART, curves={"test": "test"})
FRAME = pd.DataFrame({"90%": ["1 ± 2", "**3**"]}, index=pd.Index(["a_b", "<c>"], name="criterion"))


@pytest.fixture
def page(tmp_path: Path) -> str:
    document = Document(tmp_path, "A title & more")
    document.heading("First")
    document.switch("Test", {"test": "last", "test_best": "best"})
    document.chart(CHART, "drawn", "What is drawn.")
    document.tables({"test": ("Last.", FRAME), "test_best": ("Best.", FRAME)})
    document.heading("Second")
    runs = pd.DataFrame({"seed": [1, 2, None], "data": "digits", "note": ["a", None, "</script>"]})
    document.runs(runs.set_axis(pd.Index(["snip", "rand", "fit"], name="run")), "2 complete", NONE)
    return document.write().read_text()


def test_page_needs_no_other_file(page: str) -> None:
    own = page.replace(library(), "")
    places = re.findall(r'\b(?:src|href)="([^"]*)"', own)
    assert places
    assert all(place.startswith(("#", "data:")) for place in places)
    assert "<iframe" not in own
    assert "url(" not in own.replace("url(#", "")
    assert len(page.encode()) < 1_100_000


def test_markdown_has_the_table_of_runs_and_every_choice_of_a_table(page: str, tmp_path: Path) -> None:
    text = (tmp_path / "report.md").read_text()
    table = (
        "| run | seed | note |\n| --- | ---: | ---: |\n| snip | 1 | a |\n| rand | 2 | – |\n| fit | – | </script> |\n"
    )
    assert f"2 complete\n\n{table}" in text
    assert text.index("![What is drawn.](figures/drawn.png)") < text.index("Last.") < text.index("Best.")
    assert text.count("| criterion | 90% |\n| --- | ---: |\n| a_b | 1 ± 2 |\n| <c> | **3** |\n") == 2
    assert "| x\\|y | 1 |" in markdown(pd.DataFrame({"a": [1]}, index=["x|y"]))


def test_saved_chart_has_the_initial_state(page: str, tmp_path: Path) -> None:
    svg = (tmp_path / "figures" / "drawn.svg").read_text()
    assert svg.startswith("<svg")
    assert "one" in svg
    assert "currentColor" not in svg
    assert "var(" not in svg
    with Image.open(tmp_path / "figures" / "drawn.png") as image:
        assert image.width > 800


def test_charts_with_dots_in_their_names_have_their_own_files(tmp_path: Path) -> None:
    for name in ("rate-0.01", "rate-0.001"):
        CHART.save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"rate-{rate}.{kind}" for rate in ("0.01", "0.001") for kind in ("svg", "png")
    }


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("palette", "ground"), [(LIGHT, "#ffffff"), (DARK, "#15181c")])
def test_colors_are_visible_and_differ_also_in_greyscale(palette: tuple[str, ...], ground: str) -> None:
    assert len(palette) == len(COLORS) >= 10
    assert math.lcm(len(COLORS), len(MARKERS)) >= 40  # series beyond the colors have other markers
    lightness = sorted(116 * luminance(color) ** (1 / 3) - 16 for color in palette)
    assert (np.diff(lightness) > 3).all()
    for color in palette:
        dark, light = sorted((luminance(color), luminance(ground)))
        assert (light + 0.05) / (dark + 0.05) >= 3


# Machado et al. 2009, severity 1: protanopia, deuteranopia, tritanopia
BLIND = [
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
]


@pytest.mark.parametrize("palette", [LIGHT, DARK])
@pytest.mark.parametrize("blindness", [np.eye(3), *map(np.array, BLIND)])
def test_no_two_colors_look_alike(palette: tuple[str, ...], blindness: np.ndarray) -> None:
    rgb = np.array([[int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)] for color in palette])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(linear @ blindness.T, 0, 1) @ xyz.T / xyz.sum(1)).T
    lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], axis=1)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
    assert distances.min() > 10  # 2.3 is just noticeable


def test_pictures_in_the_page_have_its_colors_and_ids_of_their_own(page: str) -> None:
    pictures = re.findall(r"<svg[^>]*vega.*?</svg>|<svg xmlns.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2
    assert all("currentColor" in picture for picture in pictures)
    ids = re.findall(r'\bid="([^"]+)"', "".join(pictures))
    assert len(ids) == len({*ids})
    assert "--series-9: " in page


def test_sparkline_goes_up_with_its_values() -> None:
    line = sparkline([1.0, None, 2.0, 3.0])
    points = [tuple(map(float, point.split(","))) for point in re.findall(r'points="([^"]+)"', line)[0].split()]
    assert [x for x, _ in points] == [0, 30, 60]
    assert points[0][1] > points[1][1] > points[2][1]
    assert line.endswith(" 3")
    assert sparkline([None]) == ""
