"""A report in a real Chromium: what a reader sees at two widths in two schemes, and that each control does its work."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from autosparse.page import ROWS, Chart, Comparison, Document, bar, sparkline
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

# Texts whose contrast with what is behind them is below that of WCAG 2, level AA.
TOO_FAINT = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  let number = 0;
  for (let node; (node = walker.nextNode());) {
    const each = node.parentElement;
    const visible = each.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    if (!node.data.trim() || each.closest("script, style, .skip") || !visible) continue;
    number++;
    const style = getComputedStyle(each);
    let ground = each, opacity = 1;
    for (let up = each; up; up = up.parentElement) opacity *= getComputedStyle(up).opacity;
    while (numbers(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
    const behind = numbers(getComputedStyle(ground).backgroundColor);
    const [r, g, b, alpha = 1] = numbers(each.closest("svg") ? style.fill : style.color);
    const ink = [r, g, b].map((part, k) => opacity * alpha * part + (1 - opacity * alpha) * behind[k]);
    const [dark, light] = [luminance(ink), luminance(behind)].sort((x, y) => x - y);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if ((light + 0.05) / (dark + 0.05) < (large ? 3 : 4.5)) faint.push(node.data);
  }
  return [number, faint];
}"""
# Labels of charts that lie on each other; those at an angle are left out, as their boxes are larger than they are.
OVERLAPS = """() => [...document.querySelectorAll(".plot svg, .static svg")].flatMap((svg) => {
  const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim() && text.checkVisibility());
  const upright = texts.filter((text) => { const { a, b } = text.getCTM(); return Math.abs(a * b) < 0.01; });
  const boxes = upright.map((text) => [text.textContent, text.getBoundingClientRect()]);
  const meet = (a, b) => Math.min(a.right, b.right) > Math.max(a.left, b.left) + 1 &&
    Math.min(a.bottom, b.bottom) > Math.max(a.top, b.top) + 2;
  return boxes.flatMap(([name, a], k) => boxes.slice(0, k).filter(([, b]) => meet(a, b))
    .map(([other]) => `${name} on ${other}`));
})"""

# Which figures can be seen.
SHOWN = """(all) => all.map((figure) => [...figure.querySelectorAll(".static, .plot svg")]
  .some((each) => each.checkVisibility() && each.clientHeight))"""
FILLS = "(all) => all.map((each) => getComputedStyle(each).fill)"
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
    for figure in page.locator("figure[data-chart]:visible").all():
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


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1000, "light")])
def test_page_is_legible_and_fits_and_shows_its_figures_before_scrolling(
    width: int, scheme: Any, browser: Browser, report: Path
) -> None:
    said: list[str] = []
    with window(browser, viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(report.as_uri())
        page.locator(".scripted").wait_for()
        shown = page.locator("figure[data-chart]:visible").evaluate_all(SHOWN)
        assert len(shown) > 7
        assert all(shown)  # before scrolling
        markers, lines = (
            page.locator("figure", has_text="By hand.").locator(marks).evaluate_all(FILLS)
            for marks in (".legend .marker", ".narrow .mark-symbol path")
        )
        assert len({*markers}) == len(HAND)
        assert {*markers} == {*lines}
        if width == 400:
            small = page.locator(".narrow svg").evaluate_all(
                "(all) => all.map((svg) => svg.clientWidth / svg.viewBox.baseVal.width)"
            )
            assert min(filter(None, small)) > 0.9  # letters of 12 px are still legible
        page.goto("about:blank")
        page.goto(f"{report.as_uri()}#run=snip_98_s7&run=random_98_s7")
        page.locator(".scripted").wait_for()
        assert page.evaluate(OVERLAPS) == []  # in the still pictures
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_WIDE) == []
        texts, faint = page.evaluate(TOO_FAINT)
        assert texts > 400
        assert faint == []
        assert page.evaluate(OVERLAPS) == []
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        if width == 1000:  # Tables have no columns to scroll to.
            tables = page.locator(".scroll:visible")
            assert max(tables.evaluate_all("(all) => all.map((each) => each.scrollWidth - each.clientWidth)")) == 0
    assert said == []


def test_switch_changes_all_tables_and_charts_or_shows_one_part(page: Page) -> None:
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
    for name, other in (("iou", "dice"), ("dice", "iou")):
        page.locator(".switch[data-name=metric]").get_by_text(name, exact=True).click()
        assert page.get_by_text(f"The {name}.").is_visible()
        assert not page.get_by_text(f"The {other}.").is_visible()


def test_legend_hides_series_whole_axis_shows_all_points_and_the_figure_is_saved_as_shown(page: Page) -> None:
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
    figure.get_by_role("checkbox", name="fair").uncheck()
    with page.expect_download() as download:
        figure.get_by_role("button", name="SVG").click()
    assert download.value.suggested_filename == "hand.svg"
    svg = download.value.path().read_text()
    assert svg.startswith("<svg")
    assert ">good<" in svg
    assert "currentColor" not in svg
    assert "var(" not in svg


def test_table_is_copied(page: Page) -> None:
    table = page.locator(".table", has_text="To be copied.")
    for name, text in {"Markdown": MARKDOWN, "LaTeX": LATEX, "CSV": CSV}.items():
        page.evaluate("navigator.clipboard.writeText('')")
        table.get_by_role("button", name=name).click()
        page.wait_for_function("async () => (await navigator.clipboard.readText()) !== ''")
        assert page.evaluate("navigator.clipboard.readText()") == text


def shown_runs(page: Page) -> list[str]:
    return [row.split()[0] for row in page.locator(".runs .sortable tbody tr:visible").all_inner_texts()]


