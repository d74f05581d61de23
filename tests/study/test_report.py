from pathlib import Path

import pytest
from matplotlib.figure import Figure

from autosparse.errors import UserError
from autosparse.study import figures, report


def test_figures_whose_names_differ_after_a_dot_are_two(tmp_path: Path) -> None:
    for name in ("rate-0.01", "rate-0.001"):
        assert figures.save(Figure(), tmp_path / name).name == f"{name}.png"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"rate-{rate}.{kind}" for rate in ("0.01", "0.001") for kind in ("svg", "png")
    }


def test_a_report_of_nothing_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to report in .*; run autosparse irp and autosparse prune first"):
        report.overview(report.Document(tmp_path / "report"), [tmp_path])
    assert list(tmp_path.iterdir()) == []
