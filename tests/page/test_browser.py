"""A report in a real Chromium: what it looks like at two widths in two schemes, and that each control does its work."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from autosparse.page import Document
from autosparse.study import charts, learned, overview
from tests.conftest import run_script

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
TABLE = pd.DataFrame(
    {"90%": ["91.00 ± 1.41", "**95.00**"], "text": ['a, "b"', "c_d & 5% of 2^{~n}"]},
    index=pd.Index(["x|y", "z"], name="criterion"),
)
CSV = 'criterion,90%,text\nx|y,91.00 ± 1.41,"a, ""b"""\nz,95.00,c_d & 5% of 2^{~n}\n'
MARKDOWN = (
    "| criterion | 90% | text |\n| --- | ---: | ---: |\n"
    '| x\\|y | 91.00 ± 1.41 | a, "b" |\n| z | **95.00** | c_d & 5% of 2^{~n} |\n'
)
LATEX = (
    "\\begin{tabular}{lrr}\n\\toprule\ncriterion & 90\\% & text \\\\\n\\midrule\n"
    'x|y & 91.00 $\\pm$ 1.41 & a, "b" \\\\\n'
    "z & \\textbf{95.00} & c\\_d \\& 5\\% of 2\\textasciicircum{}\\{\\textasciitilde{}n\\} \\\\\n"
    "\\bottomrule\n\\end{tabular}\n"
)
TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter((each) =>
  each.checkVisibility() && !each.closest(".scroll, .skip") && each.getBoundingClientRect().right > innerWidth + 0.5
).map((each) => each.outerHTML.slice(0, 80))"""

HAND = {"good": (95, 90, 85), "fair": (85, 80, 75), "weak": (75, 70, 65), "chance": (70, 65, 10)}
# the least number along an axis
LOWEST = """(figure) => Math.min(...[...figure.querySelectorAll(".plot .role-axis-label text")]
  .map((text) => Number(text.textContent)).filter((value) => !Number.isNaN(value)))"""


@pytest.fixture(scope="module")
def report(irp_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a few small runs of every kind, and at its end what they do not have."""
    folder = tmp_path_factory.mktemp("page")
    fit = ["--epochs", "1", "--max-steps", "4", "--resolution", "8", "--name", "small"]
    assert run_script("fit", "--runs", str(irp_run), *fit, "--output", str(folder)) == 0
    prune = ["--dataset", "digits", "--epochs", "2", "--seeds", "7", "--output", str(folder)]
    assert run_script("prune", "--criteria", "random", "snip", "--sparsities", "0.9", "0.98", *prune) == 0
    assert run_script("prune", "--criteria", "snip", "--sparsities", "0.9", "--sanity", "shuffled", *prune) == 0
    document = Document(folder / "report")
    overview(document, [irp_run, folder])
    document.heading("Drawn by hand")
    points = pd.DataFrame(
        [
            {"criterion": name, "sparsity": sparsity, "test": test, "test_best": test + 0.03}
            for name, means in HAND.items()
            for sparsity, mean in zip((0.8, 0.9, 0.98), means, strict=True)
            for test in (mean / 100 - 0.01, mean / 100 + 0.01)
        ]
    ).assign(iterative=False, test_best_validation=None, metric="accuracy", better="higher")
    document.switch("Metric", {"iou": "iou", "dice": "dice"}, "metric")
    document.choice({name: partial(document.text, f"The {name}.") for name in ("iou", "dice")}, "metric")
    document.switch("Test", {"test": "last", "test_best": "best"})
    document.chart(charts.sparsity_chart(points, pd.DataFrame(), document.number(HAND)), "hand", "By hand.")
    values = np.random.default_rng(0).normal(size=2000)
    document.chart(learned.initialization_chart({"theta": values}, np.abs(values) / 4), "beside", "Beside.")
    document.table(TABLE, "To be copied.")
    return document.write()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; skipped without it, failed if AUTOSPARSE_REQUIRE_CHROMIUM is set."""
    path = shutil.which("chromium")
    if path is None:
        reason = "no chromium: apt-get install --no-install-recommends chromium"
        if os.environ.get("AUTOSPARSE_REQUIRE_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=120_000)
        yield started
        started.close()


@contextlib.contextmanager
def window(browser: Browser, **how: Any) -> Iterator[BrowserContext]:
    """A window of its own, patient: the machine may be busy."""
    with browser.new_context(**how) as context:
        context.set_default_timeout(120_000)
        yield context


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report, in a window of its own."""
    with window(browser, permissions=["clipboard-read", "clipboard-write"]) as context:
        page = context.new_page()
        page.goto(report.as_uri())
        yield page


