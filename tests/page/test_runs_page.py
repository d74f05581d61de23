"""The page of `autosparse serve` in a real Chromium."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from autosparse.cluster import poll
from tests.launch.test_serve import serving
from tests.launch.test_watching import leave
from tests.page.test_browser import FAINT, TOO_WIDE, browser, window  # noqa: F401 - a fixture


def test_the_page_follows_runs(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(poll, "PAUSE", 0.2)
    monkeypatch.setattr("autosparse.cluster.serve.PAUSE", 0.2)
    name = "lenet-300-100_mnist5k_snip_n20_<img src=x>"
    told = {"done": 1, "total": 4, "seconds_left": 9.0, "epoch": 1, "epochs": 4, "metric": "accuracy", "value": 0.25}
    failed = {"state": "failed", "why": "the loss is not finite"}
    leave(tmp_path / "failed", status=failed, progress=told, config={"iterations": 20})
    leave(tmp_path / name, status={"state": "complete", "node": "gpu7"}, config={"iterations": 20})
    monkeypatch.setattr("autosparse.cluster.lease.holder_of", lambda folder: {"host": "here"})
    leave(tmp_path / "running", status={"state": "running"}, progress=told, config={"iterations": 20})
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            with serving(tmp_path) as port, window(browser, viewport={"width": width, "height": 800}) as context:
                page = context.new_page()
                page.emulate_media(color_scheme=scheme)
                errors = list[str]()
                page.on("console", lambda message, errors=errors: errors.append(message.text))
                page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
                page.goto(f"http://127.0.0.1:{port}/")
                page.get_by_text("1 running, 1 failed, 1 complete").wait_for()
                rows = page.locator("tbody tr")
                states = [row.locator(".state").inner_text().split() for row in rows.all()]
                assert states == [["running"], ["failed", *failed["why"].split()], ["complete"]]
                assert rows.nth(2).locator(".run").inner_text() == name
                assert page.locator("progress").evaluate("bar => bar.value") == 25
                assert page.evaluate(TOO_WIDE) == []
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert page.evaluate(FAINT)["found"] == []
                assert errors == []
                if (width, scheme) == (400, "light"):
                    page.evaluate("document.body.dataset.same = 'yes'")
                    leave(tmp_path / "failed", status={"state": "killed"})
                    page.get_by_text("1 running, 1 killed, 1 complete").wait_for()
                    assert page.evaluate("document.body.dataset.same") == "yes"  # without being loaded again
                    leave(tmp_path / "failed", status=failed)
