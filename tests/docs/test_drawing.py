"""The drawing of the order of triples is that of `autosparse.store.order`."""

import runpy

from tests.conftest import ROOT


def test_the_order_is_drawn_as_it_is() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "site" / "draw_order.py"))
    assert drawing["draw"]() == drawing["PATH"].read_text(), "python docs/site/draw_order.py draws it again"
