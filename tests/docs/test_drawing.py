"""The drawing of the order of triples shows `autosparse.store.order`."""

import runpy

from tests.conftest import ROOT


def test_drawing_equals_the_order() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "site" / "draw_order.py"))
    assert drawing["draw"]() == drawing["PATH"].read_text(), "python -m docs.site.draw_order draws it again"
