import math
from pathlib import Path

import pandas as pd
import pytest

from autosparse.errors import UserError
from autosparse.page import Document
from autosparse.study import charts, report, runs


def test_a_report_of_nothing_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to report in .*; run autosparse irp and autosparse prune first"):
        report.overview(Document(tmp_path / "report"), [tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("kind: prune\n...\n")
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        runs.gather([tmp_path])
    damaged = list[str]()
    assert runs.gather([tmp_path], damaged) == []
    assert damaged == [f"{tmp_path}/result.json is damaged; run the same autosparse prune again"]


def test_a_dense_network_that_was_not_measured_has_no_line() -> None:
    row = {"series": "snip", "measure": "test", "sparsity": 0.9, "mean": 90.0, "std": 0.0, "runs": 1}
    points = pd.DataFrame([row]).assign(iterative=False)
    chart = charts.against_sparsity(points, "accuracy", "higher", {"test": math.nan})
    assert chart.rows[-1] == {"measure": "test", "dense": None}
    assert ">dense<" not in chart.svg()