def test_runs_are_filtered_sorted_and_copied_and_mistakes_are_named(page: Page) -> None:
    runs = page.locator(".runs")
    assert len(shown_runs(page)) == 7
    runs.get_by_role("searchbox").fill("snip kind:prune")
    assert shown_runs(page) == ["snip_90_s7", "snip_90_shuffled_s7", "snip_98_s7"]
    assert "3 of 7 runs" in runs.inner_text()
    header = runs.get_by_role("columnheader", name="sparsity")
    for order in ("ascending", "descending"):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == order
        assert shown_runs(page)[0 if order == "descending" else -1] == "snip_98_s7"
    runs.get_by_role("button", name="CSV").click()
    runs.get_by_text("copied", exact=True).wait_for()
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert copied[0].startswith("run,kind,")
    assert [line.split(",")[0] for line in copied[1:2]] == ["snip_98_s7"]
    assert len(copied) == 4
    box, said = page.get_by_role("searchbox"), page.locator(".filter")
    for text, names in {
        "sparsity>90 method:snip kind:prune": ["snip_98_s7"],
        "sparsity=90 method:RANDOM": ["random_90_s7"],
        "sparsity<=90 snip_90_s7": ["snip_90_s7"],
    }.items():
        box.fill(text)
        assert shown_runs(page) == names
    for text, mistake in {
        "size>3": "no column “size”; there are run, kind",
        "sparsity>much": "“sparsity>much”: a number must follow >",
        "method>3": "method has text: write method:3",
    }.items():
        box.fill(text)
        assert mistake in said.inner_text()
        assert len(shown_runs(page)) == 7


def test_two_runs_side_by_side_and_a_link_to_them(page: Page, browser: Browser) -> None:
    page.get_by_role("searchbox").fill("prune")
    page.get_by_role("columnheader", name="last epoch").get_by_role("button").click()
    for name in ("random_90_s7", "snip_98_s7", "random_98_s7"):  # A third run replaces the first.
        page.get_by_role("checkbox", name=f"compare {name}").check()
    page.locator(".switch[data-name=curve]").last.get_by_text("training loss").click()
    with window(browser) as context:
        other = context.new_page()
        other.goto(page.url)
        for each in (page, other):
            pair = each.get_by_role("region", name="Two runs")
            pair.scroll_into_view_if_needed()
            pair.locator("figure.drawn").wait_for()
            assert pair.locator("h3").inner_text().split() == ["●", "snip_98_s7", "■", "random_98_s7"]
            assert pair.locator("figure .mark-line path").count() == 2
            options = pair.locator(".options")
            assert options.locator("tr", has_text="≠").all_inner_texts() == ["≠ criterion\tsnip\trandom"]
            assert "options are the same" in options.inner_text()
            masks = pair.locator(".masks")
            assert "fc1.weight" in masks.inner_text()
            assert "Random masks with the same densities of layers would share" in masks.inner_text()
            filled = """(canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
              .filter((value, k) => k % 4 === 3 && value > 0).length"""
            for picture in masks.locator("canvas").all():
                assert picture.evaluate(filled) > 0
            assert shown_runs(each) == shown_runs(page)
            assert each.locator(".switch[data-name=curve] input:checked").last.get_attribute("value") == "loss"


def test_live_page_follows_runs(browser: Browser, tmp_path: Path) -> None:
    curves = alt.Chart(ROWS).mark_line().encode(x="epoch:Q", y="test:Q")

    def write(*states: str, live: bool = True, log: str = "begun") -> None:
        document = Document(tmp_path)
        names = [f"run <{k}>" for k in range(len(states))]
        epochs = {"epoch": [1, 2], "test": [10, 20]}
        details = {name: {"options": {"seed": str(k)}, "curve": epochs} for k, name in enumerate(names)}
        table = {"state": states, "done": [bar(f"{k + 4}5%") for k in range(len(states))]}
        table["curve"] = [sparkline([1, 2 + k]) for k in range(len(states))]
        frame = pd.DataFrame(table, index=pd.Index(names, name="run"), dtype=object)
        chart = Chart(rows=[], views={"": curves})
        comparison = Comparison(runs=details, networks=[], chart=chart, curves={"test": "test"})
        document.runs(frame, f"{states.count('failed')} failed", comparison)
        document.logs({name: (f"/runs/{name}", [f"<b>{log}</b>\n"]) for name in names})
        document.write(live)

    write("running", "complete")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, window(browser) as context:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.get_by_text("0 failed").wait_for()
        row = page.locator("tbody tr", has_text="run <0>").first
        assert row.get_by_role("progressbar").evaluate("(bar) => bar.position") == 0.45
        assert row.locator("polyline").is_visible()
        row.get_by_role("link").click()
        log = page.locator("details", has_text="run <0>")
        assert log.get_by_text("<b>begun</b>").is_visible()
        assert log.get_by_text("/runs/run <0>").is_visible()
        page.get_by_role("searchbox").fill("run <0>")
        page.evaluate("document.body.dataset.same = 'yes'")
        write("failed", "complete", log="the loss is not finite")
        page.get_by_text("1 failed").wait_for()
        assert page.locator(".sortable tbody tr:visible").count() == 1
        assert "failed" in row.inner_text()
        assert log.get_by_text("<b>the loss is not finite</b>").is_visible()  # The log stays open.
        assert page.evaluate("document.body.dataset.same") == "yes"  # without being loaded anew
        write("failed", "complete", "complete", live=False)
        page.wait_for_function("!document.body.dataset.live")
        assert page.locator(".sortable tbody tr").count() == 3
        assert page.get_by_role("searchbox").input_value() == "run <0>"
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
