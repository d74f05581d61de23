from pathlib import Path

import pytest

from autosparse.errors import UserError
from autosparse.page import Document
from autosparse.study import report


def test_a_report_of_nothing_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to report in .*; run autosparse irp and autosparse prune first"):
        report.overview(Document(tmp_path / "report"), [tmp_path])
    assert list(tmp_path.iterdir()) == []