def draw_all(page: Page) -> None:
    """Scroll until every chart is drawn."""
    for figure in page.locator("figure[data-chart]").all():
        figure.scroll_into_view_if_needed()
        figure.locator("xpath=self::*[contains(@class, 'drawn')]").wait_for()


def by_hand(page: Page) -> Any:
    """The figure whose values are known, drawn."""
    figure = page.locator("figure", has_text="By hand.")
    figure.scroll_into_view_if_needed()
    figure.locator(".plot svg").wait_for()
    page.wait_for_function("(figure) => figure.classList.contains('drawn')", arg=figure.element_handle())
    return figure


def has_points(figure: Any, number: int) -> None:
    """Wait until that many points are drawn in a figure."""
    figure.page.wait_for_function(
        "([figure, number]) => figure.querySelectorAll('.plot .mark-symbol:not(.keys_marks) path').length === number",
        arg=[figure.element_handle(), number],
    )


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light")])
def test_page_fits_and_prints_nothing_to_the_console(width: int, scheme: Any, browser: Browser, report: Path) -> None:
    said: list[str] = []
    with window(browser, viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(report.as_uri())
        page.locator(".scripted").wait_for()
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_WIDE) == []
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_there_before_scrolling_in_the_colors_of_the_page(
    scheme: Any, browser: Browser, report: Path
) -> None:
    with window(browser, viewport={"width": 400, "height": 700}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(report.as_uri())
        page.locator(".scripted").wait_for()
        figures = page.locator("figure[data-chart]")
        shown = figures.evaluate_all("""(all) => all.map((figure) =>
          [...figure.querySelectorAll(".static, .plot svg")]
            .some((each) => each.checkVisibility() && each.clientHeight))""")
        assert len(shown) > 7
        assert all(shown)
        blue = page.locator(".narrow .mark-symbol path[fill='var(--series-0)']").first
        fill = blue.evaluate("(path) => getComputedStyle(path).fill")
        assert fill == {"light": "rgb(7, 83, 179)", "dark": "rgb(125, 154, 253)"}[scheme]
        small = page.locator(".narrow svg").evaluate_all(
            "(all) => all.map((svg) => svg.clientWidth / svg.viewBox.baseVal.width)"
        )
        assert min(filter(None, small)) > 0.9  # letters of 12 px are still legible


def test_tables_fit_and_labels_do_not_overlap_at_1000_px(browser: Browser, report: Path) -> None:
    with window(browser, viewport={"width": 1000, "height": 900}) as context:
        page = context.new_page()
        page.goto(report.as_uri())
        draw_all(page)
        wide = page.locator(".scroll:visible").evaluate_all(
            "(all) => all.filter((each) => each.scrollWidth > each.clientWidth).length"
        )
        assert wide == 0
        boxes = (
            by_hand(page)
            .locator(".plot .mark-text.role-mark text")
            .evaluate_all(
                "(all) => all.map((text) => text.getBoundingClientRect()).map(({ top, bottom }) => [top, bottom])"
            )
        )
        assert len(boxes) == 3  # the fourth lies beyond the axis
        boxes.sort()
        assert all(bottom <= top for (_, bottom), (top, _) in pairwise(boxes))


def test_switch_changes_all_tables_and_charts(page: Page) -> None:
    assert page.locator(".choice:has(> [data-value=test_best]) > div:visible").count() == 1
    figure = by_hand(page)
    before = figure.locator(".mark-symbol path").first.get_attribute("transform")
    switches = page.locator(".switch[data-name=measure]")
    switches.last.get_by_text("best", exact=True).click()
    shown = page.locator(".choice:has(> [data-value=test_best]) > div:visible")
    assert shown.get_attribute("data-value") == "test_best"
    assert "Best over epochs" in shown.inner_text()
    assert switches.first.locator("input:checked").get_attribute("value") == "test_best"
    path = figure.locator(".mark-symbol path").first
    path.hover(force=True)
    tip = page.locator("#vg-tooltip-element")
    tip.locator("xpath=self::*[contains(@class, 'visible')]").wait_for()
    assert "good" in tip.inner_text()
    assert "98" in tip.inner_text()
    assert path.get_attribute("transform") != before


def test_switch_of_metrics_shows_one_part(page: Page) -> None:
    for name, other in (("iou", "dice"), ("dice", "iou")):
        page.locator(".switch[data-name=metric]").get_by_text(name, exact=True).click()
        assert page.get_by_text(f"The {name}.").is_visible()
        assert not page.get_by_text(f"The {other}.").is_visible()


def test_legend_hides_series_and_whole_axis_shows_all_points(page: Page) -> None:
    figure = by_hand(page)
    has_points(figure, 12)
    cut = figure.evaluate(LOWEST)
    figure.get_by_role("checkbox", name="whole axis").check()
    page.wait_for_function(f"([figure, cut]) => ({LOWEST})(figure) < cut", arg=[figure.element_handle(), cut])
    figure.get_by_role("checkbox", name="chance").uncheck()
    has_points(figure, 9)
    assert figure.evaluate(LOWEST) >= cut  # the axis follows what is shown
    figure.get_by_role("checkbox", name="chance").check()
    has_points(figure, 12)


@pytest.mark.parametrize(("format", "text"), [("Markdown", MARKDOWN), ("LaTeX", LATEX), ("CSV", CSV)])
def test_table_is_copied(format: str, text: str, page: Page) -> None:
    table = page.locator(".table", has_text="To be copied.")
    table.get_by_role("button", name=format).click()
    table.get_by_text("copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == text


def test_runs_are_filtered_sorted_and_copied(page: Page) -> None:
    runs = page.locator(".runs")
    rows = runs.locator("tbody tr:visible")
    assert rows.count() == 7
    runs.get_by_role("searchbox").fill("snip prune")
    assert [row.split()[0] for row in rows.all_inner_texts()] == ["snip_90_s7", "snip_90_shuffled_s7", "snip_98_s7"]
    assert "3 of 7 runs" in runs.inner_text()
    header = runs.get_by_role("columnheader", name="sparsity")
    for order, names in (("ascending", ["snip_90_s7", "snip_90_shuffled_s7", "snip_98_s7"]), ("descending", None)):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == order
        if names:
            assert [row.split()[0] for row in rows.all_inner_texts()] == names
    assert rows.first.inner_text().startswith("snip_98_s7")
    runs.get_by_role("button", name="CSV").click()
    runs.get_by_text("copied", exact=True).wait_for()
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert copied[0].startswith("run,kind,")
    assert [line.split(",")[0] for line in copied[1:2]] == ["snip_98_s7"]
    assert len(copied) == 4


def test_live_page_follows_runs(browser: Browser, tmp_path: Path) -> None:
    def write(*states: str, live: bool = True) -> None:
        document = Document(tmp_path)
        names = pd.Index([f"run <{k}>" for k in range(len(states))], name="run")
        document.runs(pd.DataFrame({"state": states}, index=names), f"{states.count('failed')} failed")
        document.write(live)

    write("running", "complete")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, window(browser) as context:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.get_by_text("0 failed").wait_for()
        page.get_by_role("searchbox").fill("run <0>")
        page.evaluate("document.body.dataset.same = 'yes'")
        write("failed", "complete")
        page.get_by_text("1 failed").wait_for()
        assert page.locator("tbody tr:visible").all_inner_texts() == ["run <0>\tfailed"]
        assert page.evaluate("document.body.dataset.same") == "yes"  # without being loaded anew
        write("failed", "complete", "complete", live=False)
        page.wait_for_function("!document.body.dataset.live")
        assert page.locator("tbody tr").count() == 3
        server.shutdown()


def test_every_control_works_by_keyboard(page: Page) -> None:
    draw_all(page)
    controls = page.evaluate("""() => [...document.querySelectorAll("a[href], button, input, .scroll")]
      .filter((each) => each.checkVisibility() && (each.type !== "radio" || each.checked))
      .map((each, number) => (each.dataset.number = number))""")
    page.evaluate("scrollTo(0, 0)")
    reached = set()
    for _ in range(len(controls) + 5):
        page.keyboard.press("Tab")
        number, outline = page.evaluate("""() => {
          const at = document.activeElement;
          const outlined = at.type === "radio" ? at.nextElementSibling : at;
          return [at.dataset.number, getComputedStyle(outlined).outlineStyle];
        }""")
        if number is not None:
            reached.add(int(number))
            assert outline != "none"
    assert reached == {*controls}
    page.locator(".switch[data-name=measure] input:checked").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".switch[data-name=measure] input:checked").first.get_attribute("value") != "test"
    figure = by_hand(page)
    figure.get_by_role("checkbox", name="good").focus()
    page.keyboard.press("Space")
    has_points(figure, 9)


def test_page_without_scripts_and_in_print_shows_pictures(browser: Browser, report: Path, page: Page) -> None:
    draw_all(page)
    page.emulate_media(media="print")
    with window(browser, java_script_enabled=False) as context:
        still = context.new_page()
        still.goto(report.as_uri())
        for each in (page, still):
            pictures, tables = each.locator(".static"), each.locator(".choice > div")
            assert pictures.count() > 7
            assert all(picture.is_visible() for picture in pictures.all())
            assert all(table.is_visible() for table in tables.all())
            assert each.locator(".views svg:visible, .legend input:visible, .copies:visible").count() == 0
            assert each.locator(".legend .marker:visible").count() > 7
        assert still.locator(".switch:visible, .filter:visible").count() == 0
